// The AMX kernels on machines without AMX: the same source (ggml-cpu/isa/amx.inl) over a model of the tile
// registers. The model follows Intel's manual for each instruction (volume 2A, LDTILECFG and the other tile
// instructions, palette 1) and records a fault where the processor would raise one. The kernels' bytes are
// compared with exact sums and with the scalar kernels. Every array has exactly its size and the model copies
// the bytes that an instruction reads, so sanitizers detect any access beyond.
#include "../support/skip.h"

#include "../../ggml-cpu/cpu.h"
#include "../../ggml-cpu/isa/isa.h"
#include "../../ggml-cpu/isa/target.h"
#include "../../tensor/numerics.h"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#ifdef DS_X86_KERNELS
#include <immintrin.h>

namespace ds {
namespace amx_model {
namespace {

struct machine {
    struct {
        int bytes, rows;
    } shape[8] = {};  // bytes a row; 0: the tile is not configured
    uint8_t data[8][16][64] = {};
    bool configured = false;
    long configurations = 0, releases = 0, products = 0;
    std::string fault;  // the first one
    void require(bool good, const char *what) {
        if (!good && fault.empty()) fault = what;
    }
    bool usable(int t) {
        require(configured, "an instruction without a configuration");
        require(!configured || shape[t].rows > 0, "a tile that is not valid");
        return configured && shape[t].rows > 0;
    }
    void clear(int t, int from_row) { memset(data[t][from_row], 0, static_cast<size_t>(16 - from_row) * 64); }
} state;

bool zeros(const uint8_t *p, int begin, int end) {
    return std::all_of(p + begin, p + end, [](uint8_t b) { return b == 0; });
}

struct tiles {
    static void configure(const void *shapes) {
        uint8_t b[64];
        memcpy(b, shapes, sizeof b);
        state.require(b[0] == 1, "a palette other than 1");
        state.require(b[1] == 0, "a start row");
        state.require(zeros(b, 2, 16) && zeros(b, 32, 48) && zeros(b, 56, 64),
                      "reserved bytes of a configuration");
        for (int t = 0; t < 8; ++t) {
            const int bytes = b[16 + 2 * t] | b[17 + 2 * t] << 8, rows = b[48 + t];
            state.require(bytes <= 64 && rows <= 16 && (bytes == 0) == (rows == 0), "a tile's shape");
            if (!state.fault.empty()) return;
            state.shape[t] = {bytes, rows};
            state.clear(t, 0);
        }
        state.configured = true;
        ++state.configurations;
    }
    static void release() {
        state.configured = false;
        for (int t = 0; t < 8; ++t) {
            state.shape[t] = {};
            state.clear(t, 0);
        }
        ++state.releases;
    }
    template <int t> static void zero() {
        if (state.usable(t)) state.clear(t, 0);
    }
    template <int t> static void load(const void *p, size_t stride) {
        if (!state.usable(t)) return;
        state.clear(t, 0);
        for (int r = 0; r < state.shape[t].rows; ++r)
            memcpy(state.data[t][r], static_cast<const char *>(p) + static_cast<size_t>(r) * stride,
                   static_cast<size_t>(state.shape[t].bytes));
    }
    template <int t> static void store(void *p, size_t stride) {
        if (!state.usable(t)) return;
        for (int r = 0; r < state.shape[t].rows; ++r)
            memcpy(static_cast<char *>(p) + static_cast<size_t>(r) * stride, state.data[t][r],
                   static_cast<size_t>(state.shape[t].bytes));
    }
    template <int sums, int a, int b> static void product() {
        static_assert(sums != a && sums != b && a != b, "TDPBSSD takes three tiles");
        if (!state.usable(sums) || !state.usable(a) || !state.usable(b)) return;
        const auto &c = state.shape[sums], &x = state.shape[a], &y = state.shape[b];
        state.require(c.bytes % 4 == 0 && x.bytes % 4 == 0 && y.bytes % 4 == 0, "columns of a product");
        state.require(c.rows == x.rows && c.bytes == y.bytes && x.bytes / 4 == y.rows, "shapes of a product");
        if (!state.fault.empty()) return;
        for (int m = 0; m < c.rows; ++m)
            for (int n = 0; n < c.bytes / 4; ++n) {
                uint32_t sum;  // sums wrap
                memcpy(&sum, &state.data[sums][m][4 * n], 4);
                for (int k = 0; k < x.bytes; ++k)
                    sum += static_cast<uint32_t>(static_cast<int8_t>(state.data[a][m][k]) *
                                                 static_cast<int8_t>(state.data[b][k / 4][4 * n + k % 4]));
                memcpy(&state.data[sums][m][4 * n], &sum, 4);
            }
        state.clear(sums, c.rows);
        ++state.products;
    }
};

}  // namespace
}  // namespace amx_model
}  // namespace ds

