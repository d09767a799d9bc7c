//go:build cgo && linux

/* Operations, each with its mark in one transaction. */
#include "zfs.h"
#include "io.h"
#include <sys/vdev_impl.h>
#include <sys/metaslab_impl.h>

#define	TX_OPS		64		/* at most in one transaction */
#define	TX_BYTES	(1ULL << 20)	/* more than this only for one op */
_Static_assert(TX_OPS <= 64, "a bit for each");
#define	STEPS_MAX	64	/* of a free that does not look for data first */
#define	FREE_AT_ONCE	(64ULL << 20)	/* unmapped in one transaction */

/*
 * Wait until txg is stable. The flushes of the extent's file are checked here
 * because ZFS does not propagate their errors.
 */
int
wait_stable(cask_vol *v, uint64_t txg)
{
	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	txg_wait_synced(dmu_objset_pool(v->os), txg);
	return (file_flush_error(v->path));
}

/* Assign tx to a TXG; on error it is aborted. */
int
tx_assign(cask_vol *v, dmu_tx_t *tx, int may_block)
{
	uint64_t how = TXG_NOWAIT;
	int e;

	while ((e = dmu_tx_assign(tx, how)) == ERESTART) {
		if (!may_block || spa_suspended(v->spa))
			break;
		dmu_tx_wait(tx);
		how = TXG_NOWAIT | TXG_NOTHROTTLE;
	}
	if (e == 0)
		return (0);
	dmu_tx_abort(tx);
	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	return (e == ERESTART ? EAGAIN : e);
}

static void
write_one(cask_vol *v, const op_t *op, int zeroes, dmu_tx_t *tx)
{
	const char *data = data_of(op);

	if (op->len > 0) {
		zfs_locked_range_t *lr = zfs_rangelock_enter(&v->ranges,
		    op->off, op->len, RL_WRITER);
		dmu_write_by_dnode(v->dn, op->off, op->len, data, tx);
		zfs_rangelock_exit(lr);
	}
	mark_advance(v, op->seq, 0, 0, tx);
	ghost_write(v, op->off, op->len, data, tx);
	if (zeroes)
		region_set(v, op->off, op->len, tx);
	log_write(v, op, tx);
}

/* The blocks that a transaction writes in part, held with their content. */
typedef struct {
	dmu_buf_impl_t *db[2 * TX_OPS];
	int n;
} partial_t;

/* Call f with the first and the last block of each op that it covers in part. */
static void
each_partial(cask_vol *v, const op_t *ops, uint64_t n,
    void (*f)(cask_vol *, uint64_t, void *), void *arg)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t off = ops[i].off, end = off + ops[i].len;
		uint64_t first = off / v->block_size;
		uint64_t last = end / v->block_size;
		if (ops[i].len == 0)
			continue;
		if (off % v->block_size != 0)
			f(v, first, arg);
		if (end % v->block_size != 0 &&
		    (first != last || off % v->block_size == 0))
			f(v, last, arg);
	}
}

static void
prefetch_indirect(cask_vol *v, uint64_t blkid, void *arg)
{
	(void) arg;
	dmu_prefetch(v->os, DATA_OBJ, 1, blkid * v->block_size, 1,
	    ZIO_PRIORITY_SYNC_READ);
}

typedef struct {
	partial_t *held;
	zio_t *pio;
} read_partial_t;

static void
read_partial(cask_vol *v, uint64_t blkid, void *arg)
{
	read_partial_t *r = arg;

	rw_enter(&v->dn->dn_struct_rwlock, RW_READER);
	dmu_buf_impl_t *db = dbuf_hold(v->dn, blkid, r->held);
	rw_exit(&v->dn->dn_struct_rwlock);
	if (db == NULL)
		return;
	r->held->db[r->held->n++] = db;
	(void) dbuf_read(db, r->pio, DB_RF_CANFAIL | DB_RF_NOPREFETCH);
}

/*
 * Have what is written in part read, all of it at once and waited for once: a
 * transaction by itself reads one block after the other. It also meets the
 * errors, again.
 */
