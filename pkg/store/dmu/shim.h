/*
 * The flat interface between Go and ZFS: integers, pointer and length. Every
 * function is one complete operation and returns 0 or an errno; no lock and no
 * transaction survives a return. CASK_SUSPENDED stands for a pool that ZFS
 * has suspended after failed writes.
 */
#ifndef CASK_DMU_SHIM_H
#define	CASK_DMU_SHIM_H

#include <stddef.h>
#include <stdint.h>

#define	CASK_SUSPENDED	100001	/* beyond any errno */
#define	CASK_FORMAT	100002	/* mark or meta record of a newer version */
#define	CASK_AWAY	100003	/* it will be among those of cask_away_ended */

#define	CASK_OP_WRITE	1
#define	CASK_OP_UNMAP	2
#define	CASK_OP_REBASE	3
#define	CASK_OP_RESIZE	4

/* words of one operation in cask_apply's array */
/* kind, seq, base, offset, length, data address, its number */
#define	CASK_OP_WORDS	7

/* words of cask_info's answer */
#define	CASK_INFO_WORDS	4	/* size, block size, mark, synced TXG */

typedef struct cask_vol cask_vol;

/* I/O engines */
#define	CASK_IO_AUTO	0
#define	CASK_IO_URING	1
#define	CASK_IO_THREADS	2

/*
 * Once per process; later calls only move the memory bounds. *engine: the
 * engine wanted, and the one that was started; *why: the errno that it is not
 * io_uring.
 */
int cask_init(uint64_t arc_max, uint64_t dirty_max, uint64_t hostid,
    int *engine, int *why);

/* the pool on the extent at path reads and writes past the page cache */
int cask_direct(const char *path);

/* the first read or write of the extent that failed since it was opened */
int cask_io_error(const char *path);

/* what the label of the extent at path says; ENOENT: blank, EILSEQ: no label */
int cask_label(const char *path, char *name, char *comment, size_t len,
    uint64_t *min_bytes);

/* compress: 0 not, 1 lz4, 2 zstd */
int cask_create(const char *pool, const char *path, const char *comment,
    uint64_t size, uint64_t block_size, int compress);
int cask_import(const char *pool, const char *path);
int cask_export(const char *pool);

int cask_open(const char *pool, const char *path, cask_vol **out);
/* after it v is gone, whatever it returns; not to be called while suspended */
int cask_close(cask_vol *v);

void cask_info(cask_vol *v, uint64_t *words);
int cask_suspended(cask_vol *v);
/* take up the room that the extent's file has; may block */
int cask_expand(cask_vol *v);
/* how many times ZFS has suspended a pool of this process */
int cask_suspensions(void);

/*
 * n operations from the array; *done counts those performed. EAGAIN: the next
 * one would block, and may_block is 0.
 */
int cask_apply(cask_vol *v, const uint64_t *ops, uint64_t n, uint64_t *done,
    int may_block);
/*
 * The data of a write with a number, not 0, stays where it is until the number is
 * among those that this returns, at most max at a time; of all volumes. Not to be
 * called by two threads at once.
 */
uint64_t cask_let_go(uint64_t *numbers, uint64_t max);
int cask_read(cask_vol *v, uint64_t off, uint64_t len, void *buf);
/*
 * Calls that are begun without waiting for them, by a number. They will be among those
 * that cask_away_ended returns, at most max at a time, until there are fewer, whenever the
 * eventfd of cask_away_event (-1: errno) was read: number, answer, operations
 * performed. Till then the memory that they were given belongs to them. One thread
 * at a time calls cask_away_ended.
 */
#define	CASK_AWAY_WORDS	3
uint64_t cask_away_ended(uint64_t *words, uint64_t max);
int cask_away_event(void);

/* cask_apply, which may block, on another thread */
void cask_apply_start(cask_vol *v, const uint64_t *ops, uint64_t n,
    uint64_t number);

/*
 * Begin n reads: volume, offset, length, address and number, which is replaced by the
 * answer: 0, CASK_AWAY, or EAGAIN for what is to be tried by cask_read, which may wait.
 * stay: there is one read, which this thread does itself.
 */
