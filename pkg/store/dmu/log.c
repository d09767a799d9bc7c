//go:build cgo && linux

/*
 * The intent log: how an operation survives a crash before its TXG is synced.
 *
 * A write is one or more TX_WRITE records with its data, which in memory may be
 * that of the caller (log_fetch). lr_blkoff, which nobody uses any more, holds the
 * Seq; all but the last piece of a write have LR_MORE set instead, and replay
 * applies them together with the last. An unmap is one TX_TRUNCATE record with the
 * Seq in a word after it. Replay by stock ZFS ignores both and does the right thing
 * to the content.
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

/*
 * Data that stays with the caller, from the write until the record is gone; of all
 * volumes: the last ones outlive theirs.
 */
static ended_list_t let_go;

static void
put_let_go(void *arg)
{
	(void) ended_put(&let_go, arg);
}

uint64_t
cask_let_go(uint64_t *numbers, uint64_t max)
{
	uint64_t n = 0;
	ended_t *e;

	for (; n < max && (e = ended_take(&let_go)) != NULL; n++) {
		numbers[n] = e->number;
		free(e);
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
	ended_t *stay = malloc(sizeof (*stay));

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

/* The whole block that a stock zvol wrote, whose record only refers to it. */
static int
replay_foreign_write(cask_vol *v, const lr_write_t *lr)
{
	const blkptr_t *bp = &lr->lr_blkptr;
	uint64_t bs = BP_GET_LSIZE(bp);
	op_t op = { .kind = CASK_OP_WRITE, .off = lr->lr_offset,
	    .len = lr->lr_length };
	arc_flags_t flags = ARC_FLAG_WAIT;
	arc_buf_t *buf = NULL;
	zbookmark_phys_t zb;

	if (op.len < bs) {
		op.off -= op.off % bs;
		op.len = bs;
	}
	if (BP_IS_HOLE(bp)) {	/* zeroes */
		op.kind = CASK_OP_UNMAP;
		return (replay_op(v, &op));
	}
	if (op.len > bs)
		return (EINVAL);
	SET_BOOKMARK(&zb, dmu_objset_id(v->os), lr->lr_foid, ZB_ZIL_LEVEL,
	    lr->lr_offset / bs);
	int e = arc_read(NULL, v->spa, bp, arc_getbuf_func, &buf,
	    ZIO_PRIORITY_SYNC_READ, ZIO_FLAG_CANFAIL, &flags, &zb);
	if (e != 0)
		return (e);
	op.data = (uintptr_t)buf->b_data;
	e = replay_op(v, &op);
	arc_buf_destroy(buf, &buf);
	return (e);
}

static int
replay_write(cask_vol *v, const lr_write_t *lr)
{
	op_t op = { .kind = CASK_OP_WRITE, .off = lr->lr_offset,
	    .len = lr->lr_length, .data = (uintptr_t)(lr + 1) };
	int e = 0;

	if (lr->lr_common.lrc_reclen == sizeof (lr_write_t))
		return (replay_foreign_write(v, lr));
	if (lr->lr_blkoff & LR_MORE)
		return (keep_piece(v, lr));
	op.seq = lr->lr_blkoff;
	if (v->pieces_len > 0) {
		e = keep_piece(v, lr);
		op.off = v->pieces_off;
		op.len = v->pieces_len;
		op.data = (uintptr_t)v->pieces;
	}
	if (e == 0)
		e = replay_op(v, &op);
	drop_pieces(v);
	return (e);
}

static int
replay_unmap(cask_vol *v, const lr_unmap_t *lr)
{
	op_t op = { .kind = CASK_OP_UNMAP, .off = lr->lr.lr_offset,
	    .len = lr->lr.lr_length };

	if (lr->lr.lr_common.lrc_reclen >= sizeof (*lr))
		op.seq = lr->seq;
	return (replay_op(v, &op));
}

static int
replay_record(zilog_t *zil, const lr_t *lr, void *arg, uint64_t claim_txg)
{
	cask_vol *v = arg;

	if (lr->lrc_seq <= zil->zl_header->zh_replay_seq ||
	    lr->lrc_txg < claim_txg)
		return (0);	/* in the content already */
	zil->zl_replaying_seq = lr->lrc_seq; /* noted with the op: zil_replaying */
	switch (lr->lrc_txtype) {
	case TX_WRITE:
		return (replay_write(v, (const lr_write_t *)lr));
	case TX_TRUNCATE:
		return (replay_unmap(v, (const lr_unmap_t *)lr));
	}
	return (ENOTSUP);
}

static int
replay_block(zilog_t *zil, const blkptr_t *bp, void *arg, uint64_t claim_txg)
{
	(void) zil, (void) bp, (void) arg, (void) claim_txg;
	return (0);
}

/*
 * Bring the content to the end of the log, as far as it was claimed at import, and
 * drop the log. zil_replay drops it, too, when an operation failed or a block of
 * the log cannot be read: the next open would take what came before for all. Here it
 * stays, and open fails as often as it is tried; the log's header says how far it
 * came. A write whose last piece is not in the log never happened.
 */
int
log_replay(cask_vol *v)
{
	zilog_t *zil = v->zil;
	const zil_header_t *zh = zil->zl_header;
	dsl_pool_t *dp = dmu_objset_pool(v->os);

	if ((zh->zh_flags & ZIL_REPLAY_NEEDED) == 0) {
		zil_destroy(zil, B_TRUE);
		return (0);
	}
	if (BP_SHOULD_BYTESWAP(&zh->zh_log))
		return (ENOTSUP);	/* of a machine of the other byte order */
	txg_wait_synced(dp, 0);
	zil->zl_replay = B_TRUE;
	int e = zil_parse(zil, replay_block, replay_record, v,
	    zh->zh_claim_txg, B_TRUE);
	drop_pieces(v);
	if (zil->zl_parse_lr_seq == zh->zh_claim_lr_seq)
		e = 0;	/* that was the last; the block after it may be torn */
	else if (e == 0)
		e = ECKSUM;
	if (e == 0)
		zil_destroy(zil, B_FALSE);
	txg_wait_synced(dp, 0);
	zil->zl_replay = B_FALSE;
	return (e);
}
