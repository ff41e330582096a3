// Adapters through the public API: requests with several and with none in one batch, each with the bits that
// it has alone; prefixes and sessions by adapter; files that are refused.
#include "../support/adapter_file.h"
#include "../support/answers.h"
#include "../support/api.h"
#include "../support/files.h"

#include "../../ggml-cpu/cpu.h"
#include "../../llm/engine/engine.h"
#include "../../tensor/op.h"
#include "../cuda/fake_device.h"
#include "../tensor/op_cases.h"

using namespace golden;
using ds::format;
using ds::test::contains;
using ds::test::temp_dir;
using ds::test::write_bytes;

namespace {

constexpr const char *architectures[][2] = {
    {"micro/llama", "llama"},           {"micro/qwen2", "qwen2"},
    {"micro/qwen3", "qwen3"},           {"micro/deepseek-v2-lite", "deepseek2"},
    {"micro/deepseek-r1", "deepseek2"}, {"micro/r1", "r1"}};

adapter_ptr loaded(const model_ptr &m, const model_file &f) {
    const temp_dir dir;
    write_bytes(dir / "a.gguf", f.bytes());
    return load_adapter(m, dir / "a.gguf");
}

ds_engine_config adapting(uint32_t rank = 16) {
    ds_engine_config c = engine_config();
    c.max_adapter_rank = rank;
    c.mla_form = DS_MLA_ABSORBED;
    return c;
}

full_request asking(const data &d, size_t first, size_t count, uint32_t answer, const ds_adapter *a = nullptr,
                    float scale = 0) {
    full_request r = request(d.ids);
    r.prompt += first;
    r.prompt_count = count;
    r.flags = DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
    r.max_new_tokens = answer;
    r.adapter = a;
    r.adapter_scale = scale;
    return r;
}

bool same(const answer &a, const answer &b) { return a.tokens == b.tokens && same_bits(a.logits, b.logits); }

}  // namespace

TEST_CASE("adapters: a product with weights of any format gets scale * b (a x), with the same bits on every "
          "instruction set, thread count and cut of the batch") {
    using namespace ds;
    using namespace ds::test;
    constexpr int64_t n = 21, m = 70, k = 256, rank = 5;
    numbers r(5);
    for (const format type : {format::f32, format::bf16, format::q8_0, format::i8}) {
        CAPTURE(std::string(info(type).text));
        array x = make_array(r, format::f32, {n, k}), w = make_array(r, type, {m, k}),
              a = make_array(r, format::f32, {rank, k}), b = make_array(r, format::f32, {m, rank});
        const lora_matrix matrix = {reinterpret_cast<const float *>(a.bytes.data()),
                                    reinterpret_cast<const float *>(b.bytes.data()), rank, 0.4f, 0};
        lora_slot slots[3] = {{}, {&matrix, 1.5f, 0}, {&matrix, -0.5f, 0}};
        std::vector<int32_t> sequence;
        for (int i = 0; i < n; ++i) sequence.push_back(i / 4 % 3);
        // rows [first, first + rows) in a graph of their own
        const auto computed = [&](backend *of, int64_t first, int64_t rows, bool with) {
            graph g(8);
            tensor *const ws = g.input(type, {m, k}, w.bytes.data(), "w");
            if (type == format::i8) ws->scale = g.input(format::f32, {m}, w.scale.data(), "scale");
            const tensor *const xs = g.input(format::f32, {rows, k}, x.bytes.data() + first * k * 4, "x");
            const tensor *const y = matmul(g, xs, ws, nullptr);
            if (with)
                lora(g, xs, y, g.input(format::i8, {3, sizeof(lora_slot)}, slots, "slots"),
                     g.input(format::i32, {rows}, sequence.data() + first, "sequence"), {0, 7});
            std::vector<float> out(static_cast<size_t>(rows * m));
            for (node &o : g.nodes()) o.out.data = out.data();
            if (!of) {
                for (node &o : g.nodes()) info(o.kind).reference(o);
                return out;
            }
            size_t bytes = 64;
            for (const node &o : g.nodes()) bytes = std::max(bytes, of->fn->work_bytes(of, o));
            std::vector<char> work(bytes + 64);
            REQUIRE(of->fn->run(of, g, work.data() + (64 - reinterpret_cast<uintptr_t>(work.data()) % 64),
                                nullptr));
            return out;
        };
        const std::vector<float> base = computed(nullptr, 0, n, false),
                                 wanted = computed(nullptr, 0, n, true);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < m; ++j) {
                const lora_slot &slot = slots[sequence[static_cast<size_t>(i)]];
                double z = 0, size = 0;
                for (int64_t e = 0; e < rank; ++e) {
                    double h = 0, large = 0;
                    for (int64_t c = 0; c < k; ++c) {
                        h += value(a, e * k + c) * value(x, i * k + c);
                        large += std::fabs(value(a, e * k + c) * value(x, i * k + c));
                    }
                    z += value(b, j * rank + e) * h;
                    size += std::fabs(value(b, j * rank + e)) * large;
                }
                const auto at = static_cast<size_t>(i * m + j);
                const double scale = static_cast<double>(slot.scale) * static_cast<double>(matrix.scale),
                             exact = static_cast<double>(base[at]) + (slot.matrices ? scale * z : 0);
                const double off =
                    slot.matrices
                        ? (std::fabs(scale) * size * double(k + rank + 4) + std::fabs(exact)) * 0x1p-24
                        : 0;
                CHECK(std::fabs(static_cast<double>(wanted[at]) - exact) <= off);
            }
        for (const char *isa : cpu_isas())
            for (const unsigned threads : {1u, 3u}) {
                cpu_options o;
                o.isa = isa;
                o.threads = threads;
                const backend_ptr c = cpu_backend(o);
                CHECK(same_bits(computed(c.get(), 0, n, true), wanted));
                std::vector<float> cut;
                for (const auto &[first, rows] :
                     {std::pair<int64_t, int64_t>{0, 1}, {1, 6}, {7, 2}, {9, 12}}) {
                    const std::vector<float> part = computed(c.get(), first, rows, true);
                    cut.insert(cut.end(), part.begin(), part.end());
                }
                CHECK(same_bits(cut, wanted));
            }
    }
}

