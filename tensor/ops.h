// The builders: one function per operation; a forward pass is written as calls of them. Each is defined in
// ops/<name>.cpp.
#pragma once

#include "graph.h"

namespace ds {

enum class unary : int32_t {
#define DS_UNARY(name, f, df) name,
#include "unary.def"
#undef DS_UNARY
};

struct rms_norm_params {
    float eps;
};
struct gated_params {
    unary f;
    float eps;  // of the norm
};
struct unary_params {
    unary f;
};

// Which elements of a head are rotated as a pair: (2i, 2i + 1), or (i, i + r/2).
enum class rope_pairs : int32_t { adjacent, halves };

// frequency_i = base^(-2i/r), then scaled. YaRN (arXiv 2309.00071): pairs below `low` keep their frequency,
// above `high` it is divided by `factor`, between them a ramp; cos and sin are multiplied by `magnitude`.
// Linear scaling is yarn = false with a factor.
struct rope_table_params {
    double base;
    double factor;    // >= 1 in practice; frequencies are divided by it
    float low, high;  // pairs, only for yarn
    float magnitude;  // of cos and sin
    int32_t rotated;  // r, even
    int32_t yarn;     // 0 or 1
};
struct rope_params {
    rope_pairs pairs;
    int32_t inverse;  // 1: by the negated angles, as gradients are rotated
};

// The layout of one layer's keys and values in a page. A page holds `page_positions` positions of all layers.
constexpr int64_t page_positions = 64;
struct kv_layout {
    format type;  // f32, f16 or i8
    int32_t kv_heads, head_size;
    // Bytes from the page's start. Floats: K [kv_heads][head_size][64 positions], V [kv_heads][64
    // positions][head_size], so that vectors run along the dimension that is not summed. i8: K
    // [kv_heads][64][head_size], V [kv_heads][head_size][64], because integer dot products sum along the
    // contiguous dimension; each is followed by its scales, f32 [kv_heads][64].
    int64_t k_offset, v_offset;
    // Latent pages (MLA, arXiv 2405.04434) have rope_size > 0 and one head. In place of K they hold the
    // latents, of head_size, which serve as keys and values; right after them, in place of V, the rotated
    // part of the keys, of rope_size. i8: both have K's layout and are Hadamard-transformed like keys.
    // Floats: position by position, [64][head_size + rope_size], so that one copy serves both uses.
    int32_t rope_size = 0;

