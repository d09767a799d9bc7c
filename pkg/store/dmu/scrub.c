//go:build cgo && linux

/* ZFS's scrub, and which blocks of volumes were found rotten, by it or a read. */
#include "zfs.h"
#include <sys/dsl_scan.h>

#define	FOUND_MAX	4096	/* remembered until they are asked for */

typedef struct {
	spa_t *spa;
	uint64_t object;
	uint64_t blkid;
	int64_t level;
} found_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static found_t found[FOUND_MAX];
static uint64_t nfound;
static uint64_t unnamed;	/* found, and not remembered: too many */

extern int zfs_scan_legacy;

/* Called once: blocks are read as they are found, not gathered in memory. */
void
scrub_init(void)
{
	zfs_scan_legacy = 1;
}

/* ZFS cannot read a block, from any copy. */
void
scrub_found(spa_t *spa, const zbookmark_phys_t *zb)
{
	found_t f = { spa, zb->zb_object, zb->zb_blkid, zb->zb_level };

	(void) pthread_mutex_lock(&lock);
	if (nfound < FOUND_MAX)
		found[nfound++] = f;
	else
		unnamed++;
	(void) pthread_mutex_unlock(&lock);
}

/* The pool is being closed: the next one may lie where it does. */
void
scrub_forget(spa_t *spa)
{
	uint64_t kept = 0;

	(void) pthread_mutex_lock(&lock);
	for (uint64_t i = 0; i < nfound; i++) {
		if (found[i].spa != spa)
			found[kept++] = found[i];
	}
	nfound = kept;
	(void) pthread_mutex_unlock(&lock);
}

int
cask_scrub(cask_vol *v, int pause)
{
	if (spa_suspended(v->spa))
		return (CASK_SUSPENDED);
	if (pause)
		return (spa_scrub_pause_resume(v->spa, POOL_SCRUB_PAUSE));
	return (spa_scan(v->spa, POOL_SCAN_SCRUB));
}

void
cask_scrub_status(cask_vol *v, uint64_t *words)
{
	dsl_scan_t *scn = spa_get_dsl(v->spa)->dp_scan;
	const dsl_scan_phys_t *p = &scn->scn_phys;
	int is_scrub = p->scn_func == POOL_SCAN_SCRUB;

	memset(words, 0, CASK_SCRUB_WORDS * sizeof (*words));
	if (!is_scrub)
		return;
	words[0] = p->scn_state == DSS_SCANNING;
	words[1] = words[0] && dsl_scan_is_paused_scrub(scn);
	words[2] = MIN(p->scn_examined, p->scn_to_examine);
	words[3] = p->scn_to_examine;
	words[4] = p->scn_errors;
	words[5] = p->scn_state == DSS_FINISHED ? p->scn_end_time : 0;
}

/* The bytes of the volume below a block. */
static void
extent_of(cask_vol *v, const found_t *f, uint64_t *pair)
{
	uint64_t shift = (v->dn->dn_indblkshift - SPA_BLKPTRSHIFT) * f->level;
	uint64_t span = v->block_size << MIN(shift, 40);

	pair[0] = MIN(f->blkid * span, v->size);
	pair[1] = MIN(span, v->size - pair[0]);
}

void
cask_found(cask_vol *v, uint64_t *pairs, uint64_t max, uint64_t *n,
    uint64_t *others)
{
	uint64_t kept = 0;

	*n = 0;
	(void) pthread_mutex_lock(&lock);
	*others = unnamed;
	unnamed = 0;
	for (uint64_t i = 0; i < nfound; i++) {
		found_t *f = &found[i];
		if (f->spa != v->spa || *n == max)
			found[kept++] = *f;
		else if (f->object == DATA_OBJ && f->level >= 0)
			extent_of(v, f, &pairs[2 * (*n)++]);
		else
			(*others)++;
	}
	nfound = kept;
	(void) pthread_mutex_unlock(&lock);
}
