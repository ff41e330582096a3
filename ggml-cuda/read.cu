// Measures how fast a device's memory can be read: every 16 bytes once, with four loads in flight per thread.
#include "device.cuh"
#include "read.h"

namespace ds::cuda {

namespace {

constexpr int read_threads = 512, in_flight = 4;

__global__ void __launch_bounds__(read_threads) read_kernel(read_params p) {
    wait_for_prior_kernels();
    const int64_t step = static_cast<int64_t>(gridDim.x) * read_threads;
    uint32_t sum = 0;
    for (int64_t at = static_cast<int64_t>(blockIdx.x) * read_threads + threadIdx.x; at < p.count;
         at += in_flight * step) {
        uint4 v[in_flight];
        DS_UNROLL
        for (int a = 0; a < in_flight; ++a)
            v[a] = at + a * step < p.count
                       ? load_once(static_cast<const char *>(p.from) + (at + a * step) * 16)
                       : make_uint4(0, 0, 0, 0);
        DS_UNROLL
        for (int a = 0; a < in_flight; ++a) sum += v[a].x + v[a].y + v[a].z + v[a].w;
    }
    for (int s = warp_lanes / 2; s > 0; s /= 2) sum += __shfl_xor_sync(all_lanes, sum, s);
    if (threadIdx.x % warp_lanes == 0) atomicAdd(p.sum, sum);
}

// Values without a pattern (the finalizer of MurmurHash3): constant memory may be read faster.
__global__ void __launch_bounds__(read_threads) fill_kernel(read_params p) {
    wait_for_prior_kernels();
    const int64_t step = static_cast<int64_t>(gridDim.x) * read_threads;
    for (int64_t at = static_cast<int64_t>(blockIdx.x) * read_threads + threadIdx.x; at < p.count * 4;
         at += step) {
        uint32_t x = static_cast<uint32_t>(at) + 1;
        x = (x ^ x >> 16) * 0x85ebca6bu;
        x = (x ^ x >> 13) * 0xc2b2ae35u;
        static_cast<uint32_t *>(p.from)[at] = x ^ x >> 16;
    }
}

}  // namespace

int launch_read(const read_params &p, stream s) {
    return DS_LAUNCH(read_kernel, dim3(static_cast<unsigned>(p.blocks)), dim3(read_threads), 0, s, p);
}
int launch_fill(const read_params &p, stream s) {
    return DS_LAUNCH(fill_kernel, dim3(static_cast<unsigned>(p.blocks)), dim3(read_threads), 0, s, p);
}

}  // namespace ds::cuda
