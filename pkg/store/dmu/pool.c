//go:build cgo && linux

/* The pool on its one extent. */
#include "zfs.h"
#include <zfeature_common.h>
#include <sys/stat.h>
#include <sys/vdev_impl.h>

#define	LABEL_SIZE	(256ULL << 10)
#define	LABEL_NVLIST	(16ULL << 10)		/* offset in the label */
#define	LABEL_PHYS	(112ULL << 10)

/*
 * Small indirect blocks: each write at random makes ZFS write one anew, and
 * compress it. These become one sector of 4 KiB.
 */
#define	INDIRECT_SHIFT	13

#define	LABEL_ROOM	((4ULL << 20) + 2 * LABEL_SIZE)	/* not in asize */

typedef struct {
	uint64_t size;
	uint64_t block_size;
} geometry_t;

static nvlist_t *
root_of(nvlist_t *leaf, uint64_t guid)
{
	nvlist_t *root = fnvlist_alloc();

	fnvlist_add_string(root, ZPOOL_CONFIG_TYPE, VDEV_TYPE_ROOT);
	if (guid != 0) {
		fnvlist_add_uint64(root, ZPOOL_CONFIG_ID, 0);
		fnvlist_add_uint64(root, ZPOOL_CONFIG_GUID, guid);
	}
	fnvlist_add_nvlist_array(root, ZPOOL_CONFIG_CHILDREN, &leaf, 1);
	return (root);
}

static nvlist_t *
pool_props(void)
{
	nvlist_t *props = fnvlist_alloc();

	for (int i = 0; i < SPA_FEATURES; i++) {
		char name[128];
		(void) snprintf(name, sizeof (name), "feature@%s",
		    spa_feature_table[i].fi_uname);
		fnvlist_add_uint64(props, name, 0);
	}
	fnvlist_add_string(props, "cachefile", "none");
	fnvlist_add_uint64(props, "autotrim", SPA_AUTOTRIM_ON);
	fnvlist_add_uint64(props, "failmode", ZIO_FAILURE_MODE_CONTINUE);
	fnvlist_add_uint64(props, "autoexpand", 1);
	return (props);
}

extern int zfs_vdev_min_ms_count;

/*
 * One metaslab is for the log alone: 64 MiB of a small extent, which has as much
 * to spare, and up to a thirty-second of a larger one.
 */
static void
size_metaslabs(const char *path)
{
	struct stat64 st;

	if (stat64(path, &st) == 0)
		zfs_vdev_min_ms_count = MAX(16, MIN(64, st.st_size >> 25));
}

static int
create_pool(const char *pool, const char *path)
{
	nvlist_t *leaf = fnvlist_alloc();

	fnvlist_add_string(leaf, ZPOOL_CONFIG_TYPE, VDEV_TYPE_FILE);
	fnvlist_add_string(leaf, ZPOOL_CONFIG_PATH, path);
	fnvlist_add_uint64(leaf, ZPOOL_CONFIG_ASHIFT, 12);
	fnvlist_add_uint64(leaf, ZPOOL_CONFIG_IS_LOG, 0);
	size_metaslabs(path);
	nvlist_t *root = root_of(leaf, 0);
	nvlist_t *props = pool_props();
	int e = spa_create(pool, root, props, NULL, NULL);
	nvlist_free(props);
	nvlist_free(root);
	nvlist_free(leaf);
	return (e);
}

static void
create_objects(objset_t *os, void *arg, cred_t *cr, dmu_tx_t *tx)
{
	geometry_t *g = arg;
	mark_t m = { 0 };

	(void) cr;
	VERIFY0(dmu_object_claim(os, DATA_OBJ, DMU_OT_ZVOL, g->block_size,
	    DMU_OT_NONE, 0, tx));
	VERIFY0(dmu_object_set_blocksize(os, DATA_OBJ, g->block_size,
	    INDIRECT_SHIFT, tx));
	VERIFY0(zap_create_claim(os, ZAP_OBJ, DMU_OT_ZVOL_PROP, DMU_OT_NONE, 0,
	    tx));
	VERIFY0(zap_update(os, ZAP_OBJ, "size", 8, 1, &g->size, tx));
	VERIFY0(dmu_object_claim(os, MARK_OBJ, DMU_OT_UINT64_OTHER, MARK_BYTES,
	    DMU_OT_NONE, 0, tx));
	VERIFY0(dmu_object_claim(os, META_OBJ, DMU_OT_PLAIN_OTHER, META_BYTES,
	    DMU_OT_NONE, 0, tx));
	VERIFY0(dmu_object_claim(os, REGION_OBJ, DMU_OT_UINT64_OTHER,
	    REGION_BLOCK, DMU_OT_NONE, 0, tx));
	mark_init(&m, g->size, g->block_size);
	dmu_write(os, MARK_OBJ, 0, sizeof (m), &m, tx);
}

