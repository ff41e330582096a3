// Every operation of ops.def on every variant, instruction set and thread count. Where the arithmetic is
// defined to the bit (numerics.h), bytes are compared with those of the reference forward, and a row alone
// with the same row among others. The reference forward itself is compared with float64. All memory that a
// kernel sees ends, or begins, at an inaccessible page. All NaNs count as equal.
#include "../support/float_mode.h"
#include "../cpu/tile_model.h"
#include "op_cases.h"
#include "../support/sanitizers.h"
#include "../support/skip.h"

#include "../../ggml-cpu/cpu.h"
#include "../../tensor/mla.h"
#include "../../tensor/plan.h"

#include <cfenv>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <map>
#include <set>
#include <sys/mman.h>
#include <unistd.h>

using namespace ds;
using namespace ds::test;

namespace {

// Then each case runs with one thread count and one end of its memory guarded, in rotation.
#ifdef DS_EMULATED
constexpr bool few = true;
#else
constexpr bool few = sanitized;
#endif

// Bytes that end or begin at an inaccessible page.
struct guarded {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), whole;
    char *memory, *data;
    guarded(size_t bytes, bool at_end) : whole((bytes + page - 1) / page * page) {
        void *p = mmap(nullptr, whole + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(p != MAP_FAILED);
        memory = static_cast<char *>(p);
        REQUIRE(mprotect(memory, page, PROT_NONE) == 0);
        REQUIRE(mprotect(memory + page + whole, page, PROT_NONE) == 0);
        data = at_end ? memory + page + whole - bytes : memory + page;
    }
    guarded(const guarded &) = delete;
    ~guarded() { munmap(memory, whole + 2 * page); }
};

// A case ready to run: a graph of one node over guarded memory. `row` >= 0 keeps only that row.
struct instance {
    std::vector<std::unique_ptr<guarded>> memory;
    std::vector<std::vector<char>> initial;  // the sources' bytes, since a run may change them (pages)
    graph g{16};
    size_t out_bytes = 0;
    const tensor *changed = nullptr;  // besides the result

    instance(const op_case &c, bool at_end, int64_t row = -1) {
        const tensor *src[max_sources] = {};
        for (size_t s = 0; s < c.src.size(); ++s)
            if (!c.src[s].bytes.empty()) src[s] = source(c.src[s], at_end, c.src[s].by_row ? row : -1);
        if (c.changed >= 0) changed = src[c.changed];
        node &n = add_operation(g, c, src);
        out_bytes = tensor_bytes(n.out);
        if (n.out.base) n.out.data = n.out.base->data;
        else n.out.data = memory.emplace_back(std::make_unique<guarded>(out_bytes, at_end))->data;
    }

    tensor *source(const array &a, bool at_end, int64_t row) {
        std::vector<int64_t> ne = a.ne;
        size_t bytes = a.bytes.size(), skipped = 0;
        if (row >= 0) {
            bytes /= static_cast<size_t>(ne[0]);
            skipped = bytes * static_cast<size_t>(row);
            ne[0] = 1;
        }
        char *data = memory.emplace_back(std::make_unique<guarded>(bytes, at_end))->data;
        initial.emplace_back(a.bytes.begin() + static_cast<ptrdiff_t>(skipped),
                             a.bytes.begin() + static_cast<ptrdiff_t>(skipped + bytes));
        return add_source(g, a, ne, data, a.scale.empty() ? nullptr : scales(a, at_end));
    }
    char *scales(const array &a, bool at_end) {
        const std::vector<float> &s = a.scale;
        const char *bytes = reinterpret_cast<const char *>(s.data());
        initial.emplace_back(bytes, bytes + s.size() * sizeof(float));
        return memory.emplace_back(std::make_unique<guarded>(s.size() * sizeof(float), at_end))->data;
    }

