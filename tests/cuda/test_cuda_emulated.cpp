// The CUDA backend from nodes to kernels, with the kernels run on the host (cuda_emulation.h) and memory that
// the host cannot touch (fake_device.h): every case of every operation in every variant, and whole engines.
#include "../engine/answers.h"
#include "cuda_kernels.h"
#include "device_case.h"
#include "fake_device.h"

#include "../../llm/model/arch/deepseek2.h"
#include "../../ggml-cpu/cpu.h"

#include <set>

using namespace ds;
using namespace ds::test;

TEST_CASE("CUDA, emulated: every variant of every operation against the reference") {
    if (!kernels_run()) {
        MESSAGE("not run here: the emulation wants x86-64 and no sanitizer");
        return;
    }
    const std::vector<op_case> cases = cuda_cases();
    std::map<std::string, std::vector<char>> references;
    std::map<std::string, std::string> first;  // the variant of each case when none is forced
    const std::shared_ptr<backend> unforced = fake_device({}, emulated_cuda());
    for (const op_case &c : cases)
        if (const char *name = device_case(c, unforced).variant()) first[c.text] = name;
    const auto bytes_of = [](const op_case &c) {
        size_t n = 0;
        for (const array &a : c.src) n += a.bytes.size();
        return n;
    };
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k) {
        const op kind = static_cast<op>(k);
        CHECK(emulated_variants(kind).empty() == !info(kind).cuda);
        const std::vector<const char *> names = emulated_variants(kind);
        for (const char *name : names) {
            // `mixed` runs with a library and without, `library` only with one, the others without.
            const bool only_library = std::string(name) == "library", mixed = std::string(name) == "mixed";
            bool used = false;
            for (const bool library : {false, true}) {
                if (library ? !only_library && !mixed : only_library) continue;
                const std::shared_ptr<backend> b =
                    fake_device({}, emulated_cuda({.library = library, .kind = kind, .variant = name}));
                for (const op_case &c : cases) {
                    if (c.kind != kind) continue;
                    CAPTURE(c.text);
                    device_case one(c, b);
                    if (!one.variant() || std::string(one.variant()) != name) continue;
                    // test_cuda_kernels.cpp runs every kernel on every case; here one large case is enough
                    // for a variant that would not be chosen for it.
                    if (used && bytes_of(c) > 30000 && first[c.text] != name) continue;
                    used = true;
                    std::vector<char> &reference = references[c.text];
                    if (reference.empty()) reference = reference_result(c);
                    const std::string wrong = compare(c, reference, one.run(), bits_defined(c, library), 2.0);
                    CHECK_MESSAGE(wrong.empty(), c.text, " ", std::string(name),
                                  library ? " with a library: " : ": ", wrong);
                }
            }
            CHECK_MESSAGE(used, std::string(info(kind).name), ": no case for ", std::string(name));
        }
    }
}

namespace {

// One prompt in chunks beside another, and some tokens of each.
answers answers_of(std::shared_ptr<const model> m, std::shared_ptr<backend> b, const golden::data &d,
                   format kv, mla_form mla) {
    engine_options o;
    o.max_requests = 2;
    o.context = 128;
    o.step_rows = 24;
    o.logit_rows = 2;
    o.kv_type = kv;
    o.form = static_cast<int32_t>(mla);
    engine e(m, engine::resolve(*m, o), std::move(b));
    for (const int first : {0, 9}) {
        request_options r;
        r.prompt.assign(d.ids.begin() + first, d.ids.begin() + first + 70 - 5 * first);
        r.max_new = 3;
        r.logits = r.ignore_end = true;
        e.submit(r);
    }
    request_options r;  // sampled without its logits being returned
    r.prompt.assign(d.ids.begin() + 30, d.ids.begin() + 50);
    r.max_new = 4;
    r.ignore_end = true;
    r.sampling.temperature = 0.6f, r.sampling.top_p = 0.95f;
    e.submit(r);
    return run_all(e, d.vocab);
}

}  // namespace

TEST_CASE("CUDA, emulated: engines give the CPU's bits") {
    if (!kernels_run()) return;
    const struct {
        const char *name;
        format type, kv;
    } models[] = {
        {"micro/qwen2", format::i8, format::i8},    {"micro/qwen3", format::i8, format::i8},
        {"micro/llama", format::i8, format::i8},    {"micro/deepseek-r1", format::i8, format::i8},
        {"micro/r1", format::i8, format::i8},       {"micro/r1", format::q8_0, format::f16},
        {"micro/llama", format::bf16, format::f16}, {"micro/deepseek-v2-lite", format::q8_0, format::f16}};
    for (const auto &of : models) {
        CAPTURE(of.name);
        const golden::data d = golden::load(of.name);
        const golden::temp_file file;
        convert(golden::data_dir(of.name), file.path, {.type = of.type, .vocab_only = false, .name = ""}, {});
        const std::shared_ptr<backend> device = fake_device({}, emulated_cuda());
        model_options there;
        there.device = device;
        const auto near = std::make_shared<const model>(gguf_file(os::mapping::map_file(file.path), "near"),
                                                        model_options{});
        const auto far =
            std::make_shared<const model>(gguf_file(os::mapping::map_file(file.path), "far"), there);
        const auto wanted = answers_of(near, cpu_backend({.threads = 2}), d, of.kv, mla_form::absorbed),
                   got = answers_of(far, device, d, of.kv, mla_form::automatic);
        CHECK(wanted == got);
    }
}

TEST_CASE("CUDA, emulated: a long step that nobody needs any more ends between two layers") {
    if (!kernels_run()) return;
    const golden::data d = golden::load("micro/llama");
    const golden::temp_file file;
    convert(golden::data_dir("micro/llama"), file.path, {.type = format::i8, .vocab_only = false, .name = ""},
            {});
    size_t pieces = 0, stop_at = SIZE_MAX;
    engine *running = nullptr;
    uint64_t id = 0;
    const auto between = [&] {
        if (++pieces == stop_at) running->cancel(id);
    };
    const std::shared_ptr<backend> b = emulated_cuda({.between = between});
    const auto m =
        std::make_shared<const model>(gguf_file(os::mapping::map_file(file.path), "test"), model_options{});
    engine_options o;
    o.max_requests = 1;
    o.context = 256;
    o.step_rows = 140;
    o.kv_type = format::i8;
    engine e(m, engine::resolve(*m, o), b);
    running = &e;
    const auto ask = [&](int rows) {
        request_options r;
        r.prompt.assign(d.ids.begin(), d.ids.begin() + rows);
        r.max_new = 1;
        r.use_cache = false;
        id = e.submit(r);
        const engine::turn turn(e);
        const auto events = e.step(turn);
        return events.empty() ? finish::none : events.back().finish;
    };
    CHECK(ask(100) == finish::length);
    CHECK(pieces == 0);  // not a long step
    CHECK(ask(140) == finish::length);
    const size_t all = pieces;
    CHECK(all >= 2);
    pieces = 0, stop_at = 1;
    CHECK(ask(139) == finish::cancelled);
    CHECK(pieces == 1);
    stop_at = SIZE_MAX;
    CHECK(ask(138) == finish::length);
}
