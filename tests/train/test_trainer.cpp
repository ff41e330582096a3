// The trainer through the C interface: learning, the same bytes whatever computes them, files, models for
// engines, and what is refused.
#include "golden_train.h"

#include "../support/model_file.h"

#include <csignal>
#include <sys/wait.h>
#include <thread>

using namespace golden;
using ds::test::contains;
using ds::test::temp_dir;

namespace {

struct trainer_free {
    void operator()(ds_trainer *t) const { ds_trainer_free(t); }
};
using trainer_ptr = std::unique_ptr<ds_trainer, trainer_free>;

ds_trainer_config config() {
    ds_trainer_config c{};
    c.struct_size = sizeof c;
    c.threads = 1;
    c.learning_rate = 2e-3;
    c.run_tokens = 128;
    return c;
}
trainer_ptr trainer(const model_ptr &m, const ds_trainer_config &c) {
    ds_trainer *t = nullptr;
    MUST(ds_trainer_new(m.get(), &c, &t, &err));
    return trainer_ptr(t);
}

// Sequences of different lengths, some with weights, the same for every run.
struct batch {
    std::vector<std::vector<ds_token>> tokens;
    std::vector<std::vector<float>> weights;
    std::vector<ds_sequence> list;

    explicit batch(int seed, int count = 5) {
        for (int i = 0; i < count; ++i) {
            const int n = 9 + (i * 37 + seed * 11) % 60;
            tokens.emplace_back();
            weights.emplace_back();
            for (int t = 0; t < n; ++t) {
                tokens.back().push_back((seed * 5 + i * 3 + t * (i + 2)) % 40 + 7);
                weights.back().push_back(t % 4 == 3 ? 0.0f : 0.25f * static_cast<float>(1 + t % 3));
            }
        }
        for (size_t i = 0; i < tokens.size(); ++i)
            list.push_back({tokens[i].data(), i % 2 ? weights[i].data() : nullptr, tokens[i].size()});
    }
};

ds_train_report step(const trainer_ptr &t, const batch &b) {
    ds_train_report r{};
    r.struct_size = sizeof r;
    MUST(ds_trainer_step(t.get(), b.list.data(), b.list.size(), &r, &err));
    return r;
}
double evaluate(const trainer_ptr &t, const batch &b) {
    ds_train_report r{};
    r.struct_size = sizeof r;
    MUST(ds_trainer_evaluate(t.get(), b.list.data(), b.list.size(), &r, &err));
    return r.loss;
}
std::string saved(const trainer_ptr &t, const std::string &path, const std::string &own = "") {
    MUST(ds_trainer_save(t.get(), path.c_str(), own.data(), own.size(), &err));
    return ds::test::file_bytes(path);
}
ds_status status_of(const std::function<ds_status(ds_error *)> &call, const std::string &text) {
    ds_error err{};
    const ds_status s = call(&err);
    CHECK_MESSAGE(contains(err.message, text), std::string(err.message));
    return s;
}

}  // namespace

TEST_CASE("trainer: learns a batch by heart, in every format") {
    const model_ptr m = model("micro/llama", ds::format::f32);
    const batch b(1);
    for (const ds_train_format f : {DS_TRAIN_F32, DS_TRAIN_BF16, DS_TRAIN_F16, DS_TRAIN_INT8})
        for (const ds_train_states s : {DS_STATES_F32, DS_STATES_INT8}) {
            ds_trainer_config c = config();
            c.format = f, c.states = s;
            c.warmup_steps = 2, c.total_steps = 60;
            const trainer_ptr t = trainer(m, c);
            const double before = evaluate(t, b);
            double last = 0;
            for (int i = 0; i < 30; ++i) last = step(t, b).loss;
            INFO("format " << f << ", states " << s << ": from " << before << " to " << last);
            CHECK(before > 4);
            CHECK(last < 0.5 * before);
            CHECK(evaluate(t, b) < last);
        }
}

