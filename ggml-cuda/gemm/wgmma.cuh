// Hopper's matrix instructions for a warpgroup (128 threads): d[64, n] += a[64, 32] b[n, 32]^T on int8, with
// a and b in shared memory, asynchronous until waited for (PTX ISA, "asynchronous warpgroup level matrix
// instructions"). tests/cuda/cuda_emulation.h defines the same for the host.
// Element i of d in thread t of the group is row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) +
// 2 (t % 4) + i % 2.
#pragma once

#include "../device.cuh"

#ifdef __CUDACC__  // compiled only where __CUDA_ARCH_FEAT_SM90_ALL is defined

namespace ds::cuda {

// The descriptor of rows of 128 bytes in groups of eight (1,024 bytes), with the 128-byte swizzle:
// swizzled(row, part, 8).
__device__ __forceinline__ uint64_t describe(const void *p) {
    return static_cast<uint64_t>((shared_address(p) & 0x3ffffu) >> 4) | uint64_t{1} << 16 |
           uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

// Makes what threads wrote to shared memory visible to the instructions, once a barrier has followed.
__device__ __forceinline__ void show_written() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void open_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void close_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int groups> __device__ __forceinline__ void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}

// Keeps the compiler from reading sums before the wait above this.
template <int n> __device__ __forceinline__ void settle(int32_t (&d)[n]) {
    DS_UNROLL
    for (int i = 0; i < n; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

#define DS_R4(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define DS_R16(i) DS_R4(i), DS_R4(i + 4), DS_R4(i + 8), DS_R4(i + 12)

template <int n> __device__ void multiply_async(int32_t (&d)[n / 2], uint64_t a, uint64_t b);
template <> __device__ __forceinline__ void multiply_async<128>(int32_t (&d)[64], uint64_t a, uint64_t b) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\nwgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
                 "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, "
                 "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, "
                 "%58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p;\n}"
                 : DS_R16(0), DS_R16(16), DS_R16(32), DS_R16(48)
                 : "l"(a), "l"(b));
}
template <> __device__ __forceinline__ void multiply_async<256>(int32_t (&d)[128], uint64_t a, uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\nwgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, "
        "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "
        "%50, %51, %52, %53, %54, %55, %56, %57, "
        "%58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "
        "%78, %79, %80, %81, %82, %83, %84, %85, "
        "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "
        "%105, %106, %107, %108, %109, %110, "
        "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, p;\n}"
        : DS_R16(0), DS_R16(16), DS_R16(32), DS_R16(48), DS_R16(64), DS_R16(80), DS_R16(96), DS_R16(112)
        : "l"(a), "l"(b));
}

#undef DS_R16
#undef DS_R4

}  // namespace ds::cuda

#endif
