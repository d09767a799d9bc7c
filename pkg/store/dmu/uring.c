//go:build cgo && linux

/*
 * io_uring, by its system calls. One ring serves all extents of the process.
 * Submitters share the submission queue under a lock and enter the kernel
 * themselves, once for all they have gathered; one thread, the reaper, waits for completions and runs what they
 * lead to in ZFS, further I/O in one system call. That may block for as long as a completion takes which
 * is still in the queue: then a second thread, which looks after it now and
 * then, submits, takes over and hands what follows to the task queues.
 */
#include "zfs.h"
#include "io.h"
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define	ENTRIES		512
#define	COMPLETIONS	4096	/* ZFS has less than that under way */
#define	REAP_MAX	64
#define	LOOK_AFTER_NS	(50 * 1000 * 1000)

typedef struct {
	io_t *io;
	int result;
} reap_t;

static struct {
	int fd;
	pthread_mutex_t submit_lock;	/* guards the submission queue */
	unsigned *sq_head, *sq_tail, *sq_mask;
	struct io_uring_sqe *sqes;
	pthread_mutex_t reap_lock;	/* guards the head of the other */
	unsigned *cq_head, *cq_tail, *cq_mask;
	struct io_uring_cqe *cqes;
	uint64_t rounds;		/* of the reaper; atomic */
	int waits;			/* the reaper is in the kernel; atomic */
} ring = { .submit_lock = PTHREAD_MUTEX_INITIALIZER,
	.reap_lock = PTHREAD_MUTEX_INITIALIZER };

/* This thread enters the kernel later, for several submissions at once. */
static __thread int gathering;

static int
enter(unsigned submit, unsigned complete, unsigned flags)
{
	return (syscall(__NR_io_uring_enter, ring.fd, submit, complete, flags,
	    NULL, 0));
}

static int
map_rings(const struct io_uring_params *p)
{
	size_t sq = p->sq_off.array + p->sq_entries * sizeof (unsigned);
	size_t cq = p->cq_off.cqes + p->cq_entries *
	    sizeof (struct io_uring_cqe);
	const int prot = PROT_READ | PROT_WRITE, how = MAP_SHARED | MAP_POPULATE;
	char *s, *c;

	s = mmap(NULL, sq, prot, how, ring.fd, IORING_OFF_SQ_RING);
	c = mmap(NULL, cq, prot, how, ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, p->sq_entries * sizeof (struct io_uring_sqe),
	    prot, how, ring.fd, IORING_OFF_SQES);
	if (s == MAP_FAILED || c == MAP_FAILED || ring.sqes == MAP_FAILED)
		return (errno);
	ring.sq_head = (unsigned *)(s + p->sq_off.head);
	ring.sq_tail = (unsigned *)(s + p->sq_off.tail);
	ring.sq_mask = (unsigned *)(s + p->sq_off.ring_mask);
	ring.cq_head = (unsigned *)(c + p->cq_off.head);
	ring.cq_tail = (unsigned *)(c + p->cq_off.tail);
	ring.cq_mask = (unsigned *)(c + p->cq_off.ring_mask);
	ring.cqes = (struct io_uring_cqe *)(c + p->cq_off.cqes);
	unsigned *array = (unsigned *)(s + p->sq_off.array);
	for (unsigned i = 0; i < p->sq_entries; i++)
		array[i] = i;
	return (0);
}

static void
fill(struct io_uring_sqe *e, const io_t *io)
{
	memset(e, 0, sizeof (*e));
	e->fd = io->fd;
	e->user_data = (uintptr_t)io;
	if (io->kind == IO_FLUSH) {
		e->opcode = IORING_OP_FSYNC;
		e->fsync_flags = IORING_FSYNC_DATASYNC;
		return;
	}
	e->off = io->off;
	if (io->parts == 1) {
		e->opcode = io->kind == IO_READ ? IORING_OP_READ :
		    IORING_OP_WRITE;
		e->addr = (uintptr_t)io->iov->iov_base;
		e->len = io->iov->iov_len;
	} else {
		e->opcode = io->kind == IO_READ ? IORING_OP_READV :
		    IORING_OP_WRITEV;
		e->addr = (uintptr_t)io->iov;
		e->len = io->parts;
	}
}

/* Have the kernel take what is queued, at most n of it. */
static void
submit_all(unsigned n)
{
	int done;

	do {
		done = enter(n, 0, 0);
	} while (done < 0 && (errno == EINTR || errno == EAGAIN ||
	    errno == EBUSY));
	VERIFY3S(done, >=, 0);	/* anything else is an error of ours */
}

