// Models from nothing: vocabularies made from texts against a plain implementation, random weights against
// the formulas, and what is refused.
#include "../support/answers.h"
#include "../support/api.h"
#include "../support/files.h"

#include <cmath>
#include <map>

using namespace golden;
using ds::test::contains;
using ds::test::file_bytes;
using ds::test::temp_dir;
namespace fs = ds::test::fs;

namespace {

ds_status train_vocabulary(const std::string &path, ds_vocabulary_kind kind, uint32_t size,
                           const std::vector<std::string> &texts, ds_error *err) {
    ds_vocabulary_config c{};
    c.struct_size = sizeof c;
    c.kind = kind, c.size = size;
    std::vector<const char *> data;
    std::vector<size_t> sizes;
    for (const std::string &t : texts) data.push_back(t.data()), sizes.push_back(t.size());
    return ds_vocabulary_train(path.c_str(), &c, data.data(), sizes.data(), data.size(), err);
}
model_ptr vocabulary(const std::string &path) {
    ds_model_config c{};
    c.struct_size = sizeof c;
    c.flags = DS_LOAD_VOCAB_ONLY;
    ds_model *m = nullptr;
    MUST(ds_model_load(path.c_str(), &c, &m, &err));
    return model_ptr(m);
}
std::vector<ds_token> tokens_of(const model_ptr &m, const std::string &text) {
    std::vector<ds_token> out(256);
    size_t n = 0;
    MUST(ds_tokenize(m.get(), text.data(), text.size(), 0, out.data(), out.size(), &n, &err));
    out.resize(n);
    return out;
}
std::vector<std::string> merges_of(const std::string &path) {
    const ds::gguf_file f(ds::os::mapping::map_file(path), path);
    std::vector<std::string> out;
    for (const std::string_view m : f.get_strings("tokenizer.ggml.merges")) out.emplace_back(m);
    return out;
}

// Merges of words of lower-case letters, counted anew before each.
std::vector<std::string> plain_bpe(const std::map<std::string, int> &words, size_t most) {
    std::vector<std::pair<std::vector<std::string>, int>> split;
    std::map<std::string, size_t> id;  // the order of tokens
    for (char c = 'a'; c <= 'z'; ++c) id[std::string(1, c)] = static_cast<size_t>(c);
    for (const auto &[w, n] : words) {
        split.emplace_back();
        for (const char c : w) split.back().first.emplace_back(1, c);
        split.back().second = n;
    }
    std::vector<std::string> out;
    while (out.size() < most) {
        std::map<std::pair<size_t, size_t>, std::pair<int, std::pair<std::string, std::string>>> pairs;
        for (const auto &[s, n] : split)
            for (size_t i = 0; i + 1 < s.size(); ++i) {
                if (id.count(s[i] + s[i + 1])) continue;
                auto &p = pairs[{id[s[i]], id[s[i + 1]]}];
                p.first += n;
                p.second = {s[i], s[i + 1]};
            }
        int best = 1;
        std::pair<std::string, std::string> which;
        for (const auto &[ids, p] : pairs)
            if (p.first > best) best = p.first, which = p.second;
        if (best < 2) break;
        const std::string joined = which.first + which.second;
        id[joined] = 256 + out.size();
        out.push_back(which.first + " " + which.second);
        for (auto &[s, n] : split)
            for (size_t i = 0; i + 1 < s.size(); ++i)
                if (s[i] == which.first && s[i + 1] == which.second) {
                    s[i] = joined;
                    s.erase(s.begin() + static_cast<std::ptrdiff_t>(i) + 1);
                }
    }
    return out;
}

ds_shape shape(const char *architecture) {
    ds_shape s{};
    s.struct_size = sizeof s;
    s.architecture = architecture;
    s.seed = 3;
    s.layers = 2, s.hidden_size = 32, s.heads = 2, s.feed_forward_size = 64, s.context_length = 128;
    const std::string name = architecture;
    if (name == "r1" || name == "deepseek2") s.kv_lora_rank = 16, s.head_size = 24, s.rotated_size = 8;
    if (name == "r1") s.heads_used = 1, s.blocks = 1;
    if (name == "deepseek2")
        s.experts = 4, s.experts_used = 2, s.experts_shared = 1, s.expert_size = 32, s.dense_layers = 1;
    return s;
}

}  // namespace

