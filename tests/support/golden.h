// The golden data of tests/data (see its README.md): checkpoints, converted to a temporary GGUF file, and the
// results that an independent float64 implementation in PyTorch computed from them.
#pragma once

#include "../../deepseek.h"
#include "../../quantize/convert.h"
#include "../../quantize/safetensors.h"
#include "sanitizers.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <unordered_map>
#include <unistd.h>

namespace golden {

using ds::test::sanitized;

// Ends the test case when a call fails that it cannot do without. MUST declares the `err` that the call
// refers to.
inline void ok(ds_status s, const ds_error &e) {
    if (s != DS_OK) FAIL(e.message);
}
#define MUST(call)                                                                                           \
    do {                                                                                                     \
        ds_error err{};                                                                                      \
        golden::ok((call), err);                                                                             \
    } while (0)

struct temp_file {
    std::string path;
    temp_file() {
        const char *dir = std::getenv("TMPDIR");
        path = std::string(dir ? dir : "/tmp") + "/deepseek-test-XXXXXX";
        const int fd = mkstemp(path.data());
        REQUIRE(fd >= 0);
        close(fd);
    }
    temp_file(const temp_file &) = delete;
    ~temp_file() { unlink(path.c_str()); }
};

struct model_free {
    void operator()(ds_model *m) const { ds_model_free(m); }
};
struct engine_free {
    void operator()(ds_engine *e) const { ds_engine_free(e); }
};
using model_ptr = std::unique_ptr<ds_model, model_free>;
using engine_ptr = std::unique_ptr<ds_engine, engine_free>;

inline bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
inline std::string data_dir(const std::string &name) {
    return std::string(DS_SOURCE_DIR "/tests/data/") + name;
}

// DS_TEST_DEVICE=N puts the models of tests on device N (0: the host). Their weights and pages are I8 then,
// whatever a test asks for, because only I8 has the same bits on every device.
inline const char *device_asked() { return std::getenv("DS_TEST_DEVICE"); }

inline model_ptr load_file(const char *path, uint32_t flags = 0) {
    ds_model_config c{};
    c.struct_size = sizeof c;
    c.flags = flags;
    c.device = device_asked() ? static_cast<uint32_t>(std::atoi(device_asked())) : 0;
    ds_model *m = nullptr;
    MUST(ds_model_load(path, &c, &m, &err));
    return model_ptr(m);
}

// `name` is a folder of tests/data, such as "micro/llama".
inline model_ptr model(const std::string &name, ds::format type, uint32_t flags = 0) {
    const temp_file file;
    ds::convert(data_dir(name), file.path,
                {.type = device_asked() ? ds::format::i8 : type, .vocab_only = false, .name = ""}, {});
    return load_file(file.path.c_str(), flags);
}

inline const char *const bundled_path = DS_SOURCE_DIR "/models/tiny-r1.gguf";
inline model_ptr bundled(uint32_t flags = 0) {
    return device_asked() ? model("tiny-r1", ds::format::i8, flags) : load_file(bundled_path, flags);
}

inline ds_engine_config engine_config() {
    ds_engine_config c{};
    c.struct_size = sizeof c;
    c.threads = 1;
    c.kv_type = DS_KV_F32;
    return c;
}
inline engine_ptr engine(const model_ptr &m, ds_engine_config c) {
    if (device_asked()) c.kv_type = DS_KV_INT8;
    ds_engine *e = nullptr;
    MUST(ds_engine_new(m.get(), &c, &e, &err));
    return engine_ptr(e);
}

// A request that owns the sampling and thinking structures it points to.
struct full_request : ds_request {
    ds_sampling draw{};
    ds_thinking thought{};
    full_request() : ds_request{} { own(); }
    full_request(const full_request &o) : ds_request(o), draw(o.draw), thought(o.thought) { own(); }
    full_request &operator=(const full_request &o) {
        ds_request::operator=(o);
        draw = o.draw, thought = o.thought;
        return own(), *this;
    }

private:
    void own() {
        struct_size = sizeof(ds_request);
        draw.struct_size = sizeof draw, thought.struct_size = sizeof thought;
        sampling = &draw, thinking = &thought;
    }
};

inline full_request request(const std::vector<ds_token> &prompt) {
    full_request r;
    r.prompt = prompt.data();
    r.prompt_count = prompt.size();
    return r;
}

// The tokens of a conversation of one question, rendered by the model's template.
inline std::vector<ds_token> chat_prompt(const model_ptr &m, const std::string &question,
                                         const ds_chat_config *config = nullptr) {
    const ds_message ask = {"user", question.c_str()};
    std::vector<ds_token> prompt(512);
    size_t n = 0;
    MUST(ds_chat_tokenize(m.get(), &ask, 1, config, prompt.data(), prompt.size(), &n, &err));
    prompt.resize(n);
    return prompt;
}

struct data {
    std::vector<ds_token> ids, greedy;  // greedy: the continuation of the first 16 ids
    std::vector<float> logits;          // [ids, vocab]
    size_t vocab;
};

inline std::vector<ds_token> int64s(const ds::safetensor &t) {
    std::vector<ds_token> out(t.bytes / 8);
    for (size_t i = 0; i < out.size(); ++i) {
        int64_t v;
        std::memcpy(&v, t.data + 8 * i, 8);
        out[i] = static_cast<ds_token>(v);
    }
    return out;
}

inline data load(const std::string &name) {
    const std::string path = data_dir(name) + "/golden.safetensors";
    const ds::safetensors_file file(ds::os::mapping::map_file(path), path);
    data d{};
    for (const ds::safetensor &t : file.tensors()) {
        if (t.name == "input_ids") d.ids = int64s(t);
        if (t.name == "greedy_from_first_16") d.greedy = int64s(t);
        if (t.name != "logits") continue;
        d.vocab = static_cast<size_t>(t.ne[1]);
        d.logits.resize(t.bytes / 4);
        std::memcpy(d.logits.data(), t.data, t.bytes);
    }
    REQUIRE(d.logits.size() == d.ids.size() * d.vocab);
    return d;
}

// Takes one step; `each` gets every event.
template <class F> void step(const engine_ptr &e, F &&each) {
    const ds_event *const *events = nullptr;
    size_t count = 0;
    MUST(ds_engine_step(e.get(), &events, &count, &err));
    for (size_t i = 0; i < count; ++i) each(*events[i]);
}

// Takes steps until the engine is idle.
template <class F> void run(const engine_ptr &e, F &&each) {
    ds_engine_stats s{};
    s.struct_size = sizeof s;
    do {
        step(e, each);
        MUST(ds_engine_get_stats(e.get(), &s, &err));
    } while (s.running + s.queued);
}

// Logits of every position of `ids`, [ids, vocab].
inline std::vector<float> logits(const engine_ptr &e, const std::vector<ds_token> &ids, size_t vocab) {
    std::vector<float> out(ids.size() * vocab);
    full_request r = request(ids);
    r.flags = DS_REQUEST_SCORE | DS_REQUEST_LOGITS;
    ds_request_id id;
    MUST(ds_engine_submit(e.get(), &r, &id, &err));
    run(e, [&](const ds_event &event) {
        if (event.type == DS_EVENT_SCORE)
            std::memcpy(&out[event.position * vocab], event.logits, vocab * sizeof(float));
        else CHECK(event.finish == DS_FINISH_SCORED);
    });
    return out;
}

inline std::vector<ds_token> greedy(const engine_ptr &e, const std::vector<ds_token> &prompt, uint32_t n) {
    std::vector<ds_token> out;
    full_request r = request(prompt);
    r.flags = DS_REQUEST_IGNORE_END;
    r.max_new_tokens = n;
    ds_request_id id;
    MUST(ds_engine_submit(e.get(), &r, &id, &err));
    run(e, [&](const ds_event &event) {
        if (event.type == DS_EVENT_TOKEN) out.push_back(event.token);
    });
    return out;
}

// ln(sum(exp(row))), in double.
inline double log_sum(const float *row, size_t n) {
    double max = row[0], sum = 0;
    for (size_t i = 1; i < n; ++i) max = std::max<double>(max, row[i]);
    for (size_t i = 0; i < n; ++i) sum += std::exp(row[i] - max);
    return max + std::log(sum);
}

inline double largest_difference(const std::vector<float> &a, const std::vector<float> &b) {
    double d = 0;
    for (size_t i = 0; i < a.size(); ++i) d = std::max<double>(d, std::fabs(double(a[i]) - b[i]));
    return d;
}

// Mean over the positions of KL(golden || ours).
inline double mean_kl(const data &d, const std::vector<float> &ours) {
    double sum = 0;
    for (size_t i = 0; i < d.ids.size(); ++i) {
        const float *p = &d.logits[i * d.vocab], *q = &ours[i * d.vocab];
        const double lp = log_sum(p, d.vocab), lq = log_sum(q, d.vocab);
        for (size_t v = 0; v < d.vocab; ++v) sum += std::exp(p[v] - lp) * ((p[v] - lp) - (q[v] - lq));
    }
    return sum / static_cast<double>(d.ids.size());
}

// Mean negative log-likelihood of the ids after the first.
inline double mean_nll(const data &d, const std::vector<float> &logits) {
    double sum = 0;
    for (size_t i = 0; i + 1 < d.ids.size(); ++i)
        sum +=
            log_sum(&logits[i * d.vocab], d.vocab) - logits[i * d.vocab + static_cast<size_t>(d.ids[i + 1])];
    return sum / static_cast<double>(d.ids.size() - 1);
}

}  // namespace golden
