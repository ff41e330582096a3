// An engine on a device whose memory is not the host's, here a fake one (fake_device.h): the same bits as on
// the CPU, and failures of a device as statuses. CUDA itself is tested in test_cuda.cpp.
#include "../engine/answers.h"
#include "fake_device.h"

#include "../../ggml-cpu/cpu.h"
#include "../../ggml-cuda/host/cuda.h"

#include <functional>
#include <set>
#include <tuple>

using namespace golden;
using namespace ds::test;
using ds::test::fake_device, ds::test::fake_options;

namespace {

using model_of_ds = std::shared_ptr<const ds::model>;

struct files {
    temp_file file;
    explicit files(const char *name, ds::format type) {
        ds::convert(data_dir(name), file.path, {.type = type, .vocab_only = false, .name = ""}, {});
    }
    model_of_ds load(std::shared_ptr<ds::backend> gpu) const {
        ds::model_options o;
        o.device = std::move(gpu);
        return std::make_shared<const ds::model>(ds::gguf_file(ds::os::mapping::map_file(file.path), "test"),
                                                 o);
    }
};

ds::engine_options small(ds::format kv) {
    ds::engine_options o;
    o.max_requests = 3;
    o.context = 320;
    o.step_rows = 40;
    o.logit_rows = 40;
    o.kv_positions = 1024;
    o.kv_type = kv;
    return o;
}

ds::request_options request_for(std::vector<int32_t> prompt, uint32_t n) {
    ds::request_options r;
    r.prompt = std::move(prompt);
    r.max_new = n;
    r.logits = r.ignore_end = true;
    return r;
}

// A prompt of several chunks, three requests together, and a fork, whose pages are copied.
answers talk(ds::engine &e, const data &d) {
    std::vector<int32_t> ids(d.ids.begin(), d.ids.begin() + 150);
    e.submit(request_for(ids, 6));
    e.submit(request_for({ids.begin() + 3, ids.begin() + 30}, 9));
    const uint64_t id = e.submit(request_for({ids.begin(), ids.begin() + 70}, 12));
    answers out;
    steps(e, d.vocab, 10, out);
    e.fork(id, request_for({}, 5));
    e.submit(request_for(ids, 4));  // from the prefix cache
    steps(e, d.vocab, INT_MAX, out);
    return out;
}

template <class F> ds::error failure(F &&f) {
    try {
        f();
    } catch (const ds::error &e) {
        return e;
    }
    return {ds::status::ok, ""};
}

}  // namespace

TEST_CASE("device: an engine whose memory the host cannot touch gives the CPU's bits") {
    const struct {
        const char *name;
        ds::format type, kv;
    } cases[] = {{"micro/qwen2", ds::format::i8, ds::format::i8},
                 {"micro/llama", ds::format::bf16, ds::format::f16},
                 {"micro/deepseek-r1", ds::format::i8, ds::format::i8},
                 {"micro/deepseek-v2-lite", ds::format::q8_0, ds::format::f16},
                 {"micro/r1", ds::format::i8, ds::format::i8},
                 {"tiny-r1", ds::format::f16, ds::format::f32}};
    for (const auto &c : cases) {
        if (sanitized && c.kv == ds::format::f16) continue;
        CAPTURE(c.name);
        const data d = load(c.name);
        const files file(c.name, c.type);
        const std::shared_ptr<ds::backend> gpu = fake_device();
        const model_of_ds near = file.load(nullptr), far = file.load(gpu);
        CHECK(near->device_bytes == 0);
        CHECK(far->device_bytes == ds::test::counts_of(*gpu).allocated);
        // The device holds everything once, except the experts of layers that do not run.
        CHECK(far->device_bytes <= near->weight_bytes + 256 * near->file.tensors().size());
        ds::engine cpu(near, ds::engine::resolve(*near, small(c.kv)), ds::cpu_backend({.threads = 2}));
        // The engine uses the device that holds the weights, since the fake one can access no other memory.
        ds::engine device(far, ds::engine::resolve(*far, small(c.kv)), gpu);
        const auto expected = talk(cpu, d), got = talk(device, d);
        CHECK(expected.size() == 5);
        CHECK(expected == got);
        CHECK(ds::test::counts_of(*gpu).downloaded > 0);
    }
}