TEST_CASE("adapters: requests with several and with none in one batch have the bits that each has alone") {
    for (const auto &of : architectures) {
        const char *const name = of[0], *const architecture = of[1];
        CAPTURE(std::string(name));
        const data d = load(name);
        const model_file &f32 = micro_file(name);
        for (const format type : {format::f32, format::bf16, format::q8_0, format::i8}) {
            if (type == format::bf16 && architecture != std::string("llama")) continue;
            CAPTURE(std::string(ds::info(type).text));
            const model_ptr m = model(name, type);
            const adapter_ptr a = loaded(m, random_adapter(f32, architecture, 4, 8, 1)),
                              b = loaded(m, random_adapter(f32, architecture, 13, 0, 2, 3));
            ds_engine_config c = adapting();
            if (type == format::i8) c.kv_type = DS_KV_INT8;
            const std::vector<full_request> list = {
                asking(d, 0, 30, 6),          asking(d, 0, 30, 6, a.get()),
                asking(d, 5, 41, 5, b.get()), asking(d, 0, 30, 6, a.get(), 0.5f),
                asking(d, 3, 17, 7),          asking(d, 0, 30, 6, b.get(), -1)};
            c.threads = 2;
            c.step_tokens = 37;
            const std::vector<answer> together = ask_all(engine(m, c), list, d.vocab);
            c.threads = 1;
            c.step_tokens = 512;
            c.isa = "scalar";
            const engine_ptr alone = engine(m, c);
            c.max_adapter_rank = 0;
            c.isa = nullptr;
            const engine_ptr without = engine(m, c);
            for (size_t i = 0; i < list.size(); ++i) {
                CAPTURE(i);
                full_request r = list[i];
                r.flags |= DS_REQUEST_NO_CACHE;
                REQUIRE(together[i].tokens.size() == r.max_new_tokens);
                CHECK(same(together[i], ask(alone, r, d.vocab)));
                if (!r.adapter) CHECK(same(together[i], ask(without, r, d.vocab)));
            }
            CHECK_FALSE(same_bits(together[0].logits, together[1].logits));
            CHECK_FALSE(same_bits(together[1].logits, together[3].logits));
            CHECK_FALSE(same_bits(together[1].logits, together[5].logits));
        }
    }
}