DS_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace ds {
namespace amx_model {
namespace {
#include "../../ggml-cpu/isa/vnni_avx512.inl"
#include "../../ggml-cpu/isa/amx.inl"
}  // namespace
}  // namespace amx_model
}  // namespace ds
DS_TARGET_END

using namespace ds;
using amx_model::machine;
using amx_model::state;

namespace {

constexpr const i8_kernels &kernels = amx_model::i8_by_tiles;

bool vnni_here() {
    for (const char *name : cpu_isas())
        if (name == std::string("avx512_vnni")) return true;
    ds::test::skip("the kernels of AMX need avx512_vnni around their tiles");
    return false;
}

// An allocation of exactly n elements.
template <class T> std::unique_ptr<T[]> exactly(size_t n) { return std::unique_ptr<T[]>(new T[n]()); }

// Calls a kernel and checks that it leaves the tiles as the host configured them. Returns how many products
// it took.
template <class F> long watched(const F &kernel) {
    state = machine();
    kernel();
    CHECK(state.fault == "");
    CHECK_FALSE(state.configured);
    // one for each shape that a kernel uses, and the final release
    CHECK(state.releases == (state.configurations > 0));
    return state.products;
}

// extreme: -128 and ±127 in patterns whose sums grow with k.
enum class numbers { plain, extreme, wild };

struct matmul_case {
    size_t k, weights, rows, w_stride, y_stride;
    std::unique_ptr<char[]> w, x, scalar_x;
    std::unique_ptr<float[]> scale, bias, y, wanted;

