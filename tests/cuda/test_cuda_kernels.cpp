// The CUDA kernels' own sources, run on the host (cuda_emulation.h) over the cases of every operation;
// results are compared with the reference forward byte by byte wherever numerics.h defines them. A device's
// timing and memory order are not tested.
#include "cuda_kernels.h"
#include "../tensor/op_cases.h"

#include "../../ggml-cuda/attn/config.h"
#include "../../ggml-cuda/read.h"

#include <cmath>
#include <doctest/doctest.h>
#include <set>

using namespace ds;
using namespace ds::test;

namespace {

constexpr cuda::device_facts facts = {9, 0, 132, 232448, true};

// Bytes at a multiple of 256, followed by garbage.
struct memory {
    std::vector<char> bytes;
    char *data;
    explicit memory(size_t n)
        : bytes(n + 512, 0x5a), data(bytes.data() + (256 - reinterpret_cast<uintptr_t>(bytes.data()) % 256)) {
    }
    memory(const memory &) = delete;
};

struct one_node {
    std::vector<std::unique_ptr<memory>> kept;
    graph g{16};

    explicit one_node(const op_case &c) {
        const tensor *s[max_sources] = {};
        for (size_t i = 0; i < c.src.size(); ++i)
            if (!c.src[i].bytes.empty()) s[i] = source(c.src[i]);
        node &n = add_operation(g, c, s);
        n.out.data = n.out.base ? n.out.base->data : fresh(tensor_bytes(n.out));
    }
    void *fresh(size_t bytes, const void *from = nullptr) {
        void *const p = kept.emplace_back(std::make_unique<memory>(bytes))->data;
        return from ? std::memcpy(p, from, bytes) : p;
    }
    tensor *source(const array &a) {
        void *const data = fresh(a.bytes.size(), a.bytes.data());
        return add_source(g, a, a.ne, data,
                          a.scale.empty() ? nullptr : fresh(a.scale.size() * sizeof(float), a.scale.data()));
    }
    const node &only() { return g.nodes()[0]; }
    std::vector<float> result() {
        const float *y = f32_at(only().out, 0);
        return {y, y + elements(only().out)};
    }
    std::vector<float> reference() {
        info(only().kind).reference(only());
        const std::vector<float> y = result();
        std::memset(only().out.data, 0x5a, tensor_bytes(only().out));
        return y;
    }
};

int32_t dim(const tensor &t, int i) { return static_cast<int32_t>(t.ne[i]); }
const float *floats(const tensor *t) { return t ? f32_at(*t, 0) : nullptr; }

cuda::matrix matrix_of(const tensor &w, const tensor *bias, int32_t column) {
    return {w.data, floats(w.scale), floats(bias), dim(w, w.rank - 2), column};
}

// Activations normed and quantized for weights of this format.
struct quantized_rows {
    std::unique_ptr<memory> work;
    int8_t *q;
    float *scale;
    int64_t q_stride, scale_stride;
    quantized_rows(const float *x, int64_t x_stride, const tensor *norm, float eps, int32_t n, int32_t k,
                   format type) {
        const int32_t block = type == format::i8 ? 0 : static_cast<int32_t>(info(type).block);
        work = std::make_unique<memory>(cuda::quantized_bytes(n, k, block));
        q = cuda::quantized_rows(work->data), scale = cuda::quantized_scales(work->data, n, k);
        q_stride = cuda::i8_stride(k), scale_stride = block ? k / block : 1;
        CHECK(cuda::launch_quantize(
                  {x, x_stride, floats(norm), eps, nullptr, 0, q, q_stride, scale, block, n, k}, nullptr) ==
              0);
    }
};

cuda::products_params products_of(const quantized_rows &r, format type, int32_t n, int32_t k,
                                  const tensor &y) {
    cuda::products_params p{};
    p.type = type;
    p.q = r.q, p.q_stride = r.q_stride, p.q_scale = r.scale, p.scale_stride = r.scale_stride;
    p.count = 1, p.n = n, p.k = k, p.batch = 1;
    p.y = f32_at(y, 0), p.y_stride = y.stride[0];
    return p;
}

struct way_list {
    std::set<std::string> used;
    template <class P> bool take(cuda::product_way w, const P &p) {
        if (!cuda::fits(w, p, facts)) return false;
        used.insert(p.type == format::i8 ? cuda::name_of(w) : info(p.type).text);
        return true;
    }
};

bool run_matmul(const node &n, cuda::product_way way, way_list &list) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    const quantized_rows r(f32_at(x, 0), x.stride[0], nullptr, 0, dim(x, 0), dim(x, 1), w.type);
    cuda::products_params p = products_of(r, w.type, dim(x, 0), dim(x, 1), n.out);
    p.w[0] = matrix_of(w, n.src[2], 0);
    p.residual = floats(n.src[3]), p.residual_stride = n.src[3] ? n.src[3]->stride[0] : 0;
    if (!list.take(way, p)) return false;
    CHECK(cuda::launch_products(way, p, facts, nullptr) == 0);
    return true;
}

