//go:build cgo && linux

/*
 * ZFS's file vdev on our own I/O engines, in place of libzpool's: I/O without a
 * thread for each, past the page cache where the file system allows it, with
 * holes punched, and with a memory for failures. After a failed flush nothing
 * more is known to be stable, and ZFS would go on.
 */
#include "zfs.h"
#include "io.h"
#include <sys/vdev_impl.h>
#include <sys/abd.h>
#include <sys/stat.h>
#include <fcntl.h>

#define	ALIGN	4096		/* enough for O_DIRECT on any disk */

/* What is remembered of a path; every path ever opened: one per pool. */
typedef struct seen {
	struct seen *next;
	char *path;
	int flush;		/* of the first failed one, errno; atomic */
	int io;			/* of the first failed read or write; atomic */
	int direct;		/* last opened with O_DIRECT */
	int fd;			/* while it is open, else -1; atomic */
} seen_t;

typedef struct {
	int fd;
	int direct;		/* O_DIRECT */
	uint64_t size;		/* of the file when it was opened */
	seen_t *seen;
} extent_t;

/*
 * A zio at the engine. What ZFS joined to one large zio is done in place, in
 * its parts: a copy of it would be fresh memory each time.
 */
typedef struct {
	io_t io;
	zio_t *zio;
	char *copy;		/* of the zio's data, or NULL */
	extent_t *extent;
	struct iovec iov[];
} vdev_io_t;

#define	MAX_PARTS	256	/* 1 MiB of single blocks */

typedef struct {
	struct iovec iov[MAX_PARTS];
	int n;
} parts_t;

static pthread_mutex_t seen_lock = PTHREAD_MUTEX_INITIALIZER;
static seen_t *all;
static volatile int fault;

#define	LABELS	(4LL << 20)	/* no data before it */
enum { FAULT_WRITE = 1, FAULT_READ = 2, FAULT_FLUSH = 4, FAULT_FULL = 8,
	FAULT_TRIM = 16, FAULT_LOOK = 32 };

void
cask_file_fault(int kinds)
{
	__atomic_store_n(&fault, kinds, __ATOMIC_SEQ_CST);
}

/* Between two looks at what is to be read. */
void
fault_pause(void)
{
	if (__atomic_load_n(&fault, __ATOMIC_RELAXED) & FAULT_LOOK)
		(void) usleep(300);
}

/* The error that a request is to fail with, or 0. */
static int
faulty(const io_t *io)
{
	static const int bit[] = { [IO_WRITE] = FAULT_WRITE,
		[IO_READ] = FAULT_READ, [IO_FLUSH] = FAULT_FLUSH };
	int now = __atomic_load_n(&fault, __ATOMIC_RELAXED);

	if (io->kind == IO_WRITE && (now & FAULT_FULL) && io->off >= LABELS)
		return (ENOSPC);
	return (now & bit[io->kind] ? EIO : 0);
}

static seen_t *
seen_of(const char *path)
{
	(void) pthread_mutex_lock(&seen_lock);
	seen_t *f = all;
	while (f != NULL && strcmp(f->path, path) != 0)
		f = f->next;
	if (f == NULL) {
		f = calloc(1, sizeof (*f));
		VERIFY3P(f, !=, NULL);
		f->path = strdup(path);
		f->fd = -1;
		f->next = all;
		all = f;
	}
	(void) pthread_mutex_unlock(&seen_lock);
	return (f);
}

int
file_flush_error(const char *path)
{
	return (__atomic_load_n(&seen_of(path)->flush, __ATOMIC_ACQUIRE));
}

int
cask_io_error(const char *path)
{
	return (__atomic_load_n(&seen_of(path)->io, __ATOMIC_ACQUIRE));
}

int
cask_direct(const char *path)
{
	return (seen_of(path)->direct);
}

/* A pool that is opened anew is judged anew. */
void
file_forget_error(const char *path)
{
	seen_t *f = seen_of(path);

	__atomic_store_n(&f->flush, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&f->io, 0, __ATOMIC_RELEASE);
}

