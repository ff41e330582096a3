// What kernels are written with: a launch, shared memory, and the few instructions that C++ has no name for.
// An ordinary C++ compiler accepts the same kernels after tests/cuda/cuda_emulation.h, which defines all of
// this for the host.
#pragma once

#include "swizzle.h"

#include "../tensor/formats.h"
#include "../tensor/numerics.h"

#ifdef __CUDACC__

#include "launch.h"

#include <cuda_runtime.h>
#include <type_traits>

// Evaluates to the launch's cudaError_t.
#define DS_LAUNCH(kernel, grid, block, bytes, stream, ...)                                                   \
    ds::cuda::start(kernel, grid, block, bytes, stream, __VA_ARGS__)
// A block's dynamic shared memory.
#define DS_SHARED(name) extern __shared__ __align__(1024) char name[]
#define DS_UNROLL _Pragma("unroll")

namespace ds::cuda {

template <class P> int start(void (*kernel)(P), dim3 grid, dim3 block, size_t bytes, stream s,
                             const std::type_identity_t<P> &params) {
    cudaLaunchAttribute early{};  // programmatic dependent launch, CUDA Programming Guide
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c{};
    c.gridDim = grid, c.blockDim = block, c.dynamicSmemBytes = bytes, c.stream = s.handle;
    c.attrs = &early, c.numAttrs = s.overlaps ? 1 : 0;
    return static_cast<int>(cudaLaunchKernelEx(&c, kernel, params));
}

// Every thread of every kernel calls this before it reads anything but its parameters and weights, or writes
// anything. It returns when all kernels queued before have finished and their results are visible. The next
// kernel may then start and run up to its own call.
__device__ __forceinline__ void wait_for_prior_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// The exact value of an f16.
__device__ __forceinline__ float half_value(uint16_t h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

// The nearest f16, ties to even.
__device__ __forceinline__ uint16_t half_of(float f) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// Sixteen bytes of weights, which are read once, bypassing the L1 cache.
__device__ __forceinline__ uint4 load_once(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// Sixteen bytes that an earlier kernel wrote. Not by the read-only path: that kernel may still have been
// running when this one started.
__device__ __forceinline__ uint4 load_16(const void *p) { return *static_cast<const uint4 *>(p); }

// Copies sixteen bytes to shared memory, or zeros if not `there`; complete after wait_copies.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool there) {
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all but the last `groups` closed groups are complete.
template <int groups> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// Four 8 x 8 matrices of 16 bits, that is of 8 rows of 16 bytes: lane l gives the address of row l % 8 of
// matrix l / 8, and gets bytes 4 (l % 4) … + 3 of row l / 4 of each matrix.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c[16, 8] += a[16, 32] b[8, 32]^T on int8 (PTX ISA, mma.m16n8k32). With g = lane / 4 and t = lane % 4, a
// lane holds
//   a: bytes 4t … of rows g and g + 8, then bytes 16 + 4t … of the same;
//   b: bytes 4t … of row g, then 16 + 4t …;
//   c: columns 2t and 2t + 1 of row g, then of row g + 8.
__device__ __forceinline__ void multiply_i8(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                            uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
                 "%9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

}  // namespace ds::cuda

#elif !defined(DS_CUDA_EMULATION)
#error "kernels are compiled by nvcc, or for a test after tests/cuda/cuda_emulation.h"
#endif

namespace ds::cuda {

constexpr int warp_lanes = 32;
constexpr uint32_t all_lanes = 0xffffffffu;

}  // namespace ds::cuda
