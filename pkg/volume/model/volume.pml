/*
 * How a volume is replicated, as a model to be checked exhaustively by spin.
 * Written from the contract (pkg/volume/DESIGN.md), not from the code; the page
 * README.md beside it says what is modelled, what is not, and how to run it.
 *
 * One process takes one step after the other; every step is one event at one
 * replica or one target. An operation is known by the epoch that ordered it: the
 * content at a Seq is that epoch. BREAK names a rule that is left out.
 */
#define R 3			/* replicas */
#define T 2			/* targets that may be alive at once */
#ifndef E
#define E 3			/* epochs */
#endif
#ifndef S
#define S 2			/* operations */
#endif
#ifndef KILLS
#define KILLS 1			/* of replicas, which lose their memory */
#endif
#ifndef RESTARTS
#define RESTARTS 0		/* of replicas, in good order */
#endif
#ifndef WIPES
#define WIPES 0			/* of replicas, which come back empty */
#endif
#ifndef DROPS
#define DROPS 0			/* connections that end with both sides alive */
#endif
#ifndef CHANGES
#define CHANGES 0		/* of the voters */
#endif
#ifndef VOTERS
#define VOTERS 7		/* at first, as bits */
#endif
#define WINDOW 1		/* operations issued and not acknowledged */
#define BACKLOG 1		/* operations kept for those behind */
#ifndef TAIL
#define TAIL 1			/* operations a replica keeps in memory */
#endif

/* The rules that BREAK can leave out. */
#define CAS 1			/* an epoch is acquired by compare-and-swap */
#define PROMISE 2		/* lower epochs than the promised are refused */
#define SUSPECT 3		/* who lost its memory does not count */
#define INTERSECT 4		/* recovery hears one of each write quorum */
#define LONGEST 5		/* by (epoch, Seq): by Seq alone instead */
#define COMMON 6		/* who parted does not join as it is */
#define BARRIER 7		/* a write quorum is in sync before serving */
#define QUORUM 8		/* a write quorum has it: one less instead */
#define FLUSH 9		/* a write quorum flushes: one replica instead */
#define INITIALIZED 10		/* an empty replica counts for nothing later */
#define INCOMPLETE 11		/* that it is no prefix is recorded before a rebuild */
#define STABLE 12		/* a promise is stable before it is answered */
#define JOINT 13		/* while voters change, old and new must have it */
#define COMPLETE 14		/* the new voters must have all before the change */
#define EFFECT 15		/* new voters count after the swap, not before */
#define UNCLEAN 16		/* nobody is asked in vain before the last resort */
#define KEEP 17			/* who comes back empty still knows its promise */
#define WITNESS 18		/* missing an epoch excuses beside who surely has what it began with */
#define BEGUN 19		/* and that is who began to count in it, not who adopted it */
#ifndef BREAK
#define BREAK 0
#endif
#define HOLDS(rule) (BREAK != rule)

#define COUNT(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1))
#define BIT(r) (1 << (r))
#ifdef ALL
#define QUORUM_OF(v) COUNT(v)
#else
#define QUORUM_OF(v) (COUNT(v) / 2 + 1)
#endif
#define NEED(v) (QUORUM_OF(v) - (HOLDS(QUORUM) -> 0 : 1))
#define WRITE(v, m) (COUNT((v) & (m)) >= NEED(v))
#define RECOVER(v, m) (COUNT((v) & (m)) >= COUNT(v) - QUORUM_OF(v) + (HOLDS(INTERSECT) -> 1 : 0) && ((v) & (m)) != 0)

/* Membership of a replica, phase of a target, a replica as a target sees it. */
#define FRESH 0
#define MEMBER 1
#define REBUILDING 2

#define IDLE 0
#define FENCING 1
#define JOINING 2
#define SERVING 3

#define DOWN 0
#define HEARD 1
#define JOIN 2
#define SYNC 3
#define REBUILD 4

