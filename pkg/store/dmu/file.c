//go:build cgo && linux

/*
 * The extent's file under ZFS's file vdev. libzpool's own layer splits writes
 * at random and cannot punch holes; this one is plain system calls, made by
 * ZFS's I/O threads, and remembers that a flush failed: after that nothing
 * more is known to be stable, and ZFS would go on.
 */
#include "zfs.h"
#include <sys/zfs_file.h>
#include <sys/stat.h>

typedef struct flushed {
	struct flushed *next;
	char *path;
	int error;
} flushed_t;

/* An open file; ZFS knows the first part. */
typedef struct {
	zfs_file_t file;
	flushed_t *flushed;
} cask_file_t;

static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
static flushed_t *files;	/* every path ever opened: one per pool */
static volatile int fault;

enum { FAULT_WRITE = 1, FAULT_READ = 2, FAULT_FLUSH = 4, FAULT_FULL = 8 };

#define	LABELS	(4LL << 20)	/* no data before it */

void
cask_file_fault(int kinds)
{
	__atomic_store_n(&fault, kinds, __ATOMIC_SEQ_CST);
}

static int
faulty(int kind)
{
	return (__atomic_load_n(&fault, __ATOMIC_RELAXED) & kind);
}

static flushed_t *
lookup(const char *path)
{
	flushed_t *f = files;

	while (f != NULL && strcmp(f->path, path) != 0)
		f = f->next;
	return (f);
}

int
file_flush_error(const char *path)
{
	(void) pthread_mutex_lock(&files_lock);
	flushed_t *f = lookup(path);
	int e = f == NULL ? 0 : f->error;
	(void) pthread_mutex_unlock(&files_lock);
	return (e);
}

/* A pool that is opened anew is judged anew. */
void
file_forget_error(const char *path)
{
	(void) pthread_mutex_lock(&files_lock);
	flushed_t *f = lookup(path);
	if (f != NULL)
		f->error = 0;
	(void) pthread_mutex_unlock(&files_lock);
}

static flushed_t *
track(const char *path)
{
	(void) pthread_mutex_lock(&files_lock);
	flushed_t *f = lookup(path);
	if (f == NULL && (f = calloc(1, sizeof (*f))) != NULL) {
		f->path = strdup(path);
		f->next = files;
		files = f;
	}
	(void) pthread_mutex_unlock(&files_lock);
	return (f);
}

int
zfs_file_open(const char *path, int flags, int mode, zfs_file_t **fpp)
{
	int fd = open64(path, flags | O_CLOEXEC, mode);

	if (fd < 0)
		return (errno);
	cask_file_t *f = calloc(1, sizeof (*f));
	if (f == NULL || (f->flushed = track(path)) == NULL) {
		free(f);
		(void) close(fd);
		return (ENOMEM);
	}
	f->file.f_fd = fd;
	f->file.f_dump_fd = -1;
	*fpp = &f->file;
	return (0);
}

void
zfs_file_close(zfs_file_t *fp)
{
	(void) close(fp->f_fd);
	free(fp);
}

int
zfs_file_pwrite(zfs_file_t *fp, const void *buf, size_t len, loff_t off,
    ssize_t *resid)
{
	const char *p = buf;

	if (faulty(FAULT_WRITE))
		return (EIO);
	if (faulty(FAULT_FULL) && off >= LABELS)
		return (ENOSPC);
	while (len > 0) {
		ssize_t n = pwrite64(fp->f_fd, p, len, off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return (n < 0 ? errno : ENOSPC);
		p += n;
		len -= n;
		off += n;
	}
	if (resid != NULL)
		*resid = 0;
	return (0);
}

int
zfs_file_pread(zfs_file_t *fp, void *buf, size_t len, loff_t off,
    ssize_t *resid)
{
	char *p = buf;

	if (faulty(FAULT_READ))
		return (EIO);
	while (len > 0) {
		ssize_t n = pread64(fp->f_fd, p, len, off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return (errno);
		if (n == 0)
			break;
		p += n;
		len -= n;
		off += n;
	}
	if (resid != NULL)
		*resid = len;
	else if (len > 0)
		return (EIO);
	return (0);
}

int
zfs_file_getattr(zfs_file_t *fp, zfs_file_attr_t *attr)
{
	struct stat64 st;

	if (fstat64(fp->f_fd, &st) != 0)
		return (errno);
	attr->zfa_size = st.st_size;
	attr->zfa_mode = st.st_mode;
	return (0);
}

int
zfs_file_fsync(zfs_file_t *fp, int flags)
{
	cask_file_t *f = (cask_file_t *)fp;
	int e = 0;

	(void) flags;
	if (faulty(FAULT_FLUSH))
		e = EIO;
	else if (fdatasync(fp->f_fd) != 0)
		e = errno;
	if (e != 0) {
		(void) pthread_mutex_lock(&files_lock);
		f->flushed->error = e;
		(void) pthread_mutex_unlock(&files_lock);
	}
	return (e);
}

int
zfs_file_fallocate(zfs_file_t *fp, int mode, loff_t off, loff_t len)
{
	return (fallocate64(fp->f_fd, mode, off, len) == 0 ? 0 : errno);
}
