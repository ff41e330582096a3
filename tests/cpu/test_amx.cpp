// The AMX kernels, by the models of tile_model.h and, where there is AMX, on it. The kernels' bytes are
// compared with exact sums and with the scalar kernels. Every array has exactly its size and the model copies
// the bytes that an instruction reads, so sanitizers detect any access beyond.
#include "../tensor/op_cases.h"
#include "tile_model.h"
#include "../support/skip.h"

#include "../../ggml-cpu/cpu.h"
#include "../../tensor/numerics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <doctest/doctest.h>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>
#ifdef DS_X86_KERNELS

using namespace ds;
using tile_model::machine;
using tile_model::state;
using tile_model::tiles;

namespace {

// The kernels that this machine can run.
std::vector<const isa *> amx_kernels() {
    std::vector<const isa *> all;
    for (const isa *i : {&ds::test::amx_on_avx2, &ds::test::amx_on_avx512, &isa_amx})
        if (i->available()) all.push_back(i);
    if (all.empty()) ds::test::skip("the models of AMX need avx2");
    return all;
}

// An allocation of exactly n elements.
template <class T> std::unique_ptr<T[]> exactly(size_t n) { return std::unique_ptr<T[]>(new T[n]()); }

// The models count products, and see faults that stop a process on hardware.
bool counted(const i8_kernels &kernels) { return &kernels != isa_amx.i8; }

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

// Rows of weights with their scales.
struct weight_rows {
    size_t k, count, stride;
    std::unique_ptr<char[]> w;
    std::unique_ptr<float[]> scale;

    weight_rows(std::mt19937 &engine, size_t depth, size_t rows, size_t apart, numbers kind)
        : k(depth), count(rows), stride(k + apart), w(exactly<char>((count - 1) * stride + k)),
          scale(exactly<float>(count)) {
        for (size_t j = 0; j < count; ++j) {
            const char pattern[] = {-128, 127, static_cast<char>(j % 2 ? -127 : 0), 1};
            for (size_t i = 0; i < k; ++i)
                w[j * stride + i] = kind == numbers::extreme ? pattern[(j + i * (j / 4 % 2)) % 4]
                                                             : static_cast<char>(engine());
            scale[j] = static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-31f;
        }
    }
};

// A product of some shape; `gated`: silu of one times another.
struct matmul_case {
    const i8_kernels &kernels;
    size_t k, weights, rows, y_stride, row_bytes = i8_row_bytes(1, k, 1);
    bool gated;
    std::vector<weight_rows> w;  // one, or gate and up
    std::unique_ptr<char[]> x, scalar_x;
    std::unique_ptr<float[]> bias, y;