typedef Replica {
	unsigned promised : 2;
	unsigned safe : 2;	/* the promise that survives a kill */
	unsigned member : 2;
	unsigned begun : 2;	/* the last epoch in which it began to count */
	bit suspect;
	unsigned obeys : 2;	/* 1 + the target it is connected to, 0: none */
	unsigned seq : 3;	/* last operation applied */
	unsigned stable : 3;	/* last one on stable storage */
	unsigned tail : 3;	/* first one kept in memory */
	byte first[4];		/* history: the epochs' first Seq, 0: none */
	byte op[S + 1];		/* content */
}

typedef Target {
	unsigned phase : 2;
	unsigned epoch : 2;
	unsigned last : 3;
	unsigned commit : 3;
	unsigned low : 3;	/* the backlog holds all after it */
	unsigned voters : 3;
	unsigned next : 3;	/* voters wanted, 0: no change */
	bit swapped;
	bit used;		/* the record said that operations may exist */
	bit flushing;
	unsigned mark : 3;	/* what the flush is to cover */
	unsigned flushed : 3;	/* who has answered it */
	unsigned clean : 3;	/* who was heard and counts */
	unsigned members : 3;	/* who was heard and holds a prefix */
	byte view[R];
	byte acked[R];
	byte place[R];		/* (begun, epoch, Seq) that was heard */
	byte first[4];
	byte op[S + 1];
}

Replica rep[R];
Target tg[T];

/* The authority's record. */
unsigned recEpoch : 2;
unsigned recVoters : 3 = VOTERS;
bit recInit;
#if BREAK == CAS
unsigned loaded0 : 2;
unsigned loaded1 : 2;
unsigned acquired : 2;
#endif

/* What faults may still happen. */
unsigned kills : 2;
unsigned restarts : 2;
unsigned wipes : 2;
unsigned drops : 2;
unsigned changes : 2;

/* What must hold. */
byte ack[S + 1];		/* content acknowledged, or readable; 0: none */
unsigned served : 2;		/* the newest epoch that did */
unsigned durable : 3;		/* all up to it was flushed */
unsigned failed : 3;		/* who lost its memory and is not in sync since */
bit broken;			/* as many failed at once as a write quorum has */
bit was;			/* that was so, ever: an answer of before may arrive late */

/* Used within one step only. */
hidden byte i, j, k, best, m, same;

#define EPOCH_OF(f, s) ((f[3] && f[3] <= (s)) -> 3 : ((f[2] && f[2] <= (s)) -> 2 : ((f[1] && f[1] <= (s)) -> 1 : 0)))
#define LAST_OF(f, s) EPOCH_OF(f, (s) + 1)
#define SAME(t, r, s) ((s) <= S && (s) <= rep[r].seq && (s) <= tg[t].last && EPOCH_OF(rep[r].first, s) == EPOCH_OF(tg[t].first, s))
#define COMMON_OF(t, r) (SAME(t, r, 3) -> 3 : (SAME(t, r, 2) -> 2 : (SAME(t, r, 1) -> 1 : 0)))
#define PREFIX(t, r) (!HOLDS(COMMON) || COMMON_OF(t, r) == rep[r].seq)
#define CATCHABLE(t, r) (rep[r].member != REBUILDING && PREFIX(t, r) && rep[r].seq >= tg[t].low && rep[r].seq <= tg[t].last)

#define CONNECTED(t, r) (rep[r].obeys == (t) + 1)
#define OBEYED(t, r) (CONNECTED(t, r) && (rep[r].promised == tg[t].epoch || !HOLDS(PROMISE)))
#define VIEWS(t, v) ((tg[t].view[0] == v) | ((tg[t].view[1] == v) << 1) | ((tg[t].view[2] == v) << 2))
#define HAVE(t, s) ((tg[t].view[0] == SYNC && tg[t].acked[0] >= (s)) | ((tg[t].view[1] == SYNC && tg[t].acked[1] >= (s)) << 1) | ((tg[t].view[2] == SYNC && tg[t].acked[2] >= (s)) << 2))
/* a write quorum of those that must have it */
/* who has missed the newest epoch that one began who surely has all it acknowledged */
#define BEGUN_OF(t, r) (tg[t].place[r] >> 5)
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define SURE(t, r) (((HOLDS(WITNESS) -> tg[t].clean : tg[t].members) & BIT(r)) -> BEGUN_OF(t, r) : 0)
#define NEWEST(t) MAX(SURE(t, 0), MAX(SURE(t, 1), SURE(t, 2)))
#define BEFORE(t, r) (((tg[t].members & BIT(r)) && BEGUN_OF(t, r) < NEWEST(t)) -> BIT(r) : 0)
#define MET(t) (tg[t].clean | BEFORE(t, 0) | BEFORE(t, 1) | BEFORE(t, 2))
/* the same of those that lost their memory, as it is */
#define HELD(r) ((!(failed & BIT(r)) && rep[r].member == MEMBER) -> rep[r].begun : 0)
#define NOW MAX(HELD(0), MAX(HELD(1), HELD(2)))
#define OLD(r) ((rep[r].begun < NOW) -> BIT(r) : 0)
#define GONE(v) (COUNT(failed & (v) & ~(OLD(0) | OLD(1) | OLD(2))) >= QUORUM_OF(v))
#define ENOUGH(t, m) (WRITE(tg[t].voters, m) && (tg[t].next == 0 || !HOLDS(JOINT) || WRITE(tg[t].next, m)))

