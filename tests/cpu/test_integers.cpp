// The limits of the integer arithmetic: sums of extreme products, keys and values written and read back, and
// attention over long sequences in which one position has most of the mass. Results are compared with float64
// or exact integers, on every instruction set.
#include "../../ggml-cpu/cpu.h"
#include "../../tensor/numerics.h"
#include "../../tensor/ops.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <random>

using namespace ds;

namespace {

struct random_numbers {
    std::mt19937 engine;
    // in [-1, 1)
    float operator()() { return static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-31f; }
    int8_t integer() { return static_cast<int8_t>(engine() % 255 - 127); }
};

void run(graph &g, const char *isa, unsigned threads) {
    cpu_options o;
    o.isa = isa;
    o.threads = threads;
    const backend_ptr b = cpu_backend(o);
    std::vector<float> work(b->fn->work_bytes(b.get(), g.nodes()[0]) / sizeof(float) + 16);
    const uintptr_t start = (reinterpret_cast<uintptr_t>(work.data()) + 63) / 64 * 64;
    REQUIRE(b->fn->run(b.get(), g, reinterpret_cast<void *>(start), nullptr));
}

// The Walsh-Hadamard transform, computed from its matrix: element (i, j) of a block is -1 when i & j has an
// odd number of bits set, else 1.
std::vector<double> hadamard_of(const float *x, size_t d) {
    const size_t block = d & (~d + 1);
    std::vector<double> y(d, 0.0);
    for (size_t i = 0; i < d; ++i)
        for (size_t j = 0; j < block; ++j)
            y[i] += (std::popcount(i % block & j) % 2 ? -1.0 : 1.0) *
                    static_cast<double>(x[i / block * block + j]);
    return y;
}

}  // namespace

TEST_CASE("i8: sums of 100,000 extreme products") {
    constexpr int64_t k = 100000, weights = 5, most_rows = 25;
    std::vector<int8_t> w(weights * k);
    std::vector<float> x(most_rows * k), y(most_rows * weights), scale = {0.5f, 1.0f, 2.0f, -3.0f, 0.125f};
    for (int64_t i = 0; i < k; ++i) {
        const int8_t column[] = {-128, 127, static_cast<int8_t>(i % 2 ? -128 : 127),
                                 static_cast<int8_t>(i % 3 ? -127 : -128), 0};
        for (int64_t j = 0; j < weights; ++j) w[static_cast<size_t>(j * k + i)] = column[j];
        for (int64_t r = 0; r < most_rows; ++r)
            x[static_cast<size_t>(r * k + i)] = (r % 3 == 0   ? 1.0f
                                                 : r % 3 == 1 ? -1.0f
                                                 : i % 2      ? 1.0f
                                                              : -1.0f) *
                                                254.0f;
    }
    for (const char *isa : cpu_isas())
        for (int64_t rows : {int64_t{1}, int64_t{7}, most_rows}) {
            CAPTURE(std::string(isa));
            CAPTURE(rows);
            graph g(8);
            tensor *xs = g.input(format::f32, {rows, k}, x.data(), ""),
                   *ws = g.input(format::i8, {weights, k}, w.data(), "");
            ws->scale = g.input(format::f32, {weights}, scale.data(), "");
            matmul(g, xs, ws, nullptr)->data = y.data();
            run(g, isa, 2);
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t j = 0; j < weights; ++j) {
                    int64_t sum = 0;  // activations of ±254 become ±127 with scale 2
                    for (int64_t i = 0; i < k; ++i)
                        sum += w[static_cast<size_t>(j * k + i)] *
                               static_cast<int64_t>(x[static_cast<size_t>(r * k + i)]) / 2;
                    REQUIRE(std::abs(sum) <= std::numeric_limits<int32_t>::max());
                    CHECK(y[static_cast<size_t>(r * weights + j)] ==
                          static_cast<float>(sum) * scale[static_cast<size_t>(j)] * 2.0f);
                }
        }
}

