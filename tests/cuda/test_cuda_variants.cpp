// Which variant computes a node, by shape, format, alignment and device. The tables are written by hand from
// what each kernel is for (gemm/run_products.cpp, launch.h). Nothing runs, so neither a device nor the
// emulation is needed.
#include "cuda_kernels.h"

#include "../../tensor/ops.h"

#include <doctest/doctest.h>
#include <set>

using namespace ds;
using namespace ds::test;

namespace {

constexpr cuda::device_facts h100 = {9, 0, 132, 232448, true}, a100 = {8, 0, 108, 166912, false},
                             ada = {8, 9, 128, 101376, false}, no_sm90a = {9, 0, 132, 232448, false};

// Addresses that are never read: a multiple of 16, or 8 bytes after one.
void *address(bool aligned = true) {
    return reinterpret_cast<void *>(aligned ? uintptr_t{4096} : uintptr_t{4104});
}

struct matrix {
    format type;
    bool aligned = true;
};

// A graph of one operation, [n, k] rows, on a device.
struct one_operation {
    graph g{16};
    int64_t n, k;
    one_operation(int64_t rows, int64_t depth) : n(rows), k(depth) {}

    tensor *x() { return g.input(format::f32, {n, k}, address(), ""); }
    tensor *weights(const matrix &w) {
        tensor *const t = g.input(w.type, {64, k}, address(w.aligned), "");
        if (w.type == format::i8) t->scale = g.input(format::f32, {64}, address(), "");
        return t;
    }
    std::string variant(const cuda::device_facts &facts, bool library) {
        node &only = g.nodes()[0];
        only.out.data = address();
        const std::shared_ptr<backend> b = emulated_cuda({.facts = facts, .library = library});
        const char *const name = b->fn->variant(b.get(), only);
        return name ? name : "none";
    }
};

std::string matmul_variant(matrix w, int64_t n, int64_t k, const cuda::device_facts &d, bool library = true) {
    one_operation one(n, k);
    matmul(one.g, one.x(), one.weights(w), nullptr);
    return one.variant(d, library);
}
std::string projections_variant(std::initializer_list<matrix> list, int64_t n,
                                const cuda::device_facts &d = h100, bool library = true) {
    one_operation one(n, 256);
    const tensor *src[2 + 2 * most_projections] = {one.x()};
    size_t count = 2;
    for (const matrix &m : list) src[count++] = one.weights(m);
    one.g.add(op::projections, src, rms_norm_params{1e-5f});
    return one.variant(d, library);
}
std::string gated_variant(matrix gate, matrix up, int64_t n, const cuda::device_facts &d = h100,
                          bool library = true) {
    one_operation one(n, 256);
    gated_params p{};
    p.eps = 1e-5f;
    one.g.add(op::gated_projection, {one.x(), nullptr, one.weights(gate), one.weights(up)}, p);
    return one.variant(d, library);
}
std::string heads_variant(format type, int64_t n, int64_t k, const cuda::device_facts &d = h100) {
    one_operation one(n, k);
    tensor *const w = one.g.input(type, {4, 64, k}, address(), "");
    if (type == format::i8) w->scale = one.g.input(format::f32, {4, 64}, address(), "");
    one.g.add(op::head_matmul, {one.g.input(format::f32, {n, 4, k}, address(), ""), w}, no_params{});
    return one.variant(d, true);
}
std::string attention_variant(format type, int32_t head_size, const cuda::device_facts &d = h100) {
    one_operation one(3, 1);
    kv_layout l{type, 2, head_size, 0, 0};
    l.v_offset = static_cast<int64_t>(l.k_bytes());
    const auto page_bytes = static_cast<int64_t>(l.k_bytes() + l.v_bytes());
    attention(one.g, one.g.input(format::f32, {3, 4, head_size}, address(), ""),
              one.g.input(format::i8, {16, page_bytes}, address(), ""),
              one.g.input(format::i32, {2, 4}, address(), ""), one.g.input(format::i32, {3}, address(), ""),
              one.g.input(format::i32, {3}, address(), ""), {l, 0.1f});
    return one.variant(d, true);
}

}  // namespace