bool run_projections(const node &n, cuda::product_way way, way_list &list) {
    const tensor &x = *n.src[0], &w = *n.src[2];
    const quantized_rows r(f32_at(x, 0), x.stride[0], n.src[1], n.as<rms_norm_params>().eps, dim(x, 0),
                           dim(x, 1), w.type);
    cuda::products_params p = products_of(r, w.type, dim(x, 0), dim(x, 1), n.out);
    int32_t column = 0;
    for (p.count = 0; p.count < cuda::most_matrices && n.src[2 + p.count]; ++p.count) {
        const tensor &m = *n.src[2 + p.count];
        if (m.type != w.type) return false;
        p.w[p.count] = matrix_of(m, n.src[2 + most_projections + p.count], column);
        column += dim(m, 0);
    }
    if (!list.take(way, p)) return false;
    CHECK(cuda::launch_products(way, p, facts, nullptr) == 0);
    return true;
}

bool run_head_matmul(const node &n, cuda::product_way way, way_list &list) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    const int32_t rows = dim(x, 0), heads = dim(x, 1), k = dim(x, 2);
    const quantized_rows r(f32_at(x, 0), k, nullptr, 0, rows * heads, k, w.type);
    cuda::products_params p = products_of(r, w.type, rows, k, n.out);
    p.w[0] = matrix_of(w, nullptr, 0);
    p.batch = heads;
    p.q_step = r.q_stride, p.q_stride = heads * r.q_stride;
    p.scale_step = r.scale_stride, p.scale_stride = heads * r.scale_stride;
    p.w_step = w.stride[0], p.w_scale_step = w.ne[1];
    p.y_step = n.out.stride[1];
    if (!list.take(way, p)) return false;
    CHECK(cuda::launch_products(way, p, facts, nullptr) == 0);
    return true;
}

bool run_gated(const node &n, cuda::product_way way, way_list &list) {
    const tensor &x = *n.src[0], &gate = *n.src[2], &up = *n.src[3];
    if (gate.type != up.type || gate.type != format::i8) return false;
    const quantized_rows r(f32_at(x, 0), x.stride[0], n.src[1], n.as<gated_params>().eps, dim(x, 0),
                           dim(x, 1), gate.type);
    cuda::gated_launch_params p{};
    p.type = gate.type;
    p.q = r.q, p.q_stride = r.q_stride, p.q_scale = r.scale, p.scale_stride = r.scale_stride;
    p.gate = matrix_of(gate, nullptr, 0), p.up = matrix_of(up, nullptr, 0);
    p.n = dim(x, 0), p.k = dim(x, 1);
    p.f = n.as<gated_params>().f;
    p.y = f32_at(n.out, 0), p.y_stride = n.out.stride[0];
    if (!list.take(way, p)) return false;
    CHECK(cuda::launch_gated(way, p, facts, nullptr) == 0);
    return true;
}

bool run_product(const node &n, cuda::product_way way, way_list &list) {
    switch (n.kind) {
    case op::matmul: return run_matmul(n, way, list);
    case op::projections: return run_projections(n, way, list);
    case op::head_matmul: return run_head_matmul(n, way, list);
    case op::gated_projection: return run_gated(n, way, list);
    default: return false;
    }
}

const tensor &weights_of(const node &n) {
    return *n.src[n.kind == op::matmul || n.kind == op::head_matmul ? 1 : 2];
}

