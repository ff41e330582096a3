// The bits that I8 models and encoded blocks have on every machine. Other tests compare results on one
// machine. Here hashes are recorded from the scalar kernels on x86-64, so that every processor and compiler
// must reproduce them.
#include "../support/answers.h"

#include "../../ggml-cpu/cpu.h"
#include "../../tensor/gguf.h"

using namespace golden;

namespace {

// FNV-1a (G. Fowler, L. C. Noll, K.-P. Vo).
struct hash {
    uint64_t value = 0xcbf29ce484222325u;
    void add(const void *data, size_t n) {
        for (const auto *p = static_cast<const unsigned char *>(data); n > 0; --n)
            value = (value ^ *p++) * 0x100000001b3u;
    }
    std::string text() const { return ds::format_text("%016llx", static_cast<unsigned long long>(value)); }
};

std::string hash_of_weights(const std::string &path) {
    const ds::gguf_file f(ds::os::mapping::map_file(path), path);
    hash h;
    for (const ds::gguf_tensor &t : f.tensors()) h.add(t.data, t.bytes);
    return h.text();
}

// The hash of a prompt's logits, whose mean KL must be within `limit`, and of those of the tokens that
// follow.
std::string hash_of_logits(const engine_ptr &e, const data &d, double limit) {
    hash h;
    const std::vector<float> scored = logits(e, d.ids, d.vocab);
    CHECK(mean_kl(d, scored) <= limit);
    h.add(scored.data(), scored.size() * sizeof(float));
    full_request r = request(d.ids);
    r.flags = DS_REQUEST_LOGITS | DS_REQUEST_IGNORE_END;
    r.max_new_tokens = 8;
    const answer a = ask(e, r, d.vocab);
    CHECK(a.logits.size() == r.max_new_tokens * d.vocab);
    h.add(a.logits.data(), a.logits.size() * sizeof(float));
    return h.text();
}

}  // namespace

TEST_CASE("bits: the logits of a fixed request to an I8 model have the recorded hash") {
    // limit: of the mean KL
    const struct {
        std::string name, weights, logits;
        double limit;
    } models[] = {
        {"micro/llama", "85ed99198cfb600e", "10d49fff9e2ca86f", 0.005},
        {"micro/qwen2", "e50895f023606d0b", "0090330a2c6953ad", 0.005},
        {"micro/qwen3", "a633224699165421", "903bba36b998d7ba", 0.005},
        {"micro/deepseek-v2-lite", "d6db5c5e0e0362e3", "7495edb4f82e3c52", 0.05},
        {"micro/deepseek-r1", "a3ccdc0811229c9f", "2a6dcce440bbd05c", 0.05},
        {"micro/r1", "91848476a677e559", "ac96a933bd9a19ec", 0.005},
        {"tiny-r1", "aee6eaf84ec1bd30", "45a91da5998c3365", 0.005},
    };
    for (const auto &expected : models) {
        CAPTURE(expected.name);
        data d = load(expected.name);
        d.ids.resize(75);  // more than a page and more than a chunk
        const temp_file file;
        ds::convert(data_dir(expected.name), file.path,
                    {.type = ds::format::i8, .vocab_only = false, .name = ""}, {});
        CHECK(hash_of_weights(file.path) == expected.weights);
        ds_model *m = nullptr;
        MUST(ds_model_load(file.path.c_str(), nullptr, &m, &err));
        const model_ptr model(m);
        for (const char *isa : ds::cpu_isas()) {
            CAPTURE(std::string(isa));
            ds_engine_config c = engine_config();
            c.isa = isa;
            c.threads = 2;
            c.step_tokens = 64;
            c.kv_type = DS_KV_INT8;
            CHECK(hash_of_logits(engine(model, c), d, expected.limit) == expected.logits);
        }
    }
}

TEST_CASE("bits: encoded blocks have the recorded hash") {
    const struct {
        ds::format f;
        const char *even, *weighted;
    } expected[] = {
        {ds::format::q8_0, "298c7c611fb1f3d2", "298c7c611fb1f3d2"},
        {ds::format::q4_0, "f2a8b770ce066f63", "57f91f33d15a7f4d"},
        {ds::format::q4_1, "8e80469f68306f37", "3d66ab22d030afd7"},
        {ds::format::q5_0, "db5c1916fccea03a", "9a6ae51ddc0ea294"},
        {ds::format::q5_1, "fa362bbb9f3d1697", "12cff8b2a33f8f2b"},
        {ds::format::iq4_nl, "c987f5f8c9ebd35b", "8e6b8f8e0ccf99f7"},
        {ds::format::q2_k, "6018507858960236", "bc05822cd6eded2c"},
        {ds::format::q3_k, "50e7186a9d04e0de", "336de4b60adf9c1b"},
        {ds::format::q4_k, "eeb63c912f562bc5", "ce8b1151e86ad844"},
        {ds::format::q5_k, "59bf4f4b5c9b2547", "c03f94c3af7bd31f"},
        {ds::format::q6_k, "126352ec35f9f863", "786923931343ecf1"},
    };
    std::vector<float> x(4096), importance(x.size());
    uint32_t state = 1;
    const auto uniform = [&] {
        return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
    };
    for (size_t i = 0; i < x.size(); ++i) {
        for (int k = 0; k < 3; ++k) x[i] += uniform();
        x[i] *= i % 61 ? 0.05f : 0.5f;
        importance[i] = uniform() + 0.6f;
    }
    for (const auto &e : expected) {
        CAPTURE(std::string(ds::info(e.f).text));
        std::vector<uint8_t> bytes(ds::row_bytes(e.f, x.size()));
        for (const bool weighted : {false, true}) {
            ds::encode_row(e.f, x.data(), bytes.data(), x.size(), weighted ? importance.data() : nullptr);
            hash h;
            h.add(bytes.data(), bytes.size());
            CHECK(h.text() == (weighted ? e.weighted : e.even));
        }
    }
}
