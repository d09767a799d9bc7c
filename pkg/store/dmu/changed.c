//go:build cgo && linux

/* What changed since a checkpoint: blocks and holes born after its TXG. */
#include "zfs.h"
#include <sys/dmu_traverse.h>
#include <sys/dsl_destroy.h>

typedef struct {
	uint64_t *pairs;
	uint64_t n;
	uint64_t max;
	uint64_t gap;		/* extents this close are one */
	uint64_t block_size;
	uint64_t size;
	uint64_t since;
	uint64_t region;
	uint64_t nregions;
	uint64_t *regions;	/* REGION_OBJ */
	ghost_t ghosts[GHOST_SLOTS];
	uint64_t nghosts;
	uint64_t ghost;		/* the next of them to be collected */
} collect_t;

/* Double the gap, and join what is closer now. */
static void
coarsen(collect_t *c)
{
	uint64_t k = 0;

	c->gap = c->gap == 0 ? c->block_size : c->gap * 2;
	for (uint64_t i = 1; i < c->n; i++) {
		uint64_t *last = &c->pairs[2 * k];
		uint64_t *next = &c->pairs[2 * i];
		if (next[0] - (last[0] + last[1]) <= c->gap) {
			last[1] = next[0] + next[1] - last[0];
			continue;
		}
		k++;
		c->pairs[2 * k] = next[0];
		c->pairs[2 * k + 1] = next[1];
	}
	c->n = MIN(c->n, k + 1);
}

/* Make the range part of the last extent when it is close enough. */
static int
extend(collect_t *c, uint64_t off, uint64_t len)
{
	if (c->n == 0)
		return (0);
	uint64_t *last = &c->pairs[2 * (c->n - 1)];
	if (off > last[0] + last[1] + c->gap)
		return (0);
	last[1] = MAX(last[1], off + len - last[0]);
	return (1);
}

static void
collect_one(collect_t *c, uint64_t off, uint64_t len)
{
	if (off >= c->size)
		return;
	len = MIN(len, c->size - off);
	while (!extend(c, off, len)) {
		if (c->n < c->max) {
			c->pairs[2 * c->n] = off;
			c->pairs[2 * c->n + 1] = len;
			c->n++;
			return;
		}
		coarsen(c);
	}
}

/* Collect the ghosts that begin before off. */
static void
collect_ghosts(collect_t *c, uint64_t off)
{
	while (c->ghost < c->nghosts && c->ghosts[c->ghost].off < off) {
		ghost_t *g = &c->ghosts[c->ghost++];
		collect_one(c, g->off, g->len);
	}
}

/* off is not less than that of any call before. */
static void
collect(collect_t *c, uint64_t off, uint64_t len)
{
	collect_ghosts(c, off);
	collect_one(c, off, len);
}

/* Collect where zeroing since then may have left holes without a birth. */
static void
collect_zeroed(collect_t *c, uint64_t off, uint64_t len)
{
	for (uint64_t end = MIN(off + len, c->size); off < end; ) {
		uint64_t i = off / c->region;
		uint64_t n = MIN((i + 1) * c->region, end) - off;
		if (c->regions[i] > c->since)
			collect(c, off, n);
		off += n;
	}
}

static int
visit(spa_t *spa, zilog_t *zilog, const blkptr_t *bp,
    const zbookmark_phys_t *zb, const dnode_phys_t *dnp, void *arg)
{
	collect_t *c = arg;

	(void) spa, (void) zilog;
	if (zb->zb_object != DATA_OBJ || zb->zb_level < 0 || bp == NULL)
		return (0);
	if (zb->zb_level > 0 && !BP_IS_HOLE(bp))
		return (0);
	uint64_t span = c->block_size *
	    bp_span_in_blocks(dnp->dn_indblkshift, zb->zb_level);
	if (bp->blk_birth > c->since)
		collect(c, zb->zb_blkid * span, span);
	else if (bp->blk_birth == 0)
		collect_zeroed(c, zb->zb_blkid * span, span);
	return (0);
}