TEST_CASE("trainer: the same bytes with any threads, recomputation and runs") {
    for (const std::string name : {"llama", "qwen2", "r1", "deepseek-v2-lite"}) {
        if (sanitized && name != "r1") continue;
        const model_ptr m = model("micro/" + name, ds::format::f32);
        const temp_dir dir;
        const auto bytes_of = [&](const ds_trainer_config &c) {
            const trainer_ptr t = trainer(m, c);
            for (int i = 0; i < 3; ++i) step(t, batch(i));
            return saved(t, dir / "file");
        };
        for (const ds_train_format f : {DS_TRAIN_F32, DS_TRAIN_BF16, DS_TRAIN_F16, DS_TRAIN_INT8}) {
            CAPTURE(name);
            ds_trainer_config c = config();
            c.format = f;
            c.states = f == DS_TRAIN_BF16 ? DS_STATES_INT8 : DS_STATES_F32;
            if (f == DS_TRAIN_INT8) c.kv_type = DS_KV_INT8;
            if (name == "r1") c.balance = 0.01f;
            const std::string wanted = bytes_of(c);
            for (const ds_recompute again : {DS_RECOMPUTE_CHEAP, DS_RECOMPUTE_GATES, DS_RECOMPUTE_BLOCKS}) {
                c.recompute = again;
                c.threads = again == DS_RECOMPUTE_CHEAP ? 2 : 7;
                CHECK(bytes_of(c) == wanted);
            }
            c.run_tokens = 512;
            if (name != "r1") CHECK(bytes_of(c) == wanted);
            c.learning_rate *= 1.01;
            CHECK(bytes_of(c) != wanted);
        }
    }
}

TEST_CASE("trainer: goes on from a saved file with the same bytes") {
    const model_ptr m = model("micro/qwen3", ds::format::f32);
    const temp_dir dir;
    for (const ds_train_format f : {DS_TRAIN_F32, DS_TRAIN_BF16, DS_TRAIN_F16, DS_TRAIN_INT8}) {
        ds_trainer_config c = config();
        c.format = f;
        c.states = f == DS_TRAIN_BF16 ? DS_STATES_INT8 : DS_STATES_F32;
        c.warmup_steps = 2, c.total_steps = 9;
        const trainer_ptr whole = trainer(m, c);
        for (int i = 0; i < 3; ++i) step(whole, batch(i));
        saved(whole, dir / "half", "at 3");
        for (int i = 3; i < 6; ++i) step(whole, batch(i));
        const trainer_ptr rest = trainer(m, c);
        step(rest, batch(77));
        char own[16];
        size_t size = 0;
        MUST(ds_trainer_resume(rest.get(), (dir / "half").c_str(), own, sizeof own, &size, &err));
        CHECK(std::string(own, size) == "at 3");
        for (int i = 3; i < 6; ++i) CHECK(step(rest, batch(i)).step == static_cast<uint64_t>(i + 1));
        CHECK(saved(rest, dir / "a") == saved(whole, dir / "b"));
    }
}

TEST_CASE("trainer: a file that is damaged, cut, or another's changes nothing") {
    const model_ptr m = model("micro/llama", ds::format::f32), other = model("micro/qwen2", ds::format::f32);
    const temp_dir dir;
    const trainer_ptr t = trainer(m, config());
    step(t, batch(0));
    const std::string good = saved(t, dir / "good", "own bytes");
    step(t, batch(1));
    const std::string now = saved(t, dir / "now");
    const auto refused = [&](const std::string &bytes, ds_status s, const std::string &text) {
        ds::test::write_bytes(dir / "bad", bytes);
        CHECK(status_of(
                  [&](ds_error *e) {
                      return ds_trainer_resume(t.get(), (dir / "bad").c_str(), nullptr, 0, nullptr, e);
                  },
                  text) == s);
        CHECK(saved(t, dir / "after") == now);
    };
    for (const size_t at :
         {size_t{0}, size_t{9}, size_t{20}, size_t{30}, size_t{200}, good.size() / 2, good.size() - 1}) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 4);
        ds_error err{};
        ds::test::write_bytes(dir / "bad", bad);
        const ds_status s = ds_trainer_resume(t.get(), (dir / "bad").c_str(), nullptr, 0, nullptr, &err);
        CHECK((s == DS_ERR_FORMAT || s == DS_ERR_UNSUPPORTED));
        CHECK(saved(t, dir / "after") == now);
    }
    refused("", DS_ERR_FORMAT, "bad");
    refused(good.substr(0, 50), DS_ERR_FORMAT, "too short");
    refused(good.substr(0, good.size() - 1), DS_ERR_FORMAT, "bytes");
    refused(good + "x", DS_ERR_FORMAT, "bytes");
    const trainer_ptr of_other = trainer(other, config());
    CHECK(status_of(
              [&](ds_error *e) {
                  return ds_trainer_resume(of_other.get(), (dir / "good").c_str(), nullptr, 0, nullptr, e);
              },
              "another model") == DS_ERR_ARGUMENT);
    char own[4];
    size_t size = 0;
    CHECK(status_of(
              [&](ds_error *e) {
                  return ds_trainer_resume(t.get(), (dir / "good").c_str(), own, sizeof own, &size, e);
              },
              "room") == DS_ERR_BUFFER);
    CHECK(size == 9);
    CHECK(saved(t, dir / "after") == now);
    size = 0;
    MUST(ds_trainer_resume(t.get(), (dir / "good").c_str(), nullptr, 0, &size, &err));  // bytes not wanted
    CHECK(size == 9);
    CHECK(saved(t, dir / "after", "own bytes") == good);
    step(t, batch(1));
    CHECK(saved(t, dir / "after") == now);
    CHECK(
        status_of(
            [&](ds_error *e) { return ds_trainer_save(t.get(), (dir / "none/file").c_str(), nullptr, 0, e); },
            "none") == DS_ERR_IO);
}

