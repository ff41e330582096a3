// How rows are grouped by matrix, and the layout of scratch.
#include "config.h"

#include <algorithm>

namespace ds::cuda {

// A group's rows share one read of an expert's weights. However rows are distributed, each expert in use has
// at most one group that is not full.
int32_t group_bound(int64_t pairs, int32_t experts, int32_t rows) {
    return static_cast<int32_t>(std::min<int64_t>(experts, pairs) + pairs / rows);
}

static group_cut cut_of(int64_t pairs, int32_t matrices) {
    const int64_t mean = (pairs + matrices - 1) / std::max(matrices, 1);
    const int32_t rows = mean <= 4 ? 8 : mean <= 10 ? 16 : mean <= 24 ? 32 : mean <= 96 ? 64 : 128;
    return {rows, group_bound(pairs, matrices, rows)};
}
group_cut cut_of(const experts_launch_params &p) { return cut_of(int64_t{p.n} * p.used, p.experts); }
// Formats other than I8 take eight rows at a time.
group_cut cut_of(const routed_launch_params &p) {
    const int64_t pairs = int64_t{p.n} * p.used;
    if (p.w.type == format::i8) return cut_of(pairs, p.matrices);
    return {8, group_bound(pairs, p.matrices, 8)};
}

bool gate_and_up_together(const experts_launch_params &p) {
    return p.gate.type == format::i8 && p.up.type == format::i8 && p.gate.step == p.up.step &&
           p.gate.scale_step == p.up.scale_step;
}

namespace {
struct taker {
    size_t bytes = 0;
    size_t operator()(size_t n) {
        const size_t at = bytes;
        bytes += (n + 255) / 256 * 256;
        return at;
    }
};
}  // namespace

// Of rows quantized for weights of the format; float weights take floats.
static size_t quantized_bytes(format f, int64_t rows, int64_t k) {
    if (f == format::f32 || f == format::f16 || f == format::bf16) return 0;
    return quantized_bytes(rows, k, f == format::i8 ? 0 : static_cast<int32_t>(info(f).block));
}

experts_work work_of(const experts_launch_params &p) {
    const auto pairs = static_cast<size_t>(int64_t{p.n} * p.used);
    const auto ffn = static_cast<size_t>(p.ffn), d = static_cast<size_t>(p.d);
    const bool fused = gate_and_up_together(p);
    taker take;
    experts_work w;
    w.slot = take(pairs * sizeof(int32_t));
    w.row_of = take(pairs * sizeof(int32_t));
    w.groups = take(static_cast<size_t>(group_bound(static_cast<int64_t>(pairs), p.experts, 8)) * 3 *
                    sizeof(int32_t));
    w.x = take(quantized_bytes(p.gate.type, p.n, p.d));
    w.x_up = p.up.type == p.gate.type ? w.x : take(quantized_bytes(p.up.type, p.n, p.d));
    w.hidden = take(pairs * ffn * sizeof(float));
    w.up = fused ? w.hidden : take(pairs * ffn * sizeof(float));
    w.hidden_quantized = take(quantized_bytes(p.down.type, static_cast<int64_t>(pairs), p.ffn));
    w.y = take(pairs * d * sizeof(float));
    w.bytes = take.bytes;
    return w;
}
size_t experts_work_bytes(const experts_launch_params &p) { return work_of(p).bytes; }

routed_work work_of(const routed_launch_params &p) {
    const int64_t pairs = int64_t{p.n} * p.used;
    taker take;
    routed_work w;
    w.slot = take(static_cast<size_t>(pairs) * sizeof(int32_t));
    w.row_of = take(static_cast<size_t>(pairs) * sizeof(int32_t));
    w.groups = take(static_cast<size_t>(group_bound(pairs, p.matrices, 8)) * 3 * sizeof(int32_t));
    w.x = take(quantized_bytes(p.w.type, p.by_rank ? pairs : p.n, p.k));
    w.y = take(static_cast<size_t>(pairs * p.m) * sizeof(float));
    w.bytes = take.bytes;
    return w;
}
size_t routed_work_bytes(const routed_launch_params &p) { return work_of(p).bytes; }

static bool groups_fit(int64_t n, int32_t used, int32_t matrices) {
    return matrices <= most_experts && n <= 65535 && group_bound(n * used, matrices, 8) <= 65535 &&
           n * used <= INT32_MAX / 2;
}
bool experts_fit(const experts_launch_params &p) { return groups_fit(p.n, p.used, p.experts); }
bool routed_fit(const routed_launch_params &p) { return groups_fit(p.n, p.used, p.matrices); }
bool router_fits(const router_launch_params &p) { return p.experts <= most_experts; }
bool head_router_fits(const head_router_launch_params &p) {
    return p.routed <= most_experts && p.shared_count <= most_experts;
}

}  // namespace ds::cuda