inline reset(t) {
	tg[t].phase = IDLE; tg[t].epoch = 0; tg[t].last = 0; tg[t].commit = 0; tg[t].low = 0;
	tg[t].voters = 0; tg[t].next = 0; tg[t].swapped = 0; tg[t].used = 0; tg[t].flushing = 0;
	tg[t].mark = 0; tg[t].flushed = 0; tg[t].clean = 0; tg[t].members = 0;
	for (i : 0 .. R - 1) {
		tg[t].view[i] = DOWN; tg[t].acked[i] = 0; tg[t].place[i] = 0;
		if
		:: rep[i].obeys == t + 1 -> rep[i].obeys = 0
		:: else
		fi
	}
	for (i : 0 .. E) { tg[t].first[i] = 0 }
	for (i : 0 .. S) { tg[t].op[i] = 0 }
}

/* Two replicas that hold an operation of one epoch and Seq hold the same before it. */
inline agree() {
	for (i : 0 .. R - 2) {
		for (j : i + 1 .. R - 1) {
			same = 1;
			for (k : 1 .. S) {
				if
				:: rep[i].seq >= k && rep[j].seq >= k && rep[i].member != REBUILDING && rep[j].member != REBUILDING ->
					same = same && rep[i].op[k] == rep[j].op[k];
					assert(same || EPOCH_OF(rep[i].first, k) != EPOCH_OF(rep[j].first, k))
				:: else
				fi
			}
		}
	}
}

/* The target's history is to be the replica's; what is applied becomes stable with it. */
inline record(t, r) {
	for (i : 0 .. E) { rep[r].first[i] = tg[t].first[i] }
	rep[r].stable = rep[r].seq; rep[r].safe = rep[r].promised
}

inline inSync(t, r) {
	rep[r].member = MEMBER; rep[r].suspect = 0; rep[r].begun = tg[t].epoch;
	record(t, r);
	tg[t].view[r] = SYNC; tg[t].acked[r] = rep[r].seq;
	failed = failed & ~BIT(r);
	agree()
}

inline lose(t, r) {
	if
	:: rep[r].obeys == t + 1 -> rep[r].obeys = 0
	:: else
	fi;
	tg[t].view[r] = DOWN; tg[t].acked[r] = 0; tg[t].place[r] = 0;
	tg[t].clean = tg[t].clean & ~BIT(r); tg[t].members = tg[t].members & ~BIT(r);
	if
	:: tg[t].phase >= JOINING && (VIEWS(t, JOIN) | VIEWS(t, SYNC)) == 0 -> reset(t)
	:: else
	fi
}

/* What no replica needs any more is forgotten; who holds the rest up is cut off. */
inline trim(t) {
	if
	:: tg[t].last - tg[t].low > BACKLOG && tg[t].low < tg[t].commit ->
		tg[t].low = tg[t].low + 1;
		for (m : 0 .. R - 1) {
			if
			:: tg[t].view[m] >= JOIN && tg[t].acked[m] < tg[t].low && tg[t].phase != IDLE -> lose(t, m)
			:: else
			fi
		}
	:: else
	fi
}

