// MLA's two forms in whole engines (mla_attention.cpp). How a step's rows are divided is tested on shapes
// alone; that the expanded form is correct, on golden data with every row forced through it; that neither
// other requests nor threads change a bit, on a model whose prompts are long enough for the engine to choose
// it.
#include "../engine/answers.h"
#include "../cuda/fake_device.h"
#include "../tensor/op_cases.h"

#include "../../llm/model/arch/deepseek2.h"
#include "../../ggml-cpu/cpu.h"
#include "../../quantize/synth.h"
#include "../../tensor/mla.h"

#include <numeric>

using namespace ds;
using namespace ds::test;

namespace {

using model_of_ds = std::shared_ptr<const model>;

model_of_ds open(const std::string &path, std::shared_ptr<backend> device = nullptr) {
    model_options o;
    o.device = std::move(device);
    return std::make_shared<const model>(gguf_file(os::mapping::map_file(path), "test"), o);
}
model_of_ds micro(const char *name, format type, std::shared_ptr<backend> device = nullptr) {
    const golden::temp_file file;
    convert(golden::data_dir(name), file.path, {.type = type, .vocab_only = false, .name = ""}, {});
    return open(file.path, std::move(device));
}
model_of_ds long_prompts(format type, std::shared_ptr<backend> device = nullptr) {
    const golden::temp_file file;
    synthesize(file.path, {.shape = "tiny-deepseek2", .type = type}, {});
    return open(file.path, std::move(device));
}

struct setting {
    mla_form mla = mla_form::automatic;
    unsigned threads = 2;
    format kv = format::f32;
    int64_t rows = 512, requests = 1;
};
engine make(const model_of_ds &m, const setting &s, std::shared_ptr<backend> b = nullptr) {
    engine_options o;
    o.max_requests = s.requests;
    o.context = 512;
    o.step_rows = s.rows;
    o.kv_type = s.kv;
    o.form = static_cast<int32_t>(s.mla);
    return engine(m, engine::resolve(*m, o), b ? std::move(b) : cpu_backend({.threads = s.threads}));
}

std::vector<int32_t> ids_of(const model &m, int count, int seed = 1) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    uint32_t state = static_cast<uint32_t>(seed);
    for (int32_t &id : ids)
        id = static_cast<int32_t>((state = state * 1664525u + 1013904223u) >> 8) %
             static_cast<int32_t>(m.h.vocab);
    return ids;
}
request_options asking(std::vector<int32_t> prompt, uint32_t n) {
    request_options r;
    r.prompt = std::move(prompt);
    r.max_new = n;
    r.logits = r.ignore_end = true;
    r.use_cache = false;
    return r;
}
answer one(const model_of_ds &m, const setting &s, const request_options &r,
           std::shared_ptr<backend> b = nullptr) {
    engine e = make(m, s, std::move(b));
    e.submit(r);
    return run_all(e, static_cast<size_t>(m->h.vocab)).begin()->second;
}
// Logits of every position, and the greedy continuation of the first 16.
answer of_golden(const model_of_ds &m, const golden::data &d, const setting &s) {
    request_options r = asking({d.ids.begin(), d.ids.end()}, 0);
    r.score = true;
    answer a = one(m, s, r);
    a.tokens = one(m, s, asking({d.ids.begin(), d.ids.begin() + 16}, 24)).tokens;
    return a;
}

// A step of given rows: the node alone, without weights or pages.
struct step_of_rows {
    std::vector<int32_t> sequence, position;
    graph g{16};

    void add(int32_t of, int32_t first, int32_t count) {
        for (int32_t i = 0; i < count; ++i) sequence.push_back(of), position.push_back(first + i);
    }
    const node &of(int64_t heads, int64_t latent, int64_t nope, int64_t rope, int64_t value,
                   bool expand_all = false) {
        g.reset();
        const auto n = static_cast<int64_t>(position.size());
        const auto input = [&](format type, std::initializer_list<int64_t> ne, void *data = nullptr) {
            return g.input(type, ne, data, "");
        };
        kv_layout l{format::f16, 1, static_cast<int32_t>(latent), 0, 0, static_cast<int32_t>(rope)};
        l.v_offset = static_cast<int64_t>(l.k_bytes());
        const tensor *pages = input(format::i8, {4, static_cast<int64_t>(l.k_bytes() + l.v_bytes())});
        mla_attention(g, input(format::f32, {n, heads, nope}), input(format::f32, {n, heads, rope}),
                      input(format::q8_0, {heads, latent, nope}), input(format::q8_0, {heads, value, latent}),
                      pages, input(format::i32, {8, 4}), input(format::i32, {n}, sequence.data()),
                      input(format::i32, {n}, position.data()), {l, 1, expand_all});
        return g.nodes()[0];
    }
};
std::vector<std::array<int64_t, 3>> stretches(const node &n) {
    std::vector<std::array<int64_t, 3>> all;
    for (int64_t at = 0; at < n.out.ne[0];) {
        const mla_stretch s = mla_stretch_at(n, at);
        all.push_back({s.begin, s.end, s.expanded});
        at = s.end;
    }
    return all;
}

}  // namespace

