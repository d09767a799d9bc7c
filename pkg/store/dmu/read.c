//go:build cgo && linux

/*
 * Reads of several at a time. Each block that is on the disk or in the ARC, and that
 * ZFS has no dbuf of, is read by way of its block pointer: it is copied out where it
 * arrives, and the last block of a read ends it (away.c). What needs more is left to
 * cask_read: a block that is written, or was just now, or cannot be read. So is one
 * whose indirect block has no dbuf, but that is read ahead.
 *
 * While it is looked for, the range lock of whole blocks keeps writes and unmaps out:
 * a block pointer without a dbuf below it, and not about to be freed, is what was last
 * written there. After that the block may be freed and written over before it is read:
 * that is a wrong checksum, and cask_read.
 */
#include "zfs.h"
#include "io.h"

typedef struct {
	cask_vol *vol;
	uint64_t off, len;
	char *to;
	uint64_t number;	/* replaced by the answer */
} request_t;

_Static_assert(sizeof (request_t) == CASK_READ_WORDS * sizeof (uint64_t),
    "flat");

/* What is wanted of one block. */
typedef struct {
	struct read *read;
	char *to;
	uint64_t from, len;
} part_t;

typedef struct read {
	away_t away;		/* answer: 0, or it is left to cask_read; atomic */
	uint64_t left;		/* parts, and one for who starts them; atomic */
	part_t parts[];
} read_t;

static int
is_last(read_t *r)
{
	return (__atomic_sub_fetch(&r->left, 1, __ATOMIC_ACQ_REL) == 0);
}

static void
part_done(part_t *p)
{
	if (is_last(p->read))
		away_end(&p->read->away);
}

static void
leave(part_t *p)
{
	__atomic_store_n(&p->read->away.answer, EAGAIN, __ATOMIC_RELAXED);
	part_done(p);
}

static void
arrived(zio_t *zio, const zbookmark_phys_t *zb, const blkptr_t *bp,
    arc_buf_t *buf, void *arg)
{
	part_t *p = arg;

	(void) zio, (void) zb, (void) bp;
	if (buf == NULL) {
		leave(p);
		return;
	}
	memcpy(p->to, (char *)buf->b_data + p->from, p->len);
	arc_buf_destroy(buf, arg);
	part_done(p);
}

static void
read_ahead(void *arg, uint64_t level, uint64_t block, boolean_t issued)
{
	(void) level, (void) block, (void) issued;
	leave(arg);
}

static int
has_dbuf(dnode_t *dn, uint64_t block)
{
	dmu_buf_impl_t *db = dbuf_find(dn->dn_objset, dn->dn_object, 0, block);

	if (db != NULL)
		mutex_exit(&db->db_mtx);
	fault_pause();
	return (db != NULL);
}

/* The pointer to a block, if the indirect block with it has a dbuf. */
static int
pointer(dnode_t *dn, uint64_t block, blkptr_t *bp)
{
	int shift = dn->dn_phys->dn_indblkshift - SPA_BLKPTRSHIFT;
	dmu_buf_impl_t *db;

	if (dn->dn_phys->dn_nlevels < 2 || dbuf_hold_impl(dn, 1,
	    block >> shift, FALSE, TRUE, FTAG, &db) != 0)
		return (0);
	rw_enter(&db->db_rwlock, RW_READER);
	*bp = ((blkptr_t *)db->db.db_data)[P2PHASE(block, 1ULL << shift)];
	rw_exit(&db->db_rwlock);
	dbuf_rele(db, FTAG);
	return (1);
}

static void
read_part(dnode_t *dn, uint64_t block, part_t *p, int stay)
{
	arc_flags_t flags = ARC_FLAG_NOWAIT;
	zbookmark_phys_t zb;
	blkptr_t bp;

	if (has_dbuf(dn, block) || block > dn->dn_phys->dn_maxblkid ||
	    dnode_block_freed(dn, block)) {
		leave(p);
	} else if (!pointer(dn, block, &bp)) {
		if (stay)
			leave(p);
		else
			(void) dbuf_prefetch_impl(dn, 0, block,
			    ZIO_PRIORITY_SYNC_READ, 0, read_ahead, p);
	} else if (BP_IS_HOLE(&bp)) {
		memset(p->to, 0, p->len);
		part_done(p);
	} else {
		SET_BOOKMARK(&zb, dmu_objset_id(dn->dn_objset), dn->dn_object,
		    0, block);
		(void) arc_read(NULL, dn->dn_objset->os_spa, &bp, arrived, p,
		    ZIO_PRIORITY_SYNC_READ,
		    ZIO_FLAG_CANFAIL | ZIO_FLAG_SPECULATIVE, &flags, &zb);
	}
}

/* Of n blocks. */
static read_t *
new_read(uint64_t size, const request_t *q, uint64_t n)
{
	read_t *r = malloc(sizeof (*r) + n * sizeof (part_t));
	uint64_t from = q->off % size, left = q->len;
	char *to = q->to;

	VERIFY3P(r, !=, NULL);
	*r = (read_t){ .away.ended.number = q->number, .left = n + 1 };
	for (uint64_t i = 0; i < n; i++, from = 0) {
		uint64_t len = MIN(size - from, left);
		r->parts[i] = (part_t){ r, to, from, len };
		to += len;
		left -= len;
	}
	return (r);
}

/* Begin a read of n blocks, of which nothing changes meanwhile. */
static uint64_t
start_locked(dnode_t *dn, const request_t *q, uint64_t first, uint64_t n,
    int stay)
{
	read_t *r = new_read(dn->dn_datablksz, q, n);
	uint64_t answer = CASK_AWAY;

	for (uint64_t i = 0; i < n; i++)
		read_part(dn, first + i, &r->parts[i], stay);
	if (__atomic_load_n(&r->away.answer, __ATOMIC_RELAXED) == 0)
		dmu_zfetch(&dn->dn_zfetch, first, n, B_TRUE, B_TRUE, B_TRUE);
	if (is_last(r)) {
		answer = r->away.answer;
		free(r);
	}
	return (answer);
}

/* Who cannot have a lock at once is left to cask_read, which waits for it. */
static uint64_t
start(const request_t *q, int stay)
{
	dnode_t *dn = q->vol->dn;
	uint64_t size = dn->dn_datablksz, first = q->off / size;
	uint64_t n = (q->off + q->len - 1) / size - first + 1;
	uint64_t answer = EAGAIN;

	if (stay && n > 1)	/* one would wait for the other */
		return (EAGAIN);
	zfs_locked_range_t *lr = zfs_rangelock_tryenter(&q->vol->ranges,
	    first * size, n * size, RL_READER);
	if (lr == NULL)
		return (EAGAIN);
	if (rw_tryenter(&dn->dn_struct_rwlock, RW_READER)) {
		answer = start_locked(dn, q, first, n, stay);
		rw_exit(&dn->dn_struct_rwlock);
	}
	zfs_rangelock_exit(lr);
	return (answer);
}

void
cask_read_start(uint64_t *reads, uint64_t n, int stay)
{
	request_t *q = (request_t *)reads;

	if (stay)
		io_stay();
	else
		io_gather();
	for (uint64_t i = 0; i < n; i++)
		q[i].number = start(&q[i], stay);
	if (stay)
		io_leave();
	else
		io_release();
}