TEST_CASE("trainer: killed at any moment of a save, it resumes from a whole file") {
    const model_ptr m = model("micro/llama", ds::format::f32);
    const temp_dir dir;
    const std::string path = dir / "file";
    const trainer_ptr t = trainer(m, config());
    step(t, batch(0));
    const std::string first = saved(t, path);
    step(t, batch(1));
    const std::string second = saved(t, dir / "second");
    // Saves alternately, from a child that is killed.
    int seen[2] = {};
    const char *const asked = std::getenv("DS_TEST_KILLS");
    const int kills = asked ? std::atoi(asked) : sanitized ? 5 : 60;
    // until one was whole, however slow the machine
    for (int i = 0; i < kills || seen[1] == 0; ++i) {
        const int whole = seen[1] ? 0 : i * 5000;
        const pid_t child = fork();
        if (child == 0) {
            for (;;) ds_trainer_save(t.get(), path.c_str(), nullptr, 0, nullptr);
        }
        usleep(static_cast<useconds_t>(500 + i * 997 % 20000 + whole));
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        const std::string now = ds::test::file_bytes(path);
        CHECK((now == first || now == second));
        ++seen[now == second];
        const trainer_ptr other = trainer(m, config());
        MUST(ds_trainer_resume(other.get(), path.c_str(), nullptr, 0, nullptr, &err));
        if (i % 2) ds::test::write_bytes(path, first);
    }
}

TEST_CASE("trainer: engines run on the trained weights once they are published") {
    const model_ptr m = model("micro/r1-zero", ds::format::f32);
    trainer_ptr t = trainer(m, config());
    ds_model *handle = nullptr;
    MUST(ds_trainer_model(t.get(), &handle, &err));
    const model_ptr trained(handle);
    const std::vector<ds_token> ids = {9, 30, 12, 44, 10, 8, 31};
    const size_t vocab = 512;
    const engine_ptr of_model = engine(m, engine_config()), e = engine(trained, engine_config());
    const std::vector<float> before = logits(of_model, ids, vocab);
    CHECK(same_bits(logits(e, ids, vocab), before));
    step(t, batch(3));
    full_request r = request(ids);
    r.max_new_tokens = 1;
    ds_request_id id;
    MUST(ds_engine_submit(e.get(), &r, &id, &err));
    const ds_event *const *events;
    size_t count;
    CHECK(status_of([&](ds_error *err) { return ds_engine_step(e.get(), &events, &count, err); },
                    "published") == DS_ERR_STATE);
    MUST(ds_trainer_publish(t.get(), &err));
    golden::run(e, [](const ds_event &) {});
    const std::vector<float> after = logits(e, ids, vocab);
    CHECK_FALSE(same_bits(after, before));
    CHECK(same_bits(logits(of_model, ids, vocab), before));
    // the same weights from a file
    const temp_dir dir;
    MUST(ds_trainer_export(t.get(), (dir / "out.gguf").c_str(), "f32", &err));
    const model_ptr written = load_file((dir / "out.gguf").c_str());
    CHECK(same_bits(logits(engine(written, engine_config()), ids, vocab), after));
    // the memory stays while a model or an engine of it does
    t.reset();
    CHECK(same_bits(logits(e, ids, vocab), after));
}