// The first element whose bits differ, unless both are NaN; -1: none.
int64_t first_difference(const std::vector<float> &a, const std::vector<float> &b) {
    for (size_t i = 0; i < a.size(); ++i)
        if (bits_of(a[i]) != bits_of(b[i]) && (a[i] == a[i] || b[i] == b[i])) return static_cast<int64_t>(i);
    return -1;
}

bool is_product(op k) {
    return k == op::matmul || k == op::projections || k == op::head_matmul || k == op::gated_projection;
}

}  // namespace

TEST_CASE("CUDA kernels: products with I8 and packed weights give the reference's bits") {
    if (!kernels_run()) {
        MESSAGE("not run here: the emulation wants x86-64 and no sanitizer");
        return;
    }
    way_list list;
    for (const op_case &c : all_cases()) {
        if (!is_product(c.kind)) continue;
        one_node one(c);
        const format type = weights_of(one.only()).type;
        if (type != format::i8 && !is_packed(type)) continue;
        const std::vector<float> wanted = one.reference();
        for (int w = 0; w <= static_cast<int>(cuda::product_way::packed); ++w)
            for (bool backwards : {false, true}) {
                const auto way = static_cast<cuda::product_way>(w);
                // its threads do not wait for each other
                if (way == cuda::product_way::plain && backwards) continue;
                run_backwards(backwards);
                std::memset(one.only().out.data, 0x5a, tensor_bytes(one.only().out));
                if (!run_product(one.only(), way, list)) continue;
                const int64_t where = first_difference(wanted, one.result());
                CHECK_MESSAGE(where == -1, c.text, " ", cuda::name_of(way), backwards ? " backwards" : "",
                              " element ", where);
            }
    }
    for (const char *name : {"plain", "rows", "tiles", "wgmma"})
        CHECK_MESSAGE(list.used.count(name), "no case for ", name);
    for (int f = 0; f < static_cast<int>(format::count); ++f)
        if (is_packed(static_cast<format>(f)))
            CHECK_MESSAGE(list.used.count(info(static_cast<format>(f)).text), "no case for ",
                          info(static_cast<format>(f)).text);
}

TEST_CASE("CUDA kernels: sums of 100,000 extreme products do not overflow") {
    if (!kernels_run()) return;
    constexpr int32_t k = 100000, m = 3, n = 2;
    const int64_t stride = cuda::i8_stride(k);
    memory w(size_t{m} * k), q(static_cast<size_t>(n * stride)), y(n * m * sizeof(float));
    std::memset(w.data, -128, size_t{m} * k);
    std::memset(q.data, 0, static_cast<size_t>(n * stride));
    for (int32_t i = 0; i < n; ++i) std::memset(q.data + i * stride, i ? -127 : 127, k);
    const float ones[m] = {1, 1, 1};
    cuda::products_params p{};
    p.type = format::i8;
    p.q = reinterpret_cast<const int8_t *>(q.data), p.q_stride = stride, p.q_scale = ones, p.scale_stride = 1;
    p.w[0] = {w.data, ones, nullptr, m, 0};
    p.count = 1, p.n = n, p.k = k, p.batch = 1;
    p.y = reinterpret_cast<float *>(y.data), p.y_stride = m;
    for (cuda::product_way way : {cuda::product_way::plain, cuda::product_way::rows}) {
        REQUIRE(cuda::fits(way, p, facts));
        std::memset(y.data, 0, n * m * sizeof(float));
        CHECK(cuda::launch_products(way, p, facts, nullptr) == 0);
        for (int32_t i = 0; i < n * m; ++i) CHECK(p.y[i] == (i < m ? -1 : 1) * 128.0f * 127.0f * 100000.0f);
    }
}

