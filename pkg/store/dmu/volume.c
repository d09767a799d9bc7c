//go:build cgo && linux

/* The dataset: open, close, read, metadata. */
#include "zfs.h"
#include "io.h"

#define	READ_STEP	(1ULL << 20)

static int
hold_mark(cask_vol *v)
{
	int e = dnode_hold(v->os, MARK_OBJ, v, &v->mark_dn);

	if (e != 0)
		return (e);
	e = dmu_buf_hold(v->os, MARK_OBJ, 0, v, &v->mark, DMU_READ_NO_PREFETCH);
	if (e != 0)
		return (e);
	mark_t *m = mark_of(v);
	if (v->mark->db_size != MARK_BYTES || m->magic != MARK_MAGIC ||
	    m->version != FORMAT_VERSION || m->slots > RING_SLOTS ||
	    m->ghost_slots > GHOST_SLOTS || m->region < v->block_size)
		return (CASK_FORMAT);
	v->region = m->region;
	return (0);
}

static int
hold_objects(cask_vol *v)
{
	int e = zap_lookup(v->os, ZAP_OBJ, "size", 8, 1, &v->size);

	if (e != 0)
		return (e);
	e = dnode_hold(v->os, DATA_OBJ, v, &v->dn);
	if (e != 0)
		return (e);
	v->block_size = v->dn->dn_datablksz;
	return (hold_mark(v));
}

/* Bring the content to the last operation that was logged. */
static int
recover(cask_vol *v)
{
	uint64_t unit = v->block_size;

	v->zil = dmu_objset_zil(v->os);
	v->max_record = MAX(zil_max_copied_data(v->zil) / unit, 1) * unit;
	if (v->max_record > zil_max_copied_data(v->zil))
		v->max_record = P2ALIGN(zil_max_copied_data(v->zil), 512ULL);
	int e = finish_free(v);
	if (e != 0)
		return (e);
	e = log_replay(v);
	if (e == 0)
		v->zil = zil_open(v->os, log_fetch);
	return (e);
}

static void
release(cask_vol *v)
{
	if (v->mark != NULL)
		dmu_buf_rele(v->mark, v);
	if (v->mark_dn != NULL)
		dnode_rele(v->mark_dn, v);
	if (v->dn != NULL)
		dnode_rele(v->dn, v);
	if (v->os != NULL) {
		(void) dmu_objset_evict_dbufs(v->os);
		dmu_objset_disown(v->os, B_FALSE, v);
	}
	zfs_rangelock_fini(&v->ranges);
	mutex_destroy(&v->mark_lock);
	free(v->path);
	free(v->fresh);
	free(v);
}

int
cask_open(const char *pool, const char *path, cask_vol **out)
{
	cask_vol *v = calloc(1, sizeof (*v));

	if (v == NULL || (v->fresh = calloc(1, FRESH_BYTES)) == NULL) {
		free(v);
		return (ENOMEM);
	}
	(void) snprintf(v->pool, sizeof (v->pool), "%s", pool);
	(void) snprintf(v->name, sizeof (v->name), "%s/vol", pool);
	v->path = strdup(path);
	zfs_rangelock_init(&v->ranges, NULL, NULL);
	mutex_init(&v->mark_lock, NULL, MUTEX_DEFAULT, NULL);
	int e = dmu_objset_own(v->name, DMU_OST_ZVOL, B_FALSE, B_FALSE, v,
	    &v->os);
	if (e == 0) {
		v->spa = dmu_objset_spa(v->os);
		e = hold_objects(v);
	}
	if (e == 0)
		e = recover(v);
	if (e != 0) {
		release(v);
		return (e);
	}
	destroy_leftovers(v);
	*out = v;
	return (0);
}

int
cask_close(cask_vol *v)
{
	char pool[ZFS_MAX_DATASET_NAME_LEN];

	memcpy(pool, v->pool, sizeof (pool));
	zil_close(v->zil);
	txg_wait_synced(dmu_objset_pool(v->os), 0);
	int flushed = file_flush_error(v->path);
	release(v);
	int e = cask_export(pool);
	return (flushed != 0 ? flushed : e);
}

void
cask_info(cask_vol *v, uint64_t *words)
{
	mutex_enter(&v->mark_lock);
	uint64_t mark = mark_of(v)->seq;
	words[0] = v->size;
	mutex_exit(&v->mark_lock);
	words[1] = v->block_size;
	words[2] = mark;
	words[3] = spa_last_synced_txg(v->spa);
}

int
cask_suspended(cask_vol *v)
{
	return (spa_suspended(v->spa));
}

/* One block is read by this thread; of more, those in a row are one I/O. */
int
read_blocks(dnode_t *dn, uint64_t off, uint64_t len, void *buf)
{
	int one = off / dn->dn_datablksz == (off + len - 1) / dn->dn_datablksz;

	if (one)
		io_stay();
	else
		io_gather();
	int e = dmu_read_by_dnode(dn, off, len, buf, DMU_READ_PREFETCH);
	if (one)
		io_leave();
	else
		io_release();
	return (e);
}

int
cask_read(cask_vol *v, uint64_t off, uint64_t len, void *buf)
{
	char *p = buf;
	int e = 0;

	while (e == 0 && len > 0) {
		uint64_t n = MIN(len, READ_STEP - off % READ_STEP);
		zfs_locked_range_t *lr = zfs_rangelock_enter(&v->ranges, off, n,
		    RL_READER);
		e = read_blocks(v->dn, off, n, p);
		zfs_rangelock_exit(lr);
		off += n;
		p += n;
		len -= n;
	}
	return (e);
}

int
cask_set_meta(cask_vol *v, const void *buf, uint64_t len)
{
	meta_t header = { META_MAGIC, FORMAT_VERSION, len };
	char block[META_BYTES] = { 0 };

	if (len > META_BYTES - META_HEADER)
		return (EINVAL);
	memcpy(block, &header, sizeof (header));
	memcpy(block + META_HEADER, buf, len);
	dmu_tx_t *tx = dmu_tx_create(v->os);
	dmu_tx_hold_write(tx, META_OBJ, 0, META_BYTES);
	int e = tx_assign(v, tx, 1);
	if (e != 0)
		return (e);
	uint64_t txg = dmu_tx_get_txg(tx);
	dmu_write(v->os, META_OBJ, 0, META_BYTES, block, tx);
	dmu_tx_commit(tx);
	return (wait_stable(v, txg));
}

static int
get_meta(objset_t *os, void *buf, uint64_t max, uint64_t *len)
{
	meta_t header;
	int e = dmu_read(os, META_OBJ, 0, sizeof (header), &header, 0);

	if (e != 0)
		return (e);
	if (header.magic == 0)
		return (ENOENT);
	if (header.magic != META_MAGIC || header.version != FORMAT_VERSION ||
	    header.len > max)
		return (CASK_FORMAT);
	*len = header.len;
	return (dmu_read(os, META_OBJ, META_HEADER, header.len, buf, 0));
}

int
cask_get_meta(cask_vol *v, void *buf, uint64_t max, uint64_t *len)
{
	return (get_meta(v->os, buf, max, len));
}

int
cask_snap_meta(cask_snap *s, void *buf, uint64_t max, uint64_t *len)
{
	return (get_meta(s->os, buf, max, len));
}
