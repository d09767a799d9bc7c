//go:build cgo && linux

/*
 * A test hook: a journal of what a loss of power could undo. Before a write is
 * submitted, what it overwrites goes to the journal; then that it completed,
 * and when a flush began and ended. What completed before a flush began that
 * ended is stable. Of the rest the test undoes what it likes.
 */
#include "zfs.h"
#include "io.h"

#define	ALIGN	4096

/* Read by powerloss_test.go. */
typedef struct {
	uint64_t kind;	/* 'w' submitted, 'c' completed, 'f' flush begun, 'd' ended */
	uint64_t id;
	uint64_t off;	/* 'w': the old content follows, len bytes */
	uint64_t len;
} entry_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static uint64_t ids;

void
cask_journal(int fd)
{
	journal = fd;
}

static void
put(entry_t e, void *old)
{
	struct iovec v[] = { { &e, sizeof (e) }, { old, e.len } };

	(void) pthread_mutex_lock(&lock);
	VERIFY3S(writev(journal, v, 2), ==, sizeof (e) + e.len);
	(void) pthread_mutex_unlock(&lock);
}

void
journal_begin(io_t *io)
{
	entry_t e = { .kind = 'f' };
	void *old = NULL;

	if (journal < 0 || io->kind == IO_READ)
		return;
	io->id = e.id = __atomic_add_fetch(&ids, 1, __ATOMIC_RELAXED);
	if (io->kind == IO_WRITE) {
		e = (entry_t){ 'w', io->id, io->off, io->len };
		VERIFY0(posix_memalign(&old, ALIGN, io->len));
		VERIFY3S(pread64(io->fd, old, io->len, io->off), ==, io->len);
	}
	put(e, old);
	free(old);
}

void
journal_end(const io_t *io, int error)
{
	if (journal >= 0 && io->kind != IO_READ && error == 0)
		put((entry_t){ .kind = io->kind == IO_WRITE ? 'c' : 'd',
		    .id = io->id }, NULL);
}