inline choose(t, eligible) {
	best = R;
	for (i : 0 .. R - 1) {
		if
		:: (eligible & BIT(i)) && (best == R || (tg[t].place[i] & 31) > (tg[t].place[best] & 31)) -> best = i
		:: else
		fi
	}
	if
	:: !CONNECTED(t, best) -> reset(t)
	:: else ->
		tg[t].last = rep[best].seq; tg[t].commit = rep[best].seq;
		for (i : 0 .. S) { tg[t].op[i] = rep[best].op[i] }
		for (i : 1 .. E) {
			tg[t].first[i] = ((i != tg[t].epoch && rep[best].first[i] <= tg[t].last) -> rep[best].first[i] : 0)
		}
		tg[t].first[tg[t].epoch] = tg[t].last + 1;
		tg[t].phase = JOINING; tg[t].low = tg[t].last;
		for (i : 0 .. R - 1) {
			if
			:: (tg[t].members & BIT(i)) && CONNECTED(t, i) && PREFIX(t, i) && rep[i].seq + 1 >= rep[best].tail && rep[i].seq < tg[t].low ->
				tg[t].low = rep[i].seq
			:: else
			fi;
			tg[t].place[i] = 0
		}
		tg[t].clean = 0; tg[t].members = 0
	fi
}

inline hello(t, r) {
	if
	:: tg[t].epoch < rep[r].promised && HOLDS(PROMISE) -> reset(t)	/* superseded, for good */
	:: else ->
		if
		:: tg[t].epoch > rep[r].promised && HOLDS(STABLE) ->
			rep[r].promised = tg[t].epoch; rep[r].safe = tg[t].epoch; rep[r].stable = rep[r].seq
		:: tg[t].epoch > rep[r].promised && !HOLDS(STABLE) -> rep[r].promised = tg[t].epoch
		:: else
		fi;
		rep[r].obeys = t + 1; tg[t].view[r] = HEARD;
		if
		:: tg[t].phase == FENCING && (rep[r].member == MEMBER ||
		    (rep[r].member == FRESH && (!tg[t].used || !HOLDS(INITIALIZED)))) ->
			tg[t].place[r] = 32 * rep[r].begun + (HOLDS(LONGEST) -> 8 * LAST_OF(rep[r].first, rep[r].seq) : 0) + rep[r].seq;
			tg[t].members = tg[t].members | BIT(r);
			tg[t].clean = tg[t].clean | ((rep[r].suspect && HOLDS(SUSPECT)) -> 0 : BIT(r))
		:: else
		fi
	fi
}


inline serve(t) {
	if
	:: !recInit && recEpoch != tg[t].epoch -> reset(t)
	:: else ->
		recInit = 1; tg[t].used = 1; tg[t].phase = SERVING;
		if
		:: tg[t].epoch > served ->
			served = tg[t].epoch;
			for (i : 1 .. S) {
				same = (i <= tg[t].last && tg[t].op[i] == ack[i]);
				assert(i > durable || same || (wipes && was));
				assert(ack[i] == 0 || broken || same);
				ack[i] = (i <= tg[t].last -> tg[t].op[i] : 0)
			}
			broken = GONE(tg[t].voters)
		:: else		/* superseded and does not know; it can get nothing acknowledged, and has no lease */
		fi
	fi
}

inline acknowledge(t) {
	tg[t].commit = tg[t].commit + 1;
	i = tg[t].commit;
	assert(was || ack[i] == tg[t].op[i] || (ack[i] == 0 && tg[t].epoch >= served));
	/* a superseded target gets nothing acknowledged that its successor does not have */
	for (j : 0 .. T - 1) {
		assert(was || tg[j].phase < JOINING || tg[j].epoch <= tg[t].epoch || (tg[j].last >= i && tg[j].op[i] == tg[t].op[i]));
	}
	ack[i] = (tg[t].epoch >= served -> tg[t].op[i] : ack[i]);
	trim(t)
}

inline judge() {
	broken = broken || GONE(recVoters);
	was = was || broken
}

