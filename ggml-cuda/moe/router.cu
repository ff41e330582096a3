// The routers: one warp per row, following route_row (tensor/ops/router.cpp) and route_heads
// (head_router.cpp). What is chosen is chosen by comparison alone, with ties going to the lowest index. Sums
// are of integers, or in the order of the ranks.
#include "../device.cuh"
#include "config.h"

namespace ds::cuda {

namespace {

struct choice {
    float value;
    int32_t at;
};
__device__ bool before(choice a, choice b) {
    return a.value > b.value || (a.value == b.value && a.at < b.at);
}

__device__ float never() { return float_of(0xff800000u); }

// The first of the largest of x[0 … n), for every lane.
__device__ choice best_of_warp(const float *x, int32_t n) {
    const int lane = static_cast<int>(threadIdx.x);
    choice best = {never(), most_experts};
    for (int32_t i = lane; i < n; i += warp_lanes)
        if (before({x[i], i}, best)) best = {x[i], i};
    for (int s = warp_lanes / 2; s > 0; s /= 2) {
        const choice other = {__shfl_xor_sync(all_lanes, best.value, s),
                              __shfl_xor_sync(all_lanes, best.at, s)};
        if (before(other, best)) best = other;
    }
    return best;
}

// A group's score, computed by a single lane.
__device__ float group_worth(const float *rank, int32_t n, bool two) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; ++i)
        if (rank[i] > rank[best]) best = i;
    if (!two || n < 2) return rank[best];
    float second = never();
    for (int32_t i = 0; i < n; ++i)
        if (i != best && rank[i] > second) second = rank[i];
    return rank[best] + second;
}

__device__ void softmax_of_row(const float *logits, int32_t n, float *score) {
    const int lane = static_cast<int>(threadIdx.x);
    const float max = best_of_warp(logits, n).value;
    int64_t sum = 0;
    for (int32_t i = lane; i < n; i += warp_lanes) {
        score[i] = exp_f32(logits[i] - max);
        sum += attention_share(score[i]);
    }
    for (int s = warp_lanes / 2; s > 0; s /= 2) sum += __shfl_xor_sync(all_lanes, sum, s);
    const float whole = static_cast<float>(sum) * 9.31322574615478515625e-10f;
    for (int32_t i = lane; i < n; i += warp_lanes) score[i] = score[i] / whole;
    __syncwarp();
}
__device__ void scores_of_row(const float *logits, int32_t n, bool sigmoid, float *score) {
    if (!sigmoid) return softmax_of_row(logits, n, score);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += warp_lanes)
        score[i] = sigmoid_f32(logits[i]);
    __syncwarp();
}

// Whether all of x[0 … n) are finite, for every lane.
__device__ bool finite_row(const float *x, int32_t n) {
    bool finite = true;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += warp_lanes)
        finite = finite && finite_f32(x[i]);
    return __ballot_sync(all_lanes, finite) == all_lanes;
}

// Takes the largest rank out and notes its index and score as rank `i` of the route; returns the score.
__device__ float choose(float *rank, const float *score, int32_t n, int32_t i, int32_t first, float *number,
                        float *weight) {
    const choice best = best_of_warp(rank, n);
    const int32_t e = best.at < n ? best.at : 0;
    const float chosen = score[e];
    __syncwarp();
    if (threadIdx.x == 0) {
        rank[e] = never();
        number[i] = static_cast<float>(first + e);
        weight[i] = chosen;
    }
    __syncwarp();
    return chosen;
}

__device__ void drop_worst_groups(float *rank, int32_t n, const router_params &p, float *worth) {
    const int lane = static_cast<int>(threadIdx.x);
    const int32_t size = n / p.groups;
    for (int32_t g = lane; g < p.groups; g += warp_lanes)
        worth[g] = group_worth(rank + g * size, size, p.sigmoid);
    __syncwarp();
    for (int32_t i = lane; i < n; i += warp_lanes) {
        const int32_t g = i / size;
        int32_t better = 0;
        for (int32_t o = 0; o < p.groups; ++o)
            better += worth[o] > worth[g] || (worth[o] == worth[g] && o < g);
        if (better >= p.groups_used) rank[i] = never();
    }
    __syncwarp();
}