    void prepare() {
        for (size_t i = 0; i < initial.size(); ++i)
            std::memcpy(memory[i]->data, initial[i].data(), initial[i].size());
        if (!g.nodes()[0].out.base) std::memset(g.nodes()[0].out.data, 0x5a, out_bytes);
    }
    const node &only() { return g.nodes()[0]; }
    std::vector<char> result() {
        const char *p = static_cast<const char *>(only().out.data);
        std::vector<char> y(p, p + out_bytes);
        if (changed) {
            const char *const q = static_cast<const char *>(changed->data);
            y.insert(y.end(), q, q + tensor_bytes(*changed));
        }
        return y;
    }
    std::vector<char> reference() {
        prepare();
        info(only().kind).reference(only());
        return result();
    }
    std::vector<char> run(backend &b, bool at_end) {
        prepare();
        const size_t bytes = (b.fn->work_bytes(&b, only()) + 63) / 64 * 64;
        guarded work(bytes, at_end);
        std::memset(work.data, 0x5a, bytes);
        REQUIRE(b.fn->run(&b, g, work.data, nullptr));
        return result();
    }
};

// The instruction sets of this machine, and AMX with a model of the tiles.
#ifdef DS_X86_KERNELS
constexpr const isa *models[] = {&amx_on_avx2, &amx_on_avx512};
#else
constexpr std::span<const isa *const> models;
#endif
std::vector<const char *> isas() {
    std::vector<const char *> all = cpu_isas();
    for (const isa *m : models)
        if (m->available()) all.push_back(m->name);
    return all;
}

backend_ptr make_backend(const char *isa, unsigned threads, op k, const char *variant) {
    cpu_options o;
    o.isa = isa;
    for (const ds::isa *m : models)
        if (isa == m->name) o.kernels = m;
    o.threads = threads;
    if (variant) o.force = {{info(k).name, variant}};
    return cpu_backend(o);
}

format result_type(const op_case &c) {
    if (c.kind == op::candidates) return format::i32;
    if (c.kind == op::adamw) return c.src[0].type;
    if (c.kind == op::narrow) {
        narrow_params p;
        std::memcpy(&p, c.params.bytes, sizeof p);
        return p.to;
    }
    if (c.kind != op::kv_write) return format::f32;
    kv_layout l;
    std::memcpy(&l, c.params.bytes, sizeof l);
    return l.type;
}

// Bytes of one format among those that instance::result returns.
struct stretch {
    format type;
    size_t first, bytes;
};
std::vector<stretch> stretches_of(const op_case &c, size_t bytes) {
    if (c.changed < 0) return {{result_type(c), 0, bytes}};
    const array &changed = c.src[static_cast<size_t>(c.changed)];
    const size_t own = bytes - changed.bytes.size();
    return {{result_type(c), 0, own}, {changed.type, own, changed.bytes.size()}};
}

// Returns the index of the first element whose bytes differ and that is not NaN in both; -1 if there is none.
int64_t first_difference(const op_case &c, const char *a, const char *b, size_t bytes) {
    int64_t index = 0;
    for (const stretch &s : stretches_of(c, bytes)) {
        const size_t width = info(s.type).bytes;
        for (size_t i = s.first; i < s.first + s.bytes; i += width, ++index) {
            if (std::memcmp(a + i, b + i, width) == 0) continue;
            if (s.type == format::i32) return index;
            float x, y;
            decode_row(s.type, a + i, &x, 1);
            decode_row(s.type, b + i, &y, 1);
            if (x == x || y == y) return index;
        }
    }
    return -1;
}

const std::vector<op_case> &cases() {
    static const std::vector<op_case> all = all_cases();
    return all;
}

}  // namespace

TEST_CASE("every operation has a case") {
    std::set<op> tested;
    for (const op_case &c : cases()) tested.insert(c.kind);
#define DS_OP(name, ...) CHECK_MESSAGE(tested.count(op::name), "no case in cases.def for " #name);
#include "../../tensor/ops.def"
#undef DS_OP
}

