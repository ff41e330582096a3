// The CUDA backend on a device: every variant of every operation against the reference, engines against the
// CPU's bits with recorded graphs and without, and failures as statuses. Without a device each case says what
// it skips; test_cuda_emulated.cpp and test_device.cpp test what needs none.
#include "../engine/answers.h"
#include "device_case.h"

#include "../../ggml-cpu/cpu.h"
#include "../../ggml-cuda/host/cuda.h"

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <random>
#include <thread>

using namespace ds;
using namespace ds::test;

namespace {

// The shared object of this build, if it exists; else the library's own search.
std::string library() {
    const std::string built = os::code_directory() + "/../lib/libdeepseek-cuda.so";
    return os::file_exists(built) ? built : "";
}

bool device_here(const char *skipped) {
    try {
        return cuda_device_count(library()) > 0;
    } catch (const error &e) {
        MESSAGE("skipped: ", std::string(skipped), ": ", e.text);
        return false;
    }
}

std::shared_ptr<backend> device(bool record = true,
                                std::vector<std::pair<std::string, std::string>> force = {},
                                bool overlap = false) {
    return cuda_backend(
        {.device = 0, .force = std::move(force), .record = record, .overlap = overlap, .library = library()});
}

struct model_pair {
    golden::temp_file file;
    std::shared_ptr<const model> near, far;
    model_pair(const char *name, format type, const std::shared_ptr<backend> &gpu) {
        convert(golden::data_dir(name), file.path, {.type = type, .vocab_only = false, .name = ""}, {});
        model_options o;
        near = std::make_shared<const model>(gguf_file(os::mapping::map_file(file.path), "near"), o);
        o.device = gpu;
        far = std::make_shared<const model>(gguf_file(os::mapping::map_file(file.path), "far"), o);
    }
};

// Runs `requests` prompts together, in chunks of `rows`.
answers answers_of(const std::shared_ptr<const model> &m, std::shared_ptr<backend> b, const golden::data &d,
                   format kv, int requests, int64_t rows) {
    engine_options o;
    o.max_requests = requests;
    o.context = 256;
    o.step_rows = rows;
    o.logit_rows = requests;
    o.kv_type = kv;
    engine e(m, engine::resolve(*m, o), std::move(b));
    for (int i = 0; i < requests; ++i) {
        request_options r;
        r.prompt.assign(d.ids.begin() + i, d.ids.begin() + 140 + 3 * i);
        r.max_new = 12;
        r.logits = r.ignore_end = true;
        e.submit(r);
    }
    return run_all(e, d.vocab);
}

}  // namespace

TEST_CASE("CUDA: every variant of every operation against the reference") {
    if (!device_here("every operation on a CUDA device")) return;
    const std::vector<op_case> cases = cuda_cases();
    std::map<std::string, std::vector<char>> references;
    const std::shared_ptr<backend> any = device();
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k) {
        const op kind = static_cast<op>(k);
        for (const std::string &name : cuda_variants(*any, kind)) {
            const std::shared_ptr<backend> b = device(true, {{info(kind).name, name}});
            size_t used = 0;
            for (const op_case &c : cases) {
                if (c.kind != kind) continue;
                device_case one(c, b);
                if (!one.variant() || name != one.variant()) continue;
                ++used;
                std::vector<char> &reference = references[c.text];
                if (reference.empty()) reference = reference_result(c);
                const bool bits = bits_defined(c, true);
                const std::string wrong = compare(c, reference, one.run(), bits, 4.0);
                CHECK_MESSAGE(wrong.empty(), c.text, " ", name, ": ", wrong);
                if (one.only().out.base) continue;  // it overwrites one of its sources
                // Twice more under one identity: recorded, then replayed.
                const uint64_t identity = used;
                const std::vector<char> first = one.run(identity), recorded = one.run_again(identity),
                                        replayed = one.run_again(identity);
                CHECK_MESSAGE((first == recorded && first == replayed), c.text, " ", name,
                              ": a recorded graph gives other bytes");
            }
            MESSAGE(std::string(info(kind).name), " ", name, ": ", used, " cases");
        }
    }
}

TEST_CASE("CUDA: I8 models give the CPU's bits, in any batch and chunks, with recorded graphs and without") {
    if (!device_here("I8 models on a CUDA device")) return;
    const bool few = std::getenv("DS_CUDA_FEW");  // under compute-sanitizer, which is slow
    for (const char *name : {"micro/llama", "micro/qwen2", "micro/qwen3", "micro/deepseek-v2-lite",
                             "micro/deepseek-r1", "micro/r1", "tiny-r1"}) {
        CAPTURE(name);
        if (few && std::string(name) != "micro/qwen2") continue;
        const golden::data d = golden::load(name);
        const std::shared_ptr<backend> gpu = device();
        const model_pair m(name, format::i8, gpu);
        for (const int requests : {1, 8}) {
            const auto wanted = answers_of(m.near, cpu_backend({}), d, format::i8, requests, 64);
            for (const int64_t rows : {int64_t{8}, int64_t{64}, int64_t{512}})
                for (const bool record : {true, false})
                    for (const bool overlap : {false, true}) {
                        if (overlap && rows != 64) continue;
                        if (few && (rows == 8 || requests == 1 || overlap)) continue;
                        const std::shared_ptr<backend> b = device(record, {}, overlap);
                        const auto got = answers_of(m.far, b, d, format::i8, requests, rows);
                        CHECK_MESSAGE(wanted == got, "requests ", requests, ", chunks of ", rows,
                                      record ? ", recorded" : "", overlap ? ", overlapping" : "");
                        CHECK((cuda_recorded(*b) > 0) == record);
                    }
        }
    }
}