TEST_CASE("mla: a step's rows are divided by runs of one sequence") {
    using list = std::vector<std::array<int64_t, 3>>;
    step_of_rows s;
    for (int32_t i = 0; i < 3; ++i) s.add(i, 100 * i, 1);  // answers
    s.add(3, 0, 500);                                      // a prompt's beginning
    s.add(4, 70, 1);
    s.add(5, 12, 2);
    s.add(6, 3000, 600);  // a prompt's end
    CHECK(stretches(s.of(16, 512, 128, 64, 128)) ==
          list{{0, 3, 0}, {3, 503, 1}, {503, 506, 0}, {506, 1106, 1}});
    CHECK(stretches(s.of(16, 512, 128, 64, 128, true)).size() == 7);
    // Rows of one sequence that are not adjacent are no run.
    step_of_rows apart;
    for (int32_t i = 0; i < 300; ++i) apart.add(0, 600 - 2 * i, 1);
    CHECK(stretches(apart.of(16, 512, 128, 64, 128)) == list{{0, 300, 0}});
    // One row is no run, however long its context.
    step_of_rows answer;
    answer.add(0, 100000, 1);
    CHECK(stretches(answer.of(128, 512, 128, 64, 128)) == list{{0, 1, 0}});
    // Nothing is gained when heads are as wide as latents.
    step_of_rows wide;
    wide.add(0, 0, 2000);
    CHECK(stretches(wide.of(4, 32, 32, 32, 32)) == list{{0, 2000, 0}});
}

TEST_CASE("mla: the cases where the form is chosen use both forms") {
    int chosen = 0;
    for (op_case &c : all_cases()) {
        if (c.kind != op::mla_attention || c.rows) continue;
        graph g(16);
        const tensor *src[max_sources];
        for (size_t i = 0; i < c.src.size(); ++i)
            src[i] = add_source(g, c.src[i], c.src[i].ne, c.src[i].bytes.data(), nullptr);
        const auto all = stretches(add_operation(g, c, src));
        CAPTURE(c.text);
        for (const int64_t expanded : {0, 1})
            CHECK(std::count_if(all.begin(), all.end(), [&](const auto &s) { return s[2] == expanded; }) > 0);
        ++chosen;
    }
    CHECK(chosen > 0);
}

TEST_CASE("mla: expanded, golden logits of every position and the greedy continuation") {
    for (const char *name : {"micro/deepseek-v2-lite", "micro/deepseek-v2", "micro/deepseek-r1"}) {
        CAPTURE(name);
        const golden::data d = golden::load(name);
        const model_of_ds m = micro(name, format::f32);
        const answer absorbed = of_golden(m, d, {.mla = mla_form::absorbed}),
                     expanded = of_golden(m, d, {.mla = mla_form::expanded});
        CHECK_FALSE(golden::same_bits(absorbed.logits, expanded.logits));
        for (const answer &a : {absorbed, expanded}) {
            const double difference = golden::largest_difference(a.logits, d.logits);
            INFO("largest difference of a logit: " << difference);
            CHECK(difference <= 2e-3);
            CHECK(a.tokens == std::vector<int32_t>(d.greedy.begin(), d.greedy.end()));
        }
    }
}

TEST_CASE("mla: expanded with blocks and halves, distributions stay near the golden ones") {
    const golden::data d = golden::load("micro/deepseek-v2-lite");
    for (const format type : {format::bf16, format::q8_0}) {
        request_options r = asking({d.ids.begin(), d.ids.end()}, 0);
        r.score = true;
        const double kl = golden::mean_kl(
            d, one(micro("micro/deepseek-v2-lite", type), {.mla = mla_form::expanded, .kv = format::f16}, r)
                   .logits);
        CHECK(kl > 0);
        CHECK(kl <= 0.05);
    }
}

// numerics.h promises this when one form is used throughout.
TEST_CASE("mla: expanded throughout, the same bits with any chunks and any number of threads") {
    const golden::data d = golden::load("micro/deepseek-r1");
    const model_of_ds m = micro("micro/deepseek-r1", format::q8_0);
    const request_options r = asking({d.ids.begin(), d.ids.begin() + 150}, 3);
    const answer expected = one(m, {.mla = mla_form::expanded, .threads = 1, .kv = format::f16}, r);
    for (const unsigned threads : {1u, 2u, 3u})
        for (const int64_t rows : {1, 7, 64})
            CHECK(one(m, {.mla = mla_form::expanded, .threads = threads, .kv = format::f16, .rows = rows},
                      r) == expected);
}

