//go:build cgo && linux

/*
 * Where blocks go within a metaslab: into the longest run that is free, one after
 * the other until it is full. ZFS goes on from where it was and fills each hole:
 * in a volume that is written at random those are of a record or two, and each is
 * a write of its own to the disk. What is free is not described otherwise.
 */
#include "zfs.h"
#include <sys/metaslab_impl.h>
#include <sys/vdev_impl.h>

static metaslab_ops_t *of_zfs;

/* Under ms_lock. Returns -1 when nothing is free that is large enough. */
static uint64_t
alloc_in_run(metaslab_t *ms, uint64_t size)
{
	uint64_t *at = &ms->ms_lbas[0], *end = &ms->ms_lbas[1];

	/* the log is to come back to its first blocks: rewind_log */
	if (ms->ms_group == ms->ms_group->mg_vd->vdev_log_mg)
		return (of_zfs->msop_alloc(ms, size));
	if (*at + size > *end ||
	    !range_tree_contains(ms->ms_allocatable, *at, size)) {
		if (metaslab_largest_allocatable(ms) < size)
			return (-1ULL);
		range_seg_t *run =
		    zfs_btree_last(&ms->ms_allocatable_by_size, NULL);
		*at = rs_get_start(run, ms->ms_allocatable);
		*end = rs_get_end(run, ms->ms_allocatable);
	}
	uint64_t off = *at;
	*at += size;
	return (off);
}

static metaslab_ops_t in_runs = { alloc_in_run };

/* For pools that are opened after it. */
void
alloc_init(void)
{
	of_zfs = zfs_metaslab_ops;
	zfs_metaslab_ops = &in_runs;
}