    matmul_case(size_t depth, size_t outputs, size_t inputs, bool with_bias, numbers kind, size_t apart = 0)
        : k(depth), weights(outputs), rows(inputs), w_stride(k + apart), y_stride(weights + apart),
          w(exactly<char>((weights - 1) * w_stride + k)), x(exactly<char>(rows * i8_row_bytes(1, k, 1))),
          scalar_x(exactly<char>(rows * i8_row_bytes(1, k, 1))), scale(exactly<float>(weights)),
          bias(with_bias ? exactly<float>(weights) : nullptr),
          y(exactly<float>((rows - 1) * y_stride + weights)),
          wanted(exactly<float>((rows - 1) * y_stride + weights)) {
        std::mt19937 engine(static_cast<uint32_t>(k * 31 + weights * 7 + rows));
        const auto number = [&] { return static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-31f; };
        for (size_t j = 0; j < weights; ++j) {
            const char pattern[] = {-128, 127, static_cast<char>(j % 2 ? -127 : 0), 1};
            for (size_t i = 0; i < k; ++i)
                w[j * w_stride + i] = kind == numbers::extreme ? pattern[(j + i * (j / 4 % 2)) % 4]
                                                               : static_cast<char>(engine());
            scale[j] = number();
            if (with_bias) bias[j] = number();
        }
        const auto row = exactly<float>(k);
        for (size_t r = 0; r < rows; ++r) {
            const float extreme[] = {r % 3 == 1 ? -254.0f : 254.0f, r % 3 == 0 ? 254.0f : -254.0f};
            for (size_t i = 0; i < k; ++i) row[i] = kind == numbers::extreme ? extreme[i % 2] : number();
            using limits = std::numeric_limits<float>;
            if (kind == numbers::wild && r % 3 > 0)
                row[r * 5 % k] = r % 3 == 1 ? limits::infinity() : limits::quiet_NaN();
            kernels.quantize(row.get(), &x[r * i8_row_bytes(1, k, 1)], k);
            isa_scalar.i8->quantize(row.get(), &scalar_x[r * i8_row_bytes(1, k, 1)], k);
        }
    }
    // As matmul calls a kernel: one tile's rows of weights a call.
    i8_args part(size_t w0, size_t count, const char *from, float *to) const {
        return {.w = &w[w0 * w_stride],
                .w_stride = w_stride,
                .w_scale = &scale[w0],
                .x = from,
                .x_stride = i8_row_bytes(1, k, 1),
                .y = to + w0,
                .y_stride = y_stride,
                .bias = bias ? &bias[w0] : nullptr,
                .k = k,
                .weights = count,
                .rows = rows};
    }
    long run() {
        long products = 0;
        for (size_t w0 = 0; w0 < weights; w0 += kernels.tile_weights) {
            const auto scratch = exactly<char>(kernels.tile_bytes);
            products += watched([&] {
                kernels.tile(part(w0, std::min(kernels.tile_weights, weights - w0), x.get(), y.get()),
                             scratch.get());
            });
        }
        isa_scalar.i8->rows(part(0, weights, scalar_x.get(), wanted.get()));
        return products;
    }
    // How many results differ from the scalar kernels', or from what numerics.h defines for the exact sum.
    // All NaNs count as equal.
    size_t wrong() const {
        size_t n = 0;
        for (size_t r = 0; r < rows; ++r)
            for (size_t j = 0; j < weights; ++j) {
                const char *q = &scalar_x[r * i8_row_bytes(1, k, 1)];
                float x_scale;
                memcpy(&x_scale, q, sizeof x_scale);
                int64_t sum = 0;
                for (size_t i = 0; i < k; ++i)
                    sum += static_cast<int8_t>(w[j * w_stride + i]) * static_cast<int8_t>(q[64 + i]);
                n += sum != static_cast<int32_t>(sum);
                float exact = (static_cast<float>(sum) * scale[j]) * x_scale;
                if (bias) exact = exact + bias[j];
                for (float other : {exact, wanted[r * y_stride + j]}) {
                    const float got = y[r * y_stride + j];
                    n += memcmp(&got, &other, sizeof got) != 0 && (got == got || other == other);
                }
            }
        return n;
    }
};

void check_matmul(size_t k, size_t weights, size_t rows, bool bias, numbers kind, size_t apart = 0) {
    matmul_case c(k, weights, rows, bias, kind, apart);
    const long products = c.run();
    const size_t steps = (k + 63) / 64;
    CAPTURE(k);
    CAPTURE(weights);
    CAPTURE(rows);
    CHECK(c.wrong() == 0);
    // no product with padding only
    CHECK(products == static_cast<long>(steps * ((weights + 15) / 16) * ((rows + 15) / 16)));
    for (size_t r = 0; apart > 0 && r + 1 < rows; ++r) CHECK(c.y[r * c.y_stride + weights] == 0.0f);
}

}  // namespace

TEST_CASE("amx: products of every length and number of rows and weights") {
    if (!vnni_here()) return;
    for (size_t k = 1; k <= 200; ++k)
        check_matmul(k, 1 + k * 13 % 100, 1 + k * 7 % 70, k % 2, numbers::plain);
    for (size_t rows = 1; rows <= 70; ++rows)
        check_matmul(rows % 3 ? 64 : 65, 1 + rows * 3 % 35, rows, rows % 2, numbers::plain, rows % 4);
    for (size_t weights = 1; weights <= 100; ++weights)
        check_matmul(weights % 3 ? 130 : 128, weights, 1 + weights * 5 % 40, weights % 2, numbers::plain,
                     weights % 3);
    check_matmul(1536, 64, 33, true, numbers::plain);
    check_matmul(8960, 33, 17, false, numbers::plain);
}

TEST_CASE("amx: sums of several chunks, and extreme sums") {
    if (!vnni_here()) return;
    for (size_t k : {9216, 9217, 9280, 18432, 18433}) check_matmul(k, 21, 18, k % 2, numbers::plain, 3);
    check_matmul(1536, 70, 35, true, numbers::extreme);
    check_matmul(100000, 19, 34, true, numbers::extreme);
    check_matmul(132000, 7, 5, false, numbers::extreme);
}