inline die(r, keep) {
	kills = kills + 1;
	failed = failed | (rep[r].member == MEMBER -> BIT(r) : 0);
	judge();
	rep[r].suspect = (rep[r].member == MEMBER);
	for (i : keep + 1 .. S) { rep[r].op[i] = 0 }
	rep[r].promised = rep[r].safe;
	rep[r].seq = keep; rep[r].stable = keep; rep[r].tail = keep + 1; rep[r].obeys = 0;
	if
	:: kills == KILLS ->	/* what is stable matters no more: fewer states */
		for (i : 0 .. R - 1) { rep[i].stable = rep[i].seq; rep[i].safe = rep[i].promised }
		for (i : 0 .. T - 1) { tg[i].flushing = 0; tg[i].mark = 0; tg[i].flushed = 0 }
	:: else
	fi
}

#if BREAK == CAS
#define LOADED(t) (t == 0 -> loaded0 : loaded1)
#define ACQUIRE(t) \
	:: d_step { tg[t].phase == IDLE && LOADED(t) != recEpoch -> printf("load: target %d\n", t); \
		loaded0 = (t == 0 -> recEpoch : loaded0); loaded1 = (t == 1 -> recEpoch : loaded1); skip } \
	:: d_step { tg[t].phase == IDLE && acquired < E && LOADED(t) < E -> printf("acquire target %d\n", t); \
		acquired = acquired + 1; recEpoch = LOADED(t) + 1; tg[t].epoch = recEpoch; \
		tg[t].voters = recVoters; tg[t].used = recInit; tg[t].phase = FENCING; skip }
#define CONTENT(t) (tg[t].epoch + 4 * (t))	/* two targets may have one epoch */
#else
#define ACQUIRE(t) \
	:: d_step { tg[t].phase == IDLE && recEpoch < E && (t == 0 || tg[0].phase != IDLE) -> printf("acquire target %d\n", t); \
		recEpoch = recEpoch + 1; tg[t].epoch = recEpoch; \
		tg[t].voters = recVoters; tg[t].used = recInit; tg[t].phase = FENCING; skip }
#define CONTENT(t) tg[t].epoch
#endif

#define RECOVERY(t) \
	:: d_step { tg[t].phase == FENCING && RECOVER(tg[t].voters, MET(t)) && tg[t].clean != 0 -> printf("choose target %d\n", t); choose(t, tg[t].clean); skip } \
	:: d_step { tg[t].phase == FENCING && !RECOVER(tg[t].voters, MET(t)) && \
		(!HOLDS(UNCLEAN) || !RECOVER(tg[t].voters, tg[t].clean | VIEWS(t, DOWN))) && \
		(RECOVER(tg[t].voters, tg[t].members) || (tg[t].members != 0 && ((VIEWS(t, DOWN) & tg[t].voters) == 0 || !HOLDS(UNCLEAN)))) -> printf("last resort: target %d\n", t); \
		broken = broken || COUNT(failed & tg[t].voters) >= QUORUM_OF(tg[t].voters); was = was || broken; /* and says so */ \
		choose(t, tg[t].members); skip } \
	:: d_step { tg[t].phase == JOINING && (WRITE(tg[t].voters, VIEWS(t, SYNC)) || (!HOLDS(BARRIER) && VIEWS(t, SYNC) != 0)) -> printf("serve target %d\n", t); serve(t); skip }

#define WORK(t) \
	:: d_step { tg[t].phase == SERVING && tg[t].last < S && tg[t].last - tg[t].commit < WINDOW -> printf("issue target %d\n", t); \
		tg[t].last = tg[t].last + 1; tg[t].op[tg[t].last] = CONTENT(t); trim(t); skip } \
	:: d_step { tg[t].phase == SERVING && tg[t].commit < tg[t].last && ENOUGH(t, HAVE(t, tg[t].commit + 1)) -> printf("acknowledge target %d\n", t); acknowledge(t); skip } \
	:: d_step { tg[t].phase == SERVING && kills < KILLS && !tg[t].flushing && tg[t].commit > durable -> printf("flush target %d\n", t); \
		tg[t].flushing = 1; tg[t].mark = tg[t].commit; tg[t].flushed = 0; skip } \
	:: d_step { tg[t].flushing && (ENOUGH(t, tg[t].flushed) || (!HOLDS(FLUSH) && tg[t].flushed != 0)) -> printf("flushed target %d\n", t); \
		durable = (tg[t].mark > durable -> tg[t].mark : durable); tg[t].flushing = 0; tg[t].mark = 0; tg[t].flushed = 0; skip } \
	:: d_step { tg[t].phase != IDLE -> printf("crash target %d\n", t); reset(t); skip }

