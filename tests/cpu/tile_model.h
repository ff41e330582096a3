// The AMX kernels on machines without AMX: the same source (ggml-cpu/isa/amx.inl) over a model of the tile
// registers. The model follows Intel's manual for each instruction (volume 2A, LDTILECFG and the other tile
// instructions, palette 1) and records a fault where the processor would raise one.
#pragma once

#include "../../ggml-cpu/isa/isa.h"

#include <string>
#ifdef DS_X86_KERNELS

namespace tile_model {

// A thread's tile registers.
struct machine {
    struct {
        int bytes, rows;
    } shape[8] = {};  // bytes a row; 0: the tile is not configured
    uint8_t data[8][16][64] = {};
    bool configured = false;
    long configurations = 0, releases = 0, products = 0;
    std::string fault;  // the first one
    void require(bool good, const char *what);
    bool usable(int t);
    void clear(int t, int from_row);
};
extern thread_local machine state;

struct tiles {
    static void configure(const void *shapes);
    static void release();
    template <int t> static void zero() { zero_of(t); }
    template <int t> static void load(const void *p, size_t stride) { load_of(t, p, stride); }
    template <int t> static void stream(const void *p, size_t stride) { load_of(t, p, stride); }
    template <int t> static void store(void *p, size_t stride) { store_of(t, p, stride); }
    template <int sums, int a, int b> static void product() {
        static_assert(sums != a && sums != b && a != b, "TDPBSSD takes three tiles");
        product_of(sums, a, b);
    }

private:
    static void zero_of(int t);
    static void load_of(int t, const void *p, size_t stride);
    static void store_of(int t, void *p, size_t stride);
    static void product_of(int sums, int a, int b);
};

}  // namespace tile_model

namespace ds::test {

// As instruction sets for a backend (cpu_options::kernels). On AVX2 VPDPBUSD is a model as well; where the
// machine has avx512_vnni, all but the tiles is the processor's.
extern const isa amx_on_avx2, amx_on_avx512;

}  // namespace ds::test
#endif