TEST_CASE("amx: activations that are not finite") {
    if (!vnni_here()) return;
    for (size_t k : {5, 64, 200}) check_matmul(k, 40, 30, true, numbers::wild);
}

namespace {

// One page and some query rows, and the results of both passes by a given table of kernels.
struct attend_case {
    size_t d, rows;
    std::vector<int32_t> seen;
    std::vector<float> q, k_scale, v_scale;
    std::unique_ptr<int8_t[]> k, v;

    attend_case(size_t head_size, size_t queries, uint32_t seed)
        : d(head_size), rows(queries), k(exactly<int8_t>(64 * d)), v(exactly<int8_t>(64 * d)) {
        std::mt19937 engine(seed);
        const auto number = [&] { return static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-31f; };
        for (size_t r = 0; r < rows; ++r) seen.push_back(static_cast<int32_t>(engine() % 76) - 6);
        for (int32_t &s : seen) s = std::clamp(s, 0, 64);
        std::sort(seen.begin(), seen.end());
        for (size_t i = 0; i < rows * d; ++i) q.push_back(seed % 5 ? number() * 4.0f : i % 2 ? -3.0f : 3.0f);
        for (size_t i = 0; i < 64 * d; ++i) {
            k[i] = static_cast<int8_t>(seed % 5 ? engine() : i % 3 ? 127 : -128);
            v[i] = static_cast<int8_t>(seed % 7 ? engine() : 127);
        }
        for (int t = 0; t < 64; ++t) {
            k_scale.push_back(number() * 0.01f);
            v_scale.push_back((number() + 1.0f) * 0.01f);
        }
        if (seed % 6 == 0) k_scale[9] = std::numeric_limits<float>::quiet_NaN();
    }

    struct result {
        std::vector<float> scores, max, largest;
        std::vector<int64_t> total, denominator;
        long products = 0;
    };
    result run(const i8_kernels &kernel) const {
        const size_t row_bytes = i8_row_bytes(kernel.element, d, 2), stride = i8_total_stride(d);
        const auto queries = exactly<char>(rows * row_bytes),
                   scratch = exactly<char>(i8_scratch_bytes(kernel.element, kernel.attend_rows, d));
        for (size_t r = 0; r < rows; ++r) kernel.query(&q[r * d], 0.1f, &queries[r * row_bytes], d);
        result out = {
            std::vector<float>(rows * 64), std::vector<float>(rows, -std::numeric_limits<float>::infinity()),
            std::vector<float>(rows), std::vector<int64_t>(rows * stride), std::vector<int64_t>(rows)};
        std::vector<float> above(rows);
        std::vector<int32_t> exponent(rows);
        i8_attend_args a = {.q = queries.get(),
                            .scores = out.scores.data(),
                            .score_stride = 64,
                            .seen = seen.data(),
                            .k = k.get(),
                            .v = v.get(),
                            .k_scale = k_scale.data(),
                            .v_scale = v_scale.data(),
                            .next = nullptr,
                            .max = out.max.data(),
                            .largest = out.largest.data(),
                            .exponent = exponent.data(),
                            .total = out.total.data(),
                            .denominator = out.denominator.data(),
                            .scratch = scratch.get(),
                            .rows = rows,
                            .head_size = d};
        out.products += watched([&] { kernel.scores(a); });
        for (size_t r = 0; r < rows; ++r) {
            const bool numbers = finite_f32(out.max[r]) && finite_f32(out.largest[r]);
            exponent[r] = numbers ? exponent_above(out.largest[r]) : i8_nan;
            above[r] = std::ceil(out.max[r]);
        }
        a.max = above.data();
        out.products += watched([&] { kernel.values(a); });
        return out;
    }
};

size_t different(const std::vector<float> &a, const std::vector<float> &b) {
    size_t n = 0;
    for (size_t i = 0; i < a.size(); ++i)
        n += memcmp(&a[i], &b[i], sizeof(float)) != 0 && (a[i] == a[i] || b[i] == b[i]);
    return n;
}

}  // namespace

