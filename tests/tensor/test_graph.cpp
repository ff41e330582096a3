// Graphs and the planner. Plans are checked by a simulation that shares nothing with the planner: it stamps
// every line of the arena with the node that wrote it last. Every source of a node, and at the end every kept
// result, must still bear the stamp of the node that made it.
#include "../../ggml-cpu/cpu.h"
#include "../../llm/model/arch.h"
#include "../../llm/engine/page_pool.h"
#include "../../llm/model/kv_layout.h"
#include "../../tensor/plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <random>

using namespace ds;

namespace {

constexpr size_t line = block::alignment;

backend_ptr cpu() { return cpu_backend({.threads = 2}); }

// An arena of address space only: nothing is computed.
struct stamped_arena {
    char *base = reinterpret_cast<char *>(uintptr_t{1} << 40);
    std::vector<int> stamp;
    explicit stamped_arena(size_t bytes) : stamp((bytes + line - 1) / line, -1) {}

    std::pair<size_t, size_t> lines(const tensor &t) const {
        const auto from = static_cast<size_t>(static_cast<char *>(t.data) - base);
        return {from / line, (from + tensor_bytes(t) + line - 1) / line};
    }
    void write(const tensor &t, int by) {
        const auto [from, to] = lines(t);
        REQUIRE(static_cast<char *>(t.data) >= base);
        REQUIRE(to <= stamp.size());
        std::fill(stamp.begin() + static_cast<ptrdiff_t>(from), stamp.begin() + static_cast<ptrdiff_t>(to),
                  by);
    }
    bool holds(const tensor &t, int by) const {
        const auto [from, to] = lines(t);
        return to <= stamp.size() &&
               std::all_of(stamp.begin() + static_cast<ptrdiff_t>(from),
                           stamp.begin() + static_cast<ptrdiff_t>(to), [&](int s) { return s == by; });
    }
};

// The node whose result `t` is, or is a view of; -1 for the bytes of an input or a weight.
int maker(const graph &g, const tensor *t) {
    for (; t; t = t->base)
        for (size_t i = 0; i < g.nodes().size(); ++i)
            if (t == &g.nodes()[i].out && !t->base) return static_cast<int>(i);
    return -1;
}

size_t sum_of_results(const graph &g) {
    size_t n = 0;
    for (const node &x : g.nodes())
        if (!x.out.base) n += tensor_bytes(x.out);
    return n;
}

void check_plan(graph &g, const plan &p) {
    stamped_arena arena(p.arena_bytes);
    place(g, p, arena.base);
    bool sound = true;
    for (size_t i = 0; i < g.nodes().size(); ++i) {
        const node &n = g.nodes()[i];
        for (const tensor *s : n.src)
            if (const int by = s ? maker(g, s) : -1; by >= 0) sound &= arena.holds(*s, by);
        if (n.out.base) continue;
        sound &= reinterpret_cast<uintptr_t>(n.out.data) % line == 0;
        arena.write(n.out, static_cast<int>(i));
        for (const tensor *s : n.src)
            // a result never overwrites its sources
            if (const int by = s ? maker(g, s) : -1; by >= 0) sound &= arena.holds(*s, by);
    }
    for (const tensor *t : g.kept())
        if (const int by = maker(g, t); by >= 0) sound &= arena.holds(*t, by);
    CHECK(sound);
}

// The step graph of an architecture; weights are shapes without bytes.
struct step_graph {
    const arch &a;
    hparams h;
    page_layout layout;
    std::deque<tensor> tensors;
    model_weights weights;
    graph g;

