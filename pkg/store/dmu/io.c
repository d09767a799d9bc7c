//go:build cgo && linux

/*
 * How the file of an extent is read and written: by io_uring, or by a few
 * threads where that cannot be had (an old kernel, a seccomp profile).
 */
#include "zfs.h"
#include "io.h"

#define	THREADS	8

static void (*submit)(io_t *);
static int engine;

/* The fallback: a system call on a thread of its own. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static io_t *first, **last = &first;

/* What is left of io after n bytes. */
static void
advance(io_t *io, size_t n)
{
	io->off += n;
	for (; n > 0 && n >= io->iov->iov_len; io->iov++, io->parts--)
		n -= io->iov->iov_len;
	if (n > 0) {
		io->iov->iov_base = (char *)io->iov->iov_base + n;
		io->iov->iov_len -= n;
	}
}

int
io_progress(io_t *io, int result)
{
	if (result < 0) {
		io->done(io, -result);
		return (1);
	}
	if (io->kind != IO_FLUSH) {
		if (result == 0) {	/* the file is shorter than its pool */
			io->done(io, io->kind == IO_READ ? EIO : ENOSPC);
			return (1);
		}
		advance(io, result);
		if (io->parts > 0)
			return (0);
	}
	io->done(io, 0);
	return (1);
}

static int
call(io_t *io)
{
	ssize_t n;

	do {
		switch (io->kind) {
		case IO_READ:
			n = preadv64(io->fd, io->iov, io->parts, io->off);
			break;
		case IO_WRITE:
			n = pwritev64(io->fd, io->iov, io->parts, io->off);
			break;
		default:
			n = fdatasync(io->fd);
		}
	} while (n < 0 && errno == EINTR);
	return (n < 0 ? -errno : n);
}

static void *
work(void *arg)
{
	(void) arg;
	for (;;) {
		(void) pthread_mutex_lock(&lock);
		while (first == NULL)
			(void) pthread_cond_wait(&more, &lock);
		io_t *io = first;
		if ((first = io->next) == NULL)
			last = &first;
		(void) pthread_mutex_unlock(&lock);
		while (!io_progress(io, call(io)))
			;
	}
	return (NULL);
}

static void
threads_submit(io_t *io)
{
	io->next = NULL;
	(void) pthread_mutex_lock(&lock);
	*last = io;
	last = &io->next;
	(void) pthread_cond_signal(&more);
	(void) pthread_mutex_unlock(&lock);
}

int
io_thread(void *(*f)(void *), const char *name)
{
	pthread_t id;
	sigset_t all, old;

	(void) sigfillset(&all);	/* signals are for Go's threads */
	(void) pthread_sigmask(SIG_SETMASK, &all, &old);
	int e = pthread_create(&id, NULL, f, NULL);
	(void) pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (e == 0) {
		(void) pthread_setname_np(id, name);
		(void) pthread_detach(id);
	}
	return (e);
}

static void
threads_start(void)
{
	for (int i = 0; i < THREADS; i++)
		VERIFY0(io_thread(work, "cask-io"));
	submit = threads_submit;
	engine = IO_THREADS;
}

int
io_select(int wanted, int *why)
{
	*why = 0;
	if (engine != 0)
		return (engine);
	if (wanted == IO_THREADS || (*why = uring_start()) != 0) {
		threads_start();
	} else {
		submit = uring_submit;
		engine = IO_URING;
	}
	return (engine);
}

static uint64_t count[IO_FLUSH + 1], written;

static void
counted(const io_t *io)
{
	(void) __atomic_add_fetch(&count[io->kind], 1, __ATOMIC_RELAXED);
	if (io->kind == IO_WRITE)
		(void) __atomic_add_fetch(&written, io->len, __ATOMIC_RELAXED);
}

void
io_submit(io_t *io)
{
	counted(io);
	submit(io);
}

int
io_now(io_t *io)
{
	counted(io);
	int n = call(io);
	return (n < 0 ? -n : 0);
}

void
io_here(io_t *io)
{
	counted(io);
	while (!io_progress(io, call(io)))
		;
}

void
cask_io_counts(uint64_t *words)
{
	for (int i = 0; i <= IO_FLUSH; i++)
		words[i] = __atomic_load_n(&count[i], __ATOMIC_RELAXED);
	words[IO_FLUSH + 1] = __atomic_load_n(&written, __ATOMIC_RELAXED);
}