TEST_CASE("CUDA: other formats give the same bits again, and logits near the CPU's") {
    if (!device_here("models of other formats on a CUDA device")) return;
    const struct {
        const char *name;
        format type, kv;
    } models[] = {{"micro/llama", format::f32, format::f32},
                  {"micro/qwen2", format::bf16, format::f16},
                  {"micro/qwen3", format::f16, format::f16},
                  {"tiny-r1", format::q8_0, format::f16},
                  {"micro/deepseek-v2-lite", format::q8_0, format::f16},
                  {"micro/r1", format::q8_0, format::f16}};
    for (const auto &of : models) {
        CAPTURE(of.name);
        const golden::data d = golden::load(of.name);
        const std::shared_ptr<backend> gpu = device();
        const model_pair m(of.name, of.type, gpu);
        const auto wanted = answers_of(m.near, cpu_backend({}), d, of.kv, 1, 64),
                   got = answers_of(m.far, device(), d, of.kv, 1, 64),
                   again = answers_of(m.far, device(), d, of.kv, 1, 64);
        CHECK(got == again);
        const std::vector<float> &x = wanted.begin()->second.logits, &y = got.begin()->second.logits;
        double off = 0, size = 0;  // of the first token; later ones may differ after another choice
        for (size_t i = 0; i < d.vocab; ++i)
            off += (x[i] - y[i]) * static_cast<double>(x[i] - y[i]), size += x[i] * static_cast<double>(x[i]);
        CHECK(off <= 1e-4 * size);
        MESSAGE(std::string(of.name), " ", std::string(info(of.type).text),
                ": relative difference of logits ", std::sqrt(off / size));
    }
}

TEST_CASE("CUDA: a device has no room, or there is no such device: a status, and it goes on") {
    if (!device_here("a CUDA device's refusals")) return;
    const std::shared_ptr<backend> b = device();
    const auto code = [](auto &&f) {
        try {
            f();
        } catch (const error &e) {
            return e.code;
        }
        return status::ok;
    };
    CHECK(code([&] { backend_memory(b, size_t{1} << 50); }) == status::memory);
    CHECK(code([&] { backend_memory(b, size_t{1} << 20); }) == status::ok);
    CHECK(code([] { cuda_backend({.device = 999, .force = {}, .record = true, .library = library()}); }) ==
          status::no_device);
    CHECK(code([] { device(true, {{"matmul", "magic"}}); }) == status::argument);
    CHECK(code([] { device(true, {{"convolve", "plain"}}); }) == status::argument);
    const cuda_device before = describe_cuda_device(0, library());
    { const backend_memory held(b, size_t{64} << 20); }
    CHECK(describe_cuda_device(0, library()).memory_free + (size_t{8} << 20) >= before.memory_free);
}

TEST_CASE("CUDA: a long step can be stopped on the way, and what comes after it is right") {
    if (!device_here("stopping a step on a CUDA device")) return;
    const std::shared_ptr<backend> b = device();
    constexpr int64_t rows = 4096, width = 4096, nodes = 600;  // tens of milliseconds
    std::mt19937 random(1);
    std::vector<float> x(rows * width), scale(width, 0.01f);
    for (float &v : x) v = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31f;
    std::vector<uint32_t> w(width * width / 4);
    for (uint32_t &v : w) v = static_cast<uint32_t>(random());
    const backend_memory xs(b, x.size() * 4), ws(b, w.size() * 4), ss(b, scale.size() * 4),
        ys(b, x.size() * 4);
    b->fn->upload(b.get(), xs.data(), x.data(), xs.size());
    b->fn->upload(b.get(), ws.data(), w.data(), ws.size());
    b->fn->upload(b.get(), ss.data(), scale.data(), ss.size());
    graph g(nodes);
    tensor *const weights = g.input(format::i8, {width, width}, ws.data(), ""), *const from =
                                                                                    g.input(format::f32,
                                                                                            {rows, width},
                                                                                            xs.data(), "");
    weights->scale = g.input(format::f32, {width}, ss.data(), "");
    for (int64_t i = 0; i < nodes; ++i) matmul(g, from, weights, nullptr);
    for (node &n : g.nodes()) n.out.data = ys.data();
    const backend_memory work(b, b->fn->work_bytes(b.get(), g.nodes()[0]));
    const auto result = [&] {
        std::vector<float> y(x.size());
        b->fn->download(b.get(), y.data(), ys.data(), ys.size());
        return y;
    };
    std::atomic<bool> stop{false};
    CHECK(b->fn->run(b.get(), g, work.data(), &stop));
    const std::vector<float> wanted = result();
    double asked = 0;
    std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        asked = os::seconds();
        stop = true;
    });
    CHECK_FALSE(b->fn->run(b.get(), g, work.data(), &stop));
    b->fn->wait(b.get());
    const double ended = os::seconds();
    other.join();
    MESSAGE("idle ", 1e3 * (ended - asked), " ms after it was asked to stop");
    stop = false;
    CHECK(b->fn->run(b.get(), g, work.data(), &stop));
    CHECK(golden::same_bits(result(), wanted));
}
