// A prompt's rate is its length over the time to its first token. A decode's rate counts the tokens after
// every request has its first one. Each size runs once unmeasured, so that file pages are in memory and
// threads awake, then the requested number of times and for at least half a second; up to some times as long
// while too few repetitions are quiet.
#include "speed.h"

#include "bandwidth.h"
#include "handles.h"
#include "median.h"

#include "../../llm/model/model.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <set>
#include <span>

namespace bench {

namespace {

// The weights that a forward pass reads and multiplies with. The embedding is only looked up, unless the
// output head is tied to it. Of a prompt only the last token goes through the head. A token uses a share of
// the routed experts or heads, and a step reads those that any of its tokens uses.
struct weights {
    // routed_bytes: of all routed experts or heads, not included in `bytes`
    double bytes = 0, routed_bytes = 0;
    // weights that a token is multiplied with; floats: those of body and head that are floats
    double body = 0, head = 0, floats = 0;
    double share = 0;  // share of what is routed that a token uses
    bool integers() const { return floats < (body + head) / 2; }
    // The expected share if tokens choose independently and nothing is preferred.
    double step_bytes(unsigned tokens) const {
        return bytes + routed_bytes * (1 - std::pow(1 - share, tokens));
    }
};

// The share of a tensor that is routed: all of the experts', of the heads' those that are not always active.
double routed_part(std::string_view name, const ds::hparams &h) {
    if (name.find("_exps.weight") != name.npos) return 1;
    if (!h.heads_used) return 0;
    for (const std::string_view of : {".attn_q.", ".attn_q_b.", ".attn_k_b.", ".attn_v_b.", ".attn_output."})
        if (name.find(of) != name.npos)
            return static_cast<double>(h.heads - h.heads_shared) / static_cast<double>(h.heads);
    return 0;
}
double routed_share(const ds::hparams &h) {
    const auto of = [](int64_t part, int64_t all) {
        return static_cast<double>(part) / static_cast<double>(all);
    };
    return h.experts      ? of(h.experts_used, h.experts)
           : h.heads_used ? of(h.heads_used - h.heads_shared, h.heads - h.heads_shared)
                          : 0;
}

weights weights_of(const std::string &path) {
    const ds::gguf_file file = ds::gguf_file::open(path);
    const ds::hparams h = ds::arch_of(file)->read(file);
    const std::string_view head = file.find_tensor("output.weight") ? "output.weight" : "token_embd.weight";
    weights w;
    w.share = routed_share(h);
    for (const ds::gguf_tensor &t : file.tensors()) {
        if (t.name == "token_embd.weight" && t.name != head) continue;
        double runs = 1;  // layers that run the block; none runs one that predicts one more token
        if (t.name.starts_with("blk.")) {
            int64_t block = 0;
            std::from_chars(t.name.data() + 4, t.name.data() + t.name.size(), block);
            runs = 0;
            for (int64_t layer = 0; layer < h.layers; ++layer) runs += h.block_of(layer) == block;
        }
        const double routed = routed_part(t.name, h), bytes = runs * static_cast<double>(t.bytes);
        w.routed_bytes += routed * bytes;
        w.bytes += (1 - routed) * bytes;
        if (t.rank < 2 || t.name.ends_with("_scale")) continue;
        const double elements = runs * static_cast<double>(t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3]) *
                                (1 - routed + routed * w.share);
        (t.name == head ? w.head : w.body) += elements;
        if (t.type == ds::format::f32 || t.type == ds::format::f16 || t.type == ds::format::bf16)
            w.floats += elements;
    }
    return w;
}

struct bench_engine {
    engine_ptr engine;
    ds_memory_plan plan;
    uint32_t vocabulary, context;
    unsigned threads;
};

bench_engine make_engine(const model_ptr &m, const speed_options &o, unsigned threads) {
    ds_error err;
    ds_model_info info{};
    info.struct_size = sizeof info;
    check(ds_model_get_info(m.get(), &info, &err), err);
    const unsigned prompt = *std::max_element(o.prompts.begin(), o.prompts.end()),
                   answer = *std::max_element(o.answers.begin(), o.answers.end());
    const unsigned depth = *std::max_element(o.depths.begin(), o.depths.end());
    ds_engine_config c{};
    c.struct_size = sizeof c;
    c.threads = threads;
    c.max_requests = *std::max_element(o.requests.begin(), o.requests.end());
    c.context_length = std::min(info.context_length, std::max(prompt, std::max(depth, 1u) + answer) + 1);
    c.step_tokens = o.step_tokens;
    c.kv_type = o.kv;
    c.mla_form = o.mla;
    c.isa = o.isa.empty() ? nullptr : o.isa.c_str();
    ds_memory_plan plan{};
    plan.struct_size = sizeof plan;
    check(ds_engine_plan(m.get(), &c, &plan, &err), err);
    ds_engine *e = nullptr;
    check(ds_engine_new(m.get(), &c, &e, &err), err);
    return {engine_ptr(e), plan, info.vocabulary, c.context_length, threads};
}

struct times {
    double prompt, decode;  // seconds
    uint64_t decoded;       // tokens in `decode`
};

// Times `requests` requests with prompts of `prompt` tokens and answers of `answer`, from submission to the
// end. After every decode step `between` is called with the step's seconds; its own time does not count.
times run(const bench_engine &b, unsigned requests, unsigned prompt, unsigned answer,
          const std::function<void(double)> &between = {}) {
    std::vector<ds_token> ids(prompt);
    uint32_t random = 12345;
    for (ds_token &t : ids)
        random = random * 1664525u + 1013904223u, t = static_cast<ds_token>((random >> 8) % b.vocabulary);
    ds_request r{};
    r.struct_size = sizeof r;
    r.prompt = ids.data();
    r.prompt_count = ids.size();
    r.flags = DS_REQUEST_IGNORE_END | DS_REQUEST_NO_CACHE;
    r.max_new_tokens = answer;
    ds_error err;
    double begin = ds::os::seconds();
    for (unsigned i = 0; i < requests; ++i) {
        ds_request_id id;
        check(ds_engine_submit(b.engine.get(), &r, &id, &err), err);
    }
    times t{0, 0, 0};
    std::set<ds_request_id> begun;
    for (unsigned done = 0; done < requests;) {
        const ds_event *const *events = nullptr;
        size_t count = 0;
        check(ds_engine_step(b.engine.get(), &events, &count, &err), err);
        const double now = ds::os::seconds() - begin;
        const bool all_begun = begun.size() == requests;
        for (const ds_event *e : std::span(events, count)) {
            if (e->type == DS_EVENT_DONE) {
                if (e->finish != DS_FINISH_LENGTH)
                    throw std::runtime_error(std::string("a request ended early: ") +
                                             ds_status_name(e->status));
                ++done;
            } else {
                begun.insert(e->request);
                t.decoded += all_begun;
            }
        }
        if (all_begun && between) {
            const double before = ds::os::seconds();
            between(now - t.prompt - t.decode);
            begin += ds::os::seconds() - before;
        }
        if (!all_begun) t.prompt = now;
        t.decode = now - t.prompt;
    }
    return t;
}

// Linux: resets the peak resident size to the current one (proc(5), clear_refs), so that earlier work does
// not count.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << 5; }
uint64_t peak_resident() {
    std::ifstream in("/proc/self/status");
    for (std::string line; std::getline(in, line);)
        if (line.rfind("VmHWM:", 0) == 0) return std::stoull(line.substr(6)) * 1024;
    return 0;
}

template <class F>
samples<times> repeat(const speed_options &o, quiet_probe &probe, unsigned threads, const F &once) {
    once();
    samples<times> out(probe, threads);
    const double begin = ds::os::seconds();
    const auto fewer_than = [&](unsigned times_as_many) {
        const size_t n = out.taken();
        return n < size_t{times_as_many} * o.repetitions ||
               (ds::os::seconds() - begin < 0.5 * times_as_many && n < 1000);
    };
    while (fewer_than(1) || (out.quiet() < o.repetitions && fewer_than(o.up_to))) out.take(once);
    return out;
}

// The rates of what counts.
template <class F> std::vector<double> rates_of(const samples<times> &s, const F &rate) {
    std::vector<double> out;
    for (const times &t : s.counting()) out.push_back(rate(t));
    return out;
}

double largest(const std::vector<double> &v) { return *std::max_element(v.begin(), v.end()); }

// A decode with a read of memory after every step: the median step's seconds, and the median read's bytes a
// second.
struct beside {
    double step, read;
};
beside beside_reads(const bench_engine &b, unsigned requests, unsigned prompt, unsigned answer) {
    reader memory(b.threads);
    std::vector<double> steps;
    run(b, requests, prompt, answer, [&](double seconds) { steps.push_back(seconds), memory.pass(); });
    return {median(steps), memory.usual()};
}

// The given sizes, at most `max`, without duplicates.
std::vector<unsigned> cut(const std::vector<unsigned> &sizes, unsigned min, unsigned max) {
    std::vector<unsigned> out;
    for (const unsigned s : sizes) {
        const unsigned v = std::clamp(s, min, max);
        if (std::find(out.begin(), out.end(), v) == out.end()) out.push_back(v);
    }
    return out;
}

}  // namespace