TEST_CASE("reference forwards agree with float64") {
    for (const op_case &c : cases()) {
        if (!c.finite) continue;
        instance at(c, true);
        const std::vector<char> got = at.reference();
        std::vector<double> wanted, tolerance;
        c.exact(wanted, tolerance);
        size_t wrong = 0, i = 0;
        for (const stretch &t : stretches_of(c, got.size()))
            for (size_t e = 0; e < t.bytes / info(t.type).bytes; ++e, ++i) {
                REQUIRE(i < wanted.size());
                const double y = value(t.type, got.data() + t.first, static_cast<int64_t>(e));
                if (std::fabs(y - wanted[i]) <= tolerance[i] || wrong++ > 3) continue;
                FAIL_CHECK(c.text, " element ", i, ": ", y, " instead of ", wanted[i], " within ",
                           tolerance[i]);
            }
        REQUIRE(i == wanted.size());
        CHECK(wrong == 0);
    }
}

TEST_CASE("every variant, instruction set and thread count gives the reference's bytes") {
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k) {
        const op kind = static_cast<op>(k);
        std::set<std::string> unused;  // variants that no case uses
        for (const variant &v : cpu_variants(kind)) unused.insert(v.name);
        std::map<const op_case *, std::vector<char>> references;  // the slow part
        for (const op_case &c : cases())
            if (c.kind == kind) references[&c] = instance(c, true).reference();
        for (const char *isa : isas())
            for (unsigned threads = 1; threads <= 3; threads += few ? 2 : 1)
                for (const variant &v : cpu_variants(kind)) {
                    const backend_ptr b = make_backend(isa, threads, kind, v.name);
                    CHECK(cpu_threads(*b) == threads);
                    for (const auto &[of, wanted] : references)
                        for (bool at_end : {true, false}) {
                            if (few && (at_end == (threads == 1) || (of - &cases()[0]) % 2 == (threads == 1)))
                                continue;
                            const op_case &c = *of;
                            instance one(c, at_end);
                            if (std::strcmp(b->fn->variant(b.get(), one.only()), v.name) != 0) continue;
                            unused.erase(v.name);
                            const std::vector<char> got = one.run(*b, at_end);
                            REQUIRE(got.size() == wanted.size());
                            const int64_t where = first_difference(c, wanted.data(), got.data(), got.size());
                            CHECK_MESSAGE(where == -1, c.text, " ", isa, " ", v.name, " threads ", threads,
                                          " element ", where);
                        }
                }
        for (const std::string &name : unused) FAIL_CHECK(info(kind).name, ": no case for variant ", name);
    }
}

#ifdef DS_X86_KERNELS
TEST_CASE("amx: every operation with integer weights or pages uses the tiles, and leaves them released") {
    if (!amx_on_avx2.available()) return skip("the model of AMX needs avx2");
    for (const op kind : {op::matmul, op::head_matmul, op::projections, op::gated_projection, op::experts,
                          op::routed_matmul, op::spread_matmul, op::attention, op::mla_attention}) {
        const backend_ptr b = make_backend(amx_on_avx2.name, 1, kind, nullptr);
        tile_model::state = {};
        for (const op_case &c : cases()) {
            if (c.kind != kind) continue;
            instance one(c, true);
            one.run(*b, true);
            CHECK_MESSAGE(tile_model::state.fault == "", c.text);
            CHECK_FALSE_MESSAGE(tile_model::state.configured, c.text);
        }
        CHECK_MESSAGE(tile_model::state.products > 0, info(kind).name);
    }
}
#endif