TEST_CASE("trainer: log-probabilities have the engine's bits, in every format") {
    struct formats {
        ds_train_format format;
        ds_kv_type pages;
    };
    for (const std::string name : {"llama", "qwen3", "r1", "deepseek-r1"})
        for (const formats f : {formats{DS_TRAIN_F32, DS_KV_F32}, formats{DS_TRAIN_BF16, DS_KV_F16},
                                formats{DS_TRAIN_F16, DS_KV_F32}, formats{DS_TRAIN_INT8, DS_KV_F32},
                                formats{DS_TRAIN_INT8, DS_KV_INT8}}) {
            CAPTURE(name);
            CAPTURE(int(f.format));
            const model_ptr m = model("micro/" + name, ds::format::f32);
            ds_trainer_config c = config();
            c.format = f.format, c.kv_type = f.pages;
            const trainer_ptr t = trainer(m, c);
            step(t, batch(2));
            MUST(ds_trainer_publish(t.get(), &err));
            const temp_dir dir;
            constexpr const char *types[] = {"f32", "bf16", "f16", "int8"};
            MUST(ds_trainer_export(t.get(), (dir / "x.gguf").c_str(), types[f.format], &err));
            ds_model *handle = nullptr;
            MUST(ds_trainer_model(t.get(), &handle, &err));
            const model_ptr trained(handle);
            MUST(ds_model_load((dir / "x.gguf").c_str(), nullptr, &handle, &err));
            const model_ptr exported(handle);
            const batch b(4, 1);
            ds_engine_config ec = engine_config();
            ec.mla_form = DS_MLA_ABSORBED;
            ec.kv_type = f.pages;
            for (const model_ptr *const of : {&trained, &exported}) {
                // rounded half up, its exported bf16 to nearest even
                if (of == &exported && f.format == DS_TRAIN_BF16) continue;
                const engine_ptr e = engine(*of, ec);
                full_request r = request(b.tokens[0]);
                r.flags = DS_REQUEST_SCORE;
                ds_request_id id;
                MUST(ds_engine_submit(e.get(), &r, &id, &err));
                double sum = 0;
                const float share = static_cast<float>(1.0 / static_cast<double>(b.tokens[0].size() - 1));
                golden::run(e, [&](const ds_event &event) {
                    if (event.type == DS_EVENT_SCORE && event.position > 0)
                        sum -= static_cast<double>(share) * static_cast<double>(event.logprob);
                });
                CHECK(evaluate(t, b) == sum);  // the same floats, added in the same order
            }
        }
}

TEST_CASE("trainer: exports in every format load and keep the weights") {
    const model_ptr m = model("micro/llama", ds::format::f32);
    const trainer_ptr t = trainer(m, config());
    step(t, batch(3));
    const temp_dir dir;
    const batch b(5);
    const double loss = evaluate(t, b);
    for (const char *type : {"f32", "f16", "bf16", "q8_0", "q4_k", "int8"}) {
        CAPTURE(std::string(type));
        MUST(ds_trainer_export(t.get(), (dir / "out.gguf").c_str(), type, &err));
        const model_ptr written = load_file((dir / "out.gguf").c_str());
        ds_trainer_config c = config();
        CHECK(std::fabs(evaluate(trainer(written, c), b) - loss) < 0.05 * loss);
    }
    CHECK(status_of([&](ds_error *e) { return ds_trainer_export(t.get(), (dir / "x").c_str(), "q7", e); },
                    "q7") == DS_ERR_UNSUPPORTED);
    CHECK_FALSE(ds::test::fs::exists(dir / "x"));
}