#define LINK(t, r) \
	:: d_step { tg[t].phase >= FENCING && tg[t].view[r] == DOWN && ((tg[t].voters & BIT(r)) || (CHANGES && tg[t].phase == SERVING)) -> printf("hello target %d replica %d\n", t, r); hello(t, r); skip } \
	:: d_step { tg[t].phase >= JOINING && tg[t].view[r] == HEARD && OBEYED(t, r) && CATCHABLE(t, r) -> printf("join target %d replica %d\n", t, r); \
		tg[t].view[r] = JOIN; tg[t].acked[r] = rep[r].seq; \
		rep[r].begun = (HOLDS(BEGUN) -> rep[r].begun : tg[t].epoch); \
		record(t, r); agree(); skip } \
	:: d_step { (tg[t].view[r] == JOIN || tg[t].view[r] == SYNC) && OBEYED(t, r) && rep[r].seq < tg[t].last -> printf("apply target %d replica %d\n", t, r); \
		rep[r].seq = rep[r].seq + 1; rep[r].op[rep[r].seq] = tg[t].op[rep[r].seq]; tg[t].acked[r] = rep[r].seq; \
		rep[r].stable = (kills == KILLS -> rep[r].seq : rep[r].stable); \
		rep[r].tail = (rep[r].tail + TAIL <= rep[r].seq -> rep[r].seq + 1 - TAIL : rep[r].tail); agree(); skip } \
	:: d_step { tg[t].view[r] == JOIN && OBEYED(t, r) && rep[r].seq == tg[t].last -> printf("begin target %d replica %d\n", t, r); inSync(t, r); skip } \
	:: d_step { tg[t].phase >= JOINING && tg[t].view[r] == HEARD && OBEYED(t, r) && !CATCHABLE(t, r) && \
		VIEWS(t, SYNC) != 0 && VIEWS(t, JOIN) == 0 && VIEWS(t, REBUILD) == 0 -> printf("rebuild target %d replica %d\n", t, r); \
		m = COMMON_OF(t, r); \
		for (i : 1 .. E) { rep[r].first[i] = (rep[r].first[i] <= m + 1 -> rep[r].first[i] : 0) } \
		for (i : m + 1 .. S) { rep[r].op[i] = 0 } \
		rep[r].member = (HOLDS(INCOMPLETE) -> REBUILDING : rep[r].member); rep[r].suspect = 0; \
		rep[r].seq = (HOLDS(INCOMPLETE) -> m : tg[t].last); rep[r].stable = rep[r].seq; rep[r].tail = rep[r].seq + 1; rep[r].safe = rep[r].promised; \
		tg[t].view[r] = REBUILD; skip } \
	:: d_step { tg[t].view[r] == REBUILD && OBEYED(t, r) && HAVE(t, tg[t].last) != 0 -> printf("rebuilt target %d replica %d\n", t, r); \
		for (i : 1 .. S) { rep[r].op[i] = tg[t].op[i] } \
		rep[r].seq = tg[t].last; rep[r].tail = tg[t].last + 1; inSync(t, r); skip } \
	:: d_step { tg[t].flushing && tg[t].view[r] == SYNC && OBEYED(t, r) && !(tg[t].flushed & BIT(r)) && rep[r].seq >= tg[t].mark -> printf("flush answer: target %d replica %d\n", t, r); \
		rep[r].stable = rep[r].seq; tg[t].flushed = tg[t].flushed | BIT(r); skip } \
	:: d_step { tg[t].view[r] != DOWN && !CONNECTED(t, r) -> printf("lost target %d replica %d\n", t, r); lose(t, r); skip } \
	:: d_step { drops < DROPS && tg[t].view[r] != DOWN && CONNECTED(t, r) -> printf("drop target %d replica %d\n", t, r); drops = drops + 1; lose(t, r); skip }