TEST_CASE("a row alone is the row among others") {
    for (const char *isa : isas()) {
        const backend_ptr b = make_backend(isa, 2, op::add, nullptr);
        for (const op_case &c : cases()) {
            if (!c.rows) continue;
            instance whole(c, true);
            const std::vector<char> among = whole.run(*b, true);
            const int64_t rows = whole.only().out.ne[0];
            const size_t bytes = among.size() / static_cast<size_t>(rows);
            for (int64_t i = 0; i < rows; i += 1 + rows / 8) {
                instance alone(c, true, i);
                const std::vector<char> got = alone.run(*b, true);
                REQUIRE(got.size() == bytes);
                CHECK_MESSAGE(first_difference(c, among.data() + static_cast<size_t>(i) * bytes, got.data(),
                                               bytes) == -1,
                              c.text, " ", isa, " row ", i);
            }
        }
    }
}

TEST_CASE("a host's floating-point mode changes nothing, and is left as it was") {
    for (unsigned threads : {1u, 2u}) {
        for (const op_case &c : cases()) {
            instance one(c, true);
            const std::vector<char> wanted = one.reference();
            const uint64_t before = float_control();
            std::fesetround(FE_UPWARD);
            const uint64_t mode = float_control() | flushing;
            set_float_control(mode);
            const backend_ptr b = make_backend(nullptr, threads, c.kind, nullptr);
            const std::vector<char> got = one.run(*b, true);
            const int rounding = std::fegetround();
            const uint64_t after = float_control();
            set_float_control(before);
            std::fesetround(FE_TONEAREST);  // x86: the control register of SSE
            CHECK(after == mode);
            CHECK(rounding == FE_UPWARD);
            CHECK_MESSAGE(first_difference(c, wanted.data(), got.data(), got.size()) == -1, c.text,
                          " threads ", threads);
        }
    }
}

// The whole of a fused operation as its primitives make it, each by its reference; of latent attention, whose
// expansion is the absorbed form, the rows that take that form.
TEST_CASE("fused operations equal the primitive operations that they expand to") {
    std::set<op> expanded;
    for (const op_case &c : cases()) {
        if (!info(c.kind).expand) continue;
        instance fused(c, true);
        const std::vector<char> wanted = fused.reference();
        const node n = fused.only();
        graph g(64);
        g.expand(op_set().set());
        if (c.kind == op::mla_attention && n.as<mla_params>().expand_all) continue;  // has no primitives
        const tensor *const y =
            g.add(c.kind, std::span(n.src, static_cast<size_t>(info(c.kind).sources)), c.params);
        std::vector<std::vector<char>> results;
        for (node &o : g.nodes()) {
            CHECK(!info(o.kind).expand);
            results.emplace_back(tensor_bytes(o.out), '\x5a');
            o.out.data = results.back().data();
            info(o.kind).reference(o);
        }
        REQUIRE(y == &g.nodes().back().out);
        REQUIRE(results.back().size() == wanted.size());
        const size_t row = wanted.size() / static_cast<size_t>(n.out.ne[0]);
        int64_t begin = 0, end = n.out.ne[0];
        while (begin < n.out.ne[0]) {
            bool equal = true;
            if (c.kind == op::mla_attention) {
                const mla_stretch m = mla_stretch_at(n, begin);
                end = m.end;
                equal = !m.expanded;
            }
            const size_t from = static_cast<size_t>(begin) * row,
                         bytes = static_cast<size_t>(end - begin) * row;
            if (equal) {
                CHECK_MESSAGE(first_difference(c, &wanted[from], &results.back()[from], bytes) == -1, c.text);
                expanded.insert(c.kind);
            }
            begin = end;
        }
    }
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k)
        CHECK((info(static_cast<op>(k)).expand != nullptr) == (expanded.count(static_cast<op>(k)) == 1));
}

