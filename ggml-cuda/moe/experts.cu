// The routed experts: pairs sorted by expert (groups.h), gate, up and their product, then down; results are
// summed row by row in the order of the ranks.
#include "groups.h"

#include "../gemm/config.h"

namespace ds::cuda {

namespace {

struct combine_args {
    const float *route;
    int64_t route_stride;
    const int32_t *slot;
    const float *parts;  // [pairs, d]
    const float *shared;
    int64_t shared_stride;
    float *y;
    int64_t y_stride;
    int32_t n, used, d;
};
constexpr int combine_threads = 256;
__global__ void combine_kernel(combine_args a) {
    wait_for_prior_kernels();
    const int32_t row = static_cast<int32_t>(blockIdx.y),
                  c = static_cast<int32_t>(blockIdx.x) * combine_threads + static_cast<int32_t>(threadIdx.x);
    if (c >= a.d) return;
    float y = a.shared ? a.shared[row * a.shared_stride + c] : 0.0f;
    const float *const weight = a.route + row * a.route_stride + a.used;
    for (int32_t r = 0; r < a.used; ++r)
        y = fma_f32(weight[r], a.parts[static_cast<int64_t>(a.slot[row * a.used + r]) * a.d + c], y);
    a.y[row * a.y_stride + c] = y;
}

}  // namespace

int launch_experts(const experts_launch_params &p, const device_facts &d, stream s) {
    if (p.n == 0) return 0;
    group_cut cut = cut_of(p);
    const bool fused = gate_and_up_together(p), integers = fused && p.down.type == format::i8;
    // formats other than I8 take eight rows at a time
    if (!integers && cut.group_rows != 8) {
        cut.group_rows = 8;
        cut.groups = group_bound(static_cast<int64_t>(p.n) * p.used, p.experts, 8);
    }
    const experts_work at = work_of(p);
    char *const work = static_cast<char *>(p.work);
    const auto ints = [&](size_t offset) { return reinterpret_cast<int32_t *>(work + offset); };
    const auto floats = [&](size_t offset) { return reinterpret_cast<float *>(work + offset); };
    row_group *const groups = reinterpret_cast<row_group *>(work + at.groups);
    const int32_t pairs = p.n * p.used;
    const rows_in x = {p.x, p.x_stride, work + at.x, p.n, p.d, ints(at.row_of)};
    rows_in x_up = x;
    x_up.quantized = work + at.x_up;
    const rows_in hidden = {floats(at.hidden), p.ffn, work + at.hidden_quantized, pairs, p.ffn, nullptr};
    int bad = launch_sort({p.route, p.route_stride, p.n, p.used, cut.group_rows, cut.groups, p.used,
                           ints(at.slot), ints(at.row_of), groups},
                          s);
    if (!bad) bad = quantize_rows(x, p.gate.type, s);
    if (!bad && p.up.type != p.gate.type) bad = quantize_rows(x_up, p.up.type, s);
    if (fused) {
        product_args a = args_for(x, p.gate, p.ffn, floats(at.hidden), groups);
        a.w[1] = {p.up.w, p.up.scale, nullptr, p.ffn, 0};
        a.f = unary::silu;
        if (!bad) bad = launch_i8_groups(a, true, cut, d, s);
    } else {
        if (!bad) bad = launch_one(x, p.gate, p.ffn, floats(at.hidden), groups, cut, d, s);
        if (!bad) bad = launch_one(x_up, p.up, p.ffn, floats(at.up), groups, cut, d, s);
        if (!bad)
            bad = launch_gate({floats(at.hidden), p.ffn, floats(at.up), p.ffn, pairs, p.ffn, unary::silu}, s);
    }
    if (!bad) bad = quantize_rows(hidden, p.down.type, s);
    if (!bad) bad = launch_one(hidden, p.down, p.d, floats(at.y), groups, cut, d, s);
    if (bad) return bad;
    return DS_LAUNCH(combine_kernel,
                     dim3(static_cast<unsigned>(parts(p.d, combine_threads)), static_cast<unsigned>(p.n)),
                     dim3(combine_threads), 0, s,
                     combine_args{p.route, p.route_stride, ints(at.slot), floats(at.y), p.shared,
                                  p.shared_stride, p.y, p.y_stride, p.n, p.used, p.d});
}

}  // namespace ds::cuda
