//go:build cgo && linux

/*
 * The intent log: how an operation survives a crash before its TXG is synced.
 *
 * A write is one or more TX_WRITE records with its data, which in memory may be
 * that of the caller (log_fetch). lr_blkoff, which nobody uses any more, holds the
 * Seq; all but the last piece of a write have LR_MORE set instead, and replay
 * applies them together with the last. An unmap is one TX_TRUNCATE record with the Seq in a word after it. Replay by
 * stock ZFS ignores both and does the right thing to the content.
 */
#include "zfs.h"

#define	LR_MORE		(1ULL << 63)
#define	MAX_PIECES	(16ULL << 20)

typedef struct {
	lr_truncate_t lr;
	uint64_t seq;
} lr_unmap_t;

/* A record of a write, or a part of it; room: of the data that it carries. */
static itx_t *
record(cask_vol *v, uint64_t off, uint64_t len, uint64_t tag, uint64_t room)
{
	itx_t *itx = zil_itx_create(TX_WRITE, sizeof (lr_write_t) + room);
	lr_write_t *lr = (lr_write_t *)&itx->itx_lr;

	lr->lr_foid = DATA_OBJ;
	lr->lr_offset = off;
	lr->lr_length = len;
	lr->lr_blkoff = tag;
	BP_ZERO(&lr->lr_blkptr);
	itx->itx_wr_state = room > 0 ? WR_COPIED : WR_NEED_COPY;
	itx->itx_private = v;
	itx->itx_sync = B_TRUE;	/* one list: records keep the order of the ops */
	return (itx);
}

static void
log_piece(cask_vol *v, uint64_t off, uint64_t len, const char *data,
    uint64_t tag, dmu_tx_t *tx)
{
	itx_t *itx = record(v, off, len, tag, len);

	memcpy((lr_write_t *)&itx->itx_lr + 1, data, len);
	zil_itx_assign(v->zil, itx, tx);
}

/* Data that stays with the caller, from the write until the record is gone. */
typedef struct stay {
	struct stay *next;
	uint64_t number;
} stay_t;

static stay_t *let_go;	/* of all volumes: the last ones outlive theirs */

