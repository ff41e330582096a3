// How attention over pages of i8 is cut into blocks, and the layout of a block's shared memory: plain
// arithmetic for host and device.
#pragma once

#include "../launch.h"

#include "../../tensor/numerics.h"

namespace ds::cuda {

constexpr int32_t attention_threads = 256;
constexpr int32_t most_plain_head = 1024;
constexpr int32_t page_length = static_cast<int32_t>(page_positions);
constexpr int32_t score_stride = page_length + 4;  // floats; rows begin in different banks

// A query slot is one row of the batch and one query head. A tile holds 16 * tiles slots: `rows` rows with
// `heads` heads each, which share a key head. Decode: one row, up to 16 heads; its pages are divided among
// `splits` blocks, scores are stored where there is room, and a last kernel divides. Prefill: as many rows as
// fit 64 slots; a block sees all pages of its rows.
struct attention_cut {
    bool prefill;
    int32_t tiles;  // of 16 slots: 1 or 4
    int32_t rows, heads;
    int32_t head_parts;  // tiles for the heads of one key head
    int32_t splits;
    bool keeps_scores;
    int32_t stages;  // pages that shared memory holds at a time
};
attention_cut cut_of(const attention_launch_params &, const device_facts &);
// The same for rows that share a tile with no other row. group: query heads per key head.
attention_cut one_row_of(attention_cut, int32_t group);

// Offsets of the parts of `work`, each a multiple of 256, and its size.
struct attention_work {
    // maxima: of scores and of value scales, [2][n, heads]. totals: denominators [n, heads], then totals
    size_t maxima, totals, scores, bytes;
};
attention_work work_of(const attention_launch_params &, const attention_cut &);

// Offsets in a block's shared memory.
struct attention_memory {
    // planes of the queries [slots][head_size], [slots][rope_size]
    int32_t high, low, rope_high, rope_low;
    int32_t weights_high, weights_low;                 // planes of a page's weights [slots][64]
    int32_t scores;                                    // [slots][score_stride]
    int32_t rows;                                      // slot_facts [slots]
    int32_t values;                                    // latent pages: the transposed values [head_size][64]
    int32_t stages, stage_bytes;                       // of pages
    int32_t k, k_scale, rope, rope_scale, v, v_scale;  // in a stage
    int32_t bytes;
};
struct slot_facts {              // one per query slot
    float factor, rope_factor;   // of the query
    float max;                   // of the scores, rounded up
    int32_t e0;                  // exponent above the largest scale of a value
    int32_t finite;              // 0: a score or a scale is not finite, so the result is NaN
    int32_t count;               // positions that the slot sees
    int32_t shift;               // of the page's sums
    uint32_t max_code, largest;  // maxima that warps are combining
    uint32_t unused;             // padding to a multiple of 8
    int64_t denominator;
};

DS_HD int32_t take_bytes(int32_t &bytes, int32_t n) {
    const int32_t at = bytes;
    bytes += (n + 127) / 128 * 128;
    return at;
}
// `with_k`, `with_v`: what a stage holds.
DS_HD attention_memory memory_of(int32_t slots, int32_t head_size, int32_t rope_size, bool with_k,
                                 bool with_v, int32_t stages) {
    attention_memory m = {};
    const bool latent = rope_size > 0;
    m.high = take_bytes(m.bytes, slots * head_size);
    m.low = take_bytes(m.bytes, slots * head_size);
    m.rope_high = take_bytes(m.bytes, slots * rope_size);
    m.rope_low = take_bytes(m.bytes, slots * rope_size);
    m.weights_high = take_bytes(m.bytes, slots * page_length);
    m.weights_low = take_bytes(m.bytes, slots * page_length);
    m.scores = take_bytes(m.bytes, slots * score_stride * 4);
    m.rows = take_bytes(m.bytes, slots * static_cast<int32_t>(sizeof(slot_facts)));
    m.values = take_bytes(m.bytes, latent && with_v ? head_size * page_length : 0);
    m.stages = m.bytes;
    const bool keys = with_k || latent;
    m.k = take_bytes(m.stage_bytes, keys ? head_size * page_length : 0);
    m.rope = take_bytes(m.stage_bytes, with_k ? rope_size * page_length : 0);
    m.v = take_bytes(m.stage_bytes, with_v && !latent ? head_size * page_length : 0);
    m.k_scale = take_bytes(m.stage_bytes, 4 * page_length);
    m.rope_scale = take_bytes(m.stage_bytes, latent ? 4 * page_length : 0);
    m.v_scale = take_bytes(m.stage_bytes, latent ? 0 : 4 * page_length);
    if (latent) m.v_scale = m.k_scale;
    // Rows of floats, one per warp, for the Hadamard transform of queries and of latent results. They share
    // the memory of the stages, which hold no page then.
    const int32_t transformed = attention_threads / 32 * head_size * 4;
    m.bytes += stages * m.stage_bytes > transformed ? stages * m.stage_bytes : transformed;
    return m;
}

int launch_integers(const attention_launch_params &, const attention_cut &, stream);
int launch_plain_attention(const attention_launch_params &, stream);
int launch_floats(const attention_launch_params &, stream);
int prepare_integers(const device_facts &);
size_t float_attention_bytes(const attention_launch_params &);
bool float_attention_fits(const attention_launch_params &);

// Integers in the order of the floats; NaN above all.
DS_HD uint32_t code_of(float x) {
    const uint32_t u = bits_of(x);
    return x != x ? 0xffffffffu : u & 0x80000000u ? ~u : u | 0x80000000u;
}
DS_HD float score_of(uint32_t code) {
    if (code == 0xffffffffu) return float_of(0x7fc00000u);
    return float_of(code & 0x80000000u ? code & 0x7fffffffu : ~code);
}

}  // namespace ds::cuda