// Between chunks of k, kernels keep integer sums in memory for floats. A compiler that quiets NaNs there
// would add 2^22.
TEST_CASE("i8: intermediate sums that have the bits of a signalling NaN") {
    constexpr int64_t k = 9000, weights = 21, rows = 25;
    std::vector<int8_t> w(weights * k);
    std::vector<float> x(rows * k), scale(weights, 0.5f), bias(weights, 3.0f), y(rows * weights);
    for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < weights; ++j)
            w[static_cast<size_t>(j * k + i)] = static_cast<int8_t>(j < 20 ? -2 * (j + 1) : 127);
        for (int64_t r = 0; r < rows; ++r)
            x[static_cast<size_t>(r * k + i)] = static_cast<float>(i ? 127 - 5 * r : 127);
    }
    const auto signalling = [&](int64_t sum) {
        return (static_cast<uint32_t>(sum) & 0x7fc00000) == 0x7f800000 &&
               static_cast<uint32_t>(sum) << 10 != 0;
    };
    size_t met = 0;
    for (int64_t at = 1024; at < k; at += 1024)
        for (int64_t j = 0; j < weights; ++j)
            met += signalling(w[static_cast<size_t>(j * k)] * int64_t{127} * at);
    REQUIRE(met >= 20);
    for (const char *isa : cpu_isas())
        for (const bool biased : {false, true}) {
            CAPTURE(std::string(isa));
            graph g(8);
            tensor *xs = g.input(format::f32, {rows, k}, x.data(), ""),
                   *ws = g.input(format::i8, {weights, k}, w.data(), "");
            ws->scale = g.input(format::f32, {weights}, scale.data(), "");
            matmul(g, xs, ws, biased ? g.input(format::f32, {weights}, bias.data(), "") : nullptr)->data =
                y.data();
            run(g, isa, 1);
            size_t wrong = 0;
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t j = 0; j < weights; ++j) {
                    // each row's largest magnitude is 127, so its scale is 1
                    const int64_t sum = w[static_cast<size_t>(j * k)] * (127 + (k - 1) * (127 - 5 * r));
                    wrong += y[static_cast<size_t>(r * weights + j)] !=
                             static_cast<float>(sum) * 0.5f + (biased ? 3.0f : 0.0f);
                }
            CHECK(wrong == 0);
        }
}

TEST_CASE("i8 pages: keys and values are read back as written") {
    constexpr int32_t heads = 2, n = 3;
    random_numbers r{std::mt19937(1)};
    for (int32_t d : {1, 12, 32, 64, 96, 128, 512}) {
        kv_layout l = {format::i8, heads, d, 0, 0};
        l.v_offset = static_cast<int64_t>(l.k_bytes());
        std::vector<float> k(static_cast<size_t>(n * heads * d)), v(k.size());
        for (float &x : k) x = r();
        for (float &x : v) x = r() * 1e-10f;
        std::fill_n(k.end() - d, d, 0.0f);
        v.back() = std::numeric_limits<float>::infinity();
        std::vector<int32_t> slots = {63, 0, 17};
        for (const char *isa : cpu_isas()) {
            std::vector<float> pages(2 * l.k_bytes() / sizeof(float));
            graph g(8);
            kv_write(g, g.input(format::f32, {n, heads, d}, k.data(), ""),
                     g.input(format::f32, {n, heads, d}, v.data(), ""),
                     g.input(format::i8, {1, static_cast<int64_t>(2 * l.k_bytes())}, pages.data(), ""),
                     g.input(format::i32, {n}, slots.data(), ""), l);
            g.nodes()[0].out.data = pages.data();
            run(g, isa, 2);
            const int8_t *page = reinterpret_cast<const int8_t *>(pages.data());
            size_t wrong = 0;
            const auto check = [&](const std::vector<double> &x, const int8_t *q, int64_t step, float scale) {
                double most = 0.0;
                for (double y : x) most = std::max(most, std::fabs(y));
                wrong += !(std::fabs(static_cast<double>(scale) - most / 127.0) <= 1e-6 * most);
                for (size_t e = 0; e < x.size(); ++e)
                    wrong += !(std::fabs(q[static_cast<int64_t>(e) * step] * static_cast<double>(scale) -
                                         x[e]) <= most / 253.9);
            };
            for (int i = 0; i < n; ++i)
                for (int h = 0; h < heads; ++h) {
                    const float *kf = &k[static_cast<size_t>((i * heads + h) * d)],
                                *vf = &v[static_cast<size_t>((i * heads + h) * d)];
                    const int64_t slot = h * page_positions + slots[static_cast<size_t>(i)];
                    const int8_t *vq =
                        page + l.v_offset + h * d * page_positions + slots[static_cast<size_t>(i)];
                    float k_scale, v_scale;
                    std::memcpy(&k_scale, page + l.elements() + slot * 4, 4);
                    std::memcpy(&v_scale, page + l.v_offset + l.elements() + slot * 4, 4);
                    check(hadamard_of(kf, static_cast<size_t>(d)), page + slot * d, 1, k_scale);
                    // an infinity stays visible
                    if (i == n - 1 && h == heads - 1) wrong += finite_f32(v_scale);
                    else check({vf, vf + d}, vq, page_positions, v_scale);
                }
            CHECK_MESSAGE(wrong == 0, isa, " head size ", d);
        }
    }
}

// A sequence whose position 0 gets `mass` of the first query head's attention, in pages out of order.
struct long_sequence {
    static constexpr int32_t d = 32, group = 20, sink = 0;
    const float scale = 0.5f;
    int64_t positions;
    kv_layout l = {format::i8, 1, d, 0, 0};
    std::vector<int8_t> bytes;
    std::vector<float> q;
    std::vector<int32_t> table;

