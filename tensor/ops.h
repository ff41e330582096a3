// The builders: one function an operation, whose call is how a forward pass is written. Each is defined in
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
struct activate_params {
    unary f;
};

// Which elements of a head turn together: (2i, 2i + 1), or (i, i + r/2).
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
};

// Where one layer's keys and values lie in a page. A page holds `page_positions` positions of all layers.
constexpr int64_t page_positions = 64;
struct kv_layout {
    format type;  // f32, f16 or i8
    int32_t kv_heads, head_size;
    // Bytes from the page's start. Floats: K [kv_heads][head_size][64 positions], V [kv_heads][64
    // positions][head_size], so that both products run over what is not summed. i8: K
    // [kv_heads][64][head_size], V [kv_heads][head_size][64], integer units contract over what is contiguous;
    // each followed by its scales, f32 [kv_heads][64].
    int64_t k_offset, v_offset;
    // Latent pages (MLA, arXiv 2405.04434) have rope_size > 0 and one head: instead of K the latents, which
    // are keys and values at once, of head_size; and right behind them, instead of V, the keys' turned part,
    // of rope_size. i8: both lie as K does, turned (hadamard) like keys. Floats: position by position,
    // [64][head_size + rope_size], so that a page serves as keys and as values where it lies.
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
    // 0 or 1: every row goes through the expanded form, not only those of runs for which it is less work
    int32_t expand_all;
};

// How experts are chosen from logits (DeepSeek-V2, arXiv 2405.04434, section 2.2; V3, arXiv 2412.19437,
// section 2.1). Scores are softmax or sigmoid of the logits; experts are ranked by score + bias, ties by the
// lowest number. Of `groups` equal groups only the best `groups_used` take part: a group is worth its best
// expert (softmax), or the sum of its two best (sigmoid). Weights are the scores, of sum 1 if `normalise`,
// times `scale`.
struct router_params {
    int32_t used, groups, groups_used;
    int32_t sigmoid, normalise;  // 0 or 1
    float scale;
};

// For each row the expert at this rank of its route, 0 being the best.
struct routed_params {
    int32_t rank;
};

// What a choice by logits can mostly be made from without all of them. A row of the result begins with this,
// then `count` places of the largest logits, best first, ties by the lowest place; then the bits of these
// logits (minus zero as zero). Behind the last there is place -1, and minus infinity. A row with NaN or
// infinity, or of nothing but minus infinity, has numbers = 0 and no places.
struct candidates_params {
    int32_t count;
};
struct candidates_head {
    int32_t numbers, unused;  // 0 or 1; 0
    // of sampling_weight (numerics.h) of all logits, by the row's factor; 0 where the factor is 0
    int64_t total;
};
constexpr int64_t candidates_head_ints = sizeof(candidates_head) / sizeof(int32_t);

// pages is a tensor i8 [n_pages, page_bytes]; slots[n] = page * 64 + place in the page; tables[s, max_pages]
// names the pages of sequence s in order.
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
tensor *mul(graph &g, const tensor *a, const tensor *b);
tensor *activate(graph &g, unary f, const tensor *x);
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
tensor *routed_matmul(graph &g, const tensor *x, const tensor *w, const tensor *route, int32_t rank);
tensor *routed_add(graph &g, const tensor *x, const tensor *route, int32_t rank,
                   const tensor *acc /* or null */);
tensor *candidates(graph &g, const tensor *logits, const tensor *factors, int32_t count);

// One row of a router: y gets `used` numbers, then as many weights. scratch: [3 * n] floats. Logits that are
// not all finite give weights that are no numbers.
void route_row(const float *logits, const float *bias /* or null */, int64_t n, const router_params &p,
               float *scratch, float *y);

}  // namespace ds