    step_graph(const arch &of, int64_t layers, format type)
        : a(of), g(static_cast<size_t>(16 + 24 * layers)) {
        h.layers = layers, h.hidden = 64, h.heads = 4, h.kv_heads = 2, h.head_size = 32, h.ffn = 160,
        h.vocab = 300, h.rotated = 16;
        h.q_rank = 48, h.kv_rank = 96, h.nope_size = h.head_size - 16, h.value_size = 24;
        h.experts = 8, h.experts_used = 3, h.experts_shared = 1, h.expert_ffn = 40, h.dense_layers = 1;
        h.heads_used = 3, h.heads_shared = 1;
        layout = make_page_layout(a, h, format::f16);
        weights.layer.resize(static_cast<size_t>(layers));
        for (const tensor_row &row : a.tensors(h)) {
            const tensor *t =
                &tensors.emplace_back(make_tensor(row.stays_f32() ? format::f32 : type, row.ne));
            slot_of(weights, row) = t;
        }
    }
    const tensor *build(int64_t rows, int64_t outputs) {
        g.reset();
        step_inputs in;
        in.ids = g.input(format::i32, {rows}, nullptr, "ids");
        in.positions = g.input(format::i32, {rows}, nullptr, "positions");
        in.sequence = g.input(format::i32, {rows}, nullptr, "sequence");
        in.slots = g.input(format::i32, {rows}, nullptr, "slots");
        in.outputs = g.input(format::i32, {outputs}, nullptr, "outputs");
        in.tables = g.input(format::i32, {4, 8}, nullptr, "tables");
        in.pages = g.input(format::i8, {32, static_cast<int64_t>(layout.page_bytes)}, nullptr, "pages");
        return a.build({g, h, weights, in, layout.layer});
    }
};

// A graph of f32 [rows, width] results, each made from random earlier ones. Every eighth is kept; some are
// read through a view.
void random_graph(graph &g, unsigned seed, int64_t rows, int nodes) {
    std::mt19937 random(seed);
    g.reset();
    const int64_t widths[] = {8, 24, 64};
    std::map<int64_t, std::vector<const tensor *>> of;
    for (const int64_t w : widths) of[w].push_back(g.input(format::f32, {rows, w}, nullptr, "in"));
    const auto any = [&](int64_t w) { return of[w][random() % of[w].size()]; };
    for (int i = 0; i < nodes; ++i) {
        const int64_t w = widths[random() % 3], k = widths[random() % 3];
        const tensor *t = nullptr;
        switch (random() % 4) {
        case 0: t = add(g, any(w), any(w)); break;
        case 1:
            t = gated_projection(g, unary::silu, any(k), nullptr, 0,
                                 g.input(format::f32, {w, k}, nullptr, "w"),
                                 g.input(format::f32, {w, k}, nullptr, "w"));
            break;
        case 2: t = rms_norm(g, any(w), g.input(format::f32, {w}, nullptr, "w"), 1e-5f); break;
        default: t = matmul(g, any(k), g.input(format::f32, {w, k}, nullptr, "w"), nullptr); break;
        }
        if (random() % 8 == 0) g.keep(t);
        if (random() % 4 == 0) t = g.reshape(g.reshape(t, {rows, w / 8, 8}), {rows, w});
        of[w].push_back(t);
    }
}

status refusal(const std::function<void()> &f) {
    try {
        f();
    } catch (const error &e) {
        return e.code;
    }
    return status::ok;
}

}  // namespace

TEST_CASE("plan: no result is overwritten while it is needed, in the graphs of every architecture, at every "
          "size up to the planned one") {
    const backend_ptr b = cpu();
    for (const arch *a : architectures())
        for (const format type : {format::f32, format::q8_0}) {
            CAPTURE(a->name);
            step_graph s(*a, 5, type);
            s.build(96, 20);
            const plan p = make_plan(s.g, *b);
            check_plan(s.g, p);
            CHECK(p.arena_bytes < sum_of_results(s.g) / 4);  // five layers need about the memory of one
            for (const auto &[rows, outputs] :
                 {std::pair{96, 1}, {95, 20}, {64, 7}, {33, 20}, {7, 7}, {6, 1}, {2, 2}, {1, 1}}) {
                const tensor *logits = s.build(rows, outputs);
                REQUIRE(s.g.nodes().size() == p.offset.size());
                check_plan(s.g, p);
                CHECK((logits->ne[0] == outputs && logits->ne[1] == 300));
                size_t work = 0;
                for (const node &n : s.g.nodes()) work = std::max(work, b->fn->work_bytes(b.get(), n));
                CHECK(work <= p.work_bytes);
            }
        }
}

TEST_CASE("plan: the arena does not grow with the layers") {
    const backend_ptr b = cpu();
    const arch *const a = architectures()[0];
    step_graph few(*a, 2, format::f32), many(*a, 40, format::f32);
    few.build(64, 8);
    many.build(64, 8);
    CHECK(make_plan(many.g, *b).arena_bytes == make_plan(few.g, *b).arena_bytes);
}

TEST_CASE("plan: random graphs") {
    const backend_ptr b = cpu();
    graph g(400);
    for (unsigned seed = 0; seed < 150; ++seed) {
        CAPTURE(seed);
        const int nodes = 1 + static_cast<int>(seed * 7 % 60);
        random_graph(g, seed, 40, nodes);
        const plan p = make_plan(g, *b);
        check_plan(g, p);
        CHECK(p.arena_bytes <= sum_of_results(g) + g.nodes().size() * line);
        for (const int64_t rows : {39, 17, 1}) {
            random_graph(g, seed, rows, nodes);
            check_plan(g, p);
        }
    }
}

TEST_CASE("plan: a chain needs memory for two results") {
    graph g(200);
    const tensor *x = g.input(format::f32, {16, 64}, nullptr, "x");
    for (int i = 0; i < 100; ++i) x = add(g, x, x);
    g.keep(x);
    CHECK(make_plan(g, *cpu()).arena_bytes == 2 * 16 * 64 * 4);
}

