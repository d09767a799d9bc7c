//go:build cgo && linux

/* What Go has begun and does not wait for in C. It is told of the end by an eventfd. */
#include "zfs.h"
#include <sys/eventfd.h>

static ended_list_t calls;
static int event = -1;

int
ended_put(ended_list_t *l, ended_t *e)
{
	ended_t *before = __atomic_load_n(&l->put, __ATOMIC_RELAXED);

	do {
		e->next = before;
	} while (!__atomic_compare_exchange_n(&l->put, &before, e, 1,
	    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	return (before == NULL);	/* e may be gone */
}

ended_t *
ended_take(ended_list_t *l)
{
	if (l->taken == NULL)
		l->taken = __atomic_exchange_n(&l->put, NULL, __ATOMIC_ACQ_REL);
	ended_t *e = l->taken;
	if (e != NULL)
		l->taken = e->next;
	return (e);
}

int
cask_away_event(void)
{
	if (event < 0)
		event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return (event);
}

/* Who finds none before it, wakes. */
void
away_end(away_t *a)
{
	const uint64_t one = 1;

	if (ended_put(&calls, &a->ended))
		VERIFY3S(write(event, &one, sizeof (one)), ==, sizeof (one));
}

uint64_t
cask_away_ended(uint64_t *words, uint64_t max)
{
	uint64_t n = 0;
	away_t *a;

	while (n < max && (a = (away_t *)ended_take(&calls)) != NULL) {
		uint64_t *w = &words[CASK_AWAY_WORDS * n++];
		w[0] = a->ended.number;
		w[1] = a->answer;
		w[2] = a->done;
		free(a);
	}
	return (n);
}