    struct shape {
        size_t k, weights, rows, apart = 0;
        bool bias = false, gated = false;
        numbers kind = numbers::plain;
    };
    matmul_case(const i8_kernels &of, const shape &s)
        : kernels(of), k(s.k), weights(s.weights), rows(s.rows), y_stride(weights + s.apart), gated(s.gated),
          x(exactly<char>((rows + of.group_rows - 1) / of.group_rows * of.group_rows * row_bytes)),
          scalar_x(exactly<char>(rows * row_bytes)), bias(s.bias ? exactly<float>(weights) : nullptr),
          y(exactly<float>((rows - 1) * y_stride + weights)) {
        std::mt19937 engine(static_cast<uint32_t>(k * 31 + weights * 7 + rows));
        const auto number = [&] { return static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-31f; };
        for (int i = 0; i < (gated ? 2 : 1); ++i) w.emplace_back(engine, k, weights, s.apart, s.kind);
        for (size_t j = 0; bias && j < weights; ++j) bias[j] = number();
        const auto row = exactly<float>(k);
        const auto group = exactly<char>(of.group_rows * row_bytes);
        for (size_t r = 0; r < rows; ++r) {
            const float extreme[] = {r % 3 == 1 ? -254.0f : 254.0f, r % 3 == 0 ? 254.0f : -254.0f};
            for (size_t i = 0; i < k; ++i) row[i] = s.kind == numbers::extreme ? extreme[i % 2] : number();
            using limits = std::numeric_limits<float>;
            if (s.kind == numbers::wild && r % 3 > 0)
                row[r * 5 % k] = r % 3 == 1 ? limits::infinity() : limits::quiet_NaN();
            const size_t at = r % of.group_rows;
            of.quantize(row.get(), &group[at * row_bytes], k);
            isa_scalar.i8->quantize(row.get(), &scalar_x[r * row_bytes], k);
            if (at + 1 < of.group_rows && r + 1 < rows) continue;
            std::vector<const char *> from;
            for (size_t i = 0; i <= at; ++i) from.push_back(&group[i * row_bytes]);
            of.pack(from.data(), at + 1, k, &x[(r - at) * row_bytes]);
        }
    }
    // As an operation calls a kernel: at most one tile's rows of weights a call.
    i8_args part(const weight_rows &of, size_t w0, size_t count, const char *from, float *to) const {
        return {.w = &of.w[w0 * of.stride],
                .w_stride = of.stride,
                .w_scale = &of.scale[w0],
                .x = from,
                .x_stride = row_bytes,
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
            const size_t n = std::min(kernels.tile_weights, weights - w0);
            products += watched([&] {
                const i8_args a = part(w[0], w0, n, x.get(), y.get());
                if (gated) kernels.gated(a, part(w[1], w0, n, x.get(), nullptr), unary::silu, scratch.get());
                else kernels.tile(a, scratch.get());
            });
        }
        return products;
    }
    // What numerics.h defines for the exact sum. An int32 is wide enough for it.
    float exact(const weight_rows &of, size_t r, size_t j) const {
        const char *const q = &scalar_x[r * row_bytes];
        float x_scale;
        memcpy(&x_scale, q, sizeof x_scale);
        int64_t sum = 0;
        for (size_t i = 0; i < k; ++i)
            sum += static_cast<int8_t>(of.w[j * of.stride + i]) * static_cast<int8_t>(q[64 + i]);
        REQUIRE(sum == static_cast<int32_t>(sum));
        const float product = (static_cast<float>(sum) * of.scale[j]) * x_scale;
        return bias ? product + bias[j] : product;
    }
    // How many results differ from that, and from the scalar kernels'. All NaNs count as equal.
    size_t wrong() const {
        const size_t size = (rows - 1) * y_stride + weights;
        std::vector<float> wanted(size), up(size);
        isa_scalar.i8->rows(part(w[0], 0, weights, scalar_x.get(), wanted.data()));
        if (gated) {
            isa_scalar.i8->rows(part(w[1], 0, weights, scalar_x.get(), up.data()));
            for (size_t r = 0; r < rows; ++r)
                isa_scalar.floats->gated(unary::silu, &wanted[r * y_stride], &up[r * y_stride],
                                         &wanted[r * y_stride], weights);
        }
        size_t n = 0;
        for (size_t r = 0; r < rows; ++r)
            for (size_t j = 0; j < weights; ++j) {
                float formula = exact(w[0], r, j);
                if (gated) formula = formula * sigmoid_f32(formula) * exact(w[1], r, j);
                for (float other : {formula, wanted[r * y_stride + j]}) {
                    const float got = y[r * y_stride + j];
                    n += memcmp(&got, &other, sizeof got) != 0 && (got == got || other == other);
                }
            }
        return n;
    }
};

void check_matmul(const matmul_case::shape &s) {
    for (const isa *amx : amx_kernels()) {
        matmul_case c(*amx->i8, s);
        const long products = c.run();
        CAPTURE(s.k);
        CAPTURE(s.weights);
        CAPTURE(s.rows);
        CAPTURE(s.gated);
        CHECK(c.wrong() == 0);
        // no product with padding only
        const size_t tiles_of = (s.gated ? 2 : 1) * ((s.weights + 15) / 16);
        if (counted(c.kernels))
            CHECK(products == static_cast<long>((s.k + 63) / 64 * tiles_of * ((s.rows + 15) / 16)));
        for (size_t r = 0; s.apart > 0 && r + 1 < s.rows; ++r) CHECK(c.y[r * c.y_stride + s.weights] == 0.0f);
    }
}

}  // namespace

TEST_CASE("amx: products of every length and number of rows and weights") {
    for (size_t k = 1; k <= 200; ++k)
        check_matmul({k, 1 + k * 13 % 70, 1 + k * 7 % 70, 0, k % 3 == 1, k % 3 == 0});
    for (size_t rows = 1; rows <= 70; ++rows)
        check_matmul({rows % 3 ? 64u : 65u, 1 + rows * 3 % 35, rows, rows % 4, rows % 4 == 1, rows % 4 == 2});
    for (size_t weights = 1; weights <= 70; ++weights)
        check_matmul({weights % 3 ? 130u : 128u, weights, 1 + weights * 5 % 40, weights % 3, weights % 4 == 1,
                      weights % 4 == 2});
    check_matmul({1536, 64, 33, 0, true});
    check_matmul({8960, 33, 17});
    check_matmul({8961, 33, 17, 0, true});
    check_matmul({8961, 17, 33, 0, false, true});
}

