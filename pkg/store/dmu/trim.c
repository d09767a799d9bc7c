//go:build cgo && linux

/*
 * What is free goes back to the extent's file system. ZFS's own thread for this
 * has two transaction groups synced for each metaslab that it trims, one after
 * the other: under load no group ever got larger than what was written in 30 ms.
 */
#include "zfs.h"
#include <sys/metaslab_impl.h>
#include <sys/vdev_impl.h>
#include <sys/vdev_trim.h>

#define	TRIM_MIN	(32ULL << 10)	/* less is soon written again */

/* Keeps ZFS from starting its own. */
void
vdev_autotrim_restart(spa_t *spa)
{
	(void) spa;
}

static void
punch(void *arg, uint64_t start, uint64_t len)
{
	if (len >= TRIM_MIN)
		file_punch(arg, VDEV_LABEL_START_SIZE + start, len);
}

static int
has_freed(metaslab_t *ms)
{
	mutex_enter(&ms->ms_lock);
	int has = ms->ms_sm != NULL && !range_tree_is_empty(ms->ms_trim);
	mutex_exit(&ms->ms_lock);
	return (has);
}

/*
 * Nothing is allocated in a disabled metaslab. All holes are punched when it is
 * enabled again: nobody has to wait for a TXG.
 */
static void
trim(vdev_t *vd, metaslab_t *ms)
{
	range_tree_t *freed = range_tree_create(NULL, RANGE_SEG64, NULL, 0, 0);

	metaslab_disable(ms);
	mutex_enter(&ms->ms_lock);
	range_tree_swap(&ms->ms_trim, &freed);
	mutex_exit(&ms->ms_lock);
	spa_config_enter(vd->vdev_spa, SCL_STATE, FTAG, RW_READER);
	range_tree_vacate(freed, vdev_writeable(vd) ? punch : NULL, vd);
	spa_config_exit(vd->vdev_spa, SCL_STATE, FTAG);
	range_tree_destroy(freed);
	metaslab_enable(ms, B_FALSE, B_FALSE);
}

void
cask_trim(cask_vol *v, uint64_t *next)
{
	vdev_t *vd = v->spa->spa_root_vdev->vdev_child[0];

	for (uint64_t n = vd->vdev_ms_count; n > 0; n--) {
		spa_config_enter(v->spa, SCL_CONFIG, FTAG, RW_READER);
		metaslab_t *ms = vd->vdev_ms[(*next)++ % vd->vdev_ms_count];
		spa_config_exit(v->spa, SCL_CONFIG, FTAG);
		if (has_freed(ms)) {
			trim(vd, ms);
			return;
		}
	}
}
