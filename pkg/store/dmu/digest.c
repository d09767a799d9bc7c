//go:build cgo && linux

/*
 * What the block pointers of a part of the volume say of its content: the
 * checksum, sizes and compression of each block, or the block itself where the
 * pointer holds it. Data is not read.
 */
#include "zfs.h"
#include <sys/blkptr.h>
#include <sys/dmu_traverse.h>
#include <sys/dsl_destroy.h>

typedef struct {
	uint64_t off;
	uint64_t len;		/* of a piece */
	uint64_t end;
	uint64_t block_size;
	uint64_t *words;
} digest_t;

static void
fold(uint64_t *sum, uint64_t word)
{
	sum[0] = (sum[0] ^ word) * 0x9e3779b97f4a7c15ULL;
	sum[0] ^= sum[0] >> 32;
	sum[1] = (sum[1] + word + sum[0]) * 0xc2b2ae3d27d4eb4fULL;
	sum[1] ^= sum[1] >> 29;
}

static void
fold_block(uint64_t *w, const blkptr_t *bp, uint64_t blkid)
{
	uint64_t payload[BPE_NUM_WORDS] = { 0 };

	fold(w, blkid);
	fold(w, BP_GET_LSIZE(bp) << 32 | BP_GET_PSIZE(bp));
	fold(w, BP_GET_COMPRESS(bp));
	if (BP_IS_EMBEDDED(bp)) {
		decode_embedded_bp_compressed(bp, payload);
		for (int i = 0; i < BPE_NUM_WORDS; i++)
			fold(w, payload[i]);
	} else {
		fold(w, BP_GET_CHECKSUM(bp));
		for (int i = 0; i < 4; i++)
			fold(w, bp->blk_cksum.zc_word[i]);
		w[2] += BP_GET_PSIZE(bp);
	}
}

static int
digest_visit(spa_t *spa, zilog_t *zilog, const blkptr_t *bp,
    const zbookmark_phys_t *zb, const dnode_phys_t *dnp, void *arg)
{
	digest_t *d = arg;

	(void) spa, (void) zilog;
	if (zb->zb_level < 0 || bp == NULL ||
	    zb->zb_object == DMU_META_DNODE_OBJECT)
		return (0);
	if (zb->zb_object != DATA_OBJ)
		return (zb->zb_level > 0 && !BP_IS_HOLE(bp) ?
		    TRAVERSE_VISIT_NO_CHILDREN : 0);
	uint64_t span = d->block_size *
	    bp_span_in_blocks(dnp->dn_indblkshift, zb->zb_level);
	uint64_t off = zb->zb_blkid * span;
	if (BP_IS_HOLE(bp))
		return (0);
	if (off >= d->end || off + span <= d->off)
		return (zb->zb_level > 0 ? TRAVERSE_VISIT_NO_CHILDREN : 0);
	uint64_t i = (MAX(off, d->off) - d->off) / d->len;
	uint64_t *w = d->words + i * CASK_DIGEST_WORDS;
	if (zb->zb_level > 0)
		w[3] += BP_GET_PSIZE(bp);
	else
		fold_block(w, bp, zb->zb_blkid);
	return (0);
}

int
cask_digest(cask_snap *s, uint64_t off, uint64_t len, uint64_t n,
    uint64_t *words)
{
	digest_t d = { .off = off, .len = len, .end = off + n * len,
	    .block_size = s->dn->dn_datablksz, .words = words };

	memset(words, 0, n * CASK_DIGEST_WORDS * sizeof (uint64_t));
	if (spa_suspended(dmu_objset_spa(s->os)))
		return (CASK_SUSPENDED);
	return (traverse_dataset(dmu_objset_ds(s->os), 0,
	    TRAVERSE_PRE | TRAVERSE_PREFETCH_METADATA, digest_visit, &d));
}

int
cask_freeze(cask_vol *v, cask_snap **out)
{
	char snap[64];

	(void) snprintf(snap, sizeof (snap), SNAP_PREFIX "%llu",
	    (u_longlong_t)atomic_inc_64_nv(&v->snapshots));
	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	int e = dmu_objset_snapshot_one(v->name, snap);
	if (e != 0)
		return (e);
	e = cask_snap_open(v, snap, out);
	if (e != 0)
		(void) cask_snap_destroy(v, snap);
	return (e);
}

int
cask_thaw(cask_vol *v, cask_snap *s)
{
	char full[ZFS_MAX_DATASET_NAME_LEN];

	(void) strlcpy(full, s->name, sizeof (full));
	cask_snap_close(s);
	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	return (dsl_destroy_snapshot(full, B_FALSE));
}
