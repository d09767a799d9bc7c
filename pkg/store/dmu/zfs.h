/* What the files of the shim share; never included by Go. */
#ifndef CASK_DMU_ZFS_H
#define	CASK_DMU_ZFS_H

/*
 * ZFS's structures depend on these. The distribution's libzpool is built for
 * debugging; the one of hack/zfs.sh is not, and has cask_zfs_release.
 */
#ifdef CASK_ZFS_RELEASE
#define	NDEBUG
#else
#define	DEBUG
#undef NDEBUG
#define	ZFS_DEBUG
#endif

#include <sys/zfs_context.h>
#include <sys/spa.h>
#include <sys/spa_impl.h>
#include <sys/dmu.h>
#include <sys/dmu_objset.h>
#include <sys/dmu_tx.h>
#include <sys/dnode.h>
#include <sys/dbuf.h>
#include <sys/zap.h>
#include <sys/zil.h>
#include <sys/zil_impl.h>
#include <sys/zfs_rlock.h>
#include <sys/dsl_dataset.h>
#include <sys/dsl_pool.h>
#include <sys/dsl_prop.h>
#include <sys/txg.h>
#include <sys/arc.h>
#include "shim.h"

/* The objects of the dataset; frozen. 1 and 2 are those of any zvol. */
#define	DATA_OBJ	1ULL
#define	ZAP_OBJ		2ULL
#define	MARK_OBJ	3ULL
#define	META_OBJ	4ULL
#define	REGION_OBJ	5ULL

#define	MARK_MAGIC	0x4b52414d4b534143ULL	/* "CASKMARK" */
#define	META_MAGIC	0x4154454d4b534143ULL	/* "CASKMETA" */
#define	FORMAT_VERSION	1

#define	MARK_BYTES	8192
#define	META_BYTES	16384
#define	META_HEADER	64
#define	RING_SLOTS	252
#define	GHOST_SLOTS	170

/* One state the volume was in: what changed after seq was born after txg. */
typedef struct {
	uint64_t txg;
	uint64_t seq;
} checkpoint_t;

/* A range that was written and zeroed again within one TXG: see ghost.c. */
typedef struct {
	uint64_t txg;
	uint64_t off;
	uint64_t len;
} ghost_t;

/* Object 3, in the pool's byte order; frozen. */
typedef struct {
	uint64_t magic;
	uint64_t version;
	uint64_t seq;		/* the mark */
	uint64_t txg;		/* in which this record was last written */
	uint64_t tainted;	/* content changed since the mark moved to seq */
	uint64_t free_off;	/* an unmap that is part of the mark but may */
	uint64_t free_len;	/* not have freed everything yet */
	uint64_t slots;		/* used in ring */
	checkpoint_t ring[RING_SLOTS];	/* both fields ascending */
	uint64_t ghost_slots;	/* used in ghosts */
	uint64_t region;	/* bytes of each entry of REGION_OBJ */
	ghost_t ghosts[GHOST_SLOTS];	/* by offset, disjoint */
} mark_t;

/* Object 4; len bytes follow at META_HEADER; frozen. */
typedef struct {
	uint64_t magic;
	uint64_t version;
	uint64_t len;
} meta_t;

/*
 * Object 5 is an array of TXGs, frozen: in which one a range of region bytes
 * was last zeroed or unmapped, even in part. See ghost.c.
 */
#define	REGION_BLOCK	4096
#define	REGIONS_MAX	(256ULL << 10)

_Static_assert(sizeof (checkpoint_t) == 16, "frozen");
_Static_assert(sizeof (ghost_t) == 24, "frozen");
_Static_assert(offsetof(mark_t, ring) == 64, "frozen");
_Static_assert(offsetof(mark_t, ghost_slots) == 4096, "frozen");
_Static_assert(sizeof (mark_t) == MARK_BYTES, "frozen");
_Static_assert(sizeof (meta_t) <= META_HEADER, "frozen");

struct cask_vol {
	char name[ZFS_MAX_DATASET_NAME_LEN];	/* of the dataset */
	char pool[ZFS_MAX_DATASET_NAME_LEN];
	char *path;			/* of the extent */
	objset_t *os;
	spa_t *spa;
	zilog_t *zil;
	dnode_t *dn;			/* of DATA_OBJ */
	dnode_t *mark_dn;		/* of MARK_OBJ */
	dmu_buf_t *mark;		/* MARK_OBJ's only block */
	kmutex_t mark_lock;		/* guards mark's content */
	zfs_rangelock_t ranges;		/* a sector is read whole or not at all */
	uint64_t size;			/* changed under mark_lock */
	uint64_t block_size;
	uint64_t region;		/* see mark_t */
	uint64_t max_record;		/* data of one log record */
	uint64_t snapshots;		/* made by cask_changed */
	uint64_t rewound;		/* a TXG; see rewind_log; atomic */
	/* the blocks written in the TXG fresh_txg, hashed; see ghost.c */
	uint64_t *fresh;
	uint64_t fresh_txg;
	uint64_t fresh_min;
	uint64_t fresh_max;
	/* replay at open: the pieces of a write so far */
	char *pieces;
	uint64_t pieces_off;
	uint64_t pieces_len;
};