TEST_CASE("trainer: bad batches and configurations are refused by name, and change nothing") {
    const model_ptr m = model("micro/llama", ds::format::f32);
    const temp_dir dir;
    const trainer_ptr t = trainer(m, config());
    const std::string before = saved(t, dir / "before");
    std::vector<ds_token> tokens(20, 9), wrong = tokens, many(200, 9);
    wrong[5] = 512;
    std::vector<float> weights(20, 1.0f), negative = weights, none(20, 0.0f);
    negative[4] = -1;
    const auto refused = [&](const ds_sequence &s, ds_status status, const std::string &text) {
        const ds_sequence list[] = {{tokens.data(), nullptr, tokens.size()}, s};
        CHECK(status_of([&](ds_error *e) { return ds_trainer_step(t.get(), list, 2, nullptr, e); }, text) ==
              status);
    };
    refused({wrong.data(), nullptr, wrong.size()}, DS_ERR_ARGUMENT, "sequence 1: token 5 is 512");
    refused({tokens.data(), negative.data(), tokens.size()}, DS_ERR_ARGUMENT, "weight 4");
    refused({tokens.data(), none.data(), tokens.size()}, DS_ERR_ARGUMENT, "no token");
    refused({tokens.data(), nullptr, 1}, DS_ERR_ARGUMENT, "has 1 tokens");
    refused({nullptr, nullptr, 4}, DS_ERR_ARGUMENT, "tokens: is NULL");
    refused({many.data(), nullptr, many.size()}, DS_ERR_TOO_LONG, "has 200 tokens");
    CHECK(status_of([&](ds_error *e) { return ds_trainer_step(t.get(), nullptr, 0, nullptr, e); },
                    "no sequences") == DS_ERR_ARGUMENT);
    CHECK(saved(t, dir / "after") == before);
    ds_trainer_cancel(t.get());
    const batch b(1);
    CHECK(status_of(
              [&](ds_error *e) { return ds_trainer_step(t.get(), b.list.data(), b.list.size(), nullptr, e); },
              "stopped") == DS_ERR_CANCELLED);
    CHECK(saved(t, dir / "after") == before);

    const auto bad = [&](auto &&change, ds_status status, const std::string &text) {
        ds_trainer_config c = config();
        change(c);
        ds_trainer *out = nullptr;
        CHECK(status_of([&](ds_error *e) { return ds_trainer_new(m.get(), &c, &out, e); }, text) == status);
        CHECK(out == nullptr);
    };
    bad([](auto &c) { c.learning_rate = -1; }, DS_ERR_ARGUMENT, "learning_rate");
    bad([](auto &c) { c.learning_rate = std::nan(""); }, DS_ERR_ARGUMENT, "learning_rate");
    bad([](auto &c) { c.final_rate = 1; }, DS_ERR_ARGUMENT, "final_rate");
    bad([](auto &c) { c.warmup_steps = 9, c.total_steps = 9; }, DS_ERR_ARGUMENT, "warmup_steps");
    bad([](auto &c) { c.beta1 = 1; }, DS_ERR_ARGUMENT, "beta1");
    bad(
        [](auto &c) {
            const int seven = 7;
            std::memcpy(&c.format, &seven, sizeof seven);
        },
        DS_ERR_ARGUMENT, "format");
    bad([](auto &c) { c.run_tokens = 0, c.memory_limit = 1000; }, DS_ERR_MEMORY, "for runs of 32 tokens");
    bad([](auto &c) { c.memory_limit = 1000; }, DS_ERR_MEMORY, "for runs of 128 tokens");
    bad([](auto &c) { c.struct_size = 3; }, DS_ERR_ARGUMENT, "struct_size");
}

TEST_CASE("trainer: gradients that are not finite skip the step, and end training when they stay") {
    model_file f = micro_file("micro/llama");
    for (size_t i = 0; i < 40; ++i) f.find("blk.0.ffn_down.weight").f32()[i] = 3e38f;
    aligned_bytes bytes(f.bytes());
    ds_model *raw = nullptr;
    MUST(ds_model_load_memory(bytes.data(), bytes.size(), nullptr, &raw, &err));
    const model_ptr m(raw);
    const trainer_ptr t = trainer(m, config());
    const batch b(1);
    ds_train_report r{};
    r.struct_size = sizeof r;
    for (int i = 0; i < 9; ++i) {
        MUST(ds_trainer_step(t.get(), b.list.data(), b.list.size(), &r, &err));
        CHECK(r.skipped == 1);
    }
    CHECK(
        status_of([&](ds_error *e) { return ds_trainer_step(t.get(), b.list.data(), b.list.size(), &r, e); },
                  "not finite") == DS_ERR_NUMERIC);

    f = micro_file("micro/llama");
    f.find("blk.1.ffn_up.weight").f32()[7] = std::nanf("");
    aligned_bytes nan(f.bytes());
    MUST(ds_model_load_memory(nan.data(), nan.size(), nullptr, &raw, &err));
    const model_ptr with_nan(raw);
    ds_trainer *out = nullptr;
    const ds_trainer_config c = config();
    CHECK(status_of([&](ds_error *e) { return ds_trainer_new(with_nan.get(), &c, &out, e); },
                    "blk.1.ffn_up.weight: element 7") == DS_ERR_NUMERIC);
}