TEST_CASE("init: byte-level BPE has the merges of a plain implementation") {
    const temp_dir dir;
    std::map<std::string, int> words;
    std::vector<std::string> texts;
    uint64_t random = 12345;
    for (int i = 0; i < 400; ++i) {
        std::string w;
        random = random * 6364136223846793005u + 1442695040888963407u;
        for (uint64_t n = 1 + (random >> 60) % 9, r = random >> 20; w.size() < n; r /= 5) w += "abcde"[r % 5];
        ++words[w];
        texts.push_back(w);
    }
    const auto wanted = plain_bpe(words, 100);
    CHECK(wanted.size() == 100);
    MUST(train_vocabulary(dir / "v", DS_VOCABULARY_BPE, 262 + 100, texts, &err));
    CHECK(merges_of(dir / "v") == wanted);
    std::reverse(texts.begin(), texts.end());
    MUST(train_vocabulary(dir / "w", DS_VOCABULARY_BPE, 262 + 100, texts, &err));
    CHECK(file_bytes(dir / "v") == file_bytes(dir / "w"));
}

TEST_CASE("init: vocabularies keep digits apart, have R1's frame, and read what they were made of") {
    const temp_dir dir;
    const std::vector<std::string> texts = {"<think>\n12 + 12 = 24\n</think>\n\n12 + 12 = 24",
                                            "What is 12 + 12? What is 12 + 13?"};
    MUST(train_vocabulary(dir / "bpe", DS_VOCABULARY_BPE, 280, texts, &err));
    MUST(train_vocabulary(dir / "bytes", DS_VOCABULARY_BYTES, 0, texts, &err));
    for (const char *const name : {"bpe", "bytes"}) {
        const model_ptr m = vocabulary(dir / name);
        CAPTURE(name);
        CHECK(tokens_of(m, "121212").size() == 6);
        CHECK(tokens_of(m, "<think></think>").size() == 2);
        ds_model_info info{};
        info.struct_size = sizeof info;
        MUST(ds_model_get_info(m.get(), &info, &err));
        CHECK(std::string(info.chat_template) == "deepseek-r1");
        const std::vector<ds_token> t = tokens_of(m, texts[1]);
        std::string text(200, '\0');
        size_t n = 0;
        MUST(ds_detokenize(m.get(), t.data(), t.size(), 0, text.data(), text.size(), &n, &err));
        CHECK(text.substr(0, n) == texts[1]);
    }
    CHECK(tokens_of(vocabulary(dir / "bpe"), "What is ").size() < 5);
    const model_ptr bytes = vocabulary(dir / "bytes");
    size_t n = 0;
    check_fails(DS_ERR_ARGUMENT, "0x7A", [&](ds_error *e) {  // z
        return ds_tokenize(bytes.get(), "z", 1, 0, nullptr, 0, &n, e);
    });
}

TEST_CASE("init: every architecture: the same bytes, weights as promised, and an answer") {
    const temp_dir dir;
    MUST(train_vocabulary(dir / "v", DS_VOCABULARY_BYTES, 0, {"0123456789 abcdefgh"}, &err));
    const model_ptr v = vocabulary(dir / "v");
    for (const char *const name : {"llama", "qwen2", "qwen3", "r1", "deepseek2"}) {
        CAPTURE(name);
        ds_shape s = shape(name);
        MUST(ds_model_init((dir / "a").c_str(), v.get(), &s, &err));
        MUST(ds_model_init((dir / "b").c_str(), v.get(), &s, &err));
        CHECK(file_bytes(dir / "a") == file_bytes(dir / "b"));
        s.seed = 4;
        MUST(ds_model_init((dir / "b").c_str(), v.get(), &s, &err));
        CHECK(file_bytes(dir / "a") != file_bytes(dir / "b"));

        uint64_t state = 3;  // of splitmix64
        const auto normal = [&] {
            uint64_t z = state += 0x9e3779b97f4a7c15u;
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
            z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
            z ^= z >> 31;
            double sum = -2.0 * 65535;
            for (int i = 0; i < 64; i += 16) sum += static_cast<double>(z >> i & 0xffff);
            return sum * std::sqrt(3.0) / 65536;
        };
        model_file f = read_model_file(dir / "a");
        REQUIRE(f.parts[0].name == "token_embd.weight");
        for (int i = 0; i < 100; ++i)
            CHECK(double(f.parts[0].f32()[i]) == doctest::Approx(0.02 * normal()).epsilon(1e-5));
        for (model_file::part &p : f.parts) {
            CAPTURE(p.name);
            CHECK(p.type == ds::format::f32);
            const size_t n = p.bytes.size() / sizeof(float);
            double sum = 0, squares = 0;
            for (size_t i = 0; i < n; ++i)
                sum += double(p.f32()[i]), squares += double(p.f32()[i]) * double(p.f32()[i]);
            const double mean = sum / double(n), deviation = std::sqrt(squares / double(n));
            const bool residual = contains(p.name, "attn_output.weight") || contains(p.name, "ffn_down");
            if (contains(p.name, "norm.weight")) CHECK((mean == 1 && deviation == 1));
            else if (contains(p.name, "attn_head_") || contains(p.name, ".bias")) CHECK(deviation == 0);
            else {
                CHECK(deviation == doctest::Approx(residual ? 0.01 : 0.02).epsilon(0.2));
                CHECK(std::abs(mean) < 0.003);
            }
        }
        ds_model *loaded = nullptr;
        MUST(ds_model_load((dir / "a").c_str(), nullptr, &loaded, &err));
        const model_ptr m(loaded);
        ds_engine_config c = engine_config();
        c.context_length = 64;
        const std::vector<ds_token> prompt = {0, 6, 7, 8};
        full_request r = request(prompt);
        r.max_new_tokens = 4;
        r.flags = DS_REQUEST_IGNORE_END;
        CHECK(ask(engine(m, c), r).tokens.size() == 4);
    }
}