TEST_CASE(
    "adapters: requests that make room by preemption keep theirs, and slots that are used again do not") {
    const data d = load("micro/llama");
    const model_file &f32 = micro_file("micro/llama");
    const held_model m = hold(f32);
    const adapter_ptr a = loaded(m.model, random_adapter(f32, "llama", 4, 8, 1)),
                      b = loaded(m.model, random_adapter(f32, "llama", 7, 8, 2));
    ds_engine_config c = adapting();
    const engine_ptr alone = engine(m.model, c);
    c.max_requests = 4;
    c.kv_tokens = 6 * 64;
    const engine_ptr crowded = engine(m.model, c);
    std::vector<full_request> list;
    for (size_t i = 0; i < 9; ++i)
        list.push_back(asking(d, i, 20 + 7 * i, static_cast<uint32_t>(90 - 5 * i),
                              i % 3 == 0   ? nullptr
                              : i % 3 == 1 ? a.get()
                                           : b.get(),
                              i == 4 ? 0.5f : 0));
    const std::vector<answer> got = ask_all(crowded, list, d.vocab);
    uint64_t preemptions = 0;
    for (size_t i = 0; i < list.size(); ++i) {
        CAPTURE(i);
        list[i].flags |= DS_REQUEST_NO_CACHE;
        CHECK(same(got[i], ask(alone, list[i], d.vocab)));
        preemptions += got[i].preemptions;
    }
    CHECK(preemptions > 0);
}

// Both are F32 forward passes that differ in the order of roundings: of logits up to some 10, a few times the
// 1e-4 by which such a pass differs from one in float64 (test_golden.cpp); the adapter changes them by far
// more.
TEST_CASE("adapters: applied, they change logits as they do when they are added to the weights") {
    for (const auto &of : architectures) {
        const char *const name = of[0], *const architecture = of[1];
        CAPTURE(std::string(name));
        const data d = load(name);
        const std::vector<ds_token> ids(d.ids.begin(), d.ids.begin() + 40);
        const model_file &f32 = micro_file(name);
        const held_model base = hold(f32);
        for (const float alpha : {12.0f, 0.0f}) {
            const model_file made = random_adapter(f32, architecture, 6, alpha, 7);
            const adapter_ptr a = loaded(base.model, made);
            const float scale = alpha == 0 ? 0.3f : 0.8f;
            const engine_ptr e = engine(base.model, adapting());
            std::vector<float> with(ids.size() * d.vocab);
            full_request r = request(ids);
            r.flags = DS_REQUEST_SCORE | DS_REQUEST_LOGITS;
            r.adapter = a.get();
            r.adapter_scale = scale;
            submit(e, r);
            run(e, [&](const ds_event &event) {
                if (event.type == DS_EVENT_SCORE)
                    std::memcpy(&with[event.position * d.vocab], event.logits, d.vocab * sizeof(float));
            });
            const held_model changed = hold(merged(f32, made, alpha, static_cast<double>(scale)));
            const std::vector<float> without = logits(e, ids, d.vocab),
                                     wanted = logits(engine(changed.model, adapting()), ids, d.vocab);
            const double off = largest_difference(with, wanted), change = largest_difference(without, wanted);
            INFO("off by " << off << ", change " << change);
            // a router may choose other experts or heads by a hair
            if (architecture != std::string("deepseek2") && architecture != std::string("r1"))
                CHECK(off < 5e-4);
            CHECK(off < 0.05 * change);
            CHECK(change > 0.02);
        }
    }
}