static void
hold_partial(cask_vol *v, const op_t *ops, uint64_t n, partial_t *held)
{
	held->n = 0;
	if (n < 2)
		return;
	io_gather();
	each_partial(v, ops, n, prefetch_indirect, NULL);
	io_release();
	read_partial_t r = { held, zio_root(v->spa, NULL, NULL,
	    ZIO_FLAG_CANFAIL) };
	io_gather();
	each_partial(v, ops, n, read_partial, &r);
	io_release();
	(void) zio_wait(r.pio);
}

static void
release_partial(partial_t *held)
{
	for (int i = 0; i < held->n; i++)
		dbuf_rele(held->db[i], held);
}

/*
 * Can the indirect blocks above a range be read? ZFS looks at those between the
 * ends only when a transaction is assigned, and asserts when it writes below one
 * at the ends that is rotten.
 */
static int
check_parents(cask_vol *v, uint64_t off, uint64_t len)
{
	dnode_t *dn = v->dn;
	uint64_t epb = dn->dn_indblkshift - SPA_BLKPTRSHIFT;
	uint64_t last = dn->dn_maxblkid >> epb;
	int e = 0;

	if (len == 0 || dn->dn_nlevels < 2)
		return (0);
	uint64_t b = (off / v->block_size) >> epb;
	uint64_t end = MIN(((off + len - 1) / v->block_size) >> epb, last);
	for (; e == 0 && b <= end; b++) {
		rw_enter(&dn->dn_struct_rwlock, RW_READER);
		dmu_buf_impl_t *db = dbuf_hold_level(dn, 1, b, FTAG);
		rw_exit(&dn->dn_struct_rwlock);
		if (db == NULL)
			return (EIO);
		e = dbuf_read(db, NULL, DB_RF_CANFAIL | DB_RF_NOPREFETCH);
		dbuf_rele(db, FTAG);
	}
	return (e);
}

int
apply_writes(cask_vol *v, const op_t *ops, uint64_t n, int may_block)
{
	uint64_t zeroes = 0;	/* a bit for each of at most TX_OPS */
	partial_t held;

	for (uint64_t i = 0; i < n; i++) {
		int bad = check_parents(v, ops[i].off, ops[i].len);
		if (bad != 0)
			return (bad);
	}
	dmu_tx_t *tx = dmu_tx_create(v->os);
	hold_partial(v, ops, n, &held);
	if (n == 1)
		io_stay();
	for (uint64_t i = 0; i < n; i++) {
		const op_t *op = &ops[i];
		if (op->len == 0)
			continue;
		dmu_tx_hold_write_by_dnode(tx, v->dn, op->off, op->len);
		if (has_zero_piece(v, op->off, op->len, data_of(op))) {
			zeroes |= 1ULL << i;
			region_hold(v, op->off, op->len, tx);
		}
	}
	dmu_tx_hold_write_by_dnode(tx, v->mark_dn, 0, MARK_BYTES);
	if (n == 1)
		io_leave();
	int e = tx_assign(v, tx, may_block);
	for (uint64_t i = 0; e == 0 && i < n; i++)
		write_one(v, &ops[i], (zeroes >> i) & 1, tx);
	if (e == 0)
		dmu_tx_commit(tx);
	release_partial(&held);
	return (e);
}

/* How many of the n operations go into one transaction. */
static uint64_t
run_length(const op_t *ops, uint64_t n)
{
	uint64_t i, bytes = 0;

	for (i = 0; i < n && i < TX_OPS && ops[i].kind == CASK_OP_WRITE; i++) {
		bytes += ops[i].len;
		if (i > 0 && bytes > TX_BYTES)
			break;
	}
	return (i);
}

/*
 * How much of the op's range may be allocated: freeing beyond the last block
 * ever written is an assertion in ZFS.
 */
static uint64_t
allocated_len(cask_vol *v, const op_t *op)
{
	uint64_t end = (v->dn->dn_maxblkid + 1) * v->block_size;

	return (op->off >= end ? 0 : MIN(op->len, end - op->off));
}