static int
set_int(const char *dataset, const char *prop, uint64_t value)
{
	return (dsl_prop_set_int(dataset, prop, ZPROP_SRC_LOCAL, value));
}

static int
create_datasets(const char *pool, geometry_t *g, int compress)
{
	static const uint64_t how[] = { ZIO_COMPRESS_OFF, ZIO_COMPRESS_LZ4,
		ZIO_COMPRESS_ZSTD };
	char vol[ZFS_MAX_DATASET_NAME_LEN];
	int e;

	(void) snprintf(vol, sizeof (vol), "%s/vol", pool);
	/* the root dataset has no file system in it: it must not be mounted */
	if ((e = set_int(pool, "canmount", ZFS_CANMOUNT_OFF)) != 0 ||
	    (e = dsl_prop_set_string(pool, "mountpoint", ZPROP_SRC_LOCAL,
	    "none")) != 0 ||
	    (e = set_int(pool, "redundant_metadata",
	    ZFS_REDUNDANT_METADATA_MOST)) != 0 ||
	    (e = set_int(pool, "compression", how[compress])) != 0)
		return (e);
	return (dmu_objset_create(vol, DMU_OST_ZVOL, 0, NULL, create_objects,
	    g));
}

static int
set_comment(const char *pool, const char *comment)
{
	spa_t *spa;
	int e = spa_open(pool, &spa, FTAG);

	if (e != 0)
		return (e);
	nvlist_t *props = fnvlist_alloc();
	fnvlist_add_string(props, "comment", comment);
	e = spa_prop_set(spa, props);
	nvlist_free(props);
	if (e == 0)
		txg_wait_synced(spa_get_dsl(spa), 0);
	spa_close(spa, FTAG);
	return (e);
}

/* The comment comes last: an extent without it holds no finished volume. */
int
cask_create(const char *pool, const char *path, const char *comment,
    uint64_t size, uint64_t block_size, int compress)
{
	geometry_t g = { size, block_size };

	file_forget_error(path);
	int e = create_pool(pool, path);

	if (e != 0)
		return (e);
	e = create_datasets(pool, &g, compress);
	if (e == 0)
		e = set_comment(pool, comment);
	if (e == 0)
		e = file_flush_error(path);
	if (e != 0)
		(void) cask_export(pool);
	return (e);
}