TEST_CASE("adapters: prefixes are cached by adapter and scale, and a fork has its parent's") {
    const data d = load("micro/llama");
    const model_file &f32 = micro_file("micro/llama");
    const held_model m = hold(f32);
    const model_file made = random_adapter(f32, "llama", 4, 8, 1);
    const adapter_ptr a = loaded(m.model, made), b = loaded(m.model, random_adapter(f32, "llama", 4, 8, 2));
    ds_engine_config c = adapting();
    c.kv_tokens = 4096;
    const engine_ptr e = engine(m.model, c), fresh = engine(m.model, c);
    const auto cached = [&](const ds_adapter *with, float scale) {
        full_request r = asking(d, 0, 150, 2, with, scale);
        const answer got = ask(e, r, d.vocab);
        r.flags |= DS_REQUEST_NO_CACHE;
        CHECK(same(got, ask(fresh, r, d.vocab)));
        return got.cached;
    };
    CHECK(cached(nullptr, 0) == 0);
    CHECK(cached(a.get(), 0) == 0);
    CHECK(cached(b.get(), 0) == 0);
    CHECK(cached(a.get(), 0.5f) == 0);
    CHECK(cached(a.get(), 1) == 149);  // 0 means 1
    CHECK(cached(a.get(), 0.5f) == 149);
    CHECK(cached(b.get(), 0) == 149);
    CHECK(cached(nullptr, 3) == 149);
    // the same file again is another adapter to the cache
    const adapter_ptr again = loaded(m.model, made);
    CHECK(cached(again.get(), 0) == 0);

    const full_request r = asking(d, 0, 70, 6, a.get()), other = asking(d, 0, 1, 6, b.get(), 0.5f);
    listener l{d.vocab};
    const ds_request_id first = submit(e, r), second = fork(e, first, other);
    l.run(e);
    CHECK(same(l.answers[first], l.answers[second]));
    CHECK(l.answers[second].cached == 69);
}

TEST_CASE("adapters: sessions record adapter and scale, and go on with the same bits") {
    const temp_dir dir;
    const data d = load("micro/qwen2");
    const model_file &f32 = micro_file("micro/qwen2");
    const held_model m = hold(f32);
    const model_file made = random_adapter(f32, "qwen2", 4, 8, 1);
    const adapter_ptr a = loaded(m.model, made), b = loaded(m.model, random_adapter(f32, "qwen2", 4, 8, 2));
    const auto key = [](const ds_adapter *with, float scale) {
        ds_session_key k{};
        k.struct_size = sizeof k;
        k.client_id = 5;
        k.adapter = with;
        k.adapter_scale = scale;
        return k;
    };
    const auto ask_as = [&](const engine_ptr &e, const ds_adapter *with, float scale) {
        full_request r = asking(d, 0, 150, 4, with, scale);
        r.client_id = 5;
        return ask(e, r, d.vocab);
    };
    const engine_ptr e = engine(m.model, adapting());
    const answer wanted = ask_as(e, a.get(), 0.5f), bare = ask_as(e, nullptr, 0);
    const std::string with = dir / "with", without = dir / "without";
    const ds_session_key of_a = key(a.get(), 0.5f);
    size_t positions = 0, count = 0;
    MUST(ds_engine_save_session_of(e.get(), &of_a, d.ids.data(), 150, with.c_str(), &positions, &err));
    CHECK(positions == 128);
    MUST(ds_engine_save_session(e.get(), d.ids.data(), 150, 5, without.c_str(), &positions, &err));
    CHECK(positions == 128);

    // the adapter loaded once more, as in another process
    const adapter_ptr again = loaded(m.model, made);
    const engine_ptr other = engine(m.model, adapting());
    std::vector<ds_token> tokens(200);
    const auto restore = [&](const ds_session_key &k, const std::string &path) {
        return [&, k](ds_error *err) {
            return ds_engine_restore_session_of(other.get(), &k, path.c_str(), tokens.data(), tokens.size(),
                                                &count, &positions, err);
        };
    };
    check_fails(DS_ERR_UNSUPPORTED, "adapter", restore(key(b.get(), 0.5f), with));
    check_fails(DS_ERR_UNSUPPORTED, "adapter", restore(key(again.get(), 0), with));
    check_fails(DS_ERR_UNSUPPORTED, "made with an adapter", restore(key(nullptr, 0), with));
    check_fails(DS_ERR_UNSUPPORTED, "made without an adapter", restore(key(again.get(), 0), without));
    check_fails(DS_ERR_UNSUPPORTED, "made with an adapter", [&](ds_error *err) {
        return ds_engine_restore_session(other.get(), with.c_str(), 5, tokens.data(), tokens.size(), &count,
                                         &positions, err);
    });
    CHECK(stats_of(other).pages_cached == 0);
    ds_session_key wrong = key(nullptr, 0);
    wrong.reserved = 1;
    check_fails(DS_ERR_ARGUMENT, "key.reserved", restore(wrong, without));
    check_fails(DS_ERR_ARGUMENT, "adapter_scale", restore(key(again.get(), std::nanf("")), with));
    const ds_session_key of_again = key(again.get(), 0.5f);
    MUST(ds_engine_restore_session_of(other.get(), &of_again, with.c_str(), tokens.data(), tokens.size(),
                                      &count, &positions, &err));
    CHECK((count == 150 && positions == 128));
    const ds_session_key of_none = key(nullptr, 0);
    MUST(ds_engine_restore_session_of(other.get(), &of_none, without.c_str(), tokens.data(), tokens.size(),
                                      &count, &positions, &err));
    const answer restored = ask_as(other, again.get(), 0.5f), restored_bare = ask_as(other, nullptr, 0);
    CHECK(restored.cached == 128);
    CHECK(same(restored, wanted));
    CHECK(restored_bare.cached == 128);
    CHECK(same(restored_bare, bare));
    size_t pages = 0;
    std::vector<ds_token> all(d.ids.begin(), d.ids.begin() + 150);
    all.insert(all.end(), restored.tokens.begin(), restored.tokens.end());
    MUST(ds_engine_forget_session_of(other.get(), &of_again, all.data(), all.size(), &pages, &err));
    CHECK(pages == 3);
    CHECK(ask_as(other, again.get(), 0.5f).cached == 0);
    CHECK(ask_as(other, nullptr, 0).cached == 149);
}