TEST_CASE("device: tokens are chosen from leading logits where these are enough, and are the CPU's") {
    const data d = load("tiny-r1");
    const files file("tiny-r1", ds::format::i8);
    const std::shared_ptr<ds::backend> gpu = fake_device();
    const model_of_ds near = file.load(nullptr), far = file.load(gpu);
    const struct {
        const char *what;
        bool few;
        std::function<void(ds::request_options &)> set;
    } cases[] = {
        {"greedy", true, [](ds::request_options &) {}},
        {"top_k", true, [](ds::request_options &r) { r.sampling.temperature = 1, r.sampling.top_k = 20; }},
        {"R1's own", true,
         [](ds::request_options &r) { r.sampling.temperature = 0.6f, r.sampling.top_p = 0.95f; }},
        {"a penalty", true, [](ds::request_options &r) { r.sampling.repetition_penalty = 1.2f; }},
        {"a bias that raises", false,
         [](ds::request_options &r) {
             r.sampling.bias = {{5, 3.0f}};
         }},
        {"hot", false, [](ds::request_options &r) { r.sampling.temperature = 50, r.sampling.seed = 9; }},
        {"log-probabilities", false, [](ds::request_options &r) { r.logprobs = true, r.top_logprobs = 3; }},
        {"scored", false, [](ds::request_options &r) { r.score = true; }}};
    for (const auto &c : cases) {
        CAPTURE(c.what);
        const auto told = [&](const model_of_ds &m, std::shared_ptr<ds::backend> b) {
            ds::engine e(m, ds::engine::resolve(*m, small(ds::format::i8)), std::move(b));
            for (const int first : {0, 20}) {
                ds::request_options r = request_for({d.ids.begin() + first, d.ids.begin() + first + 30}, 10);
                r.logits = false;
                c.set(r);
                e.submit(r);
            }
            std::vector<std::tuple<uint64_t, int32_t, float, size_t>> out;
            while (!e.idle()) {
                const ds::engine::turn turn(e);
                for (const ds::event &event : e.step(turn))
                    out.emplace_back(event.request, event.token, event.logprob, event.top.size());
            }
            return out;
        };
        const size_t before = ds::test::counts_of(*gpu).downloaded, runs = ds::test::counts_of(*gpu).runs;
        const auto got = told(far, gpu);
        const size_t rows = got.size(), bytes = ds::test::counts_of(*gpu).downloaded - before,
                     steps = ds::test::counts_of(*gpu).runs - runs;
        CHECK(got == told(near, ds::cpu_backend({.threads = 1})));
        CHECK(rows > 20);
        // At most two rows per step, each of at most 128 indices and logits, where a whole row has as many
        // logits as the vocabulary.
        if (c.few) CHECK(bytes <= steps * 2 * 4 * (4 + 2 * 128));
        else CHECK(bytes > steps * 4 * d.vocab);
    }
}

TEST_CASE("device: what a plan says is what an engine takes") {
    const files file("micro/qwen3", ds::format::i8);
    const std::shared_ptr<ds::backend> gpu = fake_device();
    const model_of_ds m = file.load(gpu);
    const ds::engine_options o = ds::engine::resolve(*m, small(ds::format::i8));
    const ds::memory_plan p = ds::engine::measure(*m, o, *gpu);
    CHECK(p.weights == m->device_bytes);
    CHECK(m->device == gpu);  // the device that a plan is computed for
    const size_t before = ds::test::counts_of(*gpu).allocated;
    const ds::engine e(m, o, gpu);
    const size_t took = ds::test::counts_of(*gpu).allocated - before;
    const size_t inputs = took - static_cast<size_t>(p.pages + p.activations + p.work);
    CHECK(took >= p.pages + p.activations + p.work);
    CHECK(inputs <= p.tables);
}