static int
pread_all(int fd, char *buf, size_t len, off64_t off)
{
	while (len > 0) {
		ssize_t n = pread64(fd, buf, len, off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return (n < 0 ? errno : EIO);
		buf += n;
		len -= n;
		off += n;
	}
	return (0);
}

static int
all_zero(const char *buf, size_t len)
{
	return (len == 0 || (buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0));
}

/* The first readable one of the four labels. */
static int
scan_labels(int fd, uint64_t size, char *buf, nvlist_t **label)
{
	uint64_t end = P2ALIGN(size, LABEL_SIZE);
	uint64_t at[] = { 0, LABEL_SIZE, end - 2 * LABEL_SIZE,
	    end - LABEL_SIZE };
	int blank = 1;

	if (size < 4 * LABEL_SIZE)
		return (ENOENT);
	for (int i = 0; i < 4; i++) {
		int e = pread_all(fd, buf, LABEL_PHYS, at[i] + LABEL_NVLIST);
		if (e != 0)
			return (e);
		if (all_zero(buf, LABEL_PHYS))
			continue;
		blank = 0;
		if (nvlist_unpack(buf, LABEL_PHYS, label, 0) != 0)
			continue;
		if (nvlist_exists(*label, ZPOOL_CONFIG_VDEV_TREE) &&
		    nvlist_exists(*label, ZPOOL_CONFIG_POOL_GUID))
			return (0);
		nvlist_free(*label);
	}
	return (blank ? ENOENT : EILSEQ);
}

static int
read_label(const char *path, nvlist_t **label)
{
	struct stat st;
	char *buf = malloc(LABEL_PHYS);
	int e, fd = open64(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || buf == NULL || fstat(fd, &st) != 0)
		e = errno;
	else
		e = scan_labels(fd, st.st_size, buf, label);
	if (fd >= 0)
		(void) close(fd);
	free(buf);
	return (e);
}

static void
copy_string(nvlist_t *nv, const char *key, char *out, size_t len)
{
	char *s;

	if (nvlist_lookup_string(nv, key, &s) != 0)
		s = "";
	(void) snprintf(out, len, "%s", s);
}

int
cask_label(const char *path, char *name, char *comment, size_t len,
    uint64_t *min_bytes)
{
	nvlist_t *label, *tree;
	uint64_t asize = 0;
	int e = read_label(path, &label);

	if (e != 0)
		return (e);
	copy_string(label, ZPOOL_CONFIG_POOL_NAME, name, len);
	copy_string(label, ZPOOL_CONFIG_COMMENT, comment, len);
	if (nvlist_lookup_nvlist(label, ZPOOL_CONFIG_VDEV_TREE, &tree) == 0)
		(void) nvlist_lookup_uint64(tree, ZPOOL_CONFIG_ASIZE, &asize);
	*min_bytes = asize + LABEL_ROOM;
	nvlist_free(label);
	return (0);
}

/* The label's configuration as an import wants it. */
static nvlist_t *
import_config(nvlist_t *label, const char *path)
{
	const char *keys[] = { ZPOOL_CONFIG_VERSION, ZPOOL_CONFIG_POOL_TXG,
	    ZPOOL_CONFIG_POOL_GUID, ZPOOL_CONFIG_POOL_STATE };
	nvlist_t *config = fnvlist_alloc();
	nvlist_t *leaf = fnvlist_lookup_nvlist(label, ZPOOL_CONFIG_VDEV_TREE);
	nvlist_t *features;
	uint64_t value;

	for (int i = 0; i < sizeof (keys) / sizeof (keys[0]); i++) {
		if (nvlist_lookup_uint64(label, keys[i], &value) == 0)
			fnvlist_add_uint64(config, keys[i], value);
	}
	char *comment;
	if (nvlist_lookup_string(label, ZPOOL_CONFIG_COMMENT, &comment) == 0)
		fnvlist_add_string(config, ZPOOL_CONFIG_COMMENT, comment);
	fnvlist_add_string(config, ZPOOL_CONFIG_POOL_NAME,
	    fnvlist_lookup_string(label, ZPOOL_CONFIG_POOL_NAME));
	if (nvlist_lookup_nvlist(label, ZPOOL_CONFIG_FEATURES_FOR_READ,
	    &features) == 0)
		fnvlist_add_nvlist(config, ZPOOL_CONFIG_FEATURES_FOR_READ,
		    features);
	fnvlist_add_string(leaf, ZPOOL_CONFIG_PATH, path);
	nvlist_t *root = root_of(leaf,
	    fnvlist_lookup_uint64(label, ZPOOL_CONFIG_POOL_GUID));
	fnvlist_add_nvlist(config, ZPOOL_CONFIG_VDEV_TREE, root);
	nvlist_free(root);
	return (config);
}

int
cask_import(const char *pool, const char *path)
{
	nvlist_t *label;
	int e = read_label(path, &label);

	if (e != 0)
		return (e);
	file_forget_error(path);
	nvlist_t *config = import_config(label, path);
	nvlist_t *props = fnvlist_alloc();
	fnvlist_add_string(props, "cachefile", "none");
	e = spa_import((char *)pool, config, props, ZFS_IMPORT_NORMAL);
	nvlist_free(props);
	nvlist_free(config);
	nvlist_free(label);
	return (e);
}

/*
 * Has ZFS look at the extent's size again; what the asynchronous thread of
 * spa_sync would do after that, here and now.
 */
int
cask_expand(cask_vol *v)
{
	vdev_state_t state;

	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	int e = vdev_online(v->spa, v->spa->spa_root_vdev->vdev_child[0]->
	    vdev_guid, ZFS_ONLINE_EXPAND, &state);
	if (e != 0)
		return (e);
	if (state != VDEV_STATE_HEALTHY)
		return (EIO);
	mutex_enter(&spa_namespace_lock);
	spa_config_update(v->spa, SPA_CONFIG_UPDATE_POOL);
	mutex_exit(&spa_namespace_lock);
	return (wait_stable(v, 0));
}

int
cask_export(const char *pool)
{
	spa_t *spa;

	if (spa_open(pool, &spa, FTAG) == 0) {
		scrub_forget(spa);
		spa_close(spa, FTAG);
	}
	return (spa_export(pool, NULL, B_FALSE, B_FALSE));
}