TEST_CASE("mla: chosen by the engine, a long prompt is expanded, and threads change no bit") {
    for (const format type : {format::f32, format::q8_0}) {
        const model_of_ds m = long_prompts(type);
        const request_options r = asking(ids_of(*m, 400), 3);
        const answer absorbed = one(m, {.mla = mla_form::absorbed}, r), expected = one(m, {.threads = 1}, r);
        CHECK_FALSE(golden::same_bits(absorbed.logits, expected.logits));
        if (type == format::f32) CHECK(golden::largest_difference(absorbed.logits, expected.logits) <= 1e-3);
        for (const unsigned threads : {2u, 3u, 9u}) CHECK(one(m, {.threads = threads}, r) == expected);
        // Short prompts are not expanded.
        const request_options few = asking(ids_of(*m, 9), 20);
        CHECK(one(m, {}, few) == one(m, {.mla = mla_form::absorbed}, few));
    }
}

TEST_CASE("mla: answers and a long prompt in the same steps have the bits that each has alone") {
    const model_of_ds m = long_prompts(format::f32);
    const auto vocab = static_cast<size_t>(m->h.vocab);
    std::vector<request_options> answering;
    for (int i = 0; i < 3; ++i) answering.push_back(asking(ids_of(*m, 5 + 3 * i, 7 + i), 30));
    const request_options prompt = asking(ids_of(*m, 400), 3);
    engine e = make(m, {.rows = 512, .requests = 4});
    for (const request_options &r : answering) e.submit(r);
    answers all;
    steps(e, vocab, 4, all);
    const uint64_t id = e.submit(prompt);
    steps(e, vocab, INT_MAX, all);
    REQUIRE(all.size() == 4);
    CHECK(all[id] == one(m, {}, prompt));
    auto a = all.begin();
    for (const request_options &r : answering) CHECK((a++)->second == one(m, {.mla = mla_form::absorbed}, r));
}

TEST_CASE("mla: integers in weights or in pages are always absorbed") {
    for (const auto &[type, kv] : {std::pair(format::i8, format::i8), std::pair(format::i8, format::f32),
                                   std::pair(format::f32, format::i8)}) {
        const model_of_ds m = long_prompts(type);
        const request_options r = asking(ids_of(*m, 400), 2);
        const answer expected = one(m, {.mla = mla_form::absorbed, .kv = kv}, r);
        for (const mla_form form : {mla_form::automatic, mla_form::expanded})
            CHECK(one(m, {.mla = form, .kv = kv}, r) == expected);
    }
}

TEST_CASE("mla: an engine allocates what its plan says, and that is enough") {
    const model_of_ds near = long_prompts(format::q8_0);
    for (const mla_form form : {mla_form::automatic, mla_form::absorbed, mla_form::expanded}) {
        // the memory after each of its blocks is inaccessible
        const std::shared_ptr<backend> device = fake_device({.threads = 3});
        const model_of_ds far = long_prompts(format::q8_0, device);
        engine_options o;
        o.max_requests = 1;
        o.context = o.step_rows = 512;
        o.kv_type = format::f16;
        o.form = static_cast<int32_t>(form);
        o = engine::resolve(*far, o);
        const memory_plan p = engine::measure(*far, o, *device);
        const size_t before = counts_of(*device).allocated;
        engine e(far, o, device);
        const size_t took = counts_of(*device).allocated - before,
                     planned = static_cast<size_t>(p.pages + p.activations + p.work);
        CHECK(took >= planned);
        CHECK(took - planned <= p.tables);
        const request_options r = asking(ids_of(*near, 500), 2);
        e.submit(r);
        CHECK(run_all(e, static_cast<size_t>(near->h.vocab)).begin()->second ==
              one(near, {.mla = form, .kv = format::f16}, r));
    }
}

TEST_CASE("mla: a device without the operation uses the absorbed form, and refuses the expanded one") {
    const golden::data d = golden::load("micro/deepseek-v2-lite");
    const std::shared_ptr<backend> device = fake_device({.missing = "mla_attention"});
    const model_of_ds near = micro("micro/deepseek-v2-lite", format::q8_0),
                      far = micro("micro/deepseek-v2-lite", format::q8_0, device);
    const request_options r = asking({d.ids.begin(), d.ids.begin() + 150}, 3);
    const answer expected = one(near, {.mla = mla_form::absorbed}, r);
    CHECK(one(far, {}, r, device) == expected);
    engine_options o;
    o.max_requests = 1;
    o.context = 256;
    o.kv_type = format::f32;
    o = engine::resolve(*far, o);
    const memory_plan automatic = engine::measure(*far, o, *device);
    o.form = static_cast<int32_t>(mla_form::absorbed);
    const memory_plan absorbed = engine::measure(*far, o, *device);
    CHECK((automatic.work == absorbed.work && automatic.activations == absorbed.activations));
    o.form = static_cast<int32_t>(mla_form::expanded);
    bool refused = false;
    try {
        engine::measure(*far, o, *device);
    } catch (const error &e) {
        refused = e.code == status::unsupported && e.text.find("mla_attention") != std::string::npos;
    }
    CHECK(refused);
}