// Results computed in a planned arena equal those computed with separate memory for each.
TEST_CASE("plan: random graphs compute the same results in the arena and outside it") {
    const backend_ptr b = cpu();
    std::mt19937 random(9);
    std::vector<float> numbers(64 * 64);
    for (float &x : numbers) x = static_cast<float>(static_cast<int32_t>(random() % 2001) - 1000) / 1000;
    for (unsigned seed = 200; seed < 230; ++seed) {
        graph g(400);
        random_graph(g, seed, 12, 50);
        for (tensor &v : g.views())
            if (!v.base) v.data = numbers.data();
        const plan p = make_plan(g, *b);
        std::vector<char> arena(p.arena_bytes + line), work(p.work_bytes + line),
            apart(sum_of_results(g) + (g.nodes().size() + 1) * line);
        const auto aligned = [](std::vector<char> &v) {
            return v.data() + (line - reinterpret_cast<uintptr_t>(v.data()) % line) % line;
        };
        plan separate = p;
        size_t at = 0;
        for (size_t i = 0; i < g.nodes().size(); ++i) {
            separate.offset[i] = at;
            at += (tensor_bytes(g.nodes()[i].out) + line - 1) / line * line;
        }
        const auto kept_bytes = [&](const plan &q, char *memory) {
            place(g, q, memory);
            b->fn->run(b.get(), g, aligned(work), nullptr);
            std::string bytes;
            for (const tensor *t : g.kept()) bytes.append(static_cast<char *>(t->data), tensor_bytes(*t));
            return bytes;
        };
        CHECK(kept_bytes(p, aligned(arena)) == kept_bytes(separate, aligned(apart)));
    }
}

TEST_CASE("graph: no more nodes, views and kept results than were reserved") {
    graph g(3);
    const tensor *x = g.input(format::f32, {4, 4}, nullptr, "x");
    for (int i = 0; i < 3; ++i) add(g, x, x);
    CHECK(refusal([&] { add(g, x, x); }) == status::internal);
    g.input(format::f32, {1}, nullptr, "y");
    g.reshape(x, {16});
    CHECK(refusal([&] { g.reshape(x, {16}); }) == status::internal);
    CHECK(refusal([&] { g.input(format::f32, {1}, nullptr, "z"); }) == status::internal);
    for (int i = 0; i < 3; ++i) g.keep(x);
    CHECK(refusal([&] { g.keep(x); }) == status::internal);
    g.reset();
    CHECK(g.nodes().empty());
    x = g.input(format::f32, {4, 4}, nullptr, "x");
    CHECK(add(g, x, x)->ne[1] == 4);
}

TEST_CASE("graph: a view must hold the same elements") {
    graph g(20);
    const tensor *x = g.input(format::f32, {4, 6}, nullptr, "x");
    CHECK(refusal([&] { g.reshape(x, {5, 5}); }) == status::internal);
    CHECK(g.reshape(x, {2, 3, 4})->base == x);
    // weights with scales: each row keeps its own
    tensor *w = g.input(format::i8, {6, 8}, nullptr, "w");
    w->scale = g.input(format::f32, {6}, nullptr, "scale");
    const tensor *const heads = g.reshape(w, {3, 2, 8});
    CHECK((heads->scale->rank == 2 && heads->scale->ne[0] == 3 && heads->scale->base == w->scale));
    CHECK(refusal([&] { g.reshape(w, {6, 2, 4}); }) == status::internal);
    // a view of a view refers to the tensor that owns the bytes
    CHECK(g.reshape(g.reshape(x, {24}), {6, 4})->base == x);
    tensor rows = *x;
    rows.ne[1] = 3;  // part of each row
    CHECK(refusal([&] { g.reshape(&rows, {12}); }) == status::internal);
}

