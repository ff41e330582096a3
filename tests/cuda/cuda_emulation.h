// Runs CUDA kernels on the host to test their arithmetic, indices and barriers without a GPU: an ordinary
// compiler compiles the kernels' sources after this file. A block's threads are fibers on one thread of the
// machine. Each runs until it waits for others, and a warp as far as it can before the next one. Blocks run
// one after the other.
// What it checks: shared memory starts as garbage, and vectors must be aligned. Threads run in rising order,
// copies happen as late as the waits allow, and products of wgmma immediately; or, `backwards`, in falling
// order with copies immediately and products late. A missing barrier or wait shows in one of the two.
// Instructions follow the PTX ISA lane by lane. Every thread must call wait_for_prior_kernels (device.cuh),
// but what it does before is not checked. Neither are speed and, for the most part, memory order.
#pragma once

#include "../support/sanitizers.h"

#define DS_CUDA_EMULATION
#if defined(__x86_64__) && !defined(DS_ADDRESS_SANITIZER) && !defined(DS_THREAD_SANITIZER)
#define DS_CUDA_EMULATED 1  // elsewhere it compiles, but nothing runs
#else
#define DS_CUDA_EMULATED 0
#endif

#include "../../tensor/formats.h"
#include "../../tensor/numerics.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__
#define DS_UNROLL
#define DS_SHARED(name) char *const name = ds::emulation::shared_memory()

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace ds::emulation {

#if DS_CUDA_EMULATED
extern "C" void ds_emulation_switch(void **save, void *to);
asm(R"(
.text
.weak ds_emulation_switch
.type ds_emulation_switch, @function
ds_emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size ds_emulation_switch, .-ds_emulation_switch
)");
#else
inline void ds_emulation_switch(void **, void *) { std::abort(); }
#endif

inline bool backwards = false;

constexpr size_t stack_bytes = 64 << 10;
struct copy {
    void *to;
    const void *from;
    bool there;
    void make() const {
        if (there) std::memcpy(to, from, 16);
        else std::memset(to, 0, 16);
    }
};
struct fiber {
    void *sp = nullptr;
    std::vector<char> stack;
    dim3 index;
    enum { runs, in_block, in_warp, ended } state = ended;
    uint32_t mask = 0;                      // the lanes that it waits for
    bool waited = false;                    // whether it has called wait_for_prior_kernels
    unsigned exchanges = 0;                 // with its warp; counts modulo 2 select a buffer
    std::vector<std::vector<copy>> copies;  // closed groups, then the open one
    std::vector<std::vector<std::function<void()>>> products;  // the same for wgmma
};
struct machine {
    std::vector<fiber> fibers;
    std::vector<char> shared;
    std::vector<std::vector<char>> slots;  // [warps * 2]: what lanes exchange
    std::function<void()> body;
    void *sp = nullptr;
    fiber *now = nullptr;
    unsigned warps = 0;
};
inline machine &the_machine() {
    static machine m;
    return m;
}
inline char *shared_memory() {
    const auto p = reinterpret_cast<uintptr_t>(the_machine().shared.data());
    return reinterpret_cast<char *>((p + 1023) / 1024 * 1024);
}
inline size_t thread_number() { return static_cast<size_t>(the_machine().now - the_machine().fibers.data()); }

inline void wait() { ds_emulation_switch(&the_machine().now->sp, the_machine().sp); }
inline void enter() {
    the_machine().body();
    if (!the_machine().now->waited)
        std::fprintf(stderr, "kernel: a thread has not waited for prior kernels\n"), std::abort();
    the_machine().now->state = fiber::ended;
    wait();
    std::abort();
}
inline void resume(fiber &f) {
    machine &m = the_machine();
    m.now = &f;
    threadIdx = f.index;
    ds_emulation_switch(&m.sp, f.sp);
}
inline void start(fiber &f) {
    f.stack.resize(stack_bytes);
    auto *top =
        reinterpret_cast<void **>((reinterpret_cast<uintptr_t>(f.stack.data()) + stack_bytes) / 64 * 64);
    *--top = nullptr;  // the stack as after a call
    *--top = reinterpret_cast<void *>(&enter);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    f.sp = top;
    f.state = fiber::runs;
    f.exchanges = 0;
    f.waited = false;
    f.copies.assign(1, {});
    f.products.assign(1, {});
}

// A warp continues when all lanes that one of its lanes waits for have arrived.
inline bool release_warp(unsigned w) {
    machine &m = the_machine();
    uint32_t come = 0, wanted = 0;
    for (unsigned l = 0; l < 32 && w * 32 + l < m.fibers.size(); ++l) {
        const fiber &f = m.fibers[w * 32 + l];
        if (f.state == fiber::in_warp) come |= 1u << l, wanted |= f.mask;
    }
    if (!come || (wanted & ~come)) return false;
    for (unsigned l = 0; l < 32; ++l)
        if (come >> l & 1) m.fibers[w * 32 + l].state = fiber::runs;
    return true;
}
// Runs a warp as far as it gets without other warps, so that warps are as far apart as barriers allow.
inline void run_warp(unsigned w) {
    machine &m = the_machine();
    const unsigned lanes = static_cast<unsigned>(std::min<size_t>(32, m.fibers.size() - w * 32));
    do {
        for (unsigned l = 0; l < lanes; ++l) {
            fiber &f = m.fibers[w * 32 + (backwards ? lanes - 1 - l : l)];
            if (f.state == fiber::runs) resume(f);
        }
    } while (release_warp(w));
}
// A block continues when all threads that have not ended have arrived.
inline bool release_block() {
    machine &m = the_machine();
    size_t waiting = 0, ended = 0;
    for (const fiber &f : m.fibers) waiting += f.state == fiber::in_block, ended += f.state == fiber::ended;
    if (!waiting || waiting + ended < m.fibers.size()) return false;
    for (fiber &f : m.fibers)
        if (f.state == fiber::in_block) f.state = fiber::runs;
    return true;
}

inline void run_block() {
    machine &m = the_machine();
    std::memset(m.shared.data(), 0xa5, m.shared.size());
    for (size_t i = 0; i < m.fibers.size(); ++i) {
        m.fibers[i].index =
            dim3(static_cast<unsigned>(i) % blockDim.x, static_cast<unsigned>(i) / blockDim.x % blockDim.y,
                 static_cast<unsigned>(i) / blockDim.x / blockDim.y);
        start(m.fibers[i]);
    }
    do
        for (unsigned w = 0; w < m.warps; ++w) run_warp(backwards ? m.warps - 1 - w : w);
    while (release_block());
    for (const fiber &f : m.fibers)
        if (f.state != fiber::ended)
            throw std::runtime_error("kernel: threads wait for others that will not come");
}

inline void launch(dim3 grid, dim3 block, size_t bytes, std::function<void()> body) {
    machine &m = the_machine();
    gridDim = grid, blockDim = block;
    m.fibers.resize(size_t{block.x} * block.y * block.z);
    m.warps = static_cast<unsigned>((m.fibers.size() + 31) / 32);
    m.slots.assign(2 * m.warps, std::vector<char>(32 * 64));
    m.shared.assign(bytes + 2048, 0);
    m.body = std::move(body);
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block();
}

// Exchanges `mine`, up to 64 bytes, with the warp's other lanes. Returns theirs, [32] of T, valid until the
// lane's next exchange but one.
template <class T> const char *show(const T &mine, uint32_t mask) {
    static_assert(sizeof(T) <= 64);
    machine &m = the_machine();
    const size_t thread = thread_number();
    char *slot = m.slots[thread / 32 * 2 + (m.now->exchanges++ & 1)].data();
    std::memcpy(slot + thread % 32 * 64, &mine, sizeof mine);
    m.now->mask = mask;
    m.now->state = fiber::in_warp;
    wait();
    return slot;
}
template <class T> T shown(const char *slot, unsigned lane) {
    T t;
    std::memcpy(&t, slot + lane * 64, sizeof t);
    return t;
}
inline unsigned lane() { return static_cast<unsigned>(thread_number() % 32); }
inline void want(bool ok, const char *what) {
    if (!ok) std::fprintf(stderr, "kernel: %s\n", what), std::abort();
}
inline bool aligned(const void *p, size_t n) { return reinterpret_cast<uintptr_t>(p) % n == 0; }

}  // namespace ds::emulation