TEST_CASE("adapters: freed while requests run, with their model; and what an engine refuses") {
    const data d = load("micro/llama");
    const model_file &f32 = micro_file("micro/llama");
    held_model m = hold(f32), twin = hold(f32);
    adapter_ptr a = loaded(m.model, random_adapter(f32, "llama", 4, 8, 1)),
                large = loaded(m.model, random_adapter(f32, "llama", 40, 8, 2)),
                foreign = loaded(twin.model, random_adapter(f32, "llama", 4, 8, 1));
    const engine_ptr e = engine(m.model, adapting()), none = engine(m.model, adapting(0));
    const auto refused = [&](const engine_ptr &by, const ds_adapter *with, float scale, const char *text) {
        check_argument(text, [&](ds_error *err) {
            const full_request r = asking(d, 0, 9, 2, with, scale);
            ds_request_id id = 0;
            return ds_engine_submit(by.get(), &r, &id, err);
        });
    };
    refused(none, a.get(), 0, "max_adapter_rank is 0");
    refused(e, large.get(), 0, "has rank 40, the engine's max_adapter_rank is 16");
    refused(e, foreign.get(), 0, "another model");
    refused(e, a.get(), std::nanf(""), "adapter_scale: is nan");
    refused(e, a.get(), INFINITY, "adapter_scale: is inf");
    check_argument("max_adapter_rank: is 1025", [&](ds_error *err) {
        const ds_engine_config c = adapting(1025);
        ds_engine *out = nullptr;
        return ds_engine_new(m.model.get(), &c, &out, err);
    });
    ds_adapter_info i{};
    i.struct_size = sizeof i;
    MUST(ds_adapter_get_info(a.get(), &i, &err));
    const model_file made = random_adapter(f32, "llama", 4, 8, 1);
    size_t bytes = 0;
    for (const model_file::part &p : made.parts) bytes += p.bytes.size();
    CHECK((i.rank == 4 && i.alpha == 8 && i.matrices == made.parts.size() / 2));
    CHECK(i.matrices % 7 == 0);
    CHECK(i.bytes == bytes);
    {
        aligned_bytes memory(micro_file("micro/llama", format::i8).bytes());
        ds::model_options o;
        o.device = ds::test::fake_device({.threads = 1});
        const ds::model far(ds::gguf_file(ds::os::mapping::borrow(memory.data(), memory.size()), "far"), o);
        ds::engine_options with;
        with.adapter_rank = 4;
        const ds::error refusal = ds::test::failure_of([&] { ds::engine::resolve(far, with); });
        CHECK(refusal.code == ds::status::unsupported);
        CHECK(contains(refusal.text, "max_adapter_rank"));
    }
    const answer wanted = ask(e, asking(d, 0, 9, 5, a.get()), d.vocab);
    const ds_request_id id = submit(e, asking(d, 0, 9, 5, a.get()));
    a.reset();
    m.model.reset();
    listener l{d.vocab};
    l.run(e);
    CHECK(same(l.answers[id], wanted));
    ds_adapter_free(nullptr);
}

