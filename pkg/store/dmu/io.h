/* Reads, writes and flushes of an extent's file; never included by Go. */
#ifndef CASK_DMU_IO_H
#define	CASK_DMU_IO_H

#include <stdint.h>
#include <stddef.h>
#include <sys/uio.h>

typedef enum { IO_READ, IO_WRITE, IO_FLUSH } io_kind_t;

/* One request; done is called once, on any thread. */
typedef struct io {
	io_kind_t kind;
	int fd;
	size_t len;		/* of all of it */
	uint64_t off;		/* of what is still to be done, as */
	struct iovec *iov;	/* these are, none of them empty; both advance */
	int parts;		/* of iov */
	void (*done)(struct io *, int error);
	struct io *next;	/* in a queue of the engine */
	uint64_t id;		/* in the journal */
} io_t;

/* The engines; io_select says which one works here. */
enum { IO_AUTO = 0, IO_URING = 1, IO_THREADS = 2 };

/*
 * Start the engine wanted, or what stands in for it; once per process. The
 * answer is the engine that was started and why it is not another: an errno,
 * or 0.
 */
int io_select(int wanted, int *why);

void io_submit(io_t *io);

/* Do it on this thread; returns an errno. */
int io_now(io_t *io);

/* Do all of it on this thread, and call done. */
void io_here(io_t *io);

/*
 * Between the two, this thread waits for each block that it reads before it asks
 * for another: it reads itself, so that nobody has to be woken (vdev.c).
 */
void io_stay(void);
void io_leave(void);

/*
 * Between the two, what this thread submits goes to the kernel together: at
 * io_release, or before the thread sleeps, which calls io_hand_over (cv.c).
 */
void io_gather(void);
void io_release(void);
void io_hand_over(void);

/* Take note of a result; returns 0 when the request is to be continued. */
int io_progress(io_t *io, int result);

/* A thread that runs as long as the process. */
int io_thread(void *(*f)(void *), const char *name);

/* powerloss.c, for tests: around every request */
void journal_begin(io_t *io);
void journal_end(const io_t *io, int error);

/* uring.c: 0, or an errno when io_uring cannot be had */
int uring_start(void);
void uring_submit(io_t *io);

#endif