#define DS_LAUNCH(kernel, grid, block, bytes, stream, ...)                                                   \
    (ds::emulation::launch(dim3(grid), dim3(block), bytes, [=] { kernel(__VA_ARGS__); }),                    \
     static_cast<void>(stream), 0)

inline void __syncthreads() {
    ds::emulation::the_machine().now->state = ds::emulation::fiber::in_block;
    ds::emulation::wait();
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) { ds::emulation::show(0, mask); }
template <class T> T __shfl_sync(uint32_t mask, T x, int lane, int width = 32) {
    const char *all = ds::emulation::show(x, mask);
    const int me = static_cast<int>(ds::emulation::lane());
    return ds::emulation::shown<T>(all, static_cast<unsigned>(me / width * width + lane % width));
}
template <class T> T __shfl_xor_sync(uint32_t mask, T x, int other) {
    const char *all = ds::emulation::show(x, mask);
    return ds::emulation::shown<T>(all, ds::emulation::lane() ^ static_cast<unsigned>(other));
}
template <class T> T __shfl_down_sync(uint32_t mask, T x, int by) {
    const char *all = ds::emulation::show(x, mask);
    const unsigned from = ds::emulation::lane() + static_cast<unsigned>(by);
    return from < 32 ? ds::emulation::shown<T>(all, from) : x;
}
template <class T> T __shfl_up_sync(uint32_t mask, T x, int by) {
    const char *all = ds::emulation::show(x, mask);
    const unsigned me = ds::emulation::lane();
    return me >= static_cast<unsigned>(by) ? ds::emulation::shown<T>(all, me - static_cast<unsigned>(by)) : x;
}
inline uint32_t __ballot_sync(uint32_t mask, bool x) {
    const char *all = ds::emulation::show(x, mask);
    uint32_t bits = 0;
    for (unsigned l = 0; l < 32; ++l)
        if (mask >> l & 1 && ds::emulation::shown<bool>(all, l)) bits |= 1u << l;
    return bits;
}
struct cudaFuncAttributes {
    int numRegs;
};
inline int cudaFuncGetAttributes(cudaFuncAttributes *a, const void *) { return a->numRegs = 200, 0; }
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 0;
inline int cudaFuncSetAttribute(const void *, int, int) { return 0; }
inline int cudaMemsetAsync(void *p, int value, size_t bytes, void *) {
    return std::memset(p, value, bytes), 0;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned select) {
    const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
    unsigned z = 0;
    for (int i = 0; i < 4; ++i) z |= static_cast<unsigned>(both >> (select >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return z;
}
template <class T> T atomicAdd(T *p, T x) {
    const T old = *p;
    *p = old + x;
    return old;
}
template <class T> T atomicMax(T *p, T x) {
    const T old = *p;
    *p = x > old ? x : old;
    return old;
}
template <class T> T __ldg(const T *p) { return *p; }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    return c;
}

namespace ds::cuda {

inline void wait_for_prior_kernels() { emulation::the_machine().now->waited = true; }

inline float half_value(uint16_t h) { return f16_to_f32(h); }
inline uint16_t half_of(float f) { return f32_to_f16(f); }
inline uint4 load_once(const void *p) {
    emulation::want(emulation::aligned(p, 16), "a load of 16 bytes that are not aligned");
    uint4 v;
    std::memcpy(&v, p, 16);
    return v;
}
inline uint4 load_16(const void *p) { return load_once(p); }
inline void copy_async(void *to, const void *from, bool there) {
    emulation::want(emulation::aligned(to, 16) && (!there || emulation::aligned(from, 16)),
                    "an asynchronous copy of 16 bytes that are not aligned");
    const emulation::copy one = {to, from, there};
    if (emulation::backwards) one.make();
    else emulation::the_machine().now->copies.back().push_back(one);
}
inline void close_copies() { emulation::the_machine().now->copies.push_back({}); }
template <int groups> void wait_copies() {
    auto &c = emulation::the_machine().now->copies;
    while (c.size() > static_cast<size_t>(groups) + 1) {
        for (const emulation::copy &one : c.front()) one.make();
        c.erase(c.begin());
    }
}

inline void load_matrices(uint32_t (&r)[4], const void *row) {
    emulation::want(emulation::aligned(row, 16), "ldmatrix of a row that is not aligned");
    const char *all = emulation::show(row, 0xffffffffu);
    const unsigned l = emulation::lane();
    for (unsigned i = 0; i < 4; ++i)
        std::memcpy(&r[i], emulation::shown<const char *>(all, 8 * i + l / 4) + 4 * (l % 4), 4);
}

namespace emulated {
struct fragments {
    uint32_t a[4], b[2];
};
inline int8_t byte_of(uint32_t word, unsigned i) { return static_cast<int8_t>(word >> 8 * i); }
// Element (row, k) of a, and (column, k) of b, from the lane that holds it according to the ISA.
inline int8_t a_at(const char *all, unsigned row, unsigned k) {
    const auto f = emulation::shown<fragments>(all, row % 8 * 4 + k % 16 / 4);
    return byte_of(f.a[row / 8 + k / 16 * 2], k % 4);
}
inline int8_t b_at(const char *all, unsigned column, unsigned k) {
    const auto f = emulation::shown<fragments>(all, column * 4 + k % 16 / 4);
    return byte_of(f.b[k / 16], k % 4);
}
inline void multiply(int32_t (&c)[4], const fragments &mine) {
    const char *all = emulation::show(mine, 0xffffffffu);
    const unsigned l = emulation::lane();
    for (unsigned i = 0; i < 4; ++i)
        for (unsigned k = 0; k < 32; ++k)
            c[i] = static_cast<int32_t>(
                static_cast<uint32_t>(c[i]) +
                static_cast<uint32_t>(a_at(all, l / 4 + i / 2 * 8, k) * b_at(all, l % 4 * 2 + i % 2, k)));
}
}  // namespace emulated

inline void multiply_i8(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                        uint32_t b1) {
    emulated::multiply(c, {{a0, a1, a2, a3}, {b0, b1}});
}

// Products of a warpgroup. A matrix is described by its offset in shared memory. Its rows of 128 bytes are
// read as the instruction does: bits 7 to 9 of an address are XORed into bits 4 to 6.
inline uint64_t describe(const void *p) {
    emulation::want(emulation::aligned(p, 1024), "a matrix for wgmma that is not at a multiple of 1,024");
    return static_cast<uint64_t>(static_cast<const char *>(p) - emulation::shared_memory()) >> 4;
}
inline int8_t described(uint64_t matrix, unsigned row, unsigned k) {
    const uint64_t at = (matrix << 4) + row / 8 * 1024 + row % 8 * 128 + k;
    return static_cast<int8_t>(emulation::shared_memory()[at ^ (at >> 7 & 7) << 4]);
}
inline void show_written() {}
template <int n> void settle(int32_t (&)[n]) {}
inline void open_products() {}
template <int n> void multiply_async(int32_t (&d)[n / 2], uint64_t a, uint64_t b) {
    const unsigned t = static_cast<unsigned>(emulation::thread_number() % 128);
    const std::function<void()> one = [&d, a, b, t] {
        for (unsigned i = 0; i < n / 2; ++i)
            for (unsigned k = 0; k < 32; ++k)
                d[i] += described(a, 16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2), k) *
                        described(b, 8 * (i / 4) + 2 * (t % 4) + i % 2, k);
    };
    if (!emulation::backwards) one();
    else emulation::the_machine().now->products.back().push_back(one);
}
inline void close_products() { emulation::the_machine().now->products.push_back({}); }
template <int groups> void wait_products() {
    auto &p = emulation::the_machine().now->products;
    while (p.size() > static_cast<size_t>(groups) + 1) {
        for (const auto &one : p.front()) one();
        p.erase(p.begin());
    }
}

}  // namespace ds::cuda