/*
 * ZFS must not be told to free more at once than what one level-2 indirect
 * block maps: it looks for the level-1 blocks to be written anew, and gives up
 * (dnode_next_offset) when it comes upon a level-2 block whose children have
 * all been freed in a transaction group that is not synced yet. It then finds
 * blocks that were not, and asserts.
 */
static uint64_t
free_step(cask_vol *v, uint64_t off, uint64_t end)
{
	uint64_t span = v->block_size <<
	    (2 * (v->dn->dn_indblkshift - SPA_BLKPTRSHIFT));

	return (MIN(end, off - off % span + span) - off);
}

static void
free_in(cask_vol *v, uint64_t off, uint64_t len, dmu_tx_t *tx)
{
	for (uint64_t n, end = off + len; off < end; off += n) {
		n = free_step(v, off, end);
		VERIFY0(dmu_free_range(v->os, DATA_OBJ, off, n, tx));
	}
}

/*
 * An unmap too large for one transaction is noted in the mark record by the
 * first one, which also moves the mark, and finish_free completes it after a
 * crash. The note goes with the next change of the mark record.
 */
static int
unmap_locked(cask_vol *v, const op_t *op, int may_block)
{
	uint64_t len = allocated_len(v, op);
	boolean_t large = len > FREE_AT_ONCE;
	dmu_tx_t *tx = dmu_tx_create(v->os);

	dmu_tx_mark_netfree(tx);
	if (!large && len > 0)
		dmu_tx_hold_free_by_dnode(tx, v->dn, op->off, len);
	region_hold(v, op->off, op->len, tx);
	dmu_tx_hold_write_by_dnode(tx, v->mark_dn, 0, MARK_BYTES);
	int e = tx_assign(v, tx, may_block);
	if (e != 0)
		return (e);
	if (!large)
		free_in(v, op->off, len, tx);
	mark_advance(v, op->seq, op->off, large ? len : 0, tx);
	ghost_unmap(v, op->off, op->len, tx);
	region_set(v, op->off, op->len, tx);
	log_unmap(v, op->off, op->len, op->seq, tx);
	dmu_tx_commit(tx);
	return (large ? finish_free(v) : 0);
}

int
apply_unmap(cask_vol *v, const op_t *op, int may_block)
{
	if (op->len > FREE_AT_ONCE && !may_block)
		return (EAGAIN);
	if (op->len == 0)
		return (unmap_locked(v, op, may_block));
	zfs_locked_range_t *lr = zfs_rangelock_enter(&v->ranges, op->off,
	    op->len, RL_WRITER);
	int e = unmap_locked(v, op, may_block);
	zfs_rangelock_exit(lr);
	return (e);
}

/* Free what the mark record says is to be freed. */
int
finish_free(cask_vol *v)
{
	mark_t *m = mark_of(v);

	uint64_t off = m->free_off, end = off + m->free_len, n;
	int skip = m->free_len > STEPS_MAX * free_step(v, 0, UINT64_MAX);
	int e = 0;

	/* what is looked for is what is on the disk, and all of it */
	if (skip)
		txg_wait_synced(dmu_objset_pool(v->os), 0);
	for (; off < end && e == 0; off += n) {
		if (skip)
			e = dnode_next_offset(v->dn, 0, &off, 1, 1, 0);
		if (e == ESRCH || off >= end)
			return (0);
		n = free_step(v, off, end);
		if (e == 0)
			e = dmu_free_long_range(v->os, DATA_OBJ, off, n);
	}
	return (e);
}

/*
 * What moves the mark other than by changing content, and may change the size.
 * It waits for its TXG: the log has no record of it.
 */