static void
remember(seen_t *f, io_kind_t kind, int error)
{
	int none = 0;

	(void) __atomic_compare_exchange_n(
	    kind == IO_FLUSH ? &f->flush : &f->io, &none, error, 0,
	    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Can fd, opened with O_DIRECT, be read in blocks of ALIGN? */
static int
direct_works(int fd)
{
	void *p;

	if (posix_memalign(&p, ALIGN, ALIGN) != 0)
		return (0);
	ssize_t n = pread64(fd, p, ALIGN, 0);
	free(p);
	return (n == ALIGN);
}

static int
open_extent(const char *path, spa_mode_t mode, extent_t *x)
{
	int how = O_CLOEXEC |
	    (mode & SPA_MODE_WRITE ? O_RDWR : O_RDONLY);

	x->fd = open64(path, how | O_DIRECT);
	x->direct = x->fd >= 0 && direct_works(x->fd);
	if (x->direct)
		return (0);
	if (x->fd >= 0)
		(void) close(x->fd);
	x->fd = open64(path, how);
	return (x->fd < 0 ? errno : 0);
}

static int
vdev_extent_open(vdev_t *vd, uint64_t *psize, uint64_t *max_psize,
    uint64_t *logical_ashift, uint64_t *physical_ashift)
{
	struct stat64 st;
	extent_t *x = vd->vdev_tsd;
	int e = 0;

	vd->vdev_nonrot = B_TRUE;
	vd->vdev_has_trim = B_FALSE;	/* trim.c does it */
	vd->vdev_has_securetrim = B_FALSE;
	if (x == NULL) {	/* else it is opened again: its size is new */
		x = kmem_zalloc(sizeof (*x), KM_SLEEP);
		e = open_extent(vd->vdev_path, spa_mode(vd->vdev_spa), x);
		x->seen = seen_of(vd->vdev_path);
		x->seen->direct = x->direct;
		__atomic_store_n(&x->seen->fd, x->fd, __ATOMIC_RELEASE);
		vd->vdev_tsd = x;
	}
	if (e == 0 && fstat64(x->fd, &st) != 0)
		e = errno;
	if (e != 0) {
		vd->vdev_stat.vs_aux = VDEV_AUX_OPEN_FAILED;
		return (e);
	}
	x->size = *max_psize = *psize = st.st_size;
	*logical_ashift = SPA_MINBLOCKSHIFT;
	*physical_ashift = SPA_MINBLOCKSHIFT;
	return (0);
}

static void
vdev_extent_close(vdev_t *vd)
{
	extent_t *x = vd->vdev_tsd;

	if (vd->vdev_reopening || x == NULL)
		return;
	__atomic_store_n(&x->seen->fd, -1, __ATOMIC_RELEASE);
	if (x->fd >= 0)
		(void) close(x->fd);
	vd->vdev_delayed_close = B_FALSE;
	kmem_free(x, sizeof (*x));
	vd->vdev_tsd = NULL;
}

static void
finished(io_t *io, int error)
{
	vdev_io_t *v = (vdev_io_t *)io;
	zio_t *zio = v->zio;

	if (error == 0)
		error = faulty(io);
	journal_end(io, error);
	if (error != 0)
		remember(v->extent->seen, io->kind, error);
	if (v->copy != NULL && io->kind == IO_READ)
		abd_copy_from_buf(zio->io_abd, v->copy, zio->io_size);
	free(v->copy);
	free(v);
	zio->io_error = error;
	zio_interrupt(zio);
}

static int
add_part(void *buf, size_t len, void *arg)
{
	parts_t *p = arg;

	if (p->n > 0) {
		struct iovec *last = &p->iov[p->n - 1];
		if ((char *)last->iov_base + last->iov_len == buf) {
			last->iov_len += len;
			return (0);
		}
	}
	if (p->n == MAX_PARTS)
		return (E2BIG);
	p->iov[p->n++] = (struct iovec){ buf, len };
	return (0);
}

/* O_DIRECT asks for aligned memory; what ZFS reads and writes in bulk is. */
static int
aligned(const parts_t *p)
{
	for (int i = 0; i < p->n; i++) {
		if ((uintptr_t)p->iov[i].iov_base % SPA_MINBLOCKSIZE != 0 ||
		    (p->n > 1 && p->iov[i].iov_len % ALIGN != 0))
			return (0);
	}
	return (1);
}

/* A request for zio's data where it is, or for a copy. */
static vdev_io_t *
request(zio_t *zio, io_kind_t kind)
{
	const extent_t *x = zio->io_vd->vdev_tsd;
	char *copy = NULL;
	parts_t p;

	p.n = 0;
	if (kind != IO_FLUSH && (abd_iterate_func(zio->io_abd, 0, zio->io_size,
	    add_part, &p) != 0 || (x->direct && !aligned(&p)))) {
		VERIFY0(posix_memalign((void **)&copy, ALIGN, zio->io_size));
		if (kind == IO_WRITE)
			abd_copy_to_buf(copy, zio->io_abd, zio->io_size);
		p.iov[0] = (struct iovec){ copy, zio->io_size };
		p.n = 1;
	}
	vdev_io_t *v = calloc(1, sizeof (*v) + p.n * sizeof (p.iov[0]));
	VERIFY3P(v, !=, NULL);
	memcpy(v->iov, p.iov, p.n * sizeof (p.iov[0]));
	v->copy = copy;
	v->io.iov = v->iov;
	v->io.parts = p.n;
	return (v);
}

/*
 * A write of the labels at the end would give a file that was cut off its
 * length again, with a hole in it, and nobody would see.
 */
static int
cut_off(const io_t *io, const extent_t *x)
{
	struct stat64 st;

	if (io->kind != IO_WRITE || io->off + LABELS < x->size)
		return (0);
	if (fstat64(x->fd, &st) != 0)
		return (errno);
	return ((uint64_t)st.st_size < x->size ? ENXIO : 0);
}

/* This thread reads itself; see io_stay. */
static __thread int staying;

void
io_stay(void)
{
	staying++;
}

void
io_leave(void)
{
	staying--;
}

/* Has this thread nothing to do until zio is done? */
static int
waits_for(const zio_t *zio)
{
	return ((zio->io_priority == ZIO_PRIORITY_SYNC_READ && staying) ||
	    (zio->io_priority == ZIO_PRIORITY_SYNC_WRITE && on_log_thread()));
}

/* Do it on this thread and run what follows, but not the I/O of others in it. */
static void
do_here(io_t *io)
{
	taskq_ent_t tasks;
	int outer = staying;

	staying = 0;
	reaper_begin(&tasks);
	io_here(io);
	reaper_run();
	reaper_end();
	staying = outer;
}

static void
start(zio_t *zio, io_kind_t kind)
{
	vdev_io_t *v = request(zio, kind);

	v->zio = zio;
	v->extent = zio->io_vd->vdev_tsd;
	v->io.kind = kind;
	v->io.fd = v->extent->fd;
	v->io.done = finished;
	if (kind != IO_FLUSH) {
		v->io.off = zio->io_offset;
		v->io.len = zio->io_size;
	}
	journal_begin(&v->io);
	int e = faulty(&v->io);
	if (e == 0)
		e = cut_off(&v->io, v->extent);
	if (e != 0)
		finished(&v->io, e);
	else if (waits_for(zio))
		do_here(&v->io);
	else
		io_submit(&v->io);
}

/*
 * Flush the extent's file on this thread, for those that wait for nothing else.
 * What ZFS does with its own flushes, it does: the first failure counts.
 */
int
file_flush(const char *path)
{
	seen_t *f = seen_of(path);
	io_t io = { .kind = IO_FLUSH,
	    .fd = __atomic_load_n(&f->fd, __ATOMIC_ACQUIRE) };

	journal_begin(&io);
	int e = io_now(&io);
	if (e == 0)
		e = faulty(&io);
	journal_end(&io, e);
	if (e != 0)
		remember(f, IO_FLUSH, e);
	return (file_flush_error(path));
}

/* Best effort: what remains is written again, or freed again. */
void
file_punch(const vdev_t *vd, uint64_t off, uint64_t len)
{
	const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	const extent_t *x = vd->vdev_tsd;

	if (!(__atomic_load_n(&fault, __ATOMIC_RELAXED) & FAULT_TRIM))
		(void) fallocate64(x->fd, mode, off, len);
}

static void
vdev_extent_io_start(zio_t *zio)
{
	vdev_t *vd = zio->io_vd;

	switch (zio->io_type) {
	case ZIO_TYPE_IOCTL:
		if (zio->io_cmd == DKIOCFLUSHWRITECACHE && vdev_readable(vd)) {
			start(zio, IO_FLUSH);
			return;
		}
		zio->io_error = vdev_readable(vd) ? ENOTSUP : ENXIO;
		break;
	case ZIO_TYPE_TRIM:
		zio->io_error = ENOTSUP;
		break;
	default:
		start(zio, zio->io_type == ZIO_TYPE_READ ? IO_READ : IO_WRITE);
		return;
	}
	zio_execute(zio);
}

static void
vdev_extent_io_done(zio_t *zio)
{
	(void) zio;
}

static void
vdev_extent_hold(vdev_t *vd)
{
	(void) vd;
}

vdev_ops_t vdev_file_ops = {
	.vdev_op_open = vdev_extent_open,
	.vdev_op_close = vdev_extent_close,
	.vdev_op_asize = vdev_default_asize,
	.vdev_op_min_asize = vdev_default_min_asize,
	.vdev_op_io_start = vdev_extent_io_start,
	.vdev_op_io_done = vdev_extent_io_done,
	.vdev_op_hold = vdev_extent_hold,
	.vdev_op_rele = vdev_extent_hold,
	.vdev_op_xlate = vdev_default_xlate,
	.vdev_op_type = VDEV_TYPE_FILE,
	.vdev_op_leaf = B_TRUE,
};