namespace {

cuda::attention_launch_params attention_of(const node &n) {
    const tensor &q = *n.src[0], &pages = *n.src[1], &tables = *n.src[2], *rope = n.src[5];
    cuda::attention_launch_params a{};
    a.q = f32_at(q, 0), a.q_stride = q.stride[0], a.q_head_stride = q.stride[1];
    if (rope)
        a.q_rope = f32_at(*rope, 0), a.rope_stride = rope->stride[0], a.rope_head_stride = rope->stride[1];
    a.pages = static_cast<const char *>(pages.data), a.page_bytes = pages.stride[0];
    a.tables = i32_at(tables, 0), a.table_stride = tables.stride[0], a.max_pages = dim(tables, 1);
    a.sequence = i32_at(*n.src[3], 0), a.position = i32_at(*n.src[4], 0);
    a.y = f32_at(n.out, 0), a.y_stride = n.out.stride[0], a.y_head_stride = n.out.stride[1];
    a.n = dim(q, 0), a.heads = dim(q, 1);
    a.p = n.as<attention_params>();
    return a;
}

}  // namespace

TEST_CASE("CUDA kernels: attention gives the reference's bits") {
    if (!kernels_run()) return;
    std::set<std::string> used;
    std::vector<op_case> cases = all_cases();
    // tiles of many rows, and sequences that share one
    cases.push_back(attention_case(format::i8, 2, 2, 128, 70, {150, 69}));
    cases.push_back(attention_case(format::i8, 1, 7, 64, 80, {79}));
    // single rows of their sequences
    cases.push_back(attention_case(format::i8, 1, 2, 32, 60, {0, 130, 0, 0, 75}));
    std::vector<int32_t> lone;
    for (int32_t i = 0; i < 66; ++i) lone.push_back(i * 37 % 150);
    cases.push_back(attention_case(format::i8, 1, 3, 32, 1, lone));
    cases.push_back(latent_attention_case(format::i8, 20, 256, 64, 3, {200}));
    for (const op_case &c : cases) {
        if (c.kind != op::attention) continue;
        one_node one(c);
        const std::vector<float> wanted = one.reference();
        cuda::attention_launch_params a = attention_of(one.only());
        for (int w = 0; w < static_cast<int>(cuda::attention_way::count); ++w)
            for (bool backwards : {false, true}) {
                const int processors = backwards ? 132 : 1;  // many: blocks share a row; one: they do not
                const auto way = static_cast<cuda::attention_way>(w);
                // a single warp without asynchronous copies
                if (way == cuda::attention_way::plain && backwards) continue;
                cuda::device_facts f = facts;
                f.processors = processors;
                if (!cuda::fits(way, a, f)) continue;
                used.insert(cuda::name_of(way));
                run_backwards(backwards);
                std::memset(one.only().out.data, 0x5a, tensor_bytes(one.only().out));
                const memory work(cuda::attention_work_bytes(a, f));
                a.work = work.data;
                CHECK(cuda::launch_attention(way, a, f, nullptr) == 0);
                const int64_t where = first_difference(wanted, one.result());
                CHECK_MESSAGE(where == -1, c.text, " ", cuda::name_of(way), " ", processors,
                              backwards ? " backwards" : "", " element ", where);
            }
    }
    for (const char *name : {"plain", "integers", "floats"})
        CHECK_MESSAGE(used.count(name), "no case for ", name);
}

// The bits do not depend on whether scores are stored, on the pages in flight, or on how many blocks share a
// row.
TEST_CASE("CUDA kernels: how attention is cut changes no bit") {
    if (!kernels_run()) return;
    for (const op_case &c : {attention_case(format::i8, 2, 3, 64, 2, {200, 70}),
                             latent_attention_case(format::i8, 18, 64, 32, 2, {200}),
                             attention_case(format::i8, 1, 5, 96, 66, {130})}) {
        one_node one(c);
        const std::vector<float> wanted = one.reference();
        cuda::attention_launch_params a = attention_of(one.only());
        for (int stages : {1, 2})
            for (int splits : {1, 3, 5}) {
                cuda::attention_cut cut = cuda::cut_of(a, facts);
                if (cut.prefill && splits > 1) continue;
                cut.stages = stages, cut.splits = splits, cut.keeps_scores = !cut.prefill && stages == 2;
                run_backwards(splits == 3);
                std::memset(one.only().out.data, 0x5a, tensor_bytes(one.only().out));
                const memory work(cuda::work_of(a, cut).bytes);
                a.work = work.data;
                CHECK(cuda::launch_integers(a, cut, nullptr) == 0);
                const int64_t where = first_difference(wanted, one.result());
                CHECK_MESSAGE(where == -1, c.text, " stages ", stages, " splits ", splits, " element ",
                              where);
            }
    }
}