TEST_CASE("init: RoPE's scaling is in the file") {
    const temp_dir dir;
    MUST(train_vocabulary(dir / "v", DS_VOCABULARY_BYTES, 0, {"abc"}, &err));
    const model_ptr v = vocabulary(dir / "v");
    ds_shape s = shape("llama");
    s.rope_scaling = DS_ROPE_LINEAR, s.rope_factor = 2;
    MUST(ds_model_init((dir / "a").c_str(), v.get(), &s, &err));
    ds::hparams h = ds::model(ds::gguf_file::open(dir / "a"), {}).h;
    CHECK((h.scaling == ds::rope_scaling::linear && h.rope_factor == 2 && h.context == 128));
    s.rope_scaling = DS_ROPE_YARN, s.rope_factor = 4;
    MUST(ds_model_init((dir / "a").c_str(), v.get(), &s, &err));
    h = ds::model(ds::gguf_file::open(dir / "a"), {}).h;
    CHECK((h.scaling == ds::rope_scaling::yarn && h.rope_factor == 4 && h.original_context == 32));
}

TEST_CASE("init: what is refused, by name, and leaves no file") {
    const temp_dir dir;
    MUST(train_vocabulary(dir / "v", DS_VOCABULARY_BYTES, 0, {"abc"}, &err));
    const model_ptr v = vocabulary(dir / "v");
    const std::string path = dir / "a";
    const auto refused = [&](ds_status status, const std::string &text, const auto &change) {
        ds_shape s = shape("llama");
        change(s);
        check_fails(status, text, [&](ds_error *e) { return ds_model_init(path.c_str(), v.get(), &s, e); });
        CHECK(!fs::exists(path));
    };
    refused(DS_ERR_UNSUPPORTED, "architecture: is 'gpt2'", [](ds_shape &s) { s.architecture = "gpt2"; });
    refused(DS_ERR_ARGUMENT, "layers: is 0", [](ds_shape &s) { s.layers = 0; });
    refused(DS_ERR_ARGUMENT, "heads: is 3, must divide", [](ds_shape &s) { s.heads = 3; });
    refused(DS_ERR_ARGUMENT, "head_count", [](ds_shape &s) { s.heads = 8192, s.head_size = 8; });
    refused(DS_ERR_ARGUMENT, "dimension_count: is 5, must be even", [](ds_shape &s) { s.head_size = 5; });
    refused(DS_ERR_ARGUMENT, "blocks: is for r1", [](ds_shape &s) { s.blocks = 1; });
    refused(DS_ERR_ARGUMENT, "kv_lora_rank: is 0", [](ds_shape &s) { s.architecture = "r1"; });
    refused(DS_ERR_ARGUMENT, "rope_factor", [](ds_shape &s) { s.rope_scaling = DS_ROPE_YARN; });
    refused(DS_ERR_ARGUMENT, "tied", [](ds_shape &s) { s.tied = 2; });
    refused(DS_ERR_ARGUMENT, "deviation", [](ds_shape &s) { s.deviation = -1; });
    ds_shape s = shape("llama");
    check_fails(DS_ERR_IO, "no/a",
                [&](ds_error *e) { return ds_model_init((dir / "no/a").c_str(), v.get(), &s, e); });
    const auto bad_vocabulary = [&](const std::string &text, ds_vocabulary_kind kind, uint32_t size) {
        check_argument(text, [&](ds_error *e) { return train_vocabulary(path, kind, size, {"abc"}, e); });
        CHECK(!fs::exists(path));
    };
    bad_vocabulary("size: is 261", DS_VOCABULARY_BPE, 261);
    bad_vocabulary("size: is for", DS_VOCABULARY_BYTES, 300);
    ds_vocabulary_kind unknown;
    const int two = 2;
    std::memcpy(&unknown, &two, sizeof unknown);
    bad_vocabulary("kind: is 2", unknown, 300);
    check_argument("texts: is NULL",
                   [&](ds_error *e) { return train_vocabulary(path, DS_VOCABULARY_BYTES, 0, {}, e); });
}
