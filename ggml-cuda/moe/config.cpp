// How the rows of experts are grouped, and the layout of scratch.
#include "config.h"

#include <algorithm>

namespace ds::cuda {

// A group's rows share one read of an expert's weights. However rows are distributed, each expert in use has
// at most one group that is not full.
int32_t group_bound(int64_t pairs, int32_t experts, int32_t rows) {
    return static_cast<int32_t>(std::min<int64_t>(experts, pairs) + pairs / rows);
}

experts_cut cut_of(const experts_launch_params &p) {
    const int64_t pairs = int64_t{p.n} * p.used, mean = (pairs + p.experts - 1) / std::max(p.experts, 1);
    const int32_t rows = mean <= 4 ? 8 : mean <= 10 ? 16 : mean <= 24 ? 32 : mean <= 96 ? 64 : 128;
    return {rows, group_bound(pairs, p.experts, rows)};
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

bool experts_fit(const experts_launch_params &p) {
    return p.experts <= most_experts && p.n <= 65535 &&
           group_bound(int64_t{p.n} * p.used, p.experts, 8) <= 65535 &&
           int64_t{p.n} * p.used <= INT32_MAX / 2;
}
bool router_fits(const router_launch_params &p) { return p.experts <= most_experts; }

}  // namespace ds::cuda