static void
put_let_go(void *arg)
{
	stay_t *s = arg;

	s->next = __atomic_load_n(&let_go, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&let_go, &s->next, s, 1,
	    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
}

uint64_t
cask_let_go(uint64_t *numbers, uint64_t max)
{
	static stay_t *taken;
	uint64_t n = 0;

	if (taken == NULL)
		taken = __atomic_exchange_n(&let_go, NULL, __ATOMIC_ACQUIRE);
	for (; n < max && taken != NULL; n++) {
		stay_t *s = taken;
		taken = s->next;
		numbers[n] = s->number;
		free(s);
	}
	return (n);
}

/* In place of a record's lr_blkptr, while it is in memory. */
typedef struct {
	const char *data;
	uint64_t off;	/* of data in the volume */
	uint64_t end;
} from_t;
_Static_assert(sizeof (from_t) <= sizeof (blkptr_t), "fits");

/*
 * ZFS writes a record, or as much of it as a block of the log has room for: lr
 * says which part.
 */
int
log_fetch(void *arg, uint64_t arg2, lr_write_t *lr, char *buf, struct lwb *lwb,
    zio_t *zio)
{
	const from_t *from = (const from_t *)&lr->lr_blkptr;

	(void) arg, (void) arg2, (void) lwb, (void) zio;
	memcpy(buf, from->data + (lr->lr_offset - from->off), lr->lr_length);
	if (lr->lr_offset + lr->lr_length < from->end)
		lr->lr_blkoff = LR_MORE;
	BP_ZERO(&lr->lr_blkptr);
	return (0);
}

/* A record that refers to op's data. */
static void
log_reference(cask_vol *v, const op_t *op, dmu_tx_t *tx)
{
	itx_t *itx = record(v, op->off, op->len, op->seq, 0);
	from_t *from = (from_t *)&((lr_write_t *)&itx->itx_lr)->lr_blkptr;
	stay_t *stay = malloc(sizeof (*stay));

	VERIFY3P(stay, !=, NULL);
	stay->number = op->number;
	from->data = data_of(op);
	from->off = op->off;
	from->end = op->off + op->len;
	itx->itx_callback = put_let_go;
	itx->itx_callback_data = stay;
	zil_itx_assign(v->zil, itx, tx);
}

void
log_write(cask_vol *v, const op_t *op, dmu_tx_t *tx)
{
	uint64_t off = op->off, len = op->len;
	const char *data = data_of(op);

	if (len == 0) {
		log_unmap(v, off, 0, op->seq, tx);
		return;
	}
	if (zil_replaying(v->zil, tx))
		return;
	dsl_pool_wrlog_count(dmu_objset_pool(v->os), len, dmu_tx_get_txg(tx));
	if (op->number != 0) {
		log_reference(v, op, tx);
		return;
	}
	while (len > v->max_record) {
		log_piece(v, off, v->max_record, data, LR_MORE, tx);
		off += v->max_record;
		data += v->max_record;
		len -= v->max_record;
	}
	log_piece(v, off, len, data, op->seq, tx);
}

void
log_unmap(cask_vol *v, uint64_t off, uint64_t len, uint64_t seq, dmu_tx_t *tx)
{
	if (zil_replaying(v->zil, tx))
		return;
	itx_t *itx = zil_itx_create(TX_TRUNCATE, sizeof (lr_unmap_t));
	lr_unmap_t *lr = (lr_unmap_t *)&itx->itx_lr;
	lr->lr.lr_foid = DATA_OBJ;
	lr->lr.lr_offset = off;
	lr->lr.lr_length = len;
	lr->seq = seq;
	itx->itx_private = v;
	itx->itx_sync = B_TRUE;
	zil_itx_assign(v->zil, itx, tx);
}

/* Set a piece aside until the last one of its write is there. */
static int
keep_piece(cask_vol *v, const lr_write_t *lr)
{
	uint64_t len = lr->lr_length;

	if (v->pieces_len == 0)
		v->pieces_off = lr->lr_offset;
	if (v->pieces_off + v->pieces_len != lr->lr_offset ||
	    v->pieces_len + len > MAX_PIECES)
		return (EINVAL);
	char *p = realloc(v->pieces, v->pieces_len + len);
	if (p == NULL)
		return (ENOMEM);
	memcpy(p + v->pieces_len, lr + 1, len);
	v->pieces = p;
	v->pieces_len += len;
	return (0);
}

static void
drop_pieces(cask_vol *v)
{
	free(v->pieces);
	v->pieces = NULL;
	v->pieces_len = 0;
}

static int
replay_op(cask_vol *v, op_t *op)
{
	return (op->kind == CASK_OP_WRITE ?
	    apply_writes(v, op, 1, 1) : apply_unmap(v, op, 1));
}

static int
replay_write(void *arg1, void *arg2, boolean_t byteswap)
{
	cask_vol *v = arg1;
	lr_write_t *lr = arg2;

	if (byteswap)
		byteswap_uint64_array(lr, sizeof (*lr));
	op_t op = { .kind = CASK_OP_WRITE, .off = lr->lr_offset,
	    .len = lr->lr_length, .data = (uintptr_t)(lr + 1) };
	if (lr->lr_common.lrc_reclen == sizeof (lr_write_t)) {
		/* logged by a stock zvol: the data is a whole block */
		uint64_t bs = BP_GET_LSIZE(&lr->lr_blkptr);
		if (op.len < bs) {
			op.off -= op.off % bs;
			op.len = bs;
		}
		return (v->replay_error = replay_op(v, &op));
	}
	if (lr->lr_blkoff & LR_MORE)
		return (v->replay_error = keep_piece(v, lr));
	op.seq = lr->lr_blkoff;
	uint64_t before = v->pieces_len;
	if (before > 0) {
		int e = keep_piece(v, lr);
		if (e != 0)
			return (v->replay_error = e);
		op.off = v->pieces_off;
		op.len = v->pieces_len;
		op.data = (uintptr_t)v->pieces;
	}
	v->replay_error = replay_op(v, &op);
	if (v->replay_error == 0)
		drop_pieces(v);
	else	/* ZFS tries this record once more: the others belong to it */
		v->pieces_len = before;
	return (v->replay_error);
}

static int
replay_truncate(void *arg1, void *arg2, boolean_t byteswap)
{
	cask_vol *v = arg1;
	lr_unmap_t *lr = arg2;
	uint64_t reclen = lr->lr.lr_common.lrc_reclen;

	if (byteswap)
		byteswap_uint64_array(lr, MIN(reclen, sizeof (*lr)));
	op_t op = { .kind = CASK_OP_UNMAP, .off = lr->lr.lr_offset,
	    .len = lr->lr.lr_length };
	if (reclen >= sizeof (*lr))
		op.seq = lr->seq;
	return (v->replay_error = replay_op(v, &op));
}

static int
replay_foreign(void *arg1, void *arg2, boolean_t byteswap)
{
	(void) arg2, (void) byteswap;
	return (((cask_vol *)arg1)->replay_error = ENOTSUP);
}

/* A write whose last piece is not in the log never happened. */
void
log_replay(cask_vol *v)
{
	zil_replay_func_t *vector[TX_MAX_TYPE];

	for (int i = 0; i < TX_MAX_TYPE; i++)
		vector[i] = replay_foreign;
	vector[TX_WRITE] = replay_write;
	vector[TX_TRUNCATE] = replay_truncate;
	zil_replay(v->os, v, vector);
	drop_pieces(v);
}