// 128 * 127 * 132104 is the largest such sum that fits int32. Nothing is computed here.
TEST_CASE("graph: rows of i8 whose sums overflow int32 are refused by every product, and so are too many i8 "
          "pages") {
    static_assert(int64_t{128} * 127 * 132104 <= INT32_MAX && int64_t{128} * 127 * 132105 > INT32_MAX);
    graph g(400);
    const tensor scale = make_tensor(format::f32, {5});
    const auto f32 = [&](std::initializer_list<int64_t> ne) {
        return g.input(format::f32, ne, nullptr, "f32");
    };
    const auto i8 = [&](std::initializer_list<int64_t> ne) {
        tensor *t = g.input(format::i8, ne, nullptr, "i8");
        t->scale = &scale;
        return t;
    };
    for (const int64_t k : {int64_t{132104}, int64_t{132105}, int64_t{133000}, int64_t{140000}}) {
        CAPTURE(k);
        const auto expected = k == 132104 ? status::ok : status::internal;
        CHECK(refusal([&] { matmul(g, f32({3, k}), i8({5, k}), nullptr); }) == expected);
        CHECK(refusal([&] {
                  projections(g, f32({3, k}), nullptr, 0, {{f32({5, k}), nullptr}, {i8({5, k}), nullptr}});
              }) == expected);
        CHECK(refusal([&] {
                  gated_projection(g, unary::silu, f32({3, k}), nullptr, 0, f32({5, k}), i8({5, k}));
              }) == expected);
        CHECK(refusal([&] {
                  gated_projection(g, unary::silu, f32({3, k}), nullptr, 0, i8({5, k}), f32({5, k}));
              }) == expected);
        CHECK(refusal([&] { head_matmul(g, f32({3, 2, k}), i8({2, 5, k})); }) == expected);
        CHECK(refusal([&] {
                  experts(g, f32({3, 8}), f32({3, 2, 2}), f32({4, k, 8}), f32({4, k, 8}), i8({4, 8, k}),
                          nullptr);
              }) == expected);
        CHECK(refusal([&] {
                  experts(g, f32({3, k}), f32({3, 2, 2}), i8({4, 8, k}), f32({4, 8, k}), f32({4, k, 8}),
                          nullptr);
              }) == expected);
        CHECK(refusal([&] {
                  experts(g, f32({3, k}), f32({3, 2, 2}), f32({4, 8, k}), i8({4, 8, k}), f32({4, k, 8}),
                          nullptr);
              }) == expected);
        CHECK(refusal([&] { routed_matmul(g, f32({3, k}), i8({4, 5, k}), f32({3, 2, 2})); }) == expected);
        CHECK(refusal([&] {
                  spread_matmul(g, f32({3, 2, k / 4}), f32({3, 2, 2}), i8({5, k / 4 * 4}));
              }) == (k / 4 * 4 <= 132104 ? status::ok : status::internal));
        CHECK(refusal([&] { matmul(g, f32({3, k}), f32({5, k}), nullptr); }) == status::ok);
    }
    const auto pages_of = [&](const kv_layout &l) {
        return g.input(format::i8, {2, static_cast<int64_t>(l.k_bytes() + l.v_bytes())}, nullptr, "pages");
    };
    const auto list = [&](int64_t n) { return g.input(format::i32, {n}, nullptr, "list"); };
    const auto attend = [&](format type, int32_t head, int32_t rope, int64_t pages) {
        kv_layout l = {type, 1, head, 0, 0, rope};
        l.v_offset = static_cast<int64_t>(l.k_bytes());
        return refusal([&] {
            kv_write(g, f32({3, 1, head}), f32({3, 1, rope ? rope : head}), pages_of(l), list(3), l);
            attention(g, f32({3, 1, head}), pages_of(l), g.input(format::i32, {1, pages}, nullptr, "tables"),
                      list(3), list(3), {l, 1}, rope ? f32({3, 1, rope}) : nullptr);
        });
    };
    CHECK(attend(format::i8, 1024, 0, 65536) == status::ok);
    CHECK(attend(format::i8, 1025, 0, 1) == status::internal);
    CHECK(attend(format::i8, 1024, 1024, 1) == status::ok);
    CHECK(attend(format::i8, 1024, 1026, 1) == status::internal);
    CHECK(attend(format::i8, 64, 0, 65537) == status::internal);
    CHECK(attend(format::f16, 1025, 0, 65537) == status::ok);
}