    long_sequence(int64_t length, double mass, float sink_value_scale) : positions(length) {
        random_numbers r{std::mt19937(2)};
        const int64_t pages = positions / page_positions;
        l.v_offset = static_cast<int64_t>(l.k_bytes());
        bytes.resize(static_cast<size_t>(pages) * 2 * l.k_bytes());
        for (int64_t p = 0; p < pages; ++p) table.push_back(static_cast<int32_t>(p * 37 % pages));
        for (int32_t i = 0; i < group * d; ++i) q.push_back(r());
        for (int64_t t = 0; t < positions; ++t) {
            for (int32_t e = 0; e < d; ++e) {
                key(t)[e] = r.integer();
                value(t)[e * page_positions] = r.integer();
            }
            set(t, l.k_offset, 0.01f + 0.005f * r());
            set(t, l.v_offset, t == sink ? sink_value_scale : 0.01f + 0.005f * r());
        }
        const std::vector<double> head = hadamard_of(q.data(), d);
        double most = 0.0, others = 0.0, product = 0.0;
        for (double x : head) most = std::max(most, std::fabs(x));
        for (int32_t e = 0; e < d; ++e)
            product +=
                head[static_cast<size_t>(e)] *
                (key(sink)[e] = static_cast<int8_t>(std::lrint(head[static_cast<size_t>(e)] * 127.0 / most)));
        for (int64_t t = 1; t < positions; ++t) others += std::exp(score(head, t));
        const double wanted = std::log(others) + std::log(mass / (1.0 - mass));
        set(sink, l.k_offset, static_cast<float>(wanted / (product * static_cast<double>(scale) / d)));
        CHECK(std::exp(score(head, sink)) / (others + std::exp(score(head, sink))) ==
              doctest::Approx(mass).epsilon(0.001));
    }
    int8_t *page(int64_t t) {
        return &bytes[static_cast<size_t>(table[static_cast<size_t>(t / page_positions)]) * 2 * l.k_bytes()];
    }
    int8_t *key(int64_t t) { return page(t) + t % page_positions * d; }
    int8_t *value(int64_t t) { return page(t) + l.v_offset + t % page_positions; }
    int8_t *scale_of(int64_t t, int64_t offset) {
        return page(t) + offset + l.elements() + t % page_positions * 4;
    }
    void set(int64_t t, int64_t offset, float s) { std::memcpy(scale_of(t, offset), &s, 4); }
    double get(int64_t t, int64_t offset) {
        float s;
        std::memcpy(&s, scale_of(t, offset), 4);
        return s;
    }
    double score(const std::vector<double> &head, int64_t t) {
        double s = 0.0;
        for (int32_t e = 0; e < d; ++e) s += head[static_cast<size_t>(e)] * key(t)[e];
        return s * get(t, l.k_offset) * static_cast<double>(scale) / d;  // 32 is also the block's size
    }
    // The first head's attention, in float64 from the same int8 values.
    std::vector<double> exact() {
        const std::vector<double> head = hadamard_of(q.data(), d);
        std::vector<double> out(d, 0.0);
        double sum = 0.0;
        for (int64_t t = 0; t < positions; ++t) {
            const double p = std::exp(score(head, t));
            sum += p;
            for (int32_t e = 0; e < d; ++e)
                out[static_cast<size_t>(e)] += p * get(t, l.v_offset) * value(t)[e * page_positions];
        }
        for (double &x : out) x /= sum;
        return out;
    }
    std::vector<float> attend(const char *isa, unsigned threads) {
        std::vector<float> y(q.size());
        std::vector<int32_t> sequence = {0}, position = {static_cast<int32_t>(positions) - 1};
        graph g(8);
        attention(g, g.input(format::f32, {1, group, d}, q.data(), ""),
                  g.input(format::i8,
                          {static_cast<int64_t>(table.size()), static_cast<int64_t>(2 * l.k_bytes())},
                          bytes.data(), ""),
                  g.input(format::i32, {1, static_cast<int64_t>(table.size())}, table.data(), ""),
                  g.input(format::i32, {1}, sequence.data(), ""),
                  g.input(format::i32, {1}, position.data(), ""), {l, scale})
            ->data = y.data();
        run(g, isa, threads);
        return y;
    }
};

TEST_CASE("i8 pages: long sequences with an attention sink") {
    for (int64_t positions : {32768, 131072})
        for (double mass : {0.6, 0.9})
            for (float sink_value : {0.01f, 0.0001f}) {
                long_sequence s(positions, mass, sink_value);
                const std::vector<double> wanted = s.exact();
                const std::vector<float> got = s.attend(nullptr, 2);
                double error = 0.0, size = 0.0;
                for (size_t e = 0; e < wanted.size(); ++e) {
                    error += (got[e] - wanted[e]) * (got[e] - wanted[e]);
                    size += wanted[e] * wanted[e];
                }
                INFO(positions, " positions, mass ", mass, ", the sink's value ", sink_value);
                CHECK(std::sqrt(error / size) <= 0.001);
                if (mass > 0.8 && sink_value > 0.001f)
                    for (const char *isa : cpu_isas()) CHECK(s.attend(isa, 1) == got);
            }
}