static int
submissions(void)
{
	return (__atomic_load_n(ring.sq_tail, __ATOMIC_ACQUIRE) !=
	    __atomic_load_n(ring.sq_head, __ATOMIC_ACQUIRE));
}

void
io_gather(void)
{
	gathering++;
}

/* On other engines nothing is ever gathered: the queues are not there. */
void
io_hand_over(void)
{
	if (gathering > 0 && ring.sqes != NULL && submissions())
		submit_all(ENTRIES);
}

void
io_release(void)
{
	io_hand_over();
	gathering--;
}

void
uring_submit(io_t *io)
{
	(void) pthread_mutex_lock(&ring.submit_lock);
	unsigned tail = *ring.sq_tail;
	/* every submitter enters the kernel, so there is room soon */
	while (tail - __atomic_load_n(ring.sq_head, __ATOMIC_ACQUIRE) >=
	    ENTRIES)
		(void) enter(ENTRIES, 0, 0);
	fill(&ring.sqes[tail & *ring.sq_mask], io);
	__atomic_store_n(ring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	(void) pthread_mutex_unlock(&ring.submit_lock);
	if (!gathering)
		submit_all(ENTRIES);	/* another thread's are no loss */
}

/* Take up to REAP_MAX completions. */
static int
take(reap_t *out)
{
	int n = 0;

	(void) pthread_mutex_lock(&ring.reap_lock);
	unsigned head = *ring.cq_head;
	while (n < REAP_MAX &&
	    head != __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE)) {
		struct io_uring_cqe *c = &ring.cqes[head++ & *ring.cq_mask];
		out[n++] = (reap_t){ (io_t *)(uintptr_t)c->user_data, c->res };
	}
	__atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
	(void) pthread_mutex_unlock(&ring.reap_lock);
	return (n);
}

static void
finish(const reap_t *r, int n)
{
	for (int i = 0; i < n; i++) {
		if (r[i].result == -EINTR || r[i].result == -EAGAIN ||
		    !io_progress(r[i].io, r[i].result))
			uring_submit(r[i].io);
	}
}

static void *
reaper(void *arg)
{
	reap_t r[REAP_MAX];
	taskq_ent_t tasks;
	int n;

	(void) arg;
	io_gather();
	reaper_begin(&tasks);
	for (;;) {
		__atomic_add_fetch(&ring.rounds, 1, __ATOMIC_RELAXED);
		if ((n = take(r)) > 0) {
			finish(r, n);
			reaper_run();
			io_hand_over();
			continue;
		}
		__atomic_store_n(&ring.waits, 1, __ATOMIC_RELAXED);
		(void) enter(0, 1, IORING_ENTER_GETEVENTS);
		__atomic_store_n(&ring.waits, 0, __ATOMIC_RELAXED);
	}
	return (NULL);
}

/* Takes over while the reaper is stuck in what it runs. */
static void *
second(void *arg)
{
	struct timespec pause = { .tv_nsec = LOOK_AFTER_NS };
	reap_t r[REAP_MAX];
	uint64_t before = 0;
	int n;

	(void) arg;
	for (;;) {
		(void) nanosleep(&pause, NULL);
		uint64_t now = __atomic_load_n(&ring.rounds, __ATOMIC_RELAXED);
		int stuck = now == before &&
		    !__atomic_load_n(&ring.waits, __ATOMIC_RELAXED);
		before = now;
		/* also what a thread gathered that waits for a lock since */
		if (submissions())
			submit_all(ENTRIES);
		while (stuck && (n = take(r)) > 0)
			finish(r, n);
	}
	return (NULL);
}

int
uring_start(void)
{
	struct io_uring_params p = { .flags = IORING_SETUP_CQSIZE,
	    .cq_entries = COMPLETIONS };

	ring.fd = syscall(__NR_io_uring_setup, ENTRIES, &p);
	if (ring.fd < 0)
		return (errno);
	/* 5.7: plain reads and writes, and no completion is dropped */
	int e = p.features & IORING_FEAT_FAST_POLL ? map_rings(&p) : ENOSYS;
	if (e == 0)
		e = io_thread(reaper, "cask-reaper");
	if (e == 0)
		e = io_thread(second, "cask-reaper2");
	return (e);	/* a half-made ring is not used: nothing is submitted */
}