TEST_CASE("device: sessions go to a file and come back") {
    const data d = load("micro/qwen2");
    const files file("micro/qwen2", ds::format::i8);
    const model_of_ds near = file.load(nullptr);
    const std::vector<int32_t> prompt(d.ids.begin(), d.ids.begin() + 140);
    const temp_file saved_near, saved_far;
    const auto save = [&](const model_of_ds &m, std::shared_ptr<ds::backend> b, const std::string &path) {
        ds::engine e(m, ds::engine::resolve(*m, small(ds::format::i8)), std::move(b));
        e.submit(request_for(prompt, 4));
        run_all(e, d.vocab);
        const ds::engine::turn turn(e);
        return e.save_session(turn, {}, prompt, path);
    };
    const std::shared_ptr<ds::backend> gpu = fake_device();
    const model_of_ds far = file.load(gpu);
    CHECK(save(near, ds::cpu_backend({.threads = 1}), saved_near.path) == 128);
    CHECK(save(far, gpu, saved_far.path) == 128);
    const auto bytes = [](const std::string &path) {
        const ds::os::input_file f(path);
        std::string s(f.size(), '\0');
        f.read(0, s.data(), s.size());
        return s;
    };
    CHECK(bytes(saved_near.path) == bytes(saved_far.path));
    // A session saved on the CPU continues on the device.
    std::vector<int32_t> ids(prompt.size());
    const auto go_on = [&](const model_of_ds &m, std::shared_ptr<ds::backend> b, const std::string &path) {
        ds::engine e(m, ds::engine::resolve(*m, small(ds::format::i8)), std::move(b));
        size_t count = 0;
        if (!path.empty()) {
            const ds::engine::turn turn(e);
            CHECK(e.restore_session(turn, {}, path, ids, count) == 128);
        }
        e.submit(request_for(prompt, 4));
        return run_all(e, d.vocab);
    };
    CHECK(go_on(near, ds::cpu_backend({.threads = 1}), "") == go_on(far, gpu, saved_near.path));
}

TEST_CASE("device: what it cannot compute, hold or go on with is a status") {
    const data d = load("micro/qwen2");
    const files file("micro/qwen2", ds::format::i8);
    const ds::error no_room = failure([&] { file.load(fake_device({.memory = 10000})); });
    CHECK(no_room.code == ds::status::memory);

    const std::shared_ptr<ds::backend> gpu = fake_device({.missing = "attention"});
    const model_of_ds m = file.load(gpu);
    const ds::engine_options o = ds::engine::resolve(*m, small(ds::format::i8));
    for (const ds::error &e :
         {failure([&] { ds::engine(m, o, gpu); }), failure([&] { ds::engine::measure(*m, o, *gpu); })}) {
        CHECK(e.code == ds::status::unsupported);
        CHECK(e.text.find("attention") != std::string::npos);
    }

    const std::shared_ptr<ds::backend> tight = fake_device();
    const model_of_ds n = file.load(tight);
    ds::engine_options huge = o;
    huge.kv_positions = int64_t{1} << 31;
    const std::shared_ptr<ds::backend> small_device = fake_device({.memory = size_t{1} << 24});
    CHECK(failure([&] { ds::engine(n, huge, small_device); }).code == ds::status::memory);
    CHECK(ds::test::counts_of(*small_device).allocated == 0);

    // A device lost in its third run: every later step reports it, and requests can still be cancelled.
    const std::shared_ptr<ds::backend> weak = fake_device({.fails_after = 3});
    const model_of_ds w = file.load(weak);
    ds::engine e(w, o, weak);
    const uint64_t id = e.submit(request_for({d.ids.begin(), d.ids.begin() + 60}, 9));
    const ds::engine::turn turn(e);
    size_t lost = 0;
    for (int i = 0; i < 6; ++i) lost += failure([&] { e.step(turn); }).code == ds::status::device;
    CHECK(lost == 4);
    CHECK_FALSE(e.idle());
    e.cancel(id);
    e.step(turn);
    CHECK(e.idle());
}

