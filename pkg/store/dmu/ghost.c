//go:build cgo && linux

/*
 * What birth times do not show.
 *
 * A block that is written and then zeroed or unmapped within one TXG leaves no
 * trace in the tree when it was a hole before, yet it did change after the
 * write. Such ranges, the ghosts, are kept in the mark record with their TXG;
 * when there is no room they grow together. The blocks written in the open TXG
 * are remembered in a hashed bit map: it may name too many, which makes
 * Changed's answer larger, never too few.
 *
 * And ZFS forgets the birth of holes: when all that an indirect block maps is
 * freed, its cached copy is cleared, births and all, and a later write may
 * reuse that copy. So a hole without a birth is either one that was never
 * written or one of these; REGION_OBJ tells where it may be the latter.
 */
#include "zfs.h"

#define	FRESH_BITS	(FRESH_BYTES * 8ULL)
#define	SEARCH_MAX	65536	/* blocks looked up for one unmap */

static uint64_t
bit_of(uint64_t block)
{
	return ((block * 0x9e3779b97f4a7c15ULL) >> 44);
}

_Static_assert(FRESH_BITS == 1ULL << (64 - 44), "bit_of's shift");

static int
is_fresh(cask_vol *v, uint64_t block)
{
	uint64_t bit = bit_of(block);

	return ((v->fresh[bit / 64] >> (bit % 64)) & 1);
}

static void
set_fresh(cask_vol *v, uint64_t block)
{
	uint64_t bit = bit_of(block);

	v->fresh[bit / 64] |= 1ULL << (bit % 64);
	v->fresh_min = MIN(v->fresh_min, block);
	v->fresh_max = MAX(v->fresh_max, block);
}

static void
fresh_txg(cask_vol *v, dmu_tx_t *tx)
{
	uint64_t txg = dmu_tx_get_txg(tx);

	if (v->fresh_txg == txg)
		return;
	if (v->fresh_min <= v->fresh_max)
		memset(v->fresh, 0, FRESH_BYTES);
	v->fresh_txg = txg;
	v->fresh_min = UINT64_MAX;
	v->fresh_max = 0;
}

/* Make one of ghosts i and i + 1. */
static void
join(mark_t *m, uint64_t i)
{
	ghost_t *a = &m->ghosts[i], *b = a + 1;
	uint64_t end = MAX(a->off + a->len, b->off + b->len);

	a->len = end - a->off;
	a->txg = MAX(a->txg, b->txg);
	memmove(b, b + 1, (m->ghost_slots - i - 2) * sizeof (*b));
	m->ghost_slots--;
}

/* Join the two neighbours that are closest. */
static void
make_room(mark_t *m)
{
	uint64_t best = 0, least = UINT64_MAX;

	for (uint64_t i = 0; i + 1 < m->ghost_slots; i++) {
		ghost_t *a = &m->ghosts[i];
		uint64_t gap = a[1].off - (a->off + a->len);
		if (gap < least) {
			least = gap;
			best = i;
		}
	}
	join(m, best);
}

/* The mark record is writable in the present tx. */
static void
add(cask_vol *v, uint64_t first, uint64_t last)
{
	mutex_enter(&v->mark_lock);
	mark_t *m = mark_of(v);
	if (m->ghost_slots == GHOST_SLOTS)
		make_room(m);
	uint64_t i = 0;
	uint64_t off = first * v->block_size;
	while (i < m->ghost_slots && m->ghosts[i].off < off)
		i++;
	memmove(&m->ghosts[i + 1], &m->ghosts[i],
	    (m->ghost_slots - i) * sizeof (ghost_t));
	m->ghosts[i] = (ghost_t){ .txg = v->fresh_txg, .off = off,
	    .len = (last - first + 1) * v->block_size };
	m->ghost_slots++;
	if (i > 0 && m->ghosts[i - 1].off + m->ghosts[i - 1].len >= off)
		join(m, --i);
	while (i + 1 < m->ghost_slots && m->ghosts[i].off + m->ghosts[i].len >=
	    m->ghosts[i + 1].off)
		join(m, i);
	mutex_exit(&v->mark_lock);
}

static int
all_zero(const char *p, uint64_t len)
{
	return (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

void
ghost_write(cask_vol *v, uint64_t off, uint64_t len, const char *data,
    dmu_tx_t *tx)
{
	fresh_txg(v, tx);
	for (uint64_t end = off + len; off < end; ) {
		uint64_t block = off / v->block_size;
		uint64_t n = MIN((block + 1) * v->block_size, end) - off;
		if (!all_zero(data, n))
			set_fresh(v, block);
		else if (is_fresh(v, block))
			add(v, block, block);
		off += n;
		data += n;
	}
}

void
ghost_unmap(cask_vol *v, uint64_t off, uint64_t len, dmu_tx_t *tx)
{
	fresh_txg(v, tx);
	if (len == 0 || v->fresh_min > v->fresh_max)
		return;
	uint64_t first = MAX(off / v->block_size, v->fresh_min);
	uint64_t last = MIN((off + len - 1) / v->block_size, v->fresh_max);
	if (first > last)
		return;
	if (last - first < SEARCH_MAX) {
		while (first <= last && !is_fresh(v, first))
			first++;
		while (last > first && !is_fresh(v, last))
			last--;
	}
	if (first <= last)
		add(v, first, last);
}

int
has_zero_piece(cask_vol *v, uint64_t off, uint64_t len, const char *data)
{
	for (uint64_t end = off + len; off < end; ) {
		uint64_t n = MIN(P2ALIGN(off, v->block_size) + v->block_size,
		    end) - off;
		if (all_zero(data, n))
			return (1);
		off += n;
		data += n;
	}
	return (0);
}

void
region_hold(cask_vol *v, uint64_t off, uint64_t len, dmu_tx_t *tx)
{
	if (len == 0)
		return;
	uint64_t first = off / v->region, last = (off + len - 1) / v->region;
	dmu_tx_hold_write(tx, REGION_OBJ, first * sizeof (uint64_t),
	    (last - first + 1) * sizeof (uint64_t));
}

void
region_set(cask_vol *v, uint64_t off, uint64_t len, dmu_tx_t *tx)
{
	uint64_t txgs[REGION_BLOCK / sizeof (uint64_t)];
	const uint64_t max = sizeof (txgs) / sizeof (txgs[0]);

	if (len == 0)
		return;
	uint64_t i = off / v->region, last = (off + len - 1) / v->region;
	for (uint64_t k = 0; k < MIN(max, last - i + 1); k++)
		txgs[k] = dmu_tx_get_txg(tx);
	while (i <= last) {
		uint64_t n = MIN(max - i % max, last - i + 1);
		dmu_write(v->os, REGION_OBJ, i * sizeof (uint64_t),
		    n * sizeof (uint64_t), txgs, tx);
		i += n;
	}
}

/* The ghosts of TXGs after txg, by offset. */
uint64_t
ghost_copy_of(const mark_t *m, uint64_t txg, ghost_t *out)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < m->ghost_slots; i++) {
		if (m->ghosts[i].txg > txg)
			out[n++] = m->ghosts[i];
	}
	return (n);
}

uint64_t
ghost_copy(cask_vol *v, uint64_t txg, ghost_t *out)
{
	mutex_enter(&v->mark_lock);
	uint64_t n = ghost_copy_of(mark_of(v), txg, out);
	mutex_exit(&v->mark_lock);
	return (n);
}