// Rows of more than 1,024 positions are cut into parts, which are combined in another order than the CPU's; a
// short row beside them keeps its bits.
TEST_CASE("CUDA kernels: long rows of float pages are right, and change nothing for short ones") {
    if (!kernels_run()) return;
    for (const op_case &c : {attention_case(format::f16, 1, 2, 16, 1, {2100, 100}),
                             attention_case(format::f32, 2, 1, 8, 1, {1030, 63}),
                             latent_attention_case(format::f16, 3, 16, 8, 1, {1500, 64})}) {
        one_node one(c);
        const std::vector<float> reference = one.reference();
        cuda::attention_launch_params a = attention_of(one.only());
        REQUIRE(cuda::fits(cuda::attention_way::floats, a, facts));
        const memory work(cuda::attention_work_bytes(a, facts));
        a.work = work.data;
        run_backwards(false);
        CHECK(cuda::launch_attention(cuda::attention_way::floats, a, facts, nullptr) == 0);
        const std::vector<float> got = one.result();
        std::vector<double> wanted, tolerance;
        c.exact(wanted, tolerance);
        for (size_t i = 0; i < got.size(); ++i)
            CHECK_MESSAGE(std::fabs(got[i] - wanted[i]) <= tolerance[i], c.text, " element ", i, ": ", got[i],
                          " instead of ", wanted[i]);
        for (size_t i = got.size() / 2; i < got.size(); ++i) CHECK(bits_of(got[i]) == bits_of(reference[i]));
    }
}

namespace {

// [experts, 2, ffn, d]: gate's rows, then up's.
struct halves {
    std::unique_ptr<memory> bytes, scales;
    cuda::expert_matrices gate, up;
    explicit halves(const cuda::experts_launch_params &p) : gate(p.gate), up(p.up) {
        if (gate.type != up.type) return;
        const size_t rows = static_cast<size_t>(p.ffn),
                     one = rows * row_bytes(gate.type, static_cast<uint64_t>(p.d)),
                     experts = static_cast<size_t>(p.experts);
        bytes = std::make_unique<memory>(2 * one * experts);
        scales = std::make_unique<memory>(2 * rows * experts * sizeof(float));
        for (size_t e = 0; e < experts; ++e) {
            std::memcpy(bytes->data + 2 * e * one, static_cast<const char *>(gate.w) + e * one, one);
            std::memcpy(bytes->data + (2 * e + 1) * one, static_cast<const char *>(up.w) + e * one, one);
            if (!gate.scale) continue;
            std::memcpy(scales->data + 2 * e * rows * sizeof(float), gate.scale + e * rows,
                        rows * sizeof(float));
            std::memcpy(scales->data + (2 * e + 1) * rows * sizeof(float), up.scale + e * rows,
                        rows * sizeof(float));
        }
        gate.w = bytes->data, up.w = bytes->data + one;
        if (gate.scale) gate.scale = reinterpret_cast<float *>(scales->data), up.scale = gate.scale + rows;
        gate.step = up.step = int64_t{2} * p.ffn * p.d, gate.scale_step = up.scale_step = int64_t{2} * p.ffn;
    }
};

}  // namespace

