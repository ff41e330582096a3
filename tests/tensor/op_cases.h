// What a test of an operation consists of: sources, parameters, and a float64 computation to compare the
// result with. cases.def lists the cases; test_ops.cpp runs each on every variant, instruction set and thread
// count.
#pragma once

#include "../../ggml-cpu/variants.h"
#include "../../tensor/blocks.h"
#include "../../tensor/numerics.h"

#include <functional>
#include <random>

namespace ds::test {

// A source's bytes, contiguous; empty when the source is absent. `by_row`: row i of the result depends only
// on row i of this source.
struct array {
    format type = format::f32;
    std::vector<int64_t> ne;
    std::vector<char> bytes;
    bool by_row = false;
    std::vector<float> scale;  // of i8 weights, one a row
};

struct raw_params {
    unsigned char bytes[max_params_bytes] = {};
};

struct op_case {
    op kind;
    std::string text;
    std::vector<array> src;
    raw_params params;
    bool rows = true;    // the result's rows can be computed one by one
    int changed = -1;    // the source that is changed besides the result, or -1
    bool finite = true;  // the sources are finite, so the float64 computation applies
    // For every element of the result, then of the changed source, in order: its exact value, and the
    // tolerance.
    std::function<void(std::vector<double> &wanted, std::vector<double> &tolerance)> exact;
};

// Builds a case in a graph, over the caller's memory. A source in the shape `ne`; `scales`: those of I8
// weights, else null.
inline tensor *add_source(graph &g, const array &a, const std::vector<int64_t> &ne, void *data,
                          void *scales) {
    tensor *t = ne.size() == 1   ? g.input(a.type, {ne[0]}, data, "")
                : ne.size() == 2 ? g.input(a.type, {ne[0], ne[1]}, data, "")
                                 : g.input(a.type, {ne[0], ne[1], ne[2]}, data, "");
    if (scales)
        t->scale = a.ne.size() == 2 ? g.input(format::f32, {a.ne[0]}, scales, "")
                                    : g.input(format::f32, {a.ne[0], a.ne[1]}, scales, "");
    return t;
}
// Adds the operation to the graph. Absent sources are null.
inline node &add_operation(graph &g, const op_case &c, const tensor *const *s) {
    g.add(c.kind, std::span(s, static_cast<size_t>(info(c.kind).sources)), c.params);
    return g.nodes().back();
}

// Values that sources are filled with.
enum class fill {
    plain,      // in [-1, 1)
    tiny,       // denormals and other tiny values
    vanishing,  // negative, and so small that products underflow: sums are minus zero
    wild,       // NaN, infinities and huge values among plain ones
};

// Random numbers that are the same on every machine: the engine's raw output only, since the library's
// distributions differ.
struct numbers {
    std::mt19937 engine;
    explicit numbers(uint32_t seed) : engine(seed) {}
    uint32_t bits() { return static_cast<uint32_t>(engine()); }
    int below(int n) { return static_cast<int>(bits() % static_cast<uint32_t>(n)); }
    float plain() { return static_cast<float>(static_cast<int32_t>(bits())) * 0x1p-31f; }
    float operator()(fill f);
};

array make_array(numbers &r, format type, std::vector<int64_t> ne, fill f = fill::plain, bool by_row = false);
array make_ints(std::vector<int32_t> v, bool by_row = false);

// Element i of the array, exactly.
double value(const array &a, int64_t i);
double value(format type, const char *p, int64_t i);

op_case get_rows_case(format table, int64_t d, int64_t rows);
op_case matmul_case(format w, int64_t n, int64_t m, int64_t k, bool bias, fill f = fill::plain,
                    bool residual = false);
struct matrix_case {
    format type;
    int64_t m;
    bool bias;
};
op_case projections_case(int64_t n, int64_t k, bool norm, std::vector<matrix_case> list,
                         fill f = fill::plain);
op_case gated_projection_case(format gate, format up, int64_t n, int64_t m, int64_t k, bool norm,
                              fill f = fill::plain, unary function = unary::silu);
op_case head_matmul_case(format w, int64_t n, int64_t heads, int64_t m, int64_t k, fill f = fill::plain);
op_case router_case(int64_t n, int64_t experts, router_params p, bool bias, fill f = fill::plain);
op_case experts_case(format w, format up, int64_t n, int64_t experts, int64_t used, int64_t d, int64_t ffn,
                     bool shared, fill f = fill::plain);
op_case experts_case(format w, int64_t n, int64_t experts, int64_t used, int64_t d, int64_t ffn, bool shared,
                     fill f = fill::plain);
op_case candidates_case(int64_t n, int64_t width, int32_t count, fill f = fill::plain);
// Of matrix `matrix` of adapters of these ranks (0: does not adapt it), by turns for the sequences, of which
// the first has no adapter.
op_case lora_case(int64_t n, int64_t m, int64_t k, std::vector<int64_t> ranks, int32_t matrix,
                  fill f = fill::plain);
op_case add_scaled_case(int64_t n, int64_t m, bool a, fill f = fill::plain);
op_case add_case(std::vector<int64_t> ne, fill f = fill::plain);
op_case gated_case(std::vector<int64_t> ne, unary f, fill how = fill::plain);
// Gradients. heads 0: matrices without heads.
op_case gated_back_case(std::vector<int64_t> ne, unary f, fill how = fill::plain);
op_case matmul_back_case(format w, int64_t n, int64_t heads, int64_t m, int64_t k, fill f = fill::plain);
op_case matmul_back_w_case(int64_t n, int64_t heads, int64_t m, int64_t k, fill f = fill::plain,
                           format x = format::f32);
op_case narrow_case(format to, int64_t n, int64_t d, fill f = fill::plain);
op_case widen_case(format of, int64_t n, int64_t d, fill f = fill::plain);
op_case bias_back_case(int64_t n, int64_t m, fill f = fill::plain);
op_case get_rows_back_case(int64_t n, int64_t rows, int64_t d, bool sum);
op_case rms_norm_back_case(std::vector<int64_t> ne, fill f = fill::plain);
op_case rms_norm_back_w_case(std::vector<int64_t> ne, fill f = fill::plain);
op_case cross_entropy_case(format w, int64_t n, int64_t v, int64_t d, bool entropy, fill f = fill::plain);
op_case cross_entropy_back_case(format w, int64_t n, int64_t v, int64_t d, bool sum, fill f = fill::plain);
op_case routed_matmul_back_case(format w, int64_t n, int64_t matrices, int64_t used, int64_t m, int64_t k,
                                bool add_ranks, fill f = fill::plain);
op_case routed_matmul_back_w_case(int64_t n, int64_t matrices, int64_t used, int64_t m, int64_t k, bool own,
                                  fill f = fill::plain, format x = format::f32);
op_case routed_scale_case(int64_t n, int64_t used, int32_t parts, int64_t d, fill f = fill::plain);
op_case routed_dot_case(int64_t n, int64_t used, int32_t parts, int64_t d, fill f = fill::plain);
op_case router_back_case(int64_t n, int64_t experts, router_params p);
op_case head_router_back_case(int64_t n, int64_t shared, int64_t routed, int32_t chosen);
op_case balance_case(int64_t n, int32_t shared, int64_t routed, int32_t chosen);
op_case balance_back_case(int64_t n, int32_t shared, int64_t routed, int32_t chosen);
op_case square_sum_case(int64_t n, fill f = fill::plain);
op_case adamw_case(format w, bool bytes, int64_t n, fill f = fill::plain);
// Sequences of these lengths; rope > 0: latent pages.
op_case attention_back_case(format pages, int32_t kv_heads, int32_t group, int32_t d, int32_t rope,
                            std::vector<int32_t> lengths, fill f = fill::plain);
op_case concat_case(int64_t n, std::vector<int64_t> widths, fill f = fill::plain);
// by_rank: each rank has an x of its own.
op_case routed_matmul_case(format w, int64_t n, int64_t matrices, int64_t used, bool by_rank, int64_t m,
                           int64_t k, fill f = fill::plain);
op_case routed_add_case(int64_t n, int64_t used, int64_t d, bool acc, fill f = fill::plain);
op_case head_router_case(int64_t n, int64_t shared, int64_t routed, int32_t chosen, fill f = fill::plain);
op_case routed_spread_case(int64_t n, int64_t heads, int64_t used, int64_t d, fill f = fill::plain);
op_case spread_matmul_case(format w, int64_t n, int64_t heads, int64_t used, int64_t d, int64_t m,
                           bool residual, fill f = fill::plain);
op_case rms_norm_case(std::vector<int64_t> ne, fill f = fill::plain);
op_case rope_table_case(int64_t n, int32_t rotated, bool yarn, bool factors);
op_case rope_case(int64_t n, int64_t heads, int64_t d, int64_t rotated, rope_pairs pairs,
                  bool inverse = false);
op_case kv_write_case(format pages, int64_t n, int32_t heads, int32_t d, fill f = fill::plain);
// `rows` rows of each sequence end at these positions, sequence after sequence. Every second sequence's rows
// are in descending order of position.
op_case attention_case(format pages, int32_t kv_heads, int32_t group, int32_t d, int rows,
                       std::vector<int32_t> last, fill f = fill::plain);
// Attention over latent pages.
op_case latent_write_case(format pages, int64_t n, int32_t d, int32_t rope, fill f = fill::plain);
op_case latent_attention_case(format pages, int32_t heads, int32_t d, int32_t rope, int rows,
                              std::vector<int32_t> last, fill f = fill::plain);

// The whole of MLA, from the heads' queries to their results. expand_all: see mla_params.
struct mla_case {
    int32_t heads, nope, rope, value, latent;
};
op_case mla_attention_case(format pages, format k_b, format v_b, mla_case s, int rows,
                           std::vector<int32_t> last, bool expand_all, fill f = fill::plain);

std::vector<op_case> all_cases();  // cases.def

}  // namespace ds::test