TEST_CASE("trainer: the plan is what is allocated, and by memory the largest run is taken") {
    const model_ptr m = model("micro/llama", ds::format::f32);
    ds_trainer_config c = config();
    c.run_tokens = 0;
    ds_training_plan p{};
    p.struct_size = sizeof p;
    MUST(ds_trainer_plan(m.get(), &c, &p, &err));
    CHECK(p.run_tokens == 2048);
    CHECK(p.total == p.weights + p.gradients + p.states + p.activations + p.pages + p.work + p.inputs);
    // what a trainer takes from the host's allocator, in a step too
    struct counts {
        uint64_t now = 0, most = 0;
    } taken;
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc_user = &taken;
    host.alloc = [](void *user, size_t size, size_t alignment) {
        counts &all = *static_cast<counts *>(user);
        all.most = std::max(all.most, all.now += size);
        return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    };
    host.free = [](void *user, void *memory, size_t size, size_t) {
        static_cast<counts *>(user)->now -= size;
        std::free(memory);
    };
    c.host = &host;
    {
        const trainer_ptr t = trainer(m, c);
        step(t, batch(1));
        INFO("planned " << p.total << ", taken " << taken.most);
        CHECK(static_cast<double>(taken.most) == doctest::Approx(static_cast<double>(p.total)).epsilon(0.05));
    }
    CHECK(taken.now == 0);
    c.host = nullptr;
    const uint64_t all = p.total;
    c.memory_limit = all / 3;
    MUST(ds_trainer_plan(m.get(), &c, &p, &err));
    CHECK(p.total <= all / 3);
    CHECK(p.run_tokens >= 256);
    CHECK(p.run_tokens < 2048);
    const uint64_t tokens = p.run_tokens;
    c.recompute = DS_RECOMPUTE_BLOCKS;
    c.states = DS_STATES_INT8;
    MUST(ds_trainer_plan(m.get(), &c, &p, &err));
    CHECK(p.run_tokens > tokens);
}

TEST_CASE("trainer: where memory is lacking, runs are halved, and the bytes are the same") {
    const model_ptr m = model("micro/llama", ds::format::f32);
    const temp_dir dir;
    const auto bytes_after = [&](const trainer_ptr &t, uint64_t *rows) {
        for (int i = 0; i < 2; ++i) {
            ds_train_report r = step(t, batch(i));
            *rows = r.run_tokens;
        }
        return saved(t, dir / "file");
    };
    uint64_t rows = 0;
    const std::string wanted = bytes_after(trainer(m, config()), &rows);
    CHECK(rows == 128);
    // a host that gives no large blocks
    static size_t most;
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc = [](void *, size_t bytes, size_t alignment) -> void * {
        return bytes > most ? nullptr : ::operator new(bytes, std::align_val_t(alignment), std::nothrow);
    };
    host.free = [](void *, void *p, size_t, size_t alignment) {
        ::operator delete(p, std::align_val_t(alignment));
    };
    ds_trainer_config c = config();
    c.run_tokens = 0;
    ds_training_plan plan{}, weights{};
    plan.struct_size = weights.struct_size = sizeof plan;
    MUST(ds_trainer_plan(m.get(), &c, &plan, &err));
    CHECK(plan.run_tokens == 2048);
    c.host = &host;
    most = size_t{plan.activations} / 5;
    CHECK(bytes_after(trainer(m, c), &rows) == wanted);
    INFO("runs of " << rows);
    CHECK(rows < 2048);
    CHECK(rows >= 64);
    // what was asked for by number is not halved by ds_trainer_new
    c.run_tokens = 2048;
    ds_trainer *t = nullptr;
    CHECK(status_of([&](ds_error *e) { return ds_trainer_new(m.get(), &c, &t, e); }, "memory") ==
          DS_ERR_MEMORY);
}