TEST_CASE("CUDA kernels: routing and experts give the reference's bits") {
    if (!kernels_run()) return;
    std::vector<op_case> cases = all_cases();
    // tiles: more than 24 rows per expert
    cases.push_back(experts_case(format::i8, 70, 2, 1, 64, 96, true));
    // large tiles, more than one per expert
    cases.push_back(experts_case(format::i8, 130, 2, 2, 96, 80, false));
    cases.push_back(experts_case(format::i8, 40, 8, 2, 64, 64, true));
    for (const op_case &c : cases) {
        if (c.kind != op::router && c.kind != op::experts) continue;
        one_node one(c);
        const node &n = one.only();
        const std::vector<float> wanted = one.reference();
        for (bool backwards : {false, true}) {
            run_backwards(backwards);
            std::memset(n.out.data, 0x5a, tensor_bytes(n.out));
            if (c.kind == op::router) {
                const tensor &l = *n.src[0];
                const cuda::router_launch_params p = {f32_at(l, 0),     l.stride[0],    floats(n.src[1]),
                                                      dim(l, 0),        dim(l, 1),      n.as<router_params>(),
                                                      f32_at(n.out, 0), n.out.stride[0]};
                REQUIRE(cuda::router_fits(p));
                CHECK(cuda::launch_router(p, nullptr) == 0);
            } else {
                const tensor &x = *n.src[0], &route = *n.src[1];
                const auto weights = [&](int i) {
                    return cuda::expert_matrices{n.src[i]->type, n.src[i]->data, floats(n.src[i]->scale)};
                };
                cuda::experts_launch_params p = {f32_at(x, 0),
                                                 x.stride[0],
                                                 f32_at(route, 0),
                                                 route.stride[0],
                                                 weights(2),
                                                 weights(3),
                                                 weights(4),
                                                 floats(n.src[5]),
                                                 n.src[5] ? n.src[5]->stride[0] : 0,
                                                 f32_at(n.out, 0),
                                                 n.out.stride[0],
                                                 dim(x, 0),
                                                 dim(route, 2),
                                                 dim(*n.src[2], 0),
                                                 dim(x, 1),
                                                 dim(*n.src[2], 1),
                                                 nullptr};
                REQUIRE(cuda::experts_fit(p));
                // gate and up of an expert next to each other, as in some files
                const halves both(p);
                if (backwards && p.gate.type == p.up.type) p.gate = both.gate, p.up = both.up;
                const memory work(cuda::experts_work_bytes(p));
                p.work = work.data;
                CHECK(cuda::launch_experts(p, facts, nullptr) == 0);
            }
            const int64_t where = first_difference(wanted, one.result());
            CHECK_MESSAGE(where == -1, c.text, backwards ? " backwards" : "", " element ", where);
        }
    }
}

TEST_CASE("CUDA kernels: routed heads give the reference's bits in any order of threads") {
    if (!kernels_run()) return;
    std::vector<op_case> cases = all_cases();
    // tiles: more than 24 rows per head
    cases.push_back(routed_matmul_case(format::i8, 130, 3, 2, true, 64, 96));
    cases.push_back(routed_matmul_case(format::i8, 40, 8, 5, false, 48, 64));
    const std::shared_ptr<backend> b = emulated_cuda();
    for (const op_case &c : cases) {
        if (c.kind != op::head_router && c.kind != op::routed_spread && c.kind != op::routed_matmul) continue;
        // sums of packed weights have another order here
        if (std::any_of(c.src.begin(), c.src.end(), [](const array &a) { return is_packed(a.type); }))
            continue;
        one_node one(c);
        const std::vector<float> wanted = one.reference();
        const memory work(b->fn->work_bytes(b.get(), one.only()));
        for (bool backwards : {false, true}) {
            run_backwards(backwards);
            std::memset(one.only().out.data, 0x5a, tensor_bytes(one.only().out));
            REQUIRE(b->fn->run(b.get(), one.g, work.data, nullptr));
            const int64_t where = first_difference(wanted, one.result());
            CHECK_MESSAGE(where == -1, c.text, backwards ? " backwards" : "", " element ", where);
        }
    }
}

TEST_CASE("CUDA, emulated: the sum that a device's reads are measured by meets every word once") {
    if (!kernels_run()) return;
    for (const int64_t count : {1, 511, 513, 5000}) {
        memory m(static_cast<size_t>(count) * 16);
        uint32_t sum = 7;
        const cuda::read_params p = {m.data, count, &sum, 2};
        REQUIRE(cuda::launch_fill(p, nullptr) == 0);
        std::vector<uint32_t> words(static_cast<size_t>(count) * 4);
        std::memcpy(words.data(), m.data, words.size() * 4);
        CHECK(std::set<uint32_t>(words.begin(), words.end()).size() == words.size());
        REQUIRE(cuda::launch_read(p, nullptr) == 0);
        uint32_t wanted = 7;
        for (const uint32_t w : words) wanted += w;
        CHECK(sum == wanted);
    }
}