TEST_CASE("amx: several panels of weights and of rows") {
    check_matmul({70, 300, 530, 1, true});
    check_matmul({70, 150, 530, 0, false, true});
    check_matmul({1700, 40, 530, 0, true});  // in two chunks
    check_matmul({1601, 20, 515, 3, false, true});
    check_matmul({3100, 290, 33, 0, true});
    check_matmul({3100, 150, 20, 0, false, true});
}

TEST_CASE("amx: rows of weights whose distance clashes in the cache") {
    for (const size_t k : {2048, 2000, 1000, 64})
        for (const bool gated : {false, true}) {
            check_matmul({k, 37, 70, 2048 - k, false, gated});
            check_matmul({k, 37, 20, 4096 - k, false, gated});
        }
    check_matmul({8192, 20, 66});
}

TEST_CASE("amx: extreme sums") {
    check_matmul({1536, 70, 35, 0, true, false, numbers::extreme});
    check_matmul({100000, 19, 34, 3, true, false, numbers::extreme});
    check_matmul({132000, 7, 5, 0, false, false, numbers::extreme});
    check_matmul({100000, 7, 17, 0, false, true, numbers::extreme});
}

TEST_CASE("amx: activations that are not finite") {
    for (size_t k : {5, 64, 200})
        for (const bool gated : {false, true}) check_matmul({k, 40, 30, 0, !gated, gated, numbers::wild});
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

void check_attention(const i8_kernels &kernels) {
    long least_rows_by_tiles = 1000;
    for (size_t d : {1, 17, 32, 33, 64, 80, 96, 100, 128, 192, 256, 512})
        for (size_t rows = 1; rows <= 48; rows += d < 100 ? 1 : 5) {
            attend_case c(d, rows, static_cast<uint32_t>(d * 64 + rows));
            attend_case::result got = c.run(kernels), wanted = c.run(*isa_scalar.i8);
            const long seeing = std::count_if(c.seen.begin(), c.seen.end(), [](int32_t s) { return s > 0; });
            CAPTURE(d);
            CAPTURE(rows);
            if (got.products > 0) least_rows_by_tiles = std::min(least_rows_by_tiles, seeing);
            CHECK((!counted(kernels) || got.products > 0 || seeing < least_rows_by_tiles));
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
    if (counted(kernels)) CHECK(least_rows_by_tiles == 4);
}

}  // namespace

TEST_CASE("amx: attention over one page") {
    for (const isa *amx : amx_kernels()) check_attention(*amx->i8);
}

namespace {

// A product of packed weights; `wild`: with any bytes among them, such as scales that are not finite.
void check_packed(const isa &model, format f, size_t weights, size_t rows, size_t blocks, bool with_bias,
                  bool wild) {
    const packed_kernels kernels = model.packed(f), scalar = isa_scalar.packed(f);
    const size_t elements = static_cast<size_t>(info(f).block) * blocks,
                 w_stride =
                     row_bytes(f, elements) + weights % 3 * row_bytes(f, static_cast<size_t>(info(f).block)),
                 y_stride = weights + rows % 2, row = (kernels.x_bytes * blocks + 63) / 64 * 64,
                 scalar_row = scalar.x_bytes * blocks;
    std::mt19937 engine(static_cast<uint32_t>(weights * 31 + rows * 7 + blocks));
    const size_t w_bytes = row_bytes(f, elements);
    const auto w = exactly<char>((weights - 1) * w_stride + w_bytes);
    std::vector<float> values(elements), bias(weights);
    ds::test::numbers random(static_cast<uint32_t>(weights + rows * 50));
    for (size_t j = 0; j < weights; ++j) {
        const ds::test::array some = ds::test::make_array(random, f, {static_cast<int64_t>(elements)});
        memcpy(&w[j * w_stride], some.bytes.data(), w_bytes);
        for (size_t i = 0; wild && i < w_bytes; ++i)
            if (engine() % 3 == 0) w[j * w_stride + i] = static_cast<char>(engine());
        bias[j] = random.plain();
    }
    const size_t group = kernels.group_rows;
    const auto x = exactly<char>((rows + group - 1) / group * group * row),
               scalar_x = exactly<char>(rows * scalar_row), before = exactly<char>(group * row);
    for (size_t r = 0; r < rows; ++r) {
        for (float &v : values) v = static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-31f;
        if (wild && r % 5 == 1) values[r % elements] = std::numeric_limits<float>::infinity();
        if (r % 5 == 2) std::fill(values.begin(), values.end(), r % 2 ? 1.0f : -1.0f);  // the largest sums
        kernels.quantize(values.data(), &before[r % group * row], blocks);
        scalar.quantize(values.data(), &scalar_x[r * scalar_row], blocks);
        if (r % group + 1 < group && r + 1 < rows) continue;
        std::vector<const char *> from;
        for (size_t i = 0; i <= r % group; ++i) from.push_back(&before[i * row]);
        kernels.pack(from.data(), from.size(), blocks, &x[r / group * group * row]);
    }
    const auto y = exactly<float>((rows - 1) * y_stride + weights),
               wanted = exactly<float>((rows - 1) * y_stride + weights);
    const auto part = [&](size_t w0, size_t n, const char *from, size_t stride, float *to) {
        return packed_args{.w = &w[w0 * w_stride],
                           .w_stride = w_stride,
                           .x = from,
                           .x_stride = stride,
                           .y = to + w0,
                           .y_stride = y_stride,
                           .bias = with_bias ? &bias[w0] : nullptr,
                           .blocks = blocks,
                           .weights = n,
                           .rows = rows};
    };
    long products = 0;
    for (size_t w0 = 0; w0 < weights; w0 += kernels.tile_weights) {
        const auto scratch = exactly<char>(kernels.tile_bytes);
        products += watched([&] {
            kernels.tile(part(w0, std::min(kernels.tile_weights, weights - w0), x.get(), row, y.get()),
                         scratch.get());
        });
    }
    scalar.rows(part(0, weights, scalar_x.get(), scalar_row, wanted.get()));
    size_t wrong = 0;
    for (size_t i = 0; i < (rows - 1) * y_stride + weights; ++i)
        wrong += memcmp(&y[i], &wanted[i], sizeof(float)) != 0 && (y[i] == y[i] || wanted[i] == wanted[i]);
    INFO(info(f).text, " ", weights, " weights, ", rows, " rows, ", blocks, " blocks, ", model.name);
    CHECK(wrong == 0);
    if (counted(*model.i8))
        CHECK(products >= static_cast<long>((weights + 15) / 16 * ((rows + 15) / 16) * blocks));
}

}  // namespace

TEST_CASE("amx: packed formats") {
    for (const isa *amx : amx_kernels())
        for (int i = 0; i < static_cast<int>(format::count); ++i) {
            const auto f = static_cast<format>(i);
            if (!is_packed(f)) continue;
            const size_t block = static_cast<size_t>(info(f).block), part = 1024 / block;
            for (size_t n = 1; n <= 40; n += 3) {
                check_packed(*amx, f, n, 1 + n * 7 % 40, 1 + n % 3, n % 2, false);
                check_packed(*amx, f, 1 + n * 5 % 40, n, 1 + n % 2, n % 3 == 0, true);
            }
            for (const size_t blocks : {part - 1, part, part + 1, 2 * part, 2 * part + 1})
                if (blocks > 0) check_packed(*amx, f, 17, 33, blocks, true, blocks % 2);
            check_packed(*amx, f, 70, 20, 2, false, false);
            check_packed(*amx, f, 17, 520, part + 1, true, false);
        }
}

namespace {

// As LDTILECFG reads it.
struct tile_config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

}  // namespace

TEST_CASE("amx: the model of the tiles faults where the processor would") {
    const auto fault = [](const auto &f) {
        state = machine();
        f();
        return std::exchange(state, machine()).fault;  // later cases find no fault
    };
    tile_config good;
    for (int t = 0; t < 8; ++t) good.row_bytes[t] = 64, good.rows[t] = 16;
    static uint8_t memory[16 * 64];
    CHECK(fault([&] { tiles::configure(&good); }) == "");
    CHECK(fault([&] { tiles::load<0>(memory, 64); }) == "an instruction without a configuration");
    CHECK(fault([&] { tiles::configure(&good), tiles::release(), tiles::zero<0>(); }) ==
          "an instruction without a configuration");
    const auto with = [&](const auto &change) {
        tile_config c = good;
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
