//go:build cgo && linux

/*
 * ZFS's task queues, instead of libzpool's: half of the CPU time of a replica
 * went into waking their threads, one by one, for each of several hand-offs
 * per block. Here
 *
 * - threads start when there is work for them, and only as many as can run;
 * - a thread is woken only when no other is on its way, and wakes the next one
 *   itself if it finds more than it takes;
 * - what a completed I/O has to have done after it (the queues of interrupts) is
 *   run by the thread that found it complete; see reaper_run;
 * - the last write of a flush is run by the thread that waits for it; see log_keep.
 *
 * A queue of one thread runs its tasks in order. As in libzpool, there is no
 * delayed dispatch and no cancelling.
 */
#include "zfs.h"

#define	STACK_BYTES	(256 << 10)
#define	LOG_QUEUE	"z_wr_iss_h"
#define	SPARE_MAX	64	/* entries kept by a queue for later use */

typedef struct queue {
	taskq_t tq;		/* what ZFS holds; only the name is used */
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_cond_t idle;	/* nothing queued and nothing running */
	taskq_ent_t head;	/* of a ring */
	taskq_ent_t *spare;	/* allocated ones, linked by tqent_next */
	int nspare;
	int most;		/* threads */
	int threads;
	int asleep;
	int waking;		/* woken, and not yet at work */
	int running;
	int stop;
	int wakers;		/* about to signal work; atomic */
	int interrupts;		/* what follows a completed I/O */
	int log;		/* writes of the intent log */
	int reaped;		/* tasks that reapers have; atomic */
} queue_t;

taskq_t *system_taskq;
taskq_t *system_delay_taskq;
int taskq_now;		/* ztest's; here so that libzpool's is not linked */

/* The queue whose task this thread runs. */
static __thread queue_t *current;

/* Tasks that the reaper on this thread will run; NULL on other threads. */
static __thread taskq_ent_t *reaped;

/* The log that this thread flushes, and its last write, not dispatched yet. */
static __thread struct {
	zilog_t *zilog;
	queue_t *q;
	taskq_ent_t *t;		/* or NULL */
} log_kept;

static queue_t *
queue_of(taskq_t *tq)
{
	return ((queue_t *)tq);
}

static void
ring_init(taskq_ent_t *head)
{
	head->tqent_next = head->tqent_prev = head;
}

static int
ring_empty(taskq_ent_t *head)
{
	return (head->tqent_next == head);
}

static void
ring_insert(taskq_ent_t *after, taskq_ent_t *t)
{
	t->tqent_prev = after;
	t->tqent_next = after->tqent_next;
	after->tqent_next->tqent_prev = t;
	after->tqent_next = t;
}

static taskq_ent_t *
ring_take(taskq_ent_t *head)
{
	taskq_ent_t *t = head->tqent_next;

	head->tqent_next = t->tqent_next;
	t->tqent_next->tqent_prev = head;
	t->tqent_next = t->tqent_prev = NULL;
	return (t);
}

/* Run t, which is in no ring any more and may be freed by what it runs. */
static void
run(queue_t *q, taskq_ent_t *t)
{
	task_func_t *func = t->tqent_func;
	void *arg = t->tqent_arg;
	queue_t *outer = current;

	current = q;
	func(arg);
	current = outer;
}

static void
release_locked(queue_t *q, taskq_ent_t *t)
{
	if (q->nspare == SPARE_MAX) {
		free(t);
		return;
	}
	t->tqent_next = q->spare;
	q->spare = t;
	q->nspare++;
}

static void *work(void *arg);

/*
 * Have one more thread look for work, if that helps: a new one, or, when it returns
 * true, one that is asleep and that unlock_and_wake is to wake.
 */
static int
wake_locked(queue_t *q)
{
	pthread_t id;
	pthread_attr_t attr;
	sigset_t all, old;

	if (q->waking > 0 || ring_empty(&q->head))
		return (0);
	if (q->asleep > 0) {
		q->waking++;
		(void) __atomic_add_fetch(&q->wakers, 1, __ATOMIC_RELAXED);
		return (1);
	}
	if (q->threads == q->most)
		return (0);
	VERIFY0(pthread_attr_init(&attr));
	VERIFY0(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED));
	VERIFY0(pthread_attr_setstacksize(&attr, STACK_BYTES));
	(void) sigfillset(&all);	/* signals are for Go's threads */
	(void) pthread_sigmask(SIG_SETMASK, &all, &old);
	int e = pthread_create(&id, &attr, work, q);
	(void) pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void) pthread_attr_destroy(&attr);
	if (e == 0) {
		q->threads++;
		q->waking++;
	} else {
		VERIFY3S(q->threads, >, 0);
	}
	return (0);
}

/* In this order: who is woken would at once wait for the lock. */
static void
unlock_and_wake(queue_t *q, int wake)
{
	(void) pthread_mutex_unlock(&q->lock);
	if (wake) {
		(void) pthread_cond_signal(&q->work);
		(void) __atomic_sub_fetch(&q->wakers, 1, __ATOMIC_RELEASE);
	}
}