/* mark.c */
mark_t *mark_of(cask_vol *v);
void mark_init(mark_t *m, uint64_t size, uint64_t block_size);
void mark_advance(cask_vol *v, uint64_t seq, uint64_t free_off,
    uint64_t free_len, dmu_tx_t *tx);
void mark_rebase(cask_vol *v, uint64_t seq, uint64_t base, dmu_tx_t *tx);
void size_hold(cask_vol *v, uint64_t size, dmu_tx_t *tx);
void size_set(cask_vol *v, uint64_t size, dmu_tx_t *tx);
void mark_return(cask_vol *v, const mark_t *was, dmu_tx_t *tx);
int mark_read(objset_t *os, mark_t *m);
uint64_t mark_txg(cask_vol *v, uint64_t since);

/* ghost.c */
#define	FRESH_BYTES	(128 << 10)
void ghost_write(cask_vol *v, uint64_t off, uint64_t len, const char *data,
    dmu_tx_t *tx);
void ghost_unmap(cask_vol *v, uint64_t off, uint64_t len, dmu_tx_t *tx);
int has_zero_piece(cask_vol *v, uint64_t off, uint64_t len, const char *data);
void region_hold(cask_vol *v, uint64_t off, uint64_t len, dmu_tx_t *tx);
void region_set(cask_vol *v, uint64_t off, uint64_t len, dmu_tx_t *tx);
uint64_t ghost_copy(cask_vol *v, uint64_t txg, ghost_t *out);
uint64_t ghost_copy_of(const mark_t *m, uint64_t txg, ghost_t *out);

/* log.c */
int log_fetch(void *arg, uint64_t arg2, lr_write_t *lr, char *buf,
    struct lwb *lwb, zio_t *zio);
void log_unmap(cask_vol *v, uint64_t off, uint64_t len, uint64_t seq,
    dmu_tx_t *tx);
int log_replay(cask_vol *v);

/* apply.c */
typedef struct {
	uint64_t kind;
	uint64_t seq;
	uint64_t base;
	uint64_t off;
	uint64_t len;
	uint64_t data;
	uint64_t number;	/* of data that stays: cask_let_go */
} op_t;

_Static_assert(sizeof (op_t) == CASK_OP_WORDS * sizeof (uint64_t), "flat");

static inline const char *
data_of(const op_t *op)
{
	return ((const char *)(uintptr_t)op->data);
}

void log_write(cask_vol *v, const op_t *op, dmu_tx_t *tx);

int read_blocks(dnode_t *dn, uint64_t off, uint64_t len, void *buf);
int apply_writes(cask_vol *v, const op_t *ops, uint64_t n, int may_block);
int apply_unmap(cask_vol *v, const op_t *op, int may_block);
int finish_free(cask_vol *v);
int tx_assign(cask_vol *v, dmu_tx_t *tx, int may_block);
int wait_stable(cask_vol *v, uint64_t txg);

/* changed.c */
#define	SNAP_PREFIX	"cask-changed-"
void destroy_leftovers(cask_vol *v);

/* A snapshot that is open. */
struct cask_snap {
	char name[ZFS_MAX_DATASET_NAME_LEN];	/* of the dataset */
	objset_t *os;
	dnode_t *dn;			/* of DATA_OBJ */
	uint64_t size;
};

/* alloc.c */
void alloc_init(void);

/* away.c: what any thread puts, and one at a time takes; the first member of it */
typedef struct ended {
	uint64_t number;	/* by which Go knows it */
	struct ended *next;
} ended_t;

typedef struct {
	ended_t *put;		/* atomic */
	ended_t *taken;
} ended_list_t;

/* Returns whether none was there that nobody has taken. */
int ended_put(ended_list_t *l, ended_t *e);
/* Returns one, or NULL. */
ended_t *ended_take(ended_list_t *l);

/* A call that Go does not wait for in C. away_end frees it when Go was told. */
typedef struct {
	ended_t ended;
	int answer;
	uint64_t done;
} away_t;

void away_end(away_t *a);
void appliers_init(void);

/* scrub.c */
void scrub_init(void);
void scrub_found(spa_t *spa, const zbookmark_phys_t *zb);
void scrub_forget(spa_t *spa);

/* taskq.c: this thread reaps completions; its tasks are kept in head */
void reaper_begin(taskq_ent_t *head);
void reaper_run(void);
void reaper_end(void);
int on_log_thread(void);

/*
 * taskq.c: between the two, this thread flushes the log. It runs its last
 * write itself, when it begins to wait for it: nobody has to be woken for it, nor by
 * it. log_run does so, with held let go meanwhile; true: look again whether there is
 * anything to wait for.
 */
void log_keep(zilog_t *zilog);
void log_release(void);
int log_run(kmutex_t *held);
/* Have a thread of its queue run what is kept. */
void log_hand_over(void);

/* vdev.c: the first failure on an extent since it was opened */
int file_flush_error(const char *path);
int file_flush(const char *path);
void file_forget_error(const char *path);
void fault_pause(void);
void file_punch(const vdev_t *vd, uint64_t off, uint64_t len);

#endif