TEST_CASE("CUDA variants: products with I8 weights, by rows, depth, alignment and device") {
    const struct {
        int64_t n, k;
        bool aligned;
        const char *h100, *a100, *no_sm90a;
    } table[] = {
        {1, 4096, true, "rows", "rows", "rows"},
        {32, 4096, true, "rows", "rows", "rows"},
        {33, 4096, true, "tiles", "tiles", "tiles"},
        {64, 4096, true, "tiles", "tiles", "tiles"},
        {65, 4096, true, "wgmma", "tiles", "tiles"},
        {512, 4096, true, "wgmma", "tiles", "tiles"},
        {70000, 4096, true, "wgmma", "tiles", "tiles"},
        {1, 4096, false, "plain", "plain", "plain"},
        {512, 4096, false, "plain", "plain", "plain"},
        {4, 100, true, "plain", "plain", "plain"},  // k is no multiple of 16
        {512, 4095, true, "plain", "plain", "plain"},
        {65535, 64, false, "plain", "plain", "plain"},
        // `plain` has a grid row for each row, and a grid has at most 65,535
        {65536, 64, false, "none", "none", "none"},
    };
    for (const auto &t : table) {
        CAPTURE(t.n);
        CAPTURE(t.k);
        CAPTURE(t.aligned);
        const matrix w{format::i8, t.aligned};
        for (const bool library : {false, true}) {
            CHECK(matmul_variant(w, t.n, t.k, h100, library) == t.h100);
            CHECK(matmul_variant(w, t.n, t.k, a100, library) == t.a100);
            CHECK(matmul_variant(w, t.n, t.k, ada, library) == t.a100);
            CHECK(matmul_variant(w, t.n, t.k, no_sm90a, library) == t.no_sm90a);
        }
        if (t.aligned) CHECK(heads_variant(format::i8, t.n, t.k) == t.h100);
        if (t.k % 256 == 0) {
            CHECK(projections_variant({w, {format::i8}, {format::i8}}, t.n) == t.h100);
            CHECK(gated_variant({format::i8}, w, t.n) == t.h100);
        }
    }
}

TEST_CASE("CUDA variants: products with packed weights, float weights, and of several kinds") {
    for (const cuda::device_facts &d : {h100, a100, ada})
        for (const int64_t n : {1, 17, 600, 8 * 65535}) {
            CHECK(matmul_variant({format::q4_k, false}, n, 256, d) == "packed");
            CHECK(projections_variant({{format::q4_k}, {format::q6_k}}, n, d) == "packed");
            CHECK(gated_variant({format::q4_k}, {format::q6_k}, n, d) == "packed");
            CHECK(heads_variant(format::q8_0, n, 256, d) == "packed");
            CHECK(heads_variant(format::f16, n, 33, d) == "lanes");
            for (const matrix other : {matrix{format::i8}, matrix{format::bf16}}) {
                CHECK(projections_variant({{format::q8_0}, other}, n, d) == "mixed");
                CHECK(gated_variant(other, {format::q4_k}, n, d) == "mixed");
            }
            CHECK(projections_variant({{format::i8}, {format::f32}, {format::i8}}, n, d, false) == "mixed");
            CHECK(gated_variant({format::f16}, {format::i8}, n, d, false) == "mixed");
        }
    // `packed` has a grid row for eight rows
    CHECK(matmul_variant({format::q4_k}, 8 * 65535 + 1, 256, h100) == "none");
    CHECK(projections_variant({{format::q4_k}, {format::f16}}, 8 * 65535 + 1) == "none");
    CHECK(projections_variant({{format::q4_k}, {format::i8, false}}, 65536) == "none");
    CHECK(gated_variant({format::i8, false}, {format::f16}, 65536) == "none");
    // Up to 16 rows, reading the weights takes longest, and `lanes` gives the CPU's bits.
    for (const format f : {format::f32, format::f16, format::bf16})
        for (const int64_t n : {1, 16, 17, 512}) {
            const char *const wanted = n <= 16 ? "lanes" : "library";
            CHECK(matmul_variant({f, false}, n, 33, h100) == wanted);
            CHECK(matmul_variant({f}, n, 33, a100, false) == "lanes");
            CHECK(projections_variant({{f}, {format::bf16}}, n) == wanted);
            CHECK(gated_variant({f}, {format::f16}, n) == wanted);
        }
}

TEST_CASE("CUDA variants: attention by pages, head size and device") {
    for (const cuda::device_facts &d : {h100, a100, ada}) {
        CHECK(attention_variant(format::i8, 128, d) == "integers");
        CHECK(attention_variant(format::i8, 100, d) == "plain");  // not a multiple of 32
        CHECK(attention_variant(format::i8, 1024, d) == "plain");
        CHECK(attention_variant(format::f16, 128, d) == "floats");
        CHECK(attention_variant(format::f32, 100, d) == "floats");
        CHECK(attention_variant(format::f32, 1024, d) == "floats");
    }
}

TEST_CASE("CUDA variants: a forced one runs where it fits, the first that fits where not") {
    const auto variant = [](const char *forced, int64_t n, int64_t k) {
        one_operation one(n, k);
        matmul(one.g, one.x(), one.weights({format::i8}), nullptr);
        one.g.nodes()[0].out.data = address();
        const std::shared_ptr<backend> b =
            emulated_cuda({.facts = h100, .kind = op::matmul, .variant = forced});
        return std::string(b->fn->variant(b.get(), one.g.nodes()[0]));
    };
    CHECK(variant("plain", 512, 256) == "plain");
    CHECK(variant("tiles", 1, 256) == "tiles");
    CHECK(variant("rows", 33, 256) == "tiles");
    CHECK(variant("packed", 1, 256) == "rows");
    CHECK(variant("tiles", 1, 100) == "plain");
    CHECK_THROWS_AS(variant("magic", 1, 256), error);
}

// Every name is unique in its list, so each entry can be forced.
TEST_CASE("CUDA variants: names in a list differ") {
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k) {
        const std::vector<const char *> names = emulated_variants(static_cast<op>(k));
        CHECK(names.empty() == !info(static_cast<op>(k)).cuda);
        CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
    }
}