static void
sleep_locked(queue_t *q)
{
	if (q->running == 0)
		(void) pthread_cond_broadcast(&q->idle);
	q->asleep++;
	do {
		(void) pthread_cond_wait(&q->work, &q->lock);
	} while (q->waking == 0 && !q->stop);
	q->asleep--;
	if (q->waking > 0)
		q->waking--;
}

static void *
work(void *arg)
{
	queue_t *q = arg;

	(void) pthread_setname_np(pthread_self(), q->tq.tq_name);
	(void) pthread_mutex_lock(&q->lock);
	q->waking--;
	for (;;) {
		while (ring_empty(&q->head) && !q->stop)
			sleep_locked(q);
		if (ring_empty(&q->head))
			break;
		taskq_ent_t *t = ring_take(&q->head);
		int own = !(t->tqent_flags & TQENT_FLAG_PREALLOC);
		q->running++;
		unlock_and_wake(q, wake_locked(q));
		run(q, t);
		(void) pthread_mutex_lock(&q->lock);
		if (own)
			release_locked(q, t);
		q->running--;
	}
	q->threads--;
	(void) pthread_cond_broadcast(&q->idle);
	(void) pthread_mutex_unlock(&q->lock);
	return (NULL);
}

/*
 * ZFS asks for many threads, each to wait for a disk; here those of the log do.
 */
static int
thread_count(const char *name, int n, uint_t flags)
{
	int cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (flags & TASKQ_THREADS_CPU_PCT)
		n = MAX((cpus * n + 99) / 100, 1);
	if (strncmp(name, "z_", 2) == 0 && strcmp(name, LOG_QUEUE) != 0)
		n = MIN(n, MAX(cpus, 2));
	return (MAX(n, 1));
}

taskq_t *
taskq_create(const char *name, int nthreads, pri_t pri, int minalloc,
    int maxalloc, uint_t flags)
{
	queue_t *q = calloc(1, sizeof (*q));

	(void) pri, (void) minalloc, (void) maxalloc;
	VERIFY3P(q, !=, NULL);
	/* 15 characters are what a thread's name may have */
	(void) snprintf(q->tq.tq_name, 16, "%s", name);
	VERIFY0(pthread_mutex_init(&q->lock, NULL));
	VERIFY0(pthread_cond_init(&q->work, NULL));
	VERIFY0(pthread_cond_init(&q->idle, NULL));
	ring_init(&q->head);
	q->most = thread_count(name, nthreads, flags);
	q->log = strcmp(name, LOG_QUEUE) == 0;
	q->interrupts = strncmp(name, "z_wr_int", 8) == 0 ||
	    strncmp(name, "z_rd_int", 8) == 0;
	return (&q->tq);
}

void
taskq_destroy(taskq_t *tq)
{
	queue_t *q = queue_of(tq);

	taskq_wait(tq);
	(void) pthread_mutex_lock(&q->lock);
	q->stop = 1;
	(void) pthread_cond_broadcast(&q->work);
	while (q->threads > 0)
		(void) pthread_cond_wait(&q->idle, &q->lock);
	(void) pthread_mutex_unlock(&q->lock);
	while (__atomic_load_n(&q->wakers, __ATOMIC_ACQUIRE) > 0)
		(void) usleep(100);
	while (q->spare != NULL) {
		taskq_ent_t *t = q->spare;
		q->spare = t->tqent_next;
		free(t);
	}
	(void) pthread_mutex_destroy(&q->lock);
	(void) pthread_cond_destroy(&q->work);
	(void) pthread_cond_destroy(&q->idle);
	free(q);
}

static int
insert_locked(queue_t *q, taskq_ent_t *t, uint_t flags)
{
	ring_insert(flags & TQ_FRONT ? &q->head : q->head.tqent_prev, t);
	return (wake_locked(q));
}

static void
enqueue(queue_t *q, taskq_ent_t *t, uint_t flags)
{
	(void) pthread_mutex_lock(&q->lock);
	unlock_and_wake(q, insert_locked(q, t, flags));
}

void
log_hand_over(void)
{
	queue_t *q = log_kept.q;
	taskq_ent_t *t = log_kept.t;

	if (t == NULL)
		return;
	log_kept.t = NULL;
	enqueue(q, t, 0);
}

taskqid_t
taskq_dispatch(taskq_t *tq, task_func_t func, void *arg, uint_t flags)
{
	queue_t *q = queue_of(tq);
	int wake = 0;

	(void) pthread_mutex_lock(&q->lock);
	taskq_ent_t *t = q->spare;
	if (t != NULL) {
		q->spare = t->tqent_next;
		q->nspare--;
	} else {
		t = malloc(sizeof (*t));
	}
	if (t != NULL) {
		t->tqent_func = func;
		t->tqent_arg = arg;
		t->tqent_flags = 0;
		wake = insert_locked(q, t, flags);
	}
	unlock_and_wake(q, wake);
	return (t == NULL ? TASKQID_INVALID : 1);
}

