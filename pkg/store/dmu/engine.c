//go:build cgo && linux

/* libzpool's start and its tunables, and the parts of it that we replace. */
#include "zfs.h"
#include "io.h"
#include <sys/arc.h>
#include <sys/arc_impl.h>
#include <sys/fm/fs/zfs.h>
#include <jemalloc/jemalloc.h>

extern int spa_asize_inflation;
extern int zfs_flags;
extern int zfs_abd_scatter_enabled;
extern uint64_t zfs_arc_max;
extern uint64_t zfs_arc_min;
extern unsigned long zfs_dirty_data_max;
extern unsigned long zfs_wrlog_data_max;
extern unsigned int zfetch_max_distance;
extern uint32_t zfs_vdev_async_write_max_active;
extern uint32_t zfs_vdev_sync_read_max_active;
extern int zfs_vdev_aggregation_limit_non_rotating;
extern int dbuf_cache_shift;
extern int zio_dva_throttle_enabled;
extern int zil_nocacheflush;
extern int zfs_commit_timeout_pct;
extern int zfs_embedded_slog_min_ms;

/*
 * One arena, so that what a thread frees is there for all others, and what is
 * free goes back to the kernel soon, but not sooner than the next TXG wants it:
 * half the resident memory of jemalloc's defaults for the same load, and as fast.
 * What zios, records and blocks are made of comes from slabs of 128 KiB: by itself
 * jemalloc finds, splits and joins a run of pages for each 8 KiB.
 */
const char *malloc_conf = "narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0,"
    "slab_sizes:1024-8192:32";

#define	ARC_FLOOR	(32ULL << 20)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t first_hostid;
static int io_engine, io_why;

#ifdef CASK_ZFS_RELEASE
extern const int cask_zfs_release;	/* fails to link with another ZFS */
#else
static const int cask_zfs_release = 1;
#endif

static void
start(void)
{
	char id[32];

	VERIFY(cask_zfs_release);
	(void) snprintf(id, sizeof (id), "0x%llx", (u_longlong_t)first_hostid);
	(void) setenv("ZFS_HOSTID", id, 1);
	spa_config_path = "/nonexistent/zpool.cache";
	zfs_flags = 0;
	zfs_abd_scatter_enabled = 0;
	zfetch_max_distance = 1 << 20;
	/*
	 * What a write may take of the pool: of 4 KiB, a record and an indirect
	 * block of 8 and two copies of the one above. ZFS reckons with 24 times,
	 * three copies on raidz: as a pool fills, groups would get too small.
	 */
	spa_asize_inflation = 8;
	/* no read by one of Go's threads waits for another's (read_blocks) */
	zfs_vdev_sync_read_max_active = 32;
	/* an eighth of the ARC: the indirect blocks of 1 GiB in one of 128 MiB */
	dbuf_cache_shift = 3;
	/* blocks are allocated one after the other: few, large writes */
	zfs_vdev_async_write_max_active = 3;
	zfs_vdev_aggregation_limit_non_rotating = 1 << 20;
	/* spreads writes over many disks, a hand-off for each; here is one */
	zio_dva_throttle_enabled = 0;
	/* cask_flush does it, and gathers what is to be flushed together */
	zil_nocacheflush = 1;
	zfs_commit_timeout_pct = 1;
	/* the log has a metaslab of its own, in smaller pools than ZFS's 64 */
	zfs_embedded_slog_min_ms = 16;
	scrub_init();
	alloc_init();
	appliers_init();
	io_engine = io_select(io_engine, &io_why);
	kernel_init(SPA_MODE_READ | SPA_MODE_WRITE);
}

int
cask_init(uint64_t arc_max, uint64_t dirty_max, uint64_t hostid, int *engine,
    int *why)
{
	if (io_engine == IO_AUTO)
		io_engine = *engine;
	first_hostid = hostid;
	zfs_arc_min = ARC_FLOOR;
	zfs_arc_max = arc_max;
	zfs_dirty_data_max = dirty_max;
	zfs_wrlog_data_max = dirty_max;
	(void) pthread_once(&once, start);
	arc_tuning_update(B_FALSE);
	*engine = io_engine;
	*why = io_why;
	return (0);
}

/*
 * libzpool's own versions of these three simulate a machine that is now and
 * then short of memory, at random, for the sake of ztest. The ARC has a fixed
 * bound here instead.
 */
int64_t
arc_available_memory(void)
{
	return (INT64_MAX);
}

uint64_t
arc_free_memory(void)
{
	return (8ULL << 30);
}

/*
 * What ZFS takes for the machine's memory: the hash tables of the ARC and of the
 * dbufs, which random inserts make resident whole, are made for 8 KiB blocks in half
 * of it, 144 MiB in each process of a machine of 256 GiB. No ARC is larger.
 */
uint64_t
arc_all_memory(void)
{
	return (MAX(2ULL << 30, 4 * zfs_arc_max));
}

void
cask_give_back(cask_vol *v)
{
	char all[32];

	arc_flush(v->spa, B_FALSE);
	(void) snprintf(all, sizeof (all), "arena.%d.purge", MALLCTL_ARENAS_ALL);
	(void) mallctl(all, NULL, NULL, NULL, 0);
}

static int suspensions;

/*
 * libzpool's own does nothing. ZFS calls it for what an administrator should
 * know, blocks that cannot be read and a pool's suspension among it; while a pool
 * is being opened nothing else tells.
 */
int
zfs_ereport_post(const char *clazz, spa_t *spa, vdev_t *vd,
    const zbookmark_phys_t *zb, zio_t *zio, uint64_t state)
{
	(void) vd, (void) zio, (void) state;
	if (strcmp(clazz, FM_EREPORT_ZFS_DATA) == 0 && zb != NULL)
		scrub_found(spa, zb);
	if (strcmp(clazz, FM_EREPORT_ZFS_IO_FAILURE) == 0)
		(void) __atomic_add_fetch(&suspensions, 1, __ATOMIC_SEQ_CST);
	return (0);
}

int
cask_suspensions(void)
{
	return (__atomic_load_n(&suspensions, __ATOMIC_SEQ_CST));
}

/*
 * ZFS gives up where it cannot go on. What is said here is all that anybody will
 * know of it: a process that ends like this at each start has a rotten extent.
 */
void
vpanic(const char *format, va_list args)
{
	(void) fprintf(stderr, "panic: ");
	(void) vfprintf(stderr, format, args);
	(void) fprintf(stderr, "\nZFS cannot go on with this extent; if that "
	    "comes again, replace the replica\n");
	abort();
}

void
libspl_assertf(const char *file, const char *func, int line, const char *format,
    ...)
{
	va_list args;

	(void) fprintf(stderr, "ASSERT at %s:%d:%s()\n", file, line, func);
	va_start(args, format);
	vpanic(format, args);
}

int
random_get_pseudo_bytes(uint8_t *p, size_t n)
{
	static __thread uint64_t s;

	if (s == 0) {
		struct timespec t;
		(void) clock_gettime(CLOCK_MONOTONIC, &t);
		s = (t.tv_nsec * 0x9e3779b97f4a7c15ULL) ^ (uintptr_t)&s;
	}
	while (n > 0) {
		size_t k = n < sizeof (s) ? n : sizeof (s);
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		memcpy(p, &s, k);
		p += k;
		n -= k;
	}
	return (0);
}