#define	CASK_READ_WORDS	5
void cask_read_start(uint64_t *reads, uint64_t n, int stay);
int cask_flush(cask_vol *v);
/* drop what is cached and clean, and give free memory back to the kernel */
void cask_give_back(cask_vol *v);
/* give the file system what was freed in one metaslab, the next from *next on
 * that has something; may block */
void cask_trim(cask_vol *v, uint64_t *next);
/* everything is in a synced TXG */
int cask_sync(cask_vol *v);

/*
 * Up to max (offset, length) pairs, merged until they fit. txg: everything that
 * changed after since is known to be born after it; 0: nothing is known.
 */
int cask_changed(cask_vol *v, uint64_t since, uint64_t txg, uint64_t *pairs,
    uint64_t max, uint64_t *n);

/* Snapshots; see snapshot.c. name has room for CASK_NAME bytes. */
#define	CASK_NAME	256

/* words that describe a snapshot: seq, size, seq of its drop, creation TXG */
#define	CASK_SNAP_WORDS	4

typedef struct cask_snap cask_snap;

int cask_snap_take(cask_vol *v, const char *name, uint64_t seq);
int cask_snap_describe(cask_vol *v, const char *name, uint64_t *words);
/* the one after *cookie, at first 0; ENOENT: there is none */
int cask_snap_next(cask_vol *v, uint64_t *cookie, char *name, uint64_t *words);
/* operation seq, 0: none, drops it */
int cask_snap_doom(cask_vol *v, const char *name, uint64_t seq);
/* EBUSY while it is open */
int cask_snap_destroy(cask_vol *v, const char *name);

int cask_snap_open(cask_vol *v, const char *name, cask_snap **out);
void cask_snap_close(cask_snap *s);
uint64_t cask_snap_size(cask_snap *s);
int cask_snap_read(cask_snap *s, uint64_t off, uint64_t len, void *buf);
int cask_snap_rename(cask_vol *v, const char *name, const char *to);
/* the metadata record as it was then; as cask_get_meta */
int cask_snap_meta(cask_snap *s, void *buf, uint64_t max, uint64_t *len);
/* the mark, the size, and what is known of changes, become those of s: stable
 * on return */
int cask_snap_return(cask_vol *v, cask_snap *s);
/* as cask_changed */
int cask_snap_changed(cask_vol *v, cask_snap *s, uint64_t since, uint64_t txg,
    uint64_t *pairs, uint64_t max, uint64_t *n);

/*
 * A snapshot that is nobody's: cask_thaw, or the next open, destroys it. After
 * cask_thaw s is gone, whatever it returns.
 */
int cask_freeze(cask_vol *v, cask_snap **out);
int cask_thaw(cask_vol *v, cask_snap *s);

/* words of one digest: a sum of two, bytes held, bytes read */
#define	CASK_DIGEST_WORDS	4

/*
 * The digests of the n pieces of len bytes from off: of what the block pointers
 * say of the content, and nothing of where it is or when it was written. No
 * block crosses a piece.
 */
int cask_digest(cask_snap *s, uint64_t off, uint64_t len, uint64_t n,
    uint64_t *words);

int cask_set_meta(cask_vol *v, const void *buf, uint64_t len);
/* ENOENT: none was ever set */
int cask_get_meta(cask_vol *v, void *buf, uint64_t max, uint64_t *len);

/* words of cask_scrub_status' answer */
#define	CASK_SCRUB_WORDS	6	/* running, paused, done, total, errors, ended */

/* begin a scrub, or go on with a paused one; or pause it */
int cask_scrub(cask_vol *v, int pause);
void cask_scrub_status(cask_vol *v, uint64_t *words);
/*
 * (offset, length) pairs of blocks that could not be read since the last call;
 * *others counts those that are not the volume's content, or were too many
 */
void cask_found(cask_vol *v, uint64_t *pairs, uint64_t max, uint64_t *n,
    uint64_t *others);

/* test hook: from now on the extents' files fail: 1 writes, 2 reads, 4 flushes,
 * 8 writes of data, as on a full file system; 16: trims do nothing */
void cask_file_fault(int kinds);

/* test hook: reads, writes and flushes of extents' files so far; bytes written */
#define	CASK_COUNT_WORDS	4
void cask_io_counts(uint64_t *words);

/* test hook: keep a journal of what a loss of power could undo, in fd */
void cask_journal(int fd);

#endif