/* Replicas are alike at first, so it is no matter which one is killed first. */
#define FAULT(r) \
	:: d_step { kills < KILLS && r <= kills && rep[r].stable <= 0 -> printf("kill0 replica %d\n", r); die(r, 0); skip } \
	:: d_step { kills < KILLS && r <= kills && rep[r].stable <= 1 && rep[r].seq >= 1 -> printf("kill1 replica %d\n", r); die(r, 1); skip } \
	:: d_step { kills < KILLS && r <= kills && rep[r].stable <= 2 && rep[r].seq >= 2 -> printf("kill2 replica %d\n", r); die(r, 2); skip } \
	:: d_step { kills < KILLS && r <= kills && rep[r].stable <= 3 && rep[r].seq >= 3 -> printf("kill3 replica %d\n", r); die(r, 3); skip } \
	:: d_step { wipes < WIPES && kills == KILLS && rep[r].member != FRESH -> printf("wipe replica %d\n", r); wipes = wipes + 1; kills = KILLS - 1; \
		die(r, 0); for (i : 0 .. E) { rep[r].first[i] = 0 } \
		rep[r].member = FRESH; rep[r].suspect = 0; \
		rep[r].promised = (HOLDS(KEEP) -> rep[r].promised : 0); rep[r].safe = rep[r].promised; skip } \
	:: d_step { restarts < RESTARTS -> printf("restart replica %d\n", r); restarts = restarts + 1; rep[r].stable = rep[r].seq; rep[r].safe = rep[r].promised; \
		rep[r].tail = rep[r].seq + 1; rep[r].obeys = 0; skip }

#define NEXT(t, r) (tg[t].voters ^ BIT(r))
#define CHANGE(t, r) \
	:: d_step { changes < CHANGES && tg[t].phase == SERVING && tg[t].next == 0 && NEXT(t, r) != 0 && \
		(WRITE(NEXT(t, r), HAVE(t, tg[t].commit)) || !HOLDS(COMPLETE)) -> printf("change target %d replica %d\n", t, r); changes = changes + 1; tg[t].next = NEXT(t, r); \
		if :: !HOLDS(EFFECT) -> tg[t].voters = tg[t].next :: else fi; skip }

#define SWAP(t) \
	:: d_step { tg[t].next != 0 && !tg[t].swapped -> printf("swap target %d\n", t); if :: recEpoch == tg[t].epoch -> recVoters = tg[t].next; tg[t].swapped = 1; judge() \
		:: else -> reset(t) fi; skip } \
	:: d_step { tg[t].swapped -> printf("learn target %d\n", t); tg[t].voters = tg[t].next; tg[t].next = 0; tg[t].swapped = 0; skip }

active proctype world() {
#ifndef EMPTY
	/* the first target serves, every replica is in sync */
	d_step {
		for (i : 0 .. R - 1) {
			rep[i].promised = 1; rep[i].safe = 1; rep[i].begun = 1; rep[i].member = MEMBER; rep[i].first[1] = 1; rep[i].tail = 1;
			if
			:: VOTERS & BIT(i) -> rep[i].obeys = 1; tg[0].view[i] = SYNC
			:: else
			fi
		}
#ifdef MISSED0
		/* all but one, which has lost its memory before */
		rep[0].begun = 0; rep[0].suspect = 1; rep[0].obeys = 0; tg[0].view[0] = DOWN; failed = 1;
#endif
		tg[0].phase = SERVING; tg[0].epoch = 1; tg[0].voters = VOTERS; tg[0].used = 1; tg[0].first[1] = 1;
		recEpoch = 1; recInit = 1; served = 1
	}
#endif
end:	do
	ACQUIRE(0) ACQUIRE(1)
	RECOVERY(0) RECOVERY(1)
	WORK(0) WORK(1)
	LINK(0, 0) LINK(0, 1) LINK(0, 2) LINK(1, 0) LINK(1, 1) LINK(1, 2)
	FAULT(0) FAULT(1) FAULT(2)
#if CHANGES
	CHANGE(0, 0) CHANGE(0, 1) CHANGE(0, 2) CHANGE(1, 0) CHANGE(1, 1) CHANGE(1, 2)
	SWAP(0) SWAP(1)
#endif
	od
}
