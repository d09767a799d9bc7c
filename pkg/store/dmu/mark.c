//go:build cgo && linux

/* The mark, and the ring of states that Changed can start from. */
#include "zfs.h"

mark_t *
mark_of(cask_vol *v)
{
	return (v->mark->db_data);
}

void
mark_init(mark_t *m, uint64_t size, uint64_t block_size)
{
	m->magic = MARK_MAGIC;
	m->version = FORMAT_VERSION;
	/* what one indirect block maps, or more for very large volumes */
	m->region = block_size << (DN_MAX_INDBLKSHIFT - SPA_BLKPTRSHIFT);
	while (size / m->region >= REGIONS_MAX)
		m->region *= 2;
}

/*
 * Drop the checkpoint whose absence costs least: the one that leaves the
 * smallest gap relative to its age, so that spacing grows with age.
 */
static void
ring_thin(mark_t *m)
{
	uint64_t now = m->ring[m->slots - 1].seq;
	uint64_t best = 1;
	double least = -1;

	for (uint64_t i = 1; i + 1 < m->slots; i++) {
		double gap = m->ring[i + 1].seq - m->ring[i - 1].seq;
		double cost = gap / (double)(now - m->ring[i].seq + 1);
		if (least < 0 || cost < least) {
			least = cost;
			best = i;
		}
	}
	memmove(&m->ring[best], &m->ring[best + 1],
	    (m->slots - best - 1) * sizeof (checkpoint_t));
	m->slots--;
}

static void
ring_push(mark_t *m, uint64_t txg, uint64_t seq)
{
	if (m->slots > 0 && m->ring[m->slots - 1].seq >= seq)
		return;
	if (m->slots == RING_SLOTS)
		ring_thin(m);
	m->ring[m->slots++] = (checkpoint_t){ .txg = txg, .seq = seq };
}

/*
 * Make the mark record writable in tx. The first time in a TXG, everything
 * that was done at or before the present mark was born in an older one: that
 * is a checkpoint, unless content changed after the mark moved here.
 */
static mark_t *
mark_dirty(cask_vol *v, dmu_tx_t *tx)
{
	uint64_t txg = dmu_tx_get_txg(tx);

	dmu_buf_will_dirty(v->mark, tx);
	mark_t *m = mark_of(v);
	if (m->txg != 0 && m->txg < txg && !m->tainted && m->seq != 0)
		ring_push(m, txg - 1, m->seq);
	m->txg = txg;
	return (m);
}

void
mark_advance(cask_vol *v, uint64_t seq, uint64_t free_off, uint64_t free_len,
    dmu_tx_t *tx)
{
	mutex_enter(&v->mark_lock);
	mark_t *m = mark_dirty(v, tx);
	if (seq != 0)
		m->seq = seq;
	m->tainted = seq == 0;
	m->free_off = free_off;
	m->free_len = free_len;
	mutex_exit(&v->mark_lock);
}

void
mark_rebase(cask_vol *v, uint64_t seq, uint64_t base, dmu_tx_t *tx)
{
	mutex_enter(&v->mark_lock);
	mark_t *m = mark_dirty(v, tx);
	base = MIN(base, seq);
	while (m->slots > 0 && m->ring[m->slots - 1].seq > base)
		m->slots--;
	m->seq = seq;
	m->tainted = 1;
	m->free_len = 0;
	mutex_exit(&v->mark_lock);
}

/* The size changes in tx, unless it is 0 or that already. */
static int
size_changes(cask_vol *v, uint64_t size)
{
	return (size != 0 && size != v->size);
}

void
size_hold(cask_vol *v, uint64_t size, dmu_tx_t *tx)
{
	if (size_changes(v, size))
		dmu_tx_hold_zap(tx, ZAP_OBJ, B_TRUE, "size");
}

void
size_set(cask_vol *v, uint64_t size, dmu_tx_t *tx)
{
	if (!size_changes(v, size))
		return;
	VERIFY0(zap_update(v->os, ZAP_OBJ, "size", 8, 1, &size, tx));
	mutex_enter(&v->mark_lock);
	v->size = size;
	mutex_exit(&v->mark_lock);
}

/*
 * Become what was, the content being the same again: what was written for that
 * was born later than any checkpoint, and each claim of was holds.
 */
void
mark_return(cask_vol *v, const mark_t *was, dmu_tx_t *tx)
{
	mutex_enter(&v->mark_lock);
	mark_t *m = mark_dirty(v, tx);
	*m = *was;
	m->txg = dmu_tx_get_txg(tx);
	m->tainted = 1;
	m->free_len = 0;
	mutex_exit(&v->mark_lock);
}

/* The mark record of os. */
int
mark_read(objset_t *os, mark_t *m)
{
	int e = dmu_read(os, MARK_OBJ, 0, sizeof (*m), m, 0);

	if (e == 0 && (m->magic != MARK_MAGIC || m->version != FORMAT_VERSION ||
	    m->slots > RING_SLOTS || m->ghost_slots > GHOST_SLOTS))
		e = CASK_FORMAT;
	return (e);
}

/* The TXG after which everything was born that changed after since. */
uint64_t
mark_txg(cask_vol *v, uint64_t since)
{
	uint64_t txg = 0;

	mutex_enter(&v->mark_lock);
	mark_t *m = mark_of(v);
	for (uint64_t i = 0; i < m->slots && m->ring[i].seq <= since; i++)
		txg = m->ring[i].txg;
	mutex_exit(&v->mark_lock);
	return (txg);
}