TEST_CASE("router: ties go to the lowest index, and logits that are not finite give NaN weights") {
    const auto route = [](std::vector<float> logits, std::vector<float> bias, const router_params &p) {
        std::vector<float> scratch(3 * logits.size()), y(2 * static_cast<size_t>(p.used));
        route_row(logits.data(), bias.empty() ? nullptr : bias.data(), static_cast<int64_t>(logits.size()), p,
                  scratch.data(), y.data());
        return y;
    };
    const std::vector<float> same(8, 0.25f);
    CHECK(route(same, {}, {3, 1, 1, 0, 0, 1.0f}) == std::vector<float>{0, 1, 2, 0.125f, 0.125f, 0.125f});
    CHECK(route(same, {}, {3, 4, 2, 0, 1, 3.0f}) == std::vector<float>{0, 1, 2, 1, 1, 1});
    CHECK(route({0, 1, 5, 1, 5, 0, 5, 0}, {}, {3, 1, 1, 1, 0, 1.0f}) ==
          std::vector<float>{2, 4, 6, sigmoid_f32(5), sigmoid_f32(5), sigmoid_f32(5)});
    // Groups of two. Expert 7 has the best score: ranked by the best score its group wins, ranked by the sum
    // of two the first group wins.
    const std::vector<float> groups = {2, 2, -9, -9, -9, -9, -9, 3};
    CHECK(route(groups, {}, {1, 4, 1, 0, 0, 1.0f})[0] == 7);
    CHECK(route(groups, {}, {1, 4, 1, 1, 0, 1.0f})[0] == 0);
    // A bias affects the choice and not the weight. A bias that is not finite leaves the chosen indices
    // within range.
    CHECK(route(same, {0, 0, 0, 0, 0, 1, 0, 0}, {1, 1, 1, 1, 0, 1.0f}) ==
          std::vector<float>{5, sigmoid_f32(0.25f)});
    constexpr float nan = std::numeric_limits<float>::quiet_NaN(),
                    inf = std::numeric_limits<float>::infinity();
    for (const float bad : {nan, inf, -inf}) {
        const std::vector<float> biased = route(same, std::vector<float>(8, bad), {3, 4, 2, 1, 1, 1.0f}),
                                 y = route({0, 1, bad, 3, 4, 5, 6, 7}, {}, {3, 4, 2, 0, 1, 1.0f});
        for (int i = 0; i < 3; ++i) {
            CHECK((biased[static_cast<size_t>(i)] >= 0 && biased[static_cast<size_t>(i)] < 8));
            CHECK(y[static_cast<size_t>(i)] == static_cast<float>(i));
            CHECK(std::isnan(y[static_cast<size_t>(3 + i)]));
        }
    }
}

TEST_CASE(
    "head_router: shared heads come first, ties go to the lowest index, logits that are not finite give "
    "NaN weights, and gates of zeros weigh every active head alike") {
    const auto route = [](std::vector<float> logits, std::vector<float> shared, std::vector<float> mix,
                          int32_t chosen) {
        std::vector<float> scratch(2 * logits.size() + shared.size()),
            y(2 * (shared.size() + static_cast<size_t>(chosen)));
        route_heads(logits.data(), static_cast<int64_t>(logits.size()), shared.data(),
                    static_cast<int64_t>(shared.size()), mix.data(), chosen, scratch.data(), y.data());
        return y;
    };
    CHECK(route({0, 0, 0, 0}, {0, 0}, {0, 0}, 2) == std::vector<float>{0, 1, 2, 3, 1, 1, 1, 1});
    CHECK(route({1, 3, 3, 3}, {0}, {0, 0}, 2) == std::vector<float>{0, 2, 3, 1, 1, 1});
    CHECK(route({0, 0, 9, 0}, {}, {0, 0}, 1) == std::vector<float>{2, 1});
    // all weight on the shared heads
    CHECK(route({0, 0}, {0}, {200, 0}, 1) == std::vector<float>{0, 1, 2, 0});
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        for (const std::vector<float> &y :
             {route({0, bad, 0}, {0}, {0, 0}, 2), route({0, 0, 0}, {bad}, {0, 0}, 2),
              route({0, 0, 0}, {0}, {0, bad}, 2)})
            for (size_t i = 0; i < 3; ++i) {
                CHECK(y[i] == static_cast<float>(i));
                CHECK(std::isnan(y[3 + i]));
            }
}

