//go:build cgo && linux

/*
 * ZFS's condition variables, instead of libzpool's: a thread that is to sleep
 * first hands over the I/O it has gathered, and does the write of the log that it
 * kept, which it may be about to wait for; and it does not sleep for less time than
 * a sleep takes.
 */
#include "zfs.h"
#include "io.h"

#define	SHORTEST_NS	(500 * 1000)	/* half of a timer's slack (internal/slack) */

void
cv_wait(kcondvar_t *cv, kmutex_t *mp)
{
	io_hand_over();
	if (log_run(mp))
		return;
	mp->m_owner = 0;
	VERIFY0(pthread_cond_wait(cv, &mp->m_lock));
	mp->m_owner = pthread_self();
}

int
cv_wait_sig(kcondvar_t *cv, kmutex_t *mp)
{
	cv_wait(cv, mp);
	return (1);
}

static int
wait_for(kcondvar_t *cv, kmutex_t *mp, hrtime_t delta)
{
	struct timespec t;

	io_hand_over();
	VERIFY0(clock_gettime(CLOCK_REALTIME, &t));
	t.tv_sec += delta / NANOSEC;
	t.tv_nsec += delta % NANOSEC;
	if (t.tv_nsec >= NANOSEC) {
		t.tv_sec++;
		t.tv_nsec -= NANOSEC;
	}
	mp->m_owner = 0;
	int e = pthread_cond_timedwait(cv, &mp->m_lock, &t);
	mp->m_owner = pthread_self();
	if (e == ETIMEDOUT)
		return (-1);
	VERIFY0(e);
	return (1);
}

int
cv_timedwait(kcondvar_t *cv, kmutex_t *mp, clock_t abstime)
{
	clock_t ticks = abstime - ddi_get_lbolt();

	return (ticks <= 0 ? -1 : wait_for(cv, mp, ticks * (NANOSEC / hz)));
}

int
cv_timedwait_hires(kcondvar_t *cv, kmutex_t *mp, hrtime_t tim, hrtime_t res,
    int flag)
{
	hrtime_t delta = flag & CALLOUT_FLAG_ABSOLUTE ? tim - gethrtime() : tim;

	(void) res;
	/* the ZIL waits for a block that it has not issued: what is kept comes before it */
	log_hand_over();
	return (delta < SHORTEST_NS ? -1 : wait_for(cv, mp, delta));
}
