//go:build cgo && linux

/*
 * ZFS's lz4 by liblz4, which is faster than the one of 2012 in ZFS and writes the
 * same format: the length, four bytes, most significant first, and one LZ4 block.
 * What looks like noise, as data that is encrypted or compressed already does, is not
 * tried: that would cost more than all else that a small write does.
 */
#include "zfs.h"
#include <endian.h>
#include <lz4.h>

#define	HEADER		4	/* the length */
#define	SAMPLE		16	/* bytes at each of SAMPLES places */
#define	SAMPLES		8
#define	NOISE_PAIRS	62

/*
 * Do all values of a byte occur about equally often? Counted are the pairs of
 * equal ones among the 128 sampled: bytes at random have 32 on average, with a
 * deviation of 6; text and programs have 250 and more.
 */
static int
is_noise(const uint8_t *p, size_t len)
{
	uint16_t seen[256] = { 0 };
	size_t apart = len / SAMPLES;
	uint32_t pairs = 0;

	if (apart < SAMPLE)
		return (0);
	for (int i = 0; i < SAMPLES; i++)
		__builtin_prefetch(p + i * apart);
	for (int i = 0; i < SAMPLES; i++, p += apart) {
		for (int k = 0; k < SAMPLE; k++)
			pairs += seen[p[k]]++;
	}
	return (pairs < NOISE_PAIRS);
}

/* Returns s_len when it does not fit into d_len bytes. */
size_t
lz4_compress_zfs(void *s_start, void *d_start, size_t s_len, size_t d_len,
    int level)
{
	char *d = d_start;

	(void) level;
	if (is_noise(s_start, s_len))
		return (s_len);
	int n = LZ4_compress_fast(s_start, d + HEADER, s_len, d_len - HEADER,
	    1);
	if (n <= 0)
		return (s_len);
	uint32_t be = htobe32(n);
	memcpy(d, &be, HEADER);
	return (n + HEADER);
}

int
lz4_decompress_zfs(void *s_start, void *d_start, size_t s_len, size_t d_len,
    int level)
{
	uint32_t n;

	(void) level;
	memcpy(&n, s_start, HEADER);
	n = be32toh(n);
	if (n + HEADER > s_len)
		return (1);
	return (LZ4_decompress_safe((char *)s_start + HEADER, d_start, n,
	    d_len) < 0);
}