double speed::median() const { return bench::median(rates); }
double speed::best() const { return largest(rates); }

memory measure(const std::string &path, const speed_options &o, quiet_probe &probe,
               const std::function<void(const speed &)> &each) {
    const weights w = weights_of(path);
    memory used;
    forget_peak();
    ds_error err;
    ds_model *handle = nullptr;
    check(ds_model_load(path.c_str(), nullptr, &handle, &err), err);
    const model_ptr m(handle);
    for (const unsigned threads : o.threads) {
        const bench_engine b = make_engine(m, o, threads);
        if (b.plan.total > used.planned) used.planned = b.plan.total, used.weights = b.plan.weights;
        ds_engine_stats s{};
        s.struct_size = sizeof s;
        check(ds_engine_get_stats(b.engine.get(), &s, &err), err);
        for (const unsigned n : cut(o.prompts, 1, b.context - 1)) {
            const samples<times> all = repeat(o, probe, s.threads, [&] { return run(b, 1, n, 1); });
            each({.decode = false,
                  .threads = s.threads,
                  .requests = 1,
                  .tokens = n,
                  .isa = s.isa,
                  .repetitions = all.taken(),
                  .quiet = all.quiet(),
                  .rates = rates_of(all, [&](const times &t) { return n / t.prompt; }),
                  .token_ops = 2 * w.body,
                  .integers = w.integers()});
        }
        for (const unsigned requests : o.requests)
            for (const unsigned depth : cut(o.depths, 1, b.context - 2))
                for (const unsigned n : cut(o.answers, 1, b.context - 1 - depth)) {
                    const samples<times> all =
                        repeat(o, probe, s.threads, [&] { return run(b, requests, depth, n + 1); });
                    const auto decoded = [](const times &t) {
                        return static_cast<double>(t.decoded) / t.decode;
                    };
                    const auto all_tokens = [&](const times &t) {
                        return requests * (depth + n + 1) / (t.prompt + t.decode);
                    };
                    const double cache =
                        static_cast<double>(b.plan.page_bytes) / 64 * (depth + n / 2.0) * requests;
                    speed one{.decode = true,
                              .threads = s.threads,
                              .requests = requests,
                              .depth = depth,
                              .tokens = n,
                              .isa = s.isa,
                              .repetitions = all.taken(),
                              .quiet = all.quiet(),
                              .rates = rates_of(all, decoded),
                              .all_best = largest(rates_of(all, all_tokens)),
                              .token_ops = 2 * (w.body + w.head),
                              .integers = w.integers()};
                    if (o.reads) {
                        used.resident = std::max(used.resident, peak_resident());
                        const auto [step, read] = beside_reads(b, requests, depth, n + 1);
                        forget_peak();
                        one.bytes_per_second = (w.step_bytes(requests) + cache) / step;
                        one.read_per_second = read;
                    }
                    each(one);
                }
    }
    used.resident = std::max(used.resident, peak_resident());
    return used;
}

}  // namespace bench