static int
traverse(const char *snapshot, collect_t *c)
{
	dsl_pool_t *dp;
	dsl_dataset_t *ds;
	int e = dsl_pool_hold(snapshot, FTAG, &dp);

	if (e != 0)
		return (e);
	e = dsl_dataset_hold(dp, snapshot, FTAG, &ds);
	if (e != 0) {
		dsl_pool_rele(dp, FTAG);
		return (e);
	}
	dsl_dataset_long_hold(ds, FTAG);
	dsl_pool_rele(dp, FTAG);
	e = traverse_dataset(ds, c->since,
	    TRAVERSE_PRE | TRAVERSE_PREFETCH_METADATA, visit, c);
	dsl_dataset_long_rele(ds, FTAG);
	dsl_dataset_rele(ds, FTAG);
	return (e);
}

/* Traverse a snapshot made for the purpose. */
static int
snapshot_traverse(cask_vol *v, collect_t *c)
{
	char snap[64], full[ZFS_MAX_DATASET_NAME_LEN];

	(void) snprintf(snap, sizeof (snap), SNAP_PREFIX "%llu",
	    (u_longlong_t)atomic_inc_64_nv(&v->snapshots));
	(void) snprintf(full, sizeof (full), "%.128s@%s", v->name, snap);
	int e = dmu_objset_snapshot_one(v->name, snap);
	if (e != 0)
		return (e);
	e = traverse(full, c);
	int destroyed = dsl_destroy_snapshot(full, B_FALSE);
	return (e != 0 ? e : destroyed);
}

/* What v says of the content that c is about. */
static void
collect_init(collect_t *c, cask_vol *v, uint64_t since, uint64_t txg)
{
	c->block_size = v->block_size;
	c->since = MAX(mark_txg(v, since), txg);
	c->region = v->region;
	c->nregions = c->size / v->region + 1;
	c->regions = calloc(c->nregions, sizeof (uint64_t));
}

static int
read_regions(collect_t *c, objset_t *os)
{
	if (c->regions == NULL)
		return (ENOMEM);
	return (dmu_read(os, REGION_OBJ, 0, c->nregions * sizeof (uint64_t),
	    c->regions, DMU_READ_PREFETCH));
}

static void
collect_end(collect_t *c, uint64_t *n)
{
	free(c->regions);
	collect_ghosts(c, UINT64_MAX);
	*n = c->n;
}

int
cask_changed(cask_vol *v, uint64_t since, uint64_t txg, uint64_t *pairs,
    uint64_t max, uint64_t *n)
{
	collect_t c = { .pairs = pairs, .max = max, .size = v->size };

	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	collect_init(&c, v, since, txg);
	c.nghosts = ghost_copy(v, c.since, c.ghosts);
	int e = read_regions(&c, v->os);
	if (e == 0)
		e = snapshot_traverse(v, &c);
	collect_end(&c, n);
	return (e);
}

/* The snapshot's own ghosts and regions: as if it had been asked then. */
int
cask_snap_changed(cask_vol *v, cask_snap *s, uint64_t since, uint64_t txg,
    uint64_t *pairs, uint64_t max, uint64_t *n)
{
	collect_t c = { .pairs = pairs, .max = max, .size = s->size };
	mark_t *m = malloc(sizeof (*m));

	if (m == NULL)
		return (ENOMEM);
	collect_init(&c, v, since, txg);
	int e = mark_read(s->os, m);
	if (e == 0) {
		c.nghosts = ghost_copy_of(m, c.since, c.ghosts);
		e = read_regions(&c, s->os);
	}
	if (e == 0)
		e = traverse(s->name, &c);
	collect_end(&c, n);
	free(m);
	return (e);
}

/* Snapshots of a cask_changed that a crash cut short. */
void
destroy_leftovers(cask_vol *v)
{
	char name[ZFS_MAX_DATASET_NAME_LEN], full[2 * sizeof (name)];
	uint64_t id, cookie = 0;
	boolean_t conflict;

	for (;;) {
		dsl_pool_config_enter(dmu_objset_pool(v->os), FTAG);
		int e = dmu_snapshot_list_next(v->os, sizeof (name), name, &id,
		    &cookie, &conflict);
		dsl_pool_config_exit(dmu_objset_pool(v->os), FTAG);
		if (e != 0)
			return;
		if (strncmp(name, SNAP_PREFIX, strlen(SNAP_PREFIX)) != 0)
			continue;
		(void) snprintf(full, sizeof (full), "%s@%s", v->name, name);
		if (dsl_destroy_snapshot(full, B_FALSE) == 0)
			cookie = 0;
	}
}