TEST_CASE("adapters: files that are damaged, or of another model, are refused by file, field and value") {
    const temp_dir dir;
    const model_file &f32 = micro_file("micro/llama");
    const held_model m = hold(f32), r1 = hold(micro_file("micro/r1")),
                     v2 = hold(micro_file("micro/deepseek-v2-lite"));
    model_file good = random_adapter(f32, "llama", 2, 4, 1, 9);
    good.parts.resize(4);
    const std::string path = dir / "bad.gguf";
    const auto load_by = [&](const held_model &of) {
        return [&](ds_error *err) {
            ds_adapter *a = nullptr;
            const ds_status s = ds_adapter_load(of.model.get(), path.c_str(), nullptr, &a, err);
            CHECK((s == DS_OK) == (a != nullptr));
            ds_adapter_free(a);
            return s;
        };
    };
    write_bytes(path, good.bytes());
    MUST(load_by(m)(&err));
    const auto refused = [&](ds_status status, const std::string &text,
                             const std::function<void(model_file &)> &change,
                             const held_model *of = nullptr) {
        model_file f = good;
        change(f);
        write_bytes(path, f.bytes());
        CAPTURE(text);
        check_fails(status, text, load_by(of ? *of : m));
        check_fails(status, "bad.gguf", load_by(of ? *of : m));
    };
    const std::string a = good.parts[0].name, b = good.parts[1].name, q = "blk.0.attn_q.weight";
    REQUIRE((a == q + ".lora_a" && b == q + ".lora_b"));
    const auto keys = [&](const char *key, const char *value) {
        return [=](model_file &f) { f.keys.set_string(key, value); };
    };
    refused(DS_ERR_FORMAT, "general.type: is 'model', must be 'adapter'", keys("general.type", "model"));
    refused(DS_ERR_FORMAT, "adapter.type: is 'ia3', must be 'lora'", keys("adapter.type", "ia3"));
    refused(DS_ERR_FORMAT, "general.architecture: is 'qwen2', must be 'llama'",
            keys("general.architecture", "qwen2"));
    refused(DS_ERR_FORMAT, "general.type", [](model_file &f) { f.keys.erase("general.type"); });
    for (const float alpha : {std::nanf(""), INFINITY, -2e6f})
        refused(DS_ERR_FORMAT, "adapter.lora.alpha",
                [&](model_file &f) { f.keys.set_f32("adapter.lora.alpha", alpha); });
    refused(DS_ERR_FORMAT, "adapter.lora.alpha", [](model_file &f) {
        f.keys.erase("adapter.lora.alpha"), f.keys.set_string("adapter.lora.alpha", "8");
    });
    refused(DS_ERR_UNSUPPORTED, "adapter.alora.invocation_tokens", [](model_file &f) {
        f.keys.set_i32s("adapter.alora.invocation_tokens", std::vector<int32_t>{1, 2});
    });
    refused(DS_ERR_FORMAT, "tensors: there are none", [](model_file &f) { f.parts.clear(); });
    refused(DS_ERR_FORMAT, b + ": has no partner", [&](model_file &f) { f.erase(a); });
    refused(DS_ERR_FORMAT, a + ": has no partner", [&](model_file &f) { f.erase(b); });
    const auto rename = [&](const std::string &to) {
        return [&, to](model_file &f) {
            f.find(a).name = to + ".lora_a";
            f.find(b).name = to + ".lora_b";
        };
    };
    refused(DS_ERR_FORMAT, "no tensor 'blk.7.attn_q.weight'", rename("blk.7.attn_q.weight"));
    refused(DS_ERR_FORMAT, "no tensor ''", rename(""));
    refused(DS_ERR_UNSUPPORTED, "'token_embd.weight' is not adapted", rename("token_embd.weight"));
    refused(DS_ERR_UNSUPPORTED, "'blk.0.attn_norm.weight' is not adapted", rename("blk.0.attn_norm.weight"));
    refused(DS_ERR_FORMAT, "does not end in .lora_a or .lora_b", [&](model_file &f) { f.find(a).name = q; });
    const auto shape = [&](const std::string &of, std::vector<int64_t> ne) {
        return [=](model_file &f) {
            int64_t n = 1;
            for (const int64_t x : ne) n *= x;
            f.find(of).ne = ne;
            f.find(of).bytes.resize(static_cast<size_t>(4 * n));
        };
    };
    const int64_t in = good.parts[0].ne[1], out = good.parts[1].ne[0];
    refused(DS_ERR_FORMAT, a + ": has the shape", shape(a, {2, in + 1}));
    refused(DS_ERR_FORMAT, a + ": has the shape", shape(a, {2 * in}));
    refused(DS_ERR_FORMAT, a + ": has the shape", shape(a, {1, 2, in}));
    refused(DS_ERR_FORMAT, b + ": has the shape", shape(b, {out - 1, 2}));
    refused(DS_ERR_FORMAT, b + ": has rank 3, but " + a + " has 2", shape(b, {out, 3}));
    refused(DS_ERR_FORMAT, "has rank 1025", shape(a, {1025, in}));
    refused(DS_ERR_UNSUPPORTED, "number format q8_0 is not read", [&](model_file &f) {
        model_file::part &p = f.find(a);
        p.type = format::q8_0;
        p.bytes.resize(ds::row_bytes(p.type, static_cast<uint64_t>(p.ne[0] * p.ne[1])));
    });
    refused(DS_ERR_FORMAT, a + ": element 3 is nan",
            [&](model_file &f) { f.find(a).f32()[3] = std::nanf(""); });
    refused(DS_ERR_FORMAT, b + ": element 1 is inf", [&](model_file &f) { f.find(b).f32()[1] = INFINITY; });
    // what other architectures do not adapt
    const auto of_arch = [&](const char *arch, const std::string &name) {
        return [=, &rename](model_file &f) {
            f.keys.set_string("general.architecture", arch);
            rename(name)(f);
        };
    };
    refused(DS_ERR_UNSUPPORTED, "attn_k_b.weight' is not adapted", of_arch("r1", "blk.0.attn_k_b.weight"),
            &r1);
    refused(DS_ERR_UNSUPPORTED, "attn_head_mix.weight' is not adapted",
            of_arch("r1", "blk.0.attn_head_mix.weight"), &r1);
    refused(DS_ERR_UNSUPPORTED, "ffn_gate_exps.weight' is not adapted",
            of_arch("deepseek2", "blk.1.ffn_gate_exps.weight"), &v2);
    // cut anywhere
    const std::string bytes = good.bytes();
    for (size_t n = 0; n < bytes.size(); n += n < 700 ? 1 : 61) {
        write_bytes(path, bytes.substr(0, n));
        ds_adapter *out_adapter = nullptr;
        ds_error err{};
        const ds_status s = ds_adapter_load(m.model.get(), path.c_str(), nullptr, &out_adapter, &err);
        // the last tensor's padding may be missing
        if (s != DS_OK) CHECK(contains(err.message, "bad.gguf"));
        CHECK((s == DS_ERR_FORMAT || (s == DS_OK && bytes.size() - n < 32)));
        ds_adapter_free(out_adapter);
    }
    // F16 and BF16 are read as the values that they have
    for (const format type : {format::f16, format::bf16}) {
        model_file rounded = good, as_stored = good;
        for (size_t i = 0; i < good.parts.size(); ++i) {
            const auto n = static_cast<size_t>(good.parts[i].ne[0] * good.parts[i].ne[1]);
            model_file::part &p = rounded.parts[i];
            p.type = type;
            p.bytes.resize(2 * n);
            ds::encode_row(type, as_stored.parts[i].f32(), p.bytes.data(), n);
            for (size_t k = 0; k < n; ++k)
                as_stored.parts[i].f32()[k] =
                    static_cast<float>(ds::test::value(type, p.bytes.data(), static_cast<int64_t>(k)));
        }
        const data d = load("micro/llama");
        const engine_ptr e = engine(m.model, adapting());
        const adapter_ptr x = loaded(m.model, rounded), y = loaded(m.model, as_stored);
        CHECK(same(ask(e, asking(d, 0, 20, 3, x.get()), d.vocab),
                   ask(e, asking(d, 0, 20, 3, y.get()), d.vocab)));
    }
    check_fails(DS_ERR_IO, "none.gguf", [&](ds_error *err) {
        ds_adapter *none = nullptr;
        return ds_adapter_load(m.model.get(), (dir / "none.gguf").c_str(), nullptr, &none, err);
    });
    check_argument("model: is NULL", [&](ds_error *err) {
        ds_adapter *none = nullptr;
        return ds_adapter_load(nullptr, path.c_str(), nullptr, &none, err);
    });
}
