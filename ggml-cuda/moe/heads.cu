// Routed heads: their products, sorted by head (groups.h), and their results at the places of their heads.
#include "groups.h"

namespace ds::cuda {

namespace {

constexpr int heads_threads = 256;

dim3 blocks_for(int64_t width, int32_t n) {
    return dim3(static_cast<unsigned>((width + heads_threads - 1) / heads_threads), static_cast<unsigned>(n));
}

struct place_args {
    const int32_t *slot;
    const float *from;  // [slots, m]
    float *y;           // [n, used * m]
    int32_t used, m;
};
__global__ void place_kernel(place_args a) {
    wait_for_prior_kernels();
    const int32_t row = static_cast<int32_t>(blockIdx.y),
                  c = static_cast<int32_t>(blockIdx.x) * heads_threads + static_cast<int32_t>(threadIdx.x);
    if (c >= a.used * a.m) return;
    const int64_t pair = static_cast<int64_t>(row) * a.used + c / a.m;
    a.y[pair * a.m + c % a.m] = a.from[static_cast<int64_t>(a.slot[pair]) * a.m + c % a.m];
}

__global__ void spread_kernel(spread_launch_params p) {
    wait_for_prior_kernels();
    const int32_t row = static_cast<int32_t>(blockIdx.y),
                  c = static_cast<int32_t>(blockIdx.x) * heads_threads + static_cast<int32_t>(threadIdx.x);
    if (c >= p.heads * p.d) return;
    const float *const head = p.route + row * p.route_stride, *const weight = head + p.used;
    float y = 0.0f;
    for (int32_t r = 0; r < p.used; ++r)
        if (static_cast<int32_t>(head[r]) == c / p.d)
            y = weight[r] * p.x[row * p.x_stride + r * p.x_rank_stride + c % p.d];
    p.y[row * p.y_stride + c] = y;
}

}  // namespace

int launch_routed(const routed_launch_params &p, const device_facts &d, stream s) {
    if (p.n == 0) return 0;
    const group_cut cut = cut_of(p);
    const routed_work at = work_of(p);
    char *const work = static_cast<char *>(p.work);
    int32_t *const slot = reinterpret_cast<int32_t *>(work + at.slot), *const row_of =
                                                                           reinterpret_cast<int32_t *>(
                                                                               work + at.row_of);
    row_group *const groups = reinterpret_cast<row_group *>(work + at.groups);
    float *const y = reinterpret_cast<float *>(work + at.y);
    const rows_in x = {p.x, p.x_stride, work + at.x, p.by_rank ? p.n * p.used : p.n, p.k, row_of};
    int bad = launch_sort({p.route, p.route_stride, p.n, p.used, cut.group_rows, cut.groups,
                           p.by_rank ? 1 : p.used, slot, row_of, groups},
                          s);
    if (!bad) bad = quantize_rows(x, p.w.type, s);
    if (!bad) bad = launch_one(x, p.w, p.m, y, groups, cut, d, s);
    if (bad) return bad;
    return DS_LAUNCH(place_kernel, blocks_for(int64_t{p.used} * p.m, p.n), dim3(heads_threads), 0, s,
                     place_args{slot, y, p.y, p.used, p.m});
}

int launch_spread(const spread_launch_params &p, stream s) {
    if (p.n == 0) return 0;
    return DS_LAUNCH(spread_kernel, blocks_for(int64_t{p.heads} * p.d, p.n), dim3(heads_threads), 0, s, p);
}

}  // namespace ds::cuda