TEST_CASE("rows that are not adjacent") {
    numbers r(10);
    for (format type :
         {format::f32, format::f16, format::q8_0, format::q5_1, format::q4_k, format::q6_k, format::i8}) {
        array x = make_array(r, format::f32, {9, 384}), w = make_array(r, type, {21, 512});
        std::vector<float> y(9 * 21), wanted(9 * 21);
        graph g(8);
        tensor *xs = g.input(format::f32, {9, 256}, x.bytes.data(), ""),
               *ws = g.input(type, {21, 256}, w.bytes.data(), "");
        xs->stride[0] = 384;
        ws->stride[0] = 512;
        if (type == format::i8) ws->scale = g.input(format::f32, {21}, w.scale.data(), "");
        const tensor *out = matmul(g, xs, ws, nullptr);
        node &n = g.nodes()[0];
        CHECK(out == &n.out);
        n.out.data = wanted.data();
        info(op::matmul).reference(n);
        n.out.data = y.data();
        for (const char *isa : isas()) {
            const backend_ptr b = make_backend(isa, 2, op::matmul, nullptr);
            std::vector<char> work(b->fn->work_bytes(b.get(), n) + 64);
            REQUIRE(b->fn->run(b.get(), g, work.data(), nullptr));
            CHECK(std::memcmp(y.data(), wanted.data(), y.size() * sizeof(float)) == 0);
        }
    }
}

TEST_CASE("a plan's work bytes are enough for smaller shapes") {
    for (const char *isa : isas()) {
        const backend_ptr b = make_backend(isa, 3, op::matmul, nullptr);
        for (format type : {format::q8_0, format::q4_k, format::i8}) {
            size_t before = 0;
            for (int64_t n : {1, 5, 6, 7, 8, 40}) {
                instance one(matmul_case(type, n, 33, 256, false), true);
                const size_t bytes = b->fn->work_bytes(b.get(), one.only());
                CHECK(bytes >= before);
                before = bytes;
            }
        }
    }
}

TEST_CASE("a graph stops between nodes on request") {
    const backend_ptr b = make_backend(nullptr, 2, op::add, nullptr);
    instance one(add_case({2, 3}), true);
    one.prepare();
    const std::vector<char> before = one.result();
    std::atomic<bool> stop = true;
    CHECK_FALSE(b->fn->run(b.get(), one.g, nullptr, &stop));
    CHECK(one.result() == before);
    stop = false;
    CHECK(b->fn->run(b.get(), one.g, nullptr, &stop));
    CHECK(one.result() != before);
}

static std::string refusal(const cpu_options &o) {
    try {
        cpu_backend(o);
    } catch (const error &e) {
        CHECK(e.code == status::argument);
        return e.text;
    }
    return "";
}

TEST_CASE("unknown options are refused by name") {
    cpu_options o;
    o.isa = "mmx";
    CHECK(refusal(o).find("mmx") != std::string::npos);
    CHECK(refusal(o).find("scalar") != std::string::npos);
    o = {};
    o.force = {{"matmul", "magic"}};
    CHECK(refusal(o).find("magic") != std::string::npos);
    CHECK(refusal(o).find("packed_many") != std::string::npos);
    o.force = {{"convolve", "reference"}};
    CHECK(refusal(o).find("convolve") != std::string::npos);
    o = {};
    o.threads = 1u << 20;
    CHECK(refusal(o).find("threads") != std::string::npos);
}

TEST_CASE("the best instruction set is the first, scalar the last") {
    const std::vector<const char *> names = cpu_isas();
    CHECK(std::string(names.back()) == "scalar");
    cpu_options o;
    o.threads = 1;
    CHECK(std::string(cpu_isa(*cpu_backend(o))) == names.front());
    for (const char *name : names) {
        o.isa = name;
        CHECK(std::string(cpu_isa(*cpu_backend(o))) == name);
    }
}