__global__ void router_kernel(router_launch_params p) {
    wait_for_prior_kernels();
    __shared__ float score[most_experts], rank[most_experts], worth[most_experts];
    const int lane = static_cast<int>(threadIdx.x);
    const float *const logits = p.logits + blockIdx.x * p.logits_stride;
    float *const number = p.y + blockIdx.x * p.y_stride, *const weight = number + p.p.used;
    if (!finite_row(logits, p.experts)) {
        for (int32_t i = lane; i < p.p.used; i += warp_lanes)
            number[i] = static_cast<float>(i), weight[i] = float_of(0x7fc00000u);
        return;
    }
    scores_of_row(logits, p.experts, p.p.sigmoid, score);
    for (int32_t i = lane; i < p.experts; i += warp_lanes) rank[i] = p.bias ? score[i] + p.bias[i] : score[i];
    __syncwarp();
    if (p.p.groups_used < p.p.groups) drop_worst_groups(rank, p.experts, p.p, worth);
    float sum = 0.0f;
    for (int32_t i = 0; i < p.p.used; ++i) sum = sum + choose(rank, score, p.experts, i, 0, number, weight);
    for (int32_t i = lane; i < p.p.used; i += warp_lanes)
        weight[i] = (p.p.normalise ? weight[i] / (sum + 1e-20f) : weight[i]) * p.p.scale;
}

__global__ void head_router_kernel(head_router_launch_params p) {
    wait_for_prior_kernels();
    __shared__ float share[most_experts], score[most_experts], rank[most_experts], parts[2];
    const int lane = static_cast<int>(threadIdx.x);
    const int32_t shared = p.shared_count, active = shared + p.chosen;
    const float *const logits = p.logits + blockIdx.x * p.logits_stride,
                       *const mix = p.mix + blockIdx.x * p.mix_stride,
                       *const of_shared = p.shared ? p.shared + blockIdx.x * p.shared_stride : nullptr;
    float *const number = p.y + blockIdx.x * p.y_stride, *const weight = number + active;
    const bool finite = finite_row(logits, p.routed) && finite_row(of_shared, shared) && finite_row(mix, 2);
    if (!finite) {
        for (int32_t i = lane; i < active; i += warp_lanes)
            number[i] = static_cast<float>(i), weight[i] = float_of(0x7fc00000u);
        return;
    }
    softmax_of_row(mix, 2, parts);
    if (shared) softmax_of_row(of_shared, shared, share);
    for (int32_t i = lane; i < shared; i += warp_lanes)
        number[i] = static_cast<float>(i),
        weight[i] = (static_cast<float>(shared) * share[i]) * (2.0f * parts[0]);
    softmax_of_row(logits, p.routed, score);
    for (int32_t i = lane; i < p.routed; i += warp_lanes) rank[i] = score[i];
    __syncwarp();
    float sum = 0.0f;
    for (int32_t i = shared; i < active; ++i)
        sum = sum + choose(rank, score, p.routed, i, shared, number, weight);
    for (int32_t i = shared + lane; i < active; i += warp_lanes)
        weight[i] = ((static_cast<float>(p.chosen) * weight[i]) / sum) * (2.0f * parts[1]);
}

}  // namespace

int launch_router(const router_launch_params &p, stream s) {
    if (p.n == 0) return 0;
    return DS_LAUNCH(router_kernel, dim3(static_cast<unsigned>(p.n)), dim3(warp_lanes), 0, s, p);
}
int launch_head_router(const head_router_launch_params &p, stream s) {
    if (p.n == 0) return 0;
    return DS_LAUNCH(head_router_kernel, dim3(static_cast<unsigned>(p.n)), dim3(warp_lanes), 0, s, p);
}

}  // namespace ds::cuda
