//go:build cgo && linux

/* What Go has begun and does not wait for in C. It is told of the end by an eventfd. */
#include "zfs.h"
#include <sys/eventfd.h>

static away_t *ended;		/* and not told; atomic */
static int event = -1;

int
cask_away_event(void)
{
	if (event < 0)
		event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return (event);
}

/* Who finds none before it, wakes; who takes, takes all. */
void
away_end(away_t *a)
{
	away_t *before = __atomic_load_n(&ended, __ATOMIC_RELAXED);
	const uint64_t one = 1;

	do {
		a->next = before;
	} while (!__atomic_compare_exchange_n(&ended, &before, a, 1,
	    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	if (before == NULL)
		VERIFY3S(write(event, &one, sizeof (one)), ==, sizeof (one));
}

uint64_t
cask_away_ended(uint64_t *words, uint64_t max)
{
	static away_t *a;
	uint64_t n = 0;

	if (a == NULL)
		a = __atomic_exchange_n(&ended, NULL, __ATOMIC_ACQ_REL);
	while (a != NULL && n < max) {
		away_t *next = a->next;
		uint64_t *w = &words[CASK_AWAY_WORDS * n++];
		w[0] = a->number;
		w[1] = a->answer;
		w[2] = a->done;
		free(a);
		a = next;
	}
	return (n);
}