TEST_CASE("graph: shape rules refuse what does not fit, naming the operation and the shapes") {
    graph g(600);
    const auto f32 = [&](std::initializer_list<int64_t> ne) {
        return g.input(format::f32, ne, nullptr, "f32");
    };
    const auto f16 = [&](std::initializer_list<int64_t> ne) {
        return g.input(format::f16, ne, nullptr, "f16");
    };
    const auto i32 = [&](std::initializer_list<int64_t> ne) {
        return g.input(format::i32, ne, nullptr, "i32");
    };
    const auto i8 = [&](std::initializer_list<int64_t> ne) { return g.input(format::i8, ne, nullptr, "i8"); };
    const auto bad = [&](const std::function<void()> &f) { CHECK(refusal(f) == status::internal); };
    const auto good = [&](const std::function<void()> &f) { CHECK(refusal(f) == status::ok); };

    good([&] { get_rows(g, f16({10, 8}), i32({3})); });
    bad([&] { get_rows(g, f16({10}), i32({3})); });
    bad([&] { get_rows(g, f16({10, 8}), i32({3, 1})); });
    bad([&] { get_rows(g, f16({10, 8}), f32({3})); });
    bad([&] { get_rows(g, i8({10, 8}), i32({3})); });

    good([&] { matmul(g, f32({3, 8}), f16({5, 8}), f32({5})); });
    bad([&] { matmul(g, f32({3, 8}), f16({8, 5}), nullptr); });
    bad([&] { matmul(g, f16({3, 8}), f16({5, 8}), nullptr); });
    bad([&] { matmul(g, f32({1, 3, 8}), f16({5, 8}), nullptr); });
    bad([&] { matmul(g, f32({3, 8}), i8({5, 8}), nullptr); });
    bad([&] { matmul(g, f32({3, 8}), f16({5, 8}), f32({8})); });
    bad([&] { matmul(g, f32({3, 8}), f16({5, 8}), f16({5})); });
    bad([&] { matmul(g, f32({3, 8}), f16({5, 8}), f32({1, 5})); });

    good([&] { add(g, f32({3, 8}), f32({3, 8})); });
    bad([&] { add(g, f32({3, 8}), f32({8, 3})); });
    bad([&] { add(g, f32({3, 8}), f32({3, 8, 1})); });
    bad([&] { add(g, f32({3, 8}), f16({3, 8})); });

    const auto slots = [&](int64_t n) { return i8({n, static_cast<int64_t>(sizeof(lora_slot))}); };
    good([&] { CHECK(lora(g, f32({3, 8}), f32({3, 5}), slots(2), i32({3}), {0, 4})->base != nullptr); });
    bad([&] { lora(g, f32({3, 8}), f32({2, 5}), slots(2), i32({3}), {0, 4}); });
    bad([&] { lora(g, f32({3, 8}), f16({3, 5}), slots(2), i32({3}), {0, 4}); });
    bad([&] { lora(g, f32({3, 8}), f32({3, 5}), i8({2, 8}), i32({3}), {0, 4}); });
    bad([&] { lora(g, f32({3, 8}), f32({3, 5}), slots(2), i32({2}), {0, 4}); });
    bad([&] { lora(g, f32({3, 8}), f32({3, 5}), slots(2), i32({3}), {-1, 4}); });
    bad([&] { lora(g, f32({3, 8}), f32({3, 5}), slots(2), i32({3}), {0, 0}); });
    good([&] { add_scaled(g, f32({3, 8}), f32({3, 8}), 2); });
    good([&] { add_scaled(g, nullptr, f32({3, 8}), 2); });
    bad([&] { add_scaled(g, f32({3, 5}), f32({3, 8}), 2); });
    bad([&] { add_scaled(g, nullptr, f32({3, 2, 8}), 2); });

    good([&] { matmul(g, f32({3, 8}), f16({5, 8}), nullptr, f32({3, 5})); });
    bad([&] { matmul(g, f32({3, 8}), f16({5, 8}), nullptr, f32({5})); });
    bad([&] { matmul(g, f32({3, 8}), f16({5, 8}), nullptr, f16({3, 5})); });

    good([&] {
        CHECK(projections(g, f32({3, 8}), f32({8}), 1e-5f, {{f16({5, 8}), f32({5})}, {f32({2, 8}), nullptr}})
                  ->ne[1] == 7);
    });
    good([&] { projections(g, f32({3, 8}), nullptr, 0, {{f16({5, 8}), nullptr}}); });
    bad([&] { projections(g, f32({3, 8}), f32({5}), 1e-5f, {{f16({5, 8}), nullptr}}); });
    bad([&] { projections(g, f32({3, 8}), nullptr, 0, {{f16({5, 8}), nullptr}, {f16({5, 9}), nullptr}}); });
    bad([&] { projections(g, f32({3, 8}), nullptr, 0, {{f16({5, 8}), f32({4})}}); });
    bad([&] { projections(g, f32({3, 8}), nullptr, 0, {{i8({5, 8}), nullptr}}); });
    bad([&] { projections(g, f32({3, 8}), nullptr, 0, {{nullptr, nullptr}, {f16({5, 8}), nullptr}}); });

    good([&] { gated_projection(g, unary::silu, f32({3, 8}), f32({8}), 1e-5f, f16({5, 8}), f32({5, 8})); });
    bad([&] { gated_projection(g, unary::silu, f32({3, 8}), f32({5}), 1e-5f, f16({5, 8}), f32({5, 8})); });
    bad([&] { gated_projection(g, unary::silu, f32({3, 8}), nullptr, 0, f16({5, 8}), f32({6, 8})); });
    bad([&] { gated_projection(g, unary::silu, f16({3, 8}), nullptr, 0, f16({5, 8}), f32({5, 8})); });

    good([&] { rms_norm(g, f32({3, 2, 8}), f32({8}), 1e-5f); });
    bad([&] { rms_norm(g, f32({3, 2, 8}), f32({2}), 1e-5f); });
    bad([&] { rms_norm(g, f32({8}), f32({8}), 1e-5f); });
    bad([&] { rms_norm(g, f32({3, 8}), f16({8}), 1e-5f); });

    const rope_table_params rp = {10000, 1, 0, 0, 1, 8, 0};
    good([&] { rope_table(g, i32({3}), f32({4}), rp); });
    bad([&] { rope_table(g, f32({3}), nullptr, rp); });
    bad([&] { rope_table(g, i32({3, 1}), nullptr, rp); });
    bad([&] { rope_table(g, i32({3}), f32({8}), rp); });
    bad([&] { rope_table(g, i32({3}), f16({4}), rp); });
    good([&] { rope(g, f32({3, 2, 8}), f32({3, 2, 4}), rope_pairs::halves); });
    bad([&] { rope(g, f32({3, 2, 8}), f32({3, 2, 5}), rope_pairs::halves); });
    bad([&] { rope(g, f32({3, 2, 8}), f32({2, 2, 4}), rope_pairs::halves); });
    bad([&] { rope(g, f32({3, 2, 8}), f32({3, 1, 4}), rope_pairs::halves); });
    bad([&] { rope(g, f32({3, 2, 8}), f16({3, 2, 4}), rope_pairs::halves); });
    bad([&] { rope(g, f32({3, 16}), f32({3, 2, 4}), rope_pairs::halves); });

    const kv_layout l = {format::f32, 2, 8, 0, 4096};
    const int64_t page = 8192;
    good([&] { kv_write(g, f32({3, 2, 8}), f32({3, 2, 8}), i8({5, page}), i32({3}), l); });
    bad([&] { kv_write(g, f32({3, 2, 8}), f32({3, 2, 9}), i8({5, page}), i32({3}), l); });
    bad([&] { kv_write(g, f32({3, 4, 8}), f32({3, 4, 8}), i8({5, page}), i32({3}), l); });
    bad([&] { kv_write(g, f32({3, 2, 8}), f32({3, 2, 8}), i8({5, page - 1}), i32({3}), l); });
    bad([&] { kv_write(g, f32({3, 2, 8}), f32({3, 2, 8}), f32({5, page}), i32({3}), l); });
    bad([&] { kv_write(g, f32({3, 2, 8}), f32({3, 2, 8}), i8({5, page}), i32({4}), l); });
    bad([&] { kv_write(g, f32({3, 2, 8}), f32({3, 2, 8}), i8({5, page}), f32({3}), l); });

    const attention_params ap = {l, 1};
    const auto attend = [&](std::initializer_list<int64_t> q, std::initializer_list<int64_t> pages,
                            std::initializer_list<int64_t> tables, int64_t s, int64_t p) {
        attention(g, f32(q), i8(pages), i32(tables), i32({s}), i32({p}), ap);
    };
    good([&] { attend({3, 4, 8}, {5, page}, {2, 5}, 3, 3); });
    bad([&] { attend({3, 3, 8}, {5, page}, {2, 5}, 3, 3); });
    bad([&] { attend({3, 4, 9}, {5, page}, {2, 5}, 3, 3); });
    bad([&] { attend({3, 4, 8}, {5, 4096}, {2, 5}, 3, 3); });
    bad([&] { attend({3, 4, 8}, {5, page}, {10}, 3, 3); });
    bad([&] { attend({3, 4, 8}, {5, page}, {2, 5}, 2, 3); });
    bad([&] { attend({3, 4, 8}, {5, page}, {2, 5}, 3, 4); });

    kv_layout latent = {format::f32, 1, 8, 0, 8 * 64 * 4, 4};
    good([&] { kv_write(g, f32({3, 1, 8}), f32({3, 1, 4}), i8({5, page}), i32({3}), latent); });
    bad([&] { kv_write(g, f32({3, 1, 8}), f32({3, 1, 8}), i8({5, page}), i32({3}), latent); });
    bad([&] { kv_write(g, f32({3, 1, 8}), f32({3, 1, 4}), i8({5, 12 * 64 * 4 - 1}), i32({3}), latent); });
    const auto attend_latents = [&](std::initializer_list<int64_t> q, const tensor *q_rope) {
        attention(g, f32(q), i8({5, page}), i32({2, 5}), i32({3}), i32({3}), {latent, 1}, q_rope);
    };
    good([&] { attend_latents({3, 6, 8}, f32({3, 6, 4})); });
    bad([&] { attend_latents({3, 6, 8}, nullptr); });
    bad([&] { attend_latents({3, 6, 8}, f32({3, 5, 4})); });
    bad([&] { attend_latents({3, 6, 8}, f32({3, 6, 8})); });
    bad([&] {
        attention(g, f32({3, 4, 8}), i8({5, page}), i32({2, 5}), i32({3}), i32({3}), ap, f32({3, 4, 4}));
    });
    latent.v_offset += 64;  // the two parts are not adjacent
    bad([&] { attend_latents({3, 6, 8}, f32({3, 6, 4})); });

    good([&] { head_matmul(g, f32({3, 2, 8}), f16({2, 5, 8})); });
    bad([&] { head_matmul(g, f32({3, 2, 8}), f16({3, 5, 8})); });
    bad([&] { head_matmul(g, f32({3, 2, 8}), f16({2, 8, 5})); });
    bad([&] { head_matmul(g, f32({3, 2, 8}), i8({2, 5, 8})); });

    latent.v_offset -= 64;
    const auto of_heads = [&](const tensor *q, const tensor *q_rope, const tensor *k_b, const tensor *v_b,
                              kv_layout of_page) {
        mla_attention(g, q, q_rope, k_b, v_b, i8({5, page}), i32({2, 5}), i32({3}), i32({3}),
                      {of_page, 1, 0});
    };
    good([&] { of_heads(f32({3, 6, 5}), f32({3, 6, 4}), f16({6, 8, 5}), f32({6, 7, 8}), latent); });
    bad([&] { of_heads(f32({3, 6, 5}), f32({3, 5, 4}), f16({6, 8, 5}), f32({6, 7, 8}), latent); });
    bad([&] { of_heads(f32({3, 6, 5}), f32({3, 6, 5}), f16({6, 8, 5}), f32({6, 7, 8}), latent); });
    bad([&] { of_heads(f32({3, 6, 5}), f32({3, 6, 4}), f16({6, 5, 8}), f32({6, 7, 8}), latent); });
    bad([&] { of_heads(f32({3, 6, 5}), f32({3, 6, 4}), f16({6, 8, 5}), f32({6, 8, 7}), latent); });
    bad([&] { of_heads(f32({3, 6, 5}), f32({3, 6, 4}), i8({6, 8, 5}), f32({6, 7, 8}), latent); });
    bad([&] { of_heads(f32({3, 6, 5}), f32({3, 6, 4}), f16({6, 8, 5}), f32({6, 7, 8}), l); });
    latent.type = format::i8;
    bad([&] { of_heads(f32({3, 6, 5}), f32({3, 6, 4}), f16({6, 8, 5}), f32({6, 7, 8}), latent); });

    good([&] { router(g, f32({3, 8}), f32({8}), {3, 4, 2, 1, 1, 1.0f}); });
    bad([&] { router(g, f32({3, 8}), f32({7}), {3, 4, 2, 1, 1, 1.0f}); });
    bad([&] { router(g, f32({3, 8}), nullptr, {5, 4, 2, 1, 1, 1.0f}); });  // more than two groups of two
    bad([&] { router(g, f32({3, 8}), nullptr, {3, 3, 2, 1, 1, 1.0f}); });
    bad([&] { router(g, f32({3, 8}), nullptr, {3, 4, 5, 1, 1, 1.0f}); });
    bad([&] { router(g, f32({3, 8}), nullptr, {0, 4, 2, 1, 1, 1.0f}); });

    good([&] { candidates(g, f32({3, 8}), f32({3}), 20); });
    bad([&] { candidates(g, f32({3, 8}), f32({8}), 5); });
    bad([&] { candidates(g, f32({3, 8}), f32({3}), 0); });
    bad([&] { candidates(g, f16({3, 8}), f32({3}), 5); });

    good([&] {
        experts(g, f32({3, 8}), f32({3, 2, 2}), f16({4, 5, 8}), f16({4, 5, 8}), f16({4, 8, 5}), f32({3, 8}));
    });
    bad([&] {
        experts(g, f32({3, 8}), f32({3, 2, 2}), f16({4, 5, 8}), f16({4, 6, 8}), f16({4, 8, 5}), nullptr);
    });
    bad([&] {
        experts(g, f32({3, 8}), f32({3, 2, 2}), f16({4, 5, 8}), f16({4, 5, 8}), f16({4, 5, 8}), nullptr);
    });
    bad([&] {
        experts(g, f32({3, 8}), f32({2, 2, 2}), f16({4, 5, 8}), f16({4, 5, 8}), f16({4, 8, 5}), nullptr);
    });
    bad([&] {
        experts(g, f32({3, 8}), f32({3, 2, 2}), f16({4, 5, 8}), f16({4, 5, 8}), f16({4, 8, 5}), f32({3, 5}));
    });
    bad([&] {
        experts(g, f32({3, 8}), f32({3, 2, 2}), i8({4, 5, 8}), f16({4, 5, 8}), f16({4, 8, 5}), nullptr);
    });

    good([&] { CHECK(routed_matmul(g, f32({3, 8}), f16({4, 5, 8}), f32({3, 2, 2}))->ne[2] == 5); });
    good([&] { routed_matmul(g, f32({3, 2, 8}), f16({4, 5, 8}), f32({3, 2, 2})); });
    bad([&] { routed_matmul(g, f32({3, 8}), f16({4, 8, 5}), f32({3, 2, 2})); });
    bad([&] { routed_matmul(g, f32({3, 8}), i8({4, 5, 8}), f32({3, 2, 2})); });
    bad([&] { routed_matmul(g, f32({3, 3, 8}), f16({4, 5, 8}), f32({3, 2, 2})); });
    bad([&] { routed_matmul(g, f32({3, 8}), f16({4, 5, 8}), f32({2, 2, 2})); });
    bad([&] { routed_matmul(g, f32({3, 8}), f16({4, 5, 8}), f32({3, 2, 5})); });
    bad([&] { routed_matmul(g, f32({3, 8}), f16({4, 5, 8}), f16({3, 2, 2})); });

    good([&] { CHECK(routed_add(g, f32({3, 4, 8}), f32({3, 2, 4}), f32({3, 8}))->ne[1] == 8); });
    bad([&] { routed_add(g, f32({3, 4, 8}), f32({3, 2, 3}), nullptr); });
    bad([&] { routed_add(g, f32({3, 8}), f32({3, 2, 4}), nullptr); });
    bad([&] { routed_add(g, f32({3, 4, 8}), f32({3, 2, 4}), f32({3, 4})); });

    good([&] { CHECK(head_router(g, f32({3, 6}), f32({3, 2}), f32({3, 2}), 4)->ne[2] == 6); });
    good([&] { CHECK(head_router(g, f32({3, 6}), nullptr, f32({3, 2}), 6)->ne[2] == 6); });
    bad([&] { head_router(g, f32({3, 6}), f32({3, 2}), f32({3, 2}), 7); });
    bad([&] { head_router(g, f32({3, 6}), f32({3, 2}), f32({3, 2}), 0); });
    bad([&] { head_router(g, f32({3, 6}), f32({2, 2}), f32({3, 2}), 4); });
    bad([&] { head_router(g, f32({3, 6}), f32({3, 2}), f32({3, 3}), 4); });
    bad([&] { head_router(g, f16({3, 6}), nullptr, f32({3, 2}), 4); });

    good([&] { CHECK(routed_spread(g, f32({3, 2, 8}), f32({3, 2, 2}), 5)->ne[1] == 40); });
    bad([&] { routed_spread(g, f32({3, 2, 8}), f32({3, 2, 2}), 1); });
    bad([&] { routed_spread(g, f32({3, 2, 8}), f32({3, 2, 3}), 5); });
    bad([&] { routed_spread(g, f32({3, 8}), f32({3, 2, 2}), 5); });

    good([&] { spread_matmul(g, f32({3, 2, 8}), f32({3, 2, 2}), f16({5, 32}), f32({3, 5})); });
    bad([&] { spread_matmul(g, f32({3, 2, 8}), f32({3, 2, 2}), f16({5, 33})); });
    bad([&] { spread_matmul(g, f32({3, 2, 8}), f32({3, 2, 2}), f16({5, 8})); });
    bad([&] { spread_matmul(g, f32({3, 2, 8}), f32({3, 2, 3}), f16({5, 32})); });
    bad([&] { spread_matmul(g, f32({3, 2, 8}), f32({3, 2, 2}), i8({5, 32})); });
    bad([&] { spread_matmul(g, f32({3, 2, 8}), f32({3, 2, 2}), f16({5, 32}), f32({3, 32})); });

    const tensor *x = f32({3, 2, 8});
    good([&] {
        const tensor *s = g.slice(x, 5, 3);
        CHECK((s->ne[2] == 3 && s->stride[1] == 8 && s->stride[0] == 16 && s->offset == 20 && s->base == x));
    });
    bad([&] { g.slice(x, 6, 3); });
    bad([&] { g.slice(x, -1, 3); });
    bad([&] { g.slice(x, 0, 0); });
    bad([&] { g.slice(f16({3, 8}), 0, 4); });

    try {
        add(g, f32({3, 8}), f32({8, 3}));
    } catch (const error &e) {
        CHECK(e.text.find("add: ") == 0);
        CHECK(e.text.find("f32[3, 8]") != std::string::npos);
        CHECK(e.text.find("f32[8, 3]") != std::string::npos);
    }
}