void
taskq_dispatch_ent(taskq_t *tq, task_func_t func, void *arg, uint_t flags,
    taskq_ent_t *t)
{
	queue_t *q = queue_of(tq);

	t->tqent_func = func;
	t->tqent_arg = arg;
	t->tqent_flags = TQENT_FLAG_PREALLOC;
	if (reaped != NULL && q->interrupts) {
		t->tqent_flags |= (uintptr_t)q;	/* aligned to more */
		(void) __atomic_add_fetch(&q->reaped, 1, __ATOMIC_RELAXED);
		ring_insert(reaped->tqent_prev, t);
		return;
	}
	if (log_kept.zilog != NULL && q->log) {
		log_hand_over();
		log_kept.q = q;
		log_kept.t = t;
		return;
	}
	enqueue(q, t, flags);
}

void
log_keep(zilog_t *zilog)
{
	log_kept.zilog = zilog;
}

void
log_release(void)
{
	log_hand_over();
	log_kept.zilog = NULL;
}

int
log_run(kmutex_t *held)
{
	taskq_ent_t *t = log_kept.t;
	zilog_t *zilog = log_kept.zilog;

	if (t == NULL)
		return (0);
	/* what follows the write takes locks of the log: so not below them */
	if (MUTEX_HELD(&zilog->zl_issuer_lock)) {
		log_hand_over();
		return (0);
	}
	log_kept.t = NULL;
	log_kept.zilog = NULL;	/* writes of other flushes that follow are not kept */
	mutex_exit(held);
	run(log_kept.q, t);
	mutex_enter(held);
	log_kept.zilog = zilog;
	return (1);
}

void
reaper_begin(taskq_ent_t *head)
{
	ring_init(head);
	reaped = head;
}

/*
 * Run what completions on this thread have led to. It may block as any thread
 * of an interrupt queue may: somebody else has to reap meanwhile.
 */
void
reaper_run(void)
{
	while (!ring_empty(reaped)) {
		taskq_ent_t *t = ring_take(reaped);
		queue_t *q = (queue_t *)(t->tqent_flags &
		    ~(uintptr_t)TQENT_FLAG_PREALLOC);
		run(q, t);
		(void) __atomic_sub_fetch(&q->reaped, 1, __ATOMIC_RELEASE);
	}
}

void
reaper_end(void)
{
	reaped = NULL;
}

/* Does this thread run what belongs to a write of the intent log? */
int
on_log_thread(void)
{
	return (current != NULL && current->log);
}

taskqid_t
taskq_dispatch_delay(taskq_t *tq, task_func_t func, void *arg, uint_t flags,
    clock_t expire)
{
	(void) tq, (void) func, (void) arg, (void) flags, (void) expire;
	return (TASKQID_INVALID);
}

int
taskq_empty_ent(taskq_ent_t *t)
{
	return (t->tqent_next == NULL);
}

void
taskq_init_ent(taskq_ent_t *t)
{
	t->tqent_next = t->tqent_prev = NULL;
	t->tqent_func = NULL;
	t->tqent_arg = NULL;
	t->tqent_flags = 0;
}

void
taskq_wait(taskq_t *tq)
{
	queue_t *q = queue_of(tq);

	(void) pthread_mutex_lock(&q->lock);
	while (q->running > 0 || !ring_empty(&q->head))
		(void) pthread_cond_wait(&q->idle, &q->lock);
	(void) pthread_mutex_unlock(&q->lock);
	/* rare, and soon over: a pool is closed */
	while (__atomic_load_n(&q->reaped, __ATOMIC_ACQUIRE) > 0)
		(void) usleep(100);
}

void
taskq_wait_id(taskq_t *tq, taskqid_t id)
{
	(void) id;
	taskq_wait(tq);
}

void
taskq_wait_outstanding(taskq_t *tq, taskqid_t id)
{
	(void) id;
	taskq_wait(tq);
}

taskq_t *
taskq_of_curthread(void)
{
	return (current == NULL ? NULL : &current->tq);
}

int
taskq_member(taskq_t *tq, kthread_t *t)
{
	(void) t;	/* always the caller */
	return (current == queue_of(tq));
}

int
taskq_cancel_id(taskq_t *tq, taskqid_t id)
{
	(void) tq, (void) id;
	return (ENOENT);
}

void
system_taskq_init(void)
{
	system_taskq = taskq_create("system_taskq", 64, maxclsyspri, 4, 512,
	    TASKQ_DYNAMIC);
	system_delay_taskq = taskq_create("delay_taskq", 4, maxclsyspri, 4, 512,
	    TASKQ_DYNAMIC);
}

void
system_taskq_fini(void)
{
	taskq_destroy(system_taskq);
	taskq_destroy(system_delay_taskq);
	system_taskq = system_delay_taskq = NULL;
}