TEST_CASE("device: the progress of loading ends with all that was placed, and can stop it") {
    const files file("micro/llama", ds::format::f16);
    uint64_t last = 0, whole = 0, calls = 0;
    ds::model_options o;
    o.device = fake_device();
    o.progress = [&](uint64_t done, uint64_t total) { return last = done, whole = total, ++calls < 1000; };
    const ds::model m(ds::gguf_file(ds::os::mapping::map_file(file.file.path), "test"), o);
    CHECK(whole == m.device_bytes);
    CHECK(last <= whole);
    CHECK(last + 256 >= whole);
    CHECK(ds::test::counts_of(*o.device).uploaded <= whole);
    const uint64_t all = calls;
    o.device = fake_device();
    calls = 1000 - all + 1;
    CHECK(failure([&] {
              ds::model(ds::gguf_file(ds::os::mapping::map_file(file.file.path), "test"), o);
          }).code == ds::status::cancelled);
    CHECK(ds::test::counts_of(*o.device).allocated == 0);
}

// ---- Opening the shared object

TEST_CASE("device: a shared object that is missing, is none, or is another one, is a status that says so") {
    const ds::error missing = failure([] { ds::cuda_device_count("/nowhere/libdeepseek-cuda.so"); });
    CHECK(missing.code == ds::status::no_device);
    CHECK(missing.text.find("/nowhere/libdeepseek-cuda.so") != std::string::npos);
    const temp_file text;
    std::string bytes = "this is not a shared object";
    std::fclose(std::fopen(text.path.c_str(), "w"));
    const ds::error none = failure([&] { ds::cuda_device_count(text.path); });
    CHECK(none.code == ds::status::no_device);
    CHECK(none.text.find(text.path) != std::string::npos);
    const ds::error other =
        failure([] { ds::cuda_backend({.device = 0, .force = {}, .library = "libm.so.6"}); });
    CHECK(other.code == ds::status::no_device);
    CHECK(other.text.find("ds_cuda_plugin") != std::string::npos);
}

TEST_CASE("device: the API without one") {
    ds_error why{};
    uint32_t n = 77;
    const ds_status s = ds_device_count(&n, &why);
    if (s == DS_OK) {
        CHECK(n >= 1);
        ds_device_info i{};
        i.struct_size = sizeof i;
        MUST(ds_device_get_info(1, &i, &err));
        CHECK(i.memory_total >= i.memory_free);
        CHECK(i.name[0] != 0);
    } else {
        CHECK(s == DS_ERR_NO_DEVICE);
        CHECK(n == 0);
        CHECK(std::string(why.message).size() > 20);
        ds_model_config c{};
        c.struct_size = sizeof c;
        c.device = 1;
        ds_model *m = nullptr;
        CHECK(ds_model_load(DS_SOURCE_DIR "/models/tiny-r1.gguf", &c, &m, &why) == DS_ERR_NO_DEVICE);
        CHECK(m == nullptr);
    }
    ds_device_info i{};
    i.struct_size = sizeof i;
    CHECK(ds_device_get_info(0, &i, &why) == DS_ERR_ARGUMENT);
    CHECK(ds_device_get_info(999, &i, &why) == DS_ERR_NO_DEVICE);
    CHECK(ds_device_get_info(1, nullptr, &why) == DS_ERR_ARGUMENT);
    CHECK(ds_device_count(nullptr, &why) == DS_ERR_ARGUMENT);
}