static int
apply_stable(cask_vol *v, const op_t *op, int may_block)
{
	uint64_t size = op->off + op->len;

	if (!may_block)
		return (EAGAIN);
	dmu_tx_t *tx = dmu_tx_create(v->os);
	dmu_tx_hold_write_by_dnode(tx, v->mark_dn, 0, MARK_BYTES);
	size_hold(v, size, tx);
	int e = tx_assign(v, tx, may_block);
	if (e != 0)
		return (e);
	uint64_t txg = dmu_tx_get_txg(tx);
	size_set(v, size, tx);
	if (op->kind == CASK_OP_REBASE)
		mark_rebase(v, op->seq, op->base, tx);
	else
		mark_advance(v, op->seq, 0, 0, tx);
	dmu_tx_commit(tx);
	return (wait_stable(v, txg));
}

int
cask_apply(cask_vol *v, const uint64_t *words, uint64_t n, uint64_t *done,
    int may_block)
{
	const op_t *ops = (const op_t *)words;
	int e = 0;

	*done = 0;
	while (e == 0 && *done < n) {
		const op_t *op = &ops[*done];
		uint64_t count = 1;
		switch (op->kind) {
		case CASK_OP_WRITE:
			count = run_length(op, n - *done);
			e = apply_writes(v, op, count, may_block);
			break;
		case CASK_OP_UNMAP:
			e = apply_unmap(v, op, may_block);
			break;
		case CASK_OP_REBASE:
		case CASK_OP_RESIZE:
			e = apply_stable(v, op, may_block);
			break;
		default:
			e = EINVAL;
		}
		if (e == 0)
			*done += count;
	}
	return (e);
}

#define	APPLIERS	1024	/* those of suspended pools never end */

static taskq_t *appliers;

void
appliers_init(void)
{
	appliers = taskq_create("cask-apply", APPLIERS, 0, 0, 0, 0);
}

typedef struct {
	away_t away;
	cask_vol *vol;
	const uint64_t *ops;
	uint64_t n;
} apply_t;

static void
apply_away(void *arg)
{
	static __thread int later;
	apply_t *a = arg;

	/* what acknowledges the next operations goes first */
	if (!later) {
		later = 1;
		(void) nice(5);
	}
	a->away.answer = cask_apply(a->vol, a->ops, a->n, &a->away.done, 1);
	away_end(&a->away);
}

void
cask_apply_start(cask_vol *v, const uint64_t *ops, uint64_t n, uint64_t number)
{
	apply_t *a = malloc(sizeof (*a));

	VERIFY3P(a, !=, NULL);
	*a = (apply_t){ .away.ended.number = number, .vol = v, .ops = ops, .n = n };
	VERIFY(taskq_dispatch(appliers, apply_away, a, TQ_SLEEP) !=
	    TASKQID_INVALID);
}

/*
 * Have the log begin at the lowest free block of its metaslab again, once in
 * each TXG. ZFS would go round in all of it, and come upon holes of the extent's
 * file, with each of which a flush has to wait for the file system's journal.
 */
static void
rewind_log(cask_vol *v)
{
	uint64_t txg = spa_last_synced_txg(v->spa);
	vdev_t *vd = v->spa->spa_root_vdev->vdev_child[0];
	metaslab_group_t *mg = vd->vdev_log_mg;

	if (__atomic_exchange_n(&v->rewound, txg, __ATOMIC_RELAXED) == txg)
		return;
	mutex_enter(&mg->mg_lock);
	metaslab_t *ms = avl_first(&mg->mg_metaslab_tree);
	mutex_exit(&mg->mg_lock);
	if (ms == NULL)		/* a small extent: the log has none of its own */
		return;
	mutex_enter(&ms->ms_lock);
	memset(ms->ms_lbas, 0, sizeof (ms->ms_lbas));
	mutex_exit(&ms->ms_lock);
}

/*
 * The log is written by ZFS, and made stable here, once for all of its blocks:
 * zil_nocacheflush is set. A block that is written and not stable is as one that
 * was never written: the log ends before it. A TXG flushes by itself before
 * its uberblock, so what it frees of the log is not needed any more.
 */
int
cask_flush(cask_vol *v)
{
	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	rewind_log(v);
	log_keep(v->zil);
	zil_commit(v->zil, DATA_OBJ);
	log_release();
	return (file_flush(v->path));
}

int
cask_sync(cask_vol *v)
{
	return (wait_stable(v, 0));
}