    // of K
    size_t elements() const {
        return static_cast<size_t>(kv_heads) * static_cast<size_t>(head_size) * page_positions;
    }
    size_t k_bytes() const { return bytes_of(head_size); }
    size_t v_bytes() const { return bytes_of(rope_size ? rope_size : head_size); }

private:
    size_t bytes_of(int32_t width) const {
        const size_t heads = static_cast<size_t>(kv_heads);
        return row_bytes(type, heads * static_cast<size_t>(width) * page_positions) +
               (type == format::i8 ? heads * page_positions * sizeof(float) : 0);
    }
};
struct attention_params {
    kv_layout kv;
    float scale;  // of q.k, usually 1/sqrt(head_size)
};

struct mla_params {
    kv_layout kv;  // latent pages of floats
    float scale;   // of scores
    // 0 or 1: all rows take the expanded form, not only the runs for which it is less work
    int32_t expand_all;
};

// One matrix of an adapter (LoRA, arXiv 2106.09685): y += (slot's scale * scale) * b (a x), both products as
// matmul's of f32, then an fma an element.
struct lora_matrix {
    const float *a = nullptr, *b = nullptr;  // [rank, k], [m, rank]; null: the matrix is not adapted
    int64_t rank = 0;
    float scale = 0, unused = 0;
};
// What a sequence's rows are adapted by.
struct lora_slot {
    const lora_matrix *matrices = nullptr;  // null: by nothing
    float scale = 0, unused = 0;
};
struct lora_params {
    int32_t matrix;  // its index in lora_slot::matrices
    int32_t rank;    // at least that of every slot's matrix
};
struct add_scaled_params {
    float scale;
};

// How experts are chosen from logits (DeepSeek-V2, arXiv 2405.04434, section 2.2; V3, arXiv 2412.19437,
// section 2.1). Scores are the softmax or sigmoid of the logits. Experts are ranked by score + bias; ties go
// to the lowest index. Of `groups` equal groups only the best `groups_used` take part: a group counts as its
// best expert (softmax), or as the sum of its two best (sigmoid). Weights are the scores, normalised to sum 1
// if `normalise`, times `scale`.
struct router_params {
    int32_t used, groups, groups_used;
    int32_t sigmoid, normalise;  // 0 or 1
    float scale;
};

// How attention heads are chosen and weighted (Mixture-of-Head attention, arXiv 2410.11842). Of H heads, the
// first s are shared and always active; of the other e, the `chosen` k with the largest p = softmax(logits)
// are, ties to the lowest index. With mix = 2 softmax(mix logits), the weight of a shared head is mix_0 * s *
// softmax(shared)_i, that of a chosen one mix_1 * k * p_i / (the sum of the chosen p).
struct head_router_params {
    int32_t chosen;
};

struct routed_spread_params {
    int32_t heads;  // h
};

struct narrow_params {
    format to;  // f16, bf16 or i8
};

// get_rows' gradient without a sum to add to: of a table of so many rows.
struct get_rows_back_params {
    int64_t rows;
};
struct routed_back_params {
    int32_t add_ranks;  // 1: x was the row's, for all ranks
};
struct routed_parts_params {
    int32_t parts;  // h
};
// A loss of load balancing among attention heads (arXiv 2410.11842): small where choices are even.
struct balance_params {
    int32_t shared;  // s, which take no part
};
struct cross_entropy_params {
    int32_t entropy;  // 0 or 1: whether entropies are computed, or else 0
};

constexpr int64_t square_sum_stretch = 4096;

// AdamW (arXiv 1711.05101) at one step: bias1 and bias2 are 1 / (1 - beta^step), `decay` is the learning rate
// times the weight decay. States in bytes (arXiv 2110.02861) are of blocks of state_block elements.
struct adamw_params {
    float clip;                                                            // the gradient's factor
    float rate, decay, beta1, beta2, rest1, rest2, bias1, bias2, epsilon;  // rest = 1 - beta
};
constexpr int64_t state_block = 256;

// Enough of a row of logits to sample from it in most cases. A row of the result begins with this header,
// then the indices of the `count` largest logits, best first, ties to the lowest index; then the bits of
// these logits (minus zero as zero). Unused entries are index -1 and minus infinity. A row with NaN or
// infinity, or of nothing but minus infinity, has finite = 0 and no indices.
struct candidates_params {
    int32_t count;
};
struct candidates_head {
    int32_t finite, unused;  // 0 or 1; 0
    // of sampling_weight (numerics.h) of all logits, by the row's factor; 0 where the factor is 0
    int64_t total;
};
constexpr int64_t candidates_head_ints = sizeof(candidates_head) / sizeof(int32_t);

// pages is a tensor i8 [n_pages, page_bytes]; slots[n] = page * 64 + position within the page;
// tables[s, max_pages] lists the pages of sequence s in order.
tensor *get_rows(graph &g, const tensor *table, const tensor *ids);
tensor *matmul(graph &g, const tensor *x, const tensor *w, const tensor *bias /* or null */,
               const tensor *residual = nullptr);
// A matrix, and its bias or null.
struct projection {
    const tensor *w, *bias;
};
constexpr size_t most_projections = 6;
tensor *projections(graph &g, const tensor *x, const tensor *norm /* or null */, float eps,
                    std::initializer_list<projection> list);
tensor *gated_projection(graph &g, unary f, const tensor *x, const tensor *norm /* or null */, float eps,
                         const tensor *gate, const tensor *up);
tensor *add(graph &g, const tensor *a, const tensor *b);
tensor *gated(graph &g, unary f, const tensor *gate, const tensor *up);
tensor *concat(graph &g, std::span<const tensor *const> parts);  // most_projections at most
tensor *rms_norm(graph &g, const tensor *x, const tensor *w, float eps);
tensor *rope_table(graph &g, const tensor *positions, const tensor *factors /* or null */,
                   const rope_table_params &p);
tensor *rope(graph &g, const tensor *x, const tensor *table, rope_pairs pairs);
tensor *head_matmul(graph &g, const tensor *x, const tensor *w);
const tensor *kv_write(graph &g, const tensor *k, const tensor *v, const tensor *pages, const tensor *slots,
                       const kv_layout &l);
tensor *attention(graph &g, const tensor *q, const tensor *pages, const tensor *tables,
                  const tensor *sequence, const tensor *position, const attention_params &p,
                  const tensor *q_rope = nullptr /* for latent pages */);
tensor *mla_attention(graph &g, const tensor *q, const tensor *q_rope, const tensor *k_b, const tensor *v_b,
                      const tensor *pages, const tensor *tables, const tensor *sequence,
                      const tensor *position, const mla_params &p);
tensor *router(graph &g, const tensor *logits, const tensor *bias /* or null */, const router_params &p);
tensor *experts(graph &g, const tensor *x, const tensor *route, const tensor *gate, const tensor *up,
                const tensor *down, const tensor *shared /* or null */);
tensor *routed_matmul(graph &g, const tensor *x, const tensor *w, const tensor *route);
tensor *routed_add(graph &g, const tensor *x, const tensor *route, const tensor *acc /* or null */);
tensor *head_router(graph &g, const tensor *logits, const tensor *shared /* or null */, const tensor *mix,
                    int32_t chosen);
tensor *routed_spread(graph &g, const tensor *x, const tensor *route, int32_t heads);
tensor *spread_matmul(graph &g, const tensor *x, const tensor *route, const tensor *w,
                      const tensor *residual = nullptr);
tensor *cross_entropy(graph &g, const tensor *x, const tensor *w, const tensor *targets, bool entropy);
// slots: lora_slot[s] as bytes, i8 [s, sizeof(lora_slot)]. Returns y, which is changed in place.
tensor *lora(graph &g, const tensor *x, const tensor *y, const tensor *slots, const tensor *sequence,
             const lora_params &p);
tensor *add_scaled(graph &g, const tensor *a /* or null */, const tensor *b, float scale);
tensor *square_sum(graph &g, const tensor *x);
// Where w is bf16, `low` has the bits that w lacks, [2n] as bytes. With scales, [ceil(n/256)] each, m and v
// are bytes, else f32.
struct adamw_sources {
    const tensor *w, *low, *g, *m, *v, *m_scale, *v_scale;
};
tensor *adamw(graph &g, const adamw_sources &s, const adamw_params &p);
tensor *balance(graph &g, const tensor *logits, const tensor *route, int32_t shared);
tensor *candidates(graph &g, const tensor *logits, const tensor *factors, int32_t count);

// One row of a router: y gets `used` indices, then as many weights. scratch: [3 * n] floats. If any logit is
// not finite, all weights are NaN.
void route_row(const float *logits, const float *bias /* or null */, int64_t n, const router_params &p,
               float *scratch, float *y);
// One row of head_router: y gets shared_count + chosen indices, then as many weights. scratch: [2 * n +
// shared_count] floats. If any logit is not finite, all weights are NaN.
void route_heads(const float *logits, int64_t n, const float *shared /* or null */, int64_t shared_count,
                 const float *mix, int32_t chosen, float *scratch, float *y);

}  // namespace ds
