//go:build cgo && linux

/*
 * Snapshots of the volume: those of the dataset that have the property
 * cask:seq, the Seq of the operation that took it. cask:size is the volume's
 * size then. cask:drop, once it is set and not 0, is the Seq of the operation
 * that drops it. What they mean after a crash: snapshot.go.
 */
#include "zfs.h"
#include <sys/dsl_destroy.h>

#define	PROP_SEQ	"cask:seq"
#define	PROP_SIZE	"cask:size"
#define	PROP_DROP	"cask:drop"

static void
full_name(cask_vol *v, const char *name, char *full)
{
	(void) snprintf(full, ZFS_MAX_DATASET_NAME_LEN, "%.100s@%.100s",
	    v->name, name);
}

static void
add_number(nvlist_t *props, const char *prop, uint64_t value)
{
	char text[32];

	(void) snprintf(text, sizeof (text), "%llu", (u_longlong_t)value);
	fnvlist_add_string(props, prop, text);
}

int
cask_snap_take(cask_vol *v, const char *name, uint64_t seq)
{
	char full[ZFS_MAX_DATASET_NAME_LEN];
	nvlist_t *snaps = fnvlist_alloc(), *props = fnvlist_alloc();

	full_name(v, name, full);
	fnvlist_add_boolean(snaps, full);
	add_number(props, PROP_SEQ, seq);
	add_number(props, PROP_SIZE, v->size);
	int e = spa_suspended(v->spa) ? CASK_SUSPENDED :
	    dsl_dataset_snapshot(snaps, props, NULL);
	nvlist_free(props);
	nvlist_free(snaps);
	return (e != 0 ? e : file_flush_error(v->path));
}

static uint64_t
number_of(dsl_dataset_t *ds, const char *prop)
{
	char text[32];

	if (dsl_prop_get_ds(ds, prop, 1, sizeof (text), text, NULL) != 0)
		return (0);
	return (strtoull(text, NULL, 10));
}

int
cask_snap_describe(cask_vol *v, const char *name, uint64_t *words)
{
	char full[ZFS_MAX_DATASET_NAME_LEN];
	dsl_pool_t *dp;
	dsl_dataset_t *ds;

	full_name(v, name, full);
	int e = dsl_pool_hold(full, FTAG, &dp);
	if (e != 0)
		return (e);
	e = dsl_dataset_hold(dp, full, FTAG, &ds);
	if (e == 0) {
		words[0] = number_of(ds, PROP_SEQ);
		words[1] = number_of(ds, PROP_SIZE);
		words[2] = number_of(ds, PROP_DROP);
		words[3] = dsl_dataset_phys(ds)->ds_creation_txg;
		dsl_dataset_rele(ds, FTAG);
	}
	dsl_pool_rele(dp, FTAG);
	return (e);
}

/* Passes over snapshots that are not ours. */
int
cask_snap_next(cask_vol *v, uint64_t *cookie, char *name, uint64_t *words)
{
	boolean_t conflict;
	uint64_t id;
	int e;

	do {
		dsl_pool_config_enter(dmu_objset_pool(v->os), FTAG);
		e = dmu_snapshot_list_next(v->os, CASK_NAME, name, &id, cookie,
		    &conflict);
		dsl_pool_config_exit(dmu_objset_pool(v->os), FTAG);
		if (e == 0)
			e = cask_snap_describe(v, name, words);
	} while (e == 0 && words[0] == 0);
	return (e);
}

int
cask_snap_doom(cask_vol *v, const char *name, uint64_t seq)
{
	char full[ZFS_MAX_DATASET_NAME_LEN], text[32];

	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	full_name(v, name, full);
	(void) snprintf(text, sizeof (text), "%llu", (u_longlong_t)seq);
	return (dsl_prop_set_string(full, PROP_DROP, ZPROP_SRC_LOCAL, text));
}

int
cask_snap_destroy(cask_vol *v, const char *name)
{
	char full[ZFS_MAX_DATASET_NAME_LEN];

	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	full_name(v, name, full);
	return (dsl_destroy_snapshot(full, B_FALSE));
}

int
cask_snap_rename(cask_vol *v, const char *name, const char *to)
{
	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	return (dsl_dataset_rename_snapshot(v->name, name, to, B_FALSE));
}

int
cask_snap_return(cask_vol *v, cask_snap *s)
{
	mark_t *m = malloc(sizeof (*m));

	if (m == NULL)
		return (ENOMEM);
	int e = mark_read(s->os, m);
	if (e == 0) {
		dmu_tx_t *tx = dmu_tx_create(v->os);
		dmu_tx_hold_write_by_dnode(tx, v->mark_dn, 0, MARK_BYTES);
		size_hold(v, s->size, tx);
		e = tx_assign(v, tx, 1);
		if (e == 0) {
			uint64_t txg = dmu_tx_get_txg(tx);
			mark_return(v, m, tx);
			size_set(v, s->size, tx);
			dmu_tx_commit(tx);
			e = wait_stable(v, txg);
		}
	}
	free(m);
	return (e);
}

int
cask_snap_open(cask_vol *v, const char *name, cask_snap **out)
{
	cask_snap *s = calloc(1, sizeof (*s));

	if (s == NULL)
		return (ENOMEM);
	full_name(v, name, s->name);
	int e = dmu_objset_own(s->name, DMU_OST_ZVOL, B_TRUE, B_FALSE, s,
	    &s->os);
	if (e == 0)
		e = zap_lookup(s->os, ZAP_OBJ, "size", 8, 1, &s->size);
	if (e == 0)
		e = dnode_hold(s->os, DATA_OBJ, s, &s->dn);
	if (e != 0) {
		cask_snap_close(s);
		return (e);
	}
	*out = s;
	return (0);
}

void
cask_snap_close(cask_snap *s)
{
	if (s->dn != NULL)
		dnode_rele(s->dn, s);
	if (s->os != NULL) {
		(void) dmu_objset_evict_dbufs(s->os);
		dmu_objset_disown(s->os, B_FALSE, s);
	}
	free(s);
}

uint64_t
cask_snap_size(cask_snap *s)
{
	return (s->size);
}

int
cask_snap_read(cask_snap *s, uint64_t off, uint64_t len, void *buf)
{
	return (read_blocks(s->dn, off, len, buf));
}