TEST_CASE("amx: attention over one page") {
    if (!vnni_here()) return;
    long least_rows_by_tiles = 1000;
    for (size_t d : {1, 17, 32, 33, 64, 80, 96, 100, 128, 192, 256, 512})
        for (size_t rows = 1; rows <= 48; rows += d < 100 ? 1 : 5) {
            attend_case c(d, rows, static_cast<uint32_t>(d * 64 + rows));
            attend_case::result got = c.run(kernels), wanted = c.run(*isa_scalar.i8);
            const long seeing = std::count_if(c.seen.begin(), c.seen.end(), [](int32_t s) { return s > 0; });
            CAPTURE(d);
            CAPTURE(rows);
            if (got.products > 0) least_rows_by_tiles = std::min(least_rows_by_tiles, seeing);
            CHECK((got.products > 0 || seeing < least_rows_by_tiles));
            for (size_t r = 0; r < rows; ++r)  // beyond the visible positions nothing is defined
                for (std::vector<float> *s : {&got.scores, &wanted.scores})
                    std::fill_n(s->begin() + static_cast<ptrdiff_t>(r * 64) + c.seen[r], 64 - c.seen[r],
                                0.0f);
            CHECK(different(got.scores, wanted.scores) == 0);
            // of which only the whole number above is used: a zero's sign is the kernel's own
            for (size_t r = 0; r < rows; ++r) {
                const float a = got.max[r], b = wanted.max[r];
                CHECK((a == b || (a != a && b != b)));
            }
            CHECK(different(got.largest, wanted.largest) == 0);
            CHECK(got.denominator == wanted.denominator);
            size_t wrong = 0;
            for (size_t r = 0; r < rows; ++r)
                for (size_t e = 0; e < d; ++e)
                    wrong +=
                        got.total[r * i8_total_stride(d) + e] != wanted.total[r * i8_total_stride(d) + e];
            CHECK(wrong == 0);
        }
    CHECK(least_rows_by_tiles == 4);
}

TEST_CASE("amx: the model of the tiles faults where the processor would") {
    const auto fault = [](const auto &f) {
        state = machine();
        f();
        return state.fault;
    };
    amx_model::tile_config good;
    for (int t = 0; t < 8; ++t) good.row_bytes[t] = 64, good.rows[t] = 16;
    static uint8_t memory[16 * 64];
    using amx_model::tiles;
    CHECK(fault([&] { tiles::configure(&good); }) == "");
    CHECK(fault([&] { tiles::load<0>(memory, 64); }) == "an instruction without a configuration");
    CHECK(fault([&] { tiles::configure(&good), tiles::release(), tiles::zero<0>(); }) ==
          "an instruction without a configuration");
    const auto with = [&](const auto &change) {
        amx_model::tile_config c = good;
        change(c);
        return fault([&] { tiles::configure(&c), tiles::product<0, 1, 2>(); });
    };
    CHECK(with([](auto &) {}) == "");
    CHECK(with([](auto &c) { c.palette = 2; }) == "a palette other than 1");
    CHECK(with([](auto &c) { c.reserved[3] = 1; }) == "reserved bytes of a configuration");
    CHECK(with([](auto &c) { c.rows[8] = 1; }) == "reserved bytes of a configuration");
    CHECK(with([](auto &c) { c.rows[0] = 17; }) == "a tile's shape");
    CHECK(with([](auto &c) { c.row_bytes[7] = 0; }) == "a tile's shape");
    CHECK(with([](auto &c) { c.row_bytes[2] = 0, c.rows[2] = 0; }) == "a tile that is not valid");
    CHECK(with([](auto &c) { c.rows[1] = 5; }) == "shapes of a product");
    CHECK(with([](auto &c) { c.rows[1] = c.rows[0] = 5; }) == "");
    CHECK(with([](auto &c) { c.row_bytes[1] = 60; }) == "shapes of a product");
    CHECK(with([](auto &c) { c.row_bytes[1] = 60, c.rows[2] = 15; }) == "");
    CHECK(with([](auto &c) { c.row_bytes[0] = c.row_bytes[2] = 6; }) == "columns of a product");
}

#else
TEST_CASE("amx") { ds::test::skip("this build has no kernels for vector instruction sets"); }
#endif
