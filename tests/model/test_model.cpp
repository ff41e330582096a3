// Loading models with one fault each: a model is refused with a message that names the fault, or behaves as
// the change implies. Every file is a good one, read, changed and written again.
#include "../support/answers.h"
#include "../support/formats.h"
#include "../support/gguf_bytes.h"
#include "../support/model_file.h"

#include "../../ggml-cpu/cpu.h"
#include "../../llm/engine/page_pool.h"
#include "../../llm/model/arch.h"
#include "../../llm/model/kv_layout.h"

#include <functional>
#include <limits>
#include <set>

using namespace golden;

namespace {

using ds::format;
constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_f32 = std::numeric_limits<float>::quiet_NaN();

ds_error load_error(const std::string &bytes, const ds_model_config *config = nullptr) {
    aligned_bytes memory(bytes);
    ds_error err{};
    ds_model *m = nullptr;
    err.status = ds_model_load_memory(memory.data(), memory.size(), config, &m, &err);
    CHECK((m == nullptr) == (err.status != DS_OK));  // the output is unchanged on failure
    ds_model_free(m);
    return err;
}

void check_refused(const std::string &bytes, ds_status status, std::initializer_list<std::string> parts) {
    const ds_error err = load_error(bytes);
    const std::string text = err.message;
    CAPTURE(text);
    CHECK(err.status == status);
    for (const std::string &part : parts) {
        CAPTURE(part);
        CHECK(text.find(part) != std::string::npos);
    }
}
void check_refused(const model_file &f, ds_status status, std::initializer_list<std::string> parts) {
    check_refused(f.bytes(), status, parts);
}
void check_loads(const model_file &f) {
    const ds_error err = load_error(f.bytes());
    CAPTURE(err.message);
    CHECK(err.status == DS_OK);
}

model_file changed(const std::string &name, const std::function<void(model_file &)> &change) {
    model_file f = micro_file(name);
    change(f);
    return f;
}

// `key` with a value of each kind; `set` puts it.
using set_key = std::function<void(ds::gguf_writer &, const std::string &)>;
void check_key(const std::string &key, ds_status status, const set_key &set) {
    CAPTURE(key);
    check_refused(changed("micro/llama", [&](model_file &f) { set(f.keys, key); }), status, {key});
}

std::vector<float> logits_of(const held_model &m, const std::vector<ds_token> &ids, size_t vocab) {
    return logits(engine(m.model, engine_config()), ids, vocab);
}
std::vector<float> logits_of(const model_file &f, const data &d, const ds_model_config *config = nullptr) {
    return logits_of(hold(f, config), {d.ids.begin(), d.ids.begin() + 80}, d.vocab);
}

full_request short_request(const std::vector<ds_token> &prompt) {
    full_request r = request(prompt);
    r.max_new_tokens = 6;
    r.flags = DS_REQUEST_IGNORE_END;
    return r;
}

}  // namespace

TEST_CASE("model: unchanged files load, for each architecture") {
    std::set<const ds::arch *> seen;
    for (const std::string &name : ds::test::micro_checkpoints()) {
        CAPTURE(name);
        const model_file &f = micro_file(name);
        check_loads(f);
        const std::string bytes = f.bytes();
        const ds::gguf_file read(ds::os::mapping::borrow(bytes.data(), bytes.size()), name);
        seen.insert(ds::arch_by_name(read.get_string("general.architecture")));
    }
    CHECK(seen.size() == ds::architectures().size());
}

TEST_CASE("model: each tensor missing") {
    for (const char *name : {"micro/llama", "micro/qwen2", "micro/qwen3", "micro/deepseek-v2-lite",
                             "micro/deepseek-r1", "micro/r1"})
        for (const model_file::part &p : micro_file(name).parts) {
            CAPTURE(p.name);
            // all layers would take too long
            if (sanitized && !p.name.starts_with("blk.0.") && p.name.starts_with("blk.")) continue;
            const bool optional = p.name == "output.weight" || p.name == "rope_freqs.weight" ||
                                  p.name.starts_with("blk.3.") || p.name.ends_with("exp_probs_b.bias");
            const model_file f = changed(name, [&](model_file &x) { x.erase(p.name); });
            if (optional) check_loads(f);
            else check_refused(f, DS_ERR_FORMAT, {p.name, "missing"});
        }
}

TEST_CASE("model: each tensor with another shape") {
    for (const std::string name : {"micro/qwen3", "micro/r1"})
        for (const model_file::part &p : micro_file(name).parts) {
            CAPTURE(p.name);
            const auto with_shape = [&](std::vector<int64_t> ne) {
                return changed(name, [&](model_file &x) { x.find(p.name).ne = std::move(ne); });
            };
            if (p.ne.size() < 3)
                check_refused(with_shape({1, p.ne[0], p.ne.size() > 1 ? p.ne[1] : 1}), DS_ERR_FORMAT,
                              {p.name, "shape"});
            if (p.ne.size() == 1)
                check_refused(with_shape({2, p.ne[0] / 2}), DS_ERR_FORMAT, {p.name, "shape"});
            else if (p.ne[0] != p.ne[1]) {
                std::vector<int64_t> ne = p.ne;
                std::swap(ne[0], ne[1]);
                check_refused(with_shape(ne), DS_ERR_FORMAT, {p.name, "shape"});
            }
            check_refused(changed(name,
                                  [&](model_file &x) {  // one row short
                                      model_file::part &q = x.find(p.name);
                                      q.bytes.resize(q.bytes.size() / static_cast<size_t>(q.ne[0]) *
                                                     static_cast<size_t>(--q.ne[0]));
                                  }),
                          DS_ERR_FORMAT, {p.name, "shape"});
        }
}

TEST_CASE("model: tensors of formats that cannot be computed are refused by name") {
    for (const char *name : {"blk.0.attn_q.weight", "token_embd.weight", "output_norm.weight"})
        for (int i = 0; i < static_cast<int>(format::count); ++i) {
            const auto type = static_cast<format>(i);
            model_file f = micro_file("micro/llama");
            model_file::part &p = f.find(name);
            if (p.ne.back() % ds::info(type).block) continue;
            uint64_t n = 1;
            for (const int64_t d : p.ne) n *= static_cast<uint64_t>(d);
            p.type = type;
            p.bytes.assign(ds::row_bytes(type, n), '\0');
            CAPTURE(ds::info(type).text);
            if (type == ds::format::i8)
                check_refused(f, p.ne.size() == 1 ? DS_ERR_UNSUPPORTED : DS_ERR_FORMAT,
                              {name, p.ne.size() == 1 ? "i8" : "_scale"});
            else if (ds::info(type).runs) check_loads(f);
            else
                check_refused(f, DS_ERR_UNSUPPORTED,
                              {name, ds::info(type).text, ds::formats_that_run().c_str()});
        }
}

// A layer whose feed-forward is `ffn` wide, so that its ffn_down has rows of that length.
static model_file with_long_rows(int64_t ffn) {
    model_file f = micro_file("micro/llama");
    const auto hidden = f.find("output_norm.weight").ne[0];
    f.keys.set_u32("llama.block_count", 1);
    f.keys.set_u32("llama.feed_forward_length", static_cast<uint32_t>(ffn));
    for (const char *name : {"blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"})
        f.find(name) = {name,
                        format::q4_0,
                        {ffn, hidden},
                        std::string(ds::row_bytes(format::q4_0, static_cast<uint64_t>(ffn * hidden)), '\0')};
    f.find("blk.0.ffn_down.weight") = {"blk.0.ffn_down.weight",
                                       format::i8,
                                       {hidden, ffn},
                                       std::string(static_cast<size_t>(hidden * ffn), '\x80')};
    f.parts.push_back({"blk.0.ffn_down.weight_scale",
                       format::f32,
                       {hidden},
                       std::string(static_cast<size_t>(hidden) * 4, '\0')});
    return f;
}

TEST_CASE("model: rows of i8 may be as long as int32 sums allow, and longer ones are refused by the tensor's "
          "name") {
    check_loads(with_long_rows(132104));
    for (const int64_t ffn : {132105, 133000, 140000})
        check_refused(with_long_rows(ffn), DS_ERR_UNSUPPORTED,
                      {"blk.0.ffn_down.weight: has rows of " + std::to_string(ffn), "132104"});
}

TEST_CASE("model: a context may be as long as the sums over i8 pages allow") {
    model_file f = micro_file("micro/llama");
    f.keys.set_u32("llama.context_length", 1 << 23);
    const held_model m = hold(f);
    const auto made = [&](ds_kv_type kv, uint32_t context) {
        ds_engine_config c = engine_config();
        c.max_requests = 1;
        c.kv_tokens = 64;
        c.kv_type = kv;
        c.context_length = context;
        ds_engine *e = nullptr;
        ds_error err{};
        const ds_status status = ds_engine_new(m.model.get(), &c, &e, &err);
        ds_engine_free(e);
        if (status != DS_OK) CHECK(std::string(err.message).find("context_length") == 0);
        return status;
    };
    CHECK(made(DS_KV_INT8, 1 << 22) == DS_OK);
    CHECK(made(DS_KV_INT8, (1 << 22) + 1) == DS_ERR_ARGUMENT);
    CHECK(made(DS_KV_F16, (1 << 22) + 1) == DS_OK);
}

TEST_CASE("model: a tensor twice, a name too long, tensors that are not used") {
    std::string twice = micro_file("micro/llama").bytes();
    const size_t at = twice.find("blk.1.ffn_gate.weight");
    REQUIRE(at != std::string::npos);
    twice[at + 4] = '0';
    check_refused(twice, DS_ERR_FORMAT, {"blk.0.ffn_gate.weight", "twice"});

    gguf_bytes::spec s = gguf_bytes::one_tensor({4}, 0);
    s.tensors[0].name = std::string(64, 'x');
    check_refused(s.bytes(), DS_ERR_FORMAT, {"length"});

    struct lines {
        int n = 0;
        std::string last;
    } log;
    ds_model_config c = model_config();
    ds_host host{};
    host.struct_size = sizeof host;
    host.log_user = &log;
    host.log = [](void *user, ds_log_level level, const char *line) {
        CHECK(level == DS_LOG_WARNING);
        ++static_cast<lines *>(user)->n;
        static_cast<lines *>(user)->last = line;
    };
    c.host = &host;
    hold(micro_file("micro/llama"), &c);
    CHECK(log.n == 0);
    hold(changed("micro/llama",
                 [](model_file &f) {
                     f.parts.push_back({"extra", format::f32, {4}, std::string(16, '\0')});
                 }),
         &c);
    CHECK(log.n == 1);
    CHECK(log.last.find("1 tensor") != std::string::npos);
}

TEST_CASE("model: the architecture missing, unknown, of another type") {
    const std::string key = "general.architecture";
    check_refused(changed("micro/llama", [&](model_file &f) { f.keys.erase(key); }), DS_ERR_FORMAT, {key});
    check_refused(changed("micro/llama", [&](model_file &f) { f.keys.set_u32(key, 3); }), DS_ERR_FORMAT,
                  {key});
    for (const char *name : {"", "LLAMA", "mamba", "llama\xff"})
        check_refused(changed("micro/llama", [&](model_file &f) { f.keys.set_string(key, name); }),
                      DS_ERR_UNSUPPORTED, {key, "llama, qwen2, qwen3, deepseek2, r1"});
    check_refused(changed("micro/llama", [&](model_file &f) { f.keys.set_string(key, "qwen2"); }),
                  DS_ERR_FORMAT, {"qwen2.block_count"});
    ds_model_config vocabulary = model_config();
    vocabulary.flags = DS_LOAD_VOCAB_ONLY;
    CHECK(load_error(changed("micro/llama", [&](model_file &f) { f.keys.set_string(key, "mamba"); }).bytes(),
                     &vocabulary)
              .status == DS_OK);
}

TEST_CASE("model: each count missing, zero, huge, negative, of another type") {
    for (const auto &[name, required] : {std::pair("block_count", true),
                                         {"context_length", true},
                                         {"embedding_length", true},
                                         {"feed_forward_length", true},
                                         {"attention.head_count", true},
                                         {"attention.head_count_kv", false},
                                         {"attention.key_length", false},
                                         {"attention.value_length", false},
                                         {"rope.dimension_count", false},
                                         {"vocab_size", false},
                                         {"rope.scaling.original_context_length", false}}) {
        const std::string key = std::string("llama.") + name;
        if (required)
            check_key(key, DS_ERR_FORMAT, [](ds::gguf_writer &w, const std::string &k) { w.erase(k); });
        for (const uint64_t v :
             {uint64_t{0}, uint64_t{1} << 31, uint64_t{1} << 32, uint64_t{1} << 63, UINT64_MAX})
            check_key(key, DS_ERR_FORMAT, [&](ds::gguf_writer &w, const std::string &k) { w.set_u64(k, v); });
        check_key(key, DS_ERR_FORMAT, [](ds::gguf_writer &w, const std::string &k) { w.set_i32(k, -1); });
        check_key(key, DS_ERR_FORMAT, [](ds::gguf_writer &w, const std::string &k) { w.set_f32(k, 4); });
        check_key(key, DS_ERR_FORMAT, [](ds::gguf_writer &w, const std::string &k) { w.set_string(k, "4"); });
        check_key(key, DS_ERR_FORMAT, [](ds::gguf_writer &w, const std::string &k) {
            w.set_i32s(k, std::vector<int32_t>{4, 4, 4});
        });
    }
}

TEST_CASE("model: each real number missing, out of range, NaN or infinite, of another type") {
    const std::pair<const char *, std::vector<float>> rows[] = {
        {"attention.layer_norm_rms_epsilon", {0, -1e-5f, 2}},
        {"rope.freq_base", {0, -1, 1, 1e13f}},
        {"rope.scaling.factor", {-1, 0.5f, 2e6f}},
        {"rope.scaling.attn_factor", {0, -1}},
        {"rope.scaling.yarn_attn_factor", {0, -1}},
        {"rope.scaling.yarn_beta_fast", {0, -1}},
        {"rope.scaling.yarn_beta_slow", {0, -1}},
    };
    for (const auto &[name, bad] : rows) {
        const std::string key = std::string("llama.") + name;
        for (const float v : bad)
            check_key(key, DS_ERR_FORMAT, [&](ds::gguf_writer &w, const std::string &k) { w.set_f32(k, v); });
        for (const float v : {inf, -inf, nan_f32})
            check_key(key, DS_ERR_FORMAT, [&](ds::gguf_writer &w, const std::string &k) { w.set_f32(k, v); });
        check_key(key, DS_ERR_FORMAT, [](ds::gguf_writer &w, const std::string &k) { w.set_u32(k, 1); });
        check_key(key, DS_ERR_FORMAT, [](ds::gguf_writer &w, const std::string &k) { w.set_string(k, "1"); });
    }
    check_key("llama.attention.layer_norm_rms_epsilon", DS_ERR_FORMAT,
              [](ds::gguf_writer &w, const std::string &k) { w.erase(k); });
    check_key("llama.rope.scale_linear", DS_ERR_FORMAT,
              [](ds::gguf_writer &w, const std::string &k) { w.set_f32(k, -2); });
    // some converters write 0 for "none"
    check_loads(
        changed("micro/llama", [](model_file &f) { f.keys.set_f32("llama.rope.scaling.factor", 0); }));
}

TEST_CASE("model: keys that contradict each other") {
    const auto refused = [](std::initializer_list<std::pair<const char *, uint32_t>> keys,
                            std::initializer_list<std::string> parts) {
        check_refused(changed("micro/llama",
                              [&](model_file &f) {
                                  f.keys.erase("llama.attention.key_length");
                                  f.keys.erase("llama.attention.value_length");
                                  f.keys.erase("llama.rope.dimension_count");
                                  for (const auto &[key, v] : keys)
                                      f.keys.set_u32(std::string("llama.") + key, v);
                              }),
                      DS_ERR_FORMAT, parts);
    };
    refused({{"attention.head_count_kv", 4}}, {"attention.head_count", "multiple"});
    refused({{"attention.head_count_kv", 12}}, {"attention.head_count", "multiple"});
    refused({{"attention.head_count", 10}, {"attention.head_count_kv", 5}},
            {"attention.head_count", "divide"});
    refused({{"rope.dimension_count", 15}}, {"rope.dimension_count", "even"});
    refused({{"rope.dimension_count", 18}}, {"rope.dimension_count", "from 1 to 16"});
    refused({{"attention.value_length", 8}}, {"attention.value_length"});
    refused({{"attention.key_length", 32}}, {"attn_q.weight"});
    refused({{"embedding_length", 1 << 20}, {"attention.head_count", 1}, {"attention.head_count_kv", 1}},
            {"attention.key_length", "1024"});
    refused({{"vocab_size", 511}}, {"vocab_size", "512"});
    refused({{"block_count", 4}}, {"blk.3."});
    refused({{"block_count", 1024}}, {"blk.3."});
    // All counts at their largest: no product overflows.
    refused({{"block_count", 1024},
             {"context_length", 1 << 30},
             {"embedding_length", 1 << 20},
             {"feed_forward_length", 1 << 24},
             {"attention.head_count", 4096},
             {"attention.head_count_kv", 4096},
             {"attention.key_length", 1024},
             {"attention.value_length", 1024}},
            {"token_embd.weight", "shape"});
    check_refused(changed("micro/llama",
                          [](model_file &f) { f.keys.set_string("llama.rope.scaling.type", "longrope"); }),
                  DS_ERR_UNSUPPORTED, {"rope.scaling.type", "none, linear, yarn"});
    check_refused(changed("micro/llama", [](model_file &f) { f.keys.set_u32("llama.rope.scaling.type", 1); }),
                  DS_ERR_FORMAT, {"rope.scaling.type"});
}

TEST_CASE("model: shapes and pages of the largest models that keys allow do not overflow") {
    ds::hparams h;
    h.layers = 1024, h.hidden = 1 << 20, h.heads = h.kv_heads = 4096, h.head_size = 1024, h.ffn = 1 << 24,
    h.vocab = 1 << 22, h.rotated = 1024;
    h.q_rank = 1 << 20, h.kv_rank = h.nope_size = h.value_size = 1024;
    h.heads_used = 4096, h.heads_shared = 2048;
    h.experts = 4096, h.experts_shared = 256, h.expert_ffn = 1 << 24;
    for (const ds::arch *a : ds::architectures()) {
        for (const ds::tensor_row &row : a->tensors(h)) {
            unsigned __int128 n = 1;
            for (const int64_t d : row.ne) {
                CHECK(d > 0);
                n *= static_cast<unsigned __int128>(d);
            }
            CHECK(n < (static_cast<unsigned __int128>(1) << 60));
        }
        const bool latent = a == ds::arch_by_name("deepseek2") || a == ds::arch_by_name("r1");
        CHECK(ds::make_page_layout(*a, h, format::f32).page_bytes ==
              (size_t{1} << (latent ? 18 : 30)) * 2 * 1024);
    }
}

TEST_CASE("model: biases of the router must be finite, for experts are ranked by them") {
    for (const float bad : {inf, -inf, nan_f32}) {
        for (const size_t i : {0, 15})
            check_refused(
                changed("micro/deepseek-r1",
                        [&](model_file &f) { f.find("blk.2.exp_probs_b.bias").f32()[i] = bad; }),
                DS_ERR_FORMAT,
                {"blk.2.exp_probs_b.bias: element " + std::to_string(i) + " is ", "must be finite"});
        check_refused(
            changed("micro/deepseek-r1",
                    [&](model_file &f) { std::fill_n(f.find("blk.1.exp_probs_b.bias").f32(), 16, bad); }),
            DS_ERR_FORMAT, {"blk.1.exp_probs_b.bias: element 0"});
    }
    // Any finite biases are accepted.
    for (const float huge : {3.4e38f, -3.4e38f}) {
        model_file f = micro_file("micro/deepseek-r1");
        for (size_t i = 0; i < 16; ++i) f.find("blk.1.exp_probs_b.bias").f32()[i] = i % 3 ? huge : -huge;
        const held_model m = hold(f);
        const std::vector<ds_token> a = {1, 2, 3}, b = {5, 6};
        for (const answer &r :
             ask_all(engine(m.model, engine_config()), {short_request(a), short_request(b)}))
            CHECK(r.tokens.size() == 6);
    }
}

TEST_CASE("model: invalid rope factors") {
    for (const float bad : {0.0f, -1.0f, 0.25f, inf, nan_f32})
        check_refused(
            changed("micro/llama3", [&](model_file &f) { f.find("rope_freqs.weight").f32()[3] = bad; }),
            DS_ERR_FORMAT, {"rope_freqs.weight", "element 3"});
}

TEST_CASE("model: vocabularies of no, one and two tokens, and special tokens out of range") {
    const auto small = [](size_t n) {
        return changed("micro/llama3", [&](model_file &f) {
            const std::vector<std::string> tokens = {"a", "b"};
            const std::vector<int32_t> types = {1, 1};
            f.keys.set_strings("tokenizer.ggml.tokens", std::span(tokens).first(n));
            f.keys.set_i32s("tokenizer.ggml.token_type", std::span(types).first(n));
            f.keys.set_strings("tokenizer.ggml.merges", std::span<const std::string>());
            for (const char *key : {"bos_token_id", "eos_token_id", "padding_token_id", "unknown_token_id",
                                    "add_bos_token", "add_eos_token"})
                f.keys.erase(std::string("tokenizer.ggml.") + key);
            f.keys.erase("llama.vocab_size");
            for (const char *name : {"token_embd.weight", "output.weight"}) {
                model_file::part &p = f.find(name);
                p.ne[0] = static_cast<int64_t>(n);
                p.bytes.resize(n * static_cast<size_t>(p.ne[1]) * 4);
            }
        });
    };
    model_file none = small(1);
    none.keys.set_strings("tokenizer.ggml.tokens", {});
    check_refused(none, DS_ERR_FORMAT, {"tokenizer.ggml.tokens"});
    for (const size_t n : {size_t{1}, size_t{2}}) {
        const held_model m = hold(small(n));
        CHECK(ds_token_special(m.model.get(), DS_SPECIAL_EOS) == -1);
        const std::vector<ds_token> prompt = {0, static_cast<ds_token>(n - 1)};
        full_request r = short_request(prompt);
        r.top_logprobs = 64;
        r.draw.temperature = 1;
        const std::vector<answer> done = ask_all(engine(m.model, engine_config()), {r});
        CHECK(done[0].finish == DS_FINISH_LENGTH);
        CHECK(done[0].tokens.size() == 6);
    }
    // An id out of range is refused for special tokens that affect what is computed. -1, in any integer type,
    // means "none" for an end token. For the others any id out of range counts as none.
    const auto with = [](const std::string &key, const set_key &set) {
        return changed("micro/llama3", [&](model_file &f) { set(f.keys, key); });
    };
    for (const char *name : {"bos_token_id", "eos_token_id", "padding_token_id", "unknown_token_id",
                             "eot_token_id", "eom_token_id"}) {
        const std::string key = std::string("tokenizer.ggml.") + name;
        CAPTURE(key);
        const bool begins = key == "tokenizer.ggml.bos_token_id", ends = key.find("eo") != std::string::npos;
        for (const uint32_t id : {512u, 0x7fffffffu}) {
            const model_file f =
                with(key, [&](ds::gguf_writer &w, const std::string &k) { w.set_u32(k, id); });
            if (begins || ends) check_refused(f, DS_ERR_FORMAT, {key});
            else check_loads(f);
        }
        const model_file big =
            with(key, [](ds::gguf_writer &w, const std::string &k) { w.set_u64(k, uint64_t{1} << 32); });
        if (begins || ends) check_refused(big, DS_ERR_FORMAT, {key});
        else check_loads(big);
        for (const set_key &minus_one :
             {set_key([](ds::gguf_writer &w, const std::string &k) { w.set_u32(k, 0xffffffffu); }),
              set_key([](ds::gguf_writer &w, const std::string &k) { w.set_i32(k, -1); }),
              set_key([](ds::gguf_writer &w, const std::string &k) { w.set_u64(k, ~uint64_t{0}); })}) {
            const model_file f = with(key, minus_one);
            if (begins) check_refused(f, DS_ERR_FORMAT, {key});
            else check_loads(f);
        }
    }
    check_refused(changed("micro/llama3",
                          [](model_file &f) {
                              model_file::part &p = f.find("token_embd.weight");
                              p.bytes.resize(p.bytes.size() / 512 * 511);
                              p.ne[0] = 511;
                          }),
                  DS_ERR_FORMAT, {"token_embd.weight", "512"});
}

TEST_CASE("model: text keys of another type are refused while loading") {
    for (const char *key :
         {"general.name", "tokenizer.chat_template", "tokenizer.ggml.model", "tokenizer.ggml.pre"})
        check_key(key, DS_ERR_FORMAT, [](ds::gguf_writer &w, const std::string &k) { w.set_u32(k, 1); });
}

// One token's embedding is not finite. Requests with that token end; others are unaffected, even when they
// get the pages that it wrote.
TEST_CASE("model: NaN in the weights ends the requests that meet it, and no others") {
    const std::vector<ds_token> with = {5, 7, 9, 11, 7}, without = {5, 6, 9, 11}, later = {5, 6, 9};
    const auto broken = [](float bad) {
        return changed("micro/llama3", [&](model_file &f) {
            model_file::part &p = f.find("token_embd.weight");
            std::fill_n(p.f32() + 7 * p.ne[1], p.ne[1], bad);
        });
    };
    const held_model good = hold(micro_file("micro/llama3"));
    const std::vector<ds_token> expected =
        ask_all(engine(good.model, engine_config()), {short_request(without)})[0].tokens;
    REQUIRE(expected.size() == 6);
    for (const float bad : {nan_f32, inf})
        for (const uint32_t at_once : {1u, 2u})
            for (const ds_kv_type kv : {DS_KV_F32, DS_KV_F16})
                for (const char *isa : {"scalar", static_cast<const char *>(nullptr)}) {
                    CAPTURE(bad);
                    const held_model m = hold(broken(bad));
                    ds_engine_config c = engine_config();
                    c.max_requests = at_once;
                    c.kv_tokens = 64 * at_once;  // so that pages are used again
                    c.context_length = 64;
                    c.kv_type = kv;
                    c.isa = isa;
                    const engine_ptr e = engine(m.model, c);
                    full_request scored = request(with);
                    scored.flags = DS_REQUEST_SCORE;
                    for (int again = 0; again < 2; ++again) {
                        const std::vector<answer> r =
                            ask_all(e, {short_request(with), short_request(without), scored});
                        CHECK((r[0].finish == DS_FINISH_ERROR && r[0].status == DS_ERR_NUMERIC &&
                               r[0].tokens.empty()));
                        CHECK((r[1].finish == DS_FINISH_LENGTH && r[1].status == DS_OK));
                        if (kv == DS_KV_F32) CHECK(r[1].tokens == expected);
                        CHECK((r[2].finish == DS_FINISH_ERROR && r[2].status == DS_ERR_NUMERIC));
                        CHECK(ask_all(e, {short_request(later)})[0].finish == DS_FINISH_LENGTH);
                    }
                    ds_engine_stats s{};
                    s.struct_size = sizeof s;
                    MUST(ds_engine_get_stats(e.get(), &s, &err));
                    CHECK(s.pages_free == s.pages_total);
                }
}

// The same with I8 weights and pages: a finite scale that makes one token's embedding infinite.
TEST_CASE("model: an infinity in an I8 model ends the requests that meet it, and no others") {
    const std::vector<ds_token> with = {5, 7, 9, 11, 7}, without = {5, 6, 9, 11};
    model_file f = micro_file("micro/llama3", ds::format::i8);
    const held_model good = hold(f);
    f.find("token_embd.weight_scale").f32()[7] = 3e38f;
    const held_model bad = hold(f);
    for (const char *isa : ds::cpu_isas()) {
        CAPTURE(isa);
        ds_engine_config c = engine_config();
        c.max_requests = 2;
        c.kv_tokens = 128;  // so that pages are used again
        c.context_length = 64;
        c.kv_type = DS_KV_INT8;
        c.isa = isa;
        const std::vector<ds_token> expected =
            ask_all(engine(good.model, c), {short_request(without)})[0].tokens;
        REQUIRE(expected.size() == 6);
        const engine_ptr e = engine(bad.model, c);
        for (int again = 0; again < 3; ++again) {
            const std::vector<answer> r = ask_all(e, {short_request(with), short_request(without)});
            CHECK((r[0].finish == DS_FINISH_ERROR && r[0].status == DS_ERR_NUMERIC && r[0].tokens.empty()));
            CHECK((r[1].finish == DS_FINISH_LENGTH && r[1].tokens == expected));
        }
    }
}

TEST_CASE("model: norms and biases may be stored in any format that runs") {
    for (const char *name : {"micro/llama", "micro/qwen2", "micro/qwen3"}) {
        CAPTURE(name);
        const data d = load(name);
        model_file half = micro_file(name), rounded = half;
        int changes = 0;
        for (size_t i = 0; i < half.parts.size(); ++i) {
            model_file::part &p = half.parts[i];
            if (p.ne.size() != 1) continue;
            const auto n = static_cast<size_t>(p.ne[0]);
            std::string bytes(2 * n, '\0');
            ds::encode_row(format::f16, p.f32(), bytes.data(), n);
            ds::decode_row(format::f16, bytes.data(), rounded.parts[i].f32(), n);
            p.type = format::f16;
            p.bytes = bytes;
            ++changes;
        }
        CHECK(changes > 6);
        CHECK(same_bits(logits_of(half, d), logits_of(rounded, d)));
    }
}

TEST_CASE("model: rope scaling chosen at load equals the same scaling in the file") {
    const auto config = [](ds_rope_scaling s, double factor, uint32_t original) {
        ds_model_config c = model_config();
        c.rope_scaling = s;
        c.rope_factor = factor;
        c.rope_original_context = original;
        return c;
    };
    const auto unscaled = [](const std::string &name, const char *arch) {
        return changed(name, [&](model_file &f) {
            for (const char *key : {"type", "factor", "original_context_length", "attn_factor"})
                f.keys.erase(std::string(arch) + ".rope.scaling." + key);
        });
    };
    {
        const data d = load("micro/llama-linear");
        const ds_model_config linear = config(DS_ROPE_LINEAR, 4, 0), none = config(DS_ROPE_NONE, 0, 0);
        const std::vector<float> file = logits_of(micro_file("micro/llama-linear"), d),
                                 plain = logits_of(unscaled("micro/llama-linear", "llama"), d);
        CHECK(!same_bits(file, plain));
        CHECK(same_bits(logits_of(unscaled("micro/llama-linear", "llama"), d, &linear), file));
        CHECK(same_bits(logits_of(micro_file("micro/llama-linear"), d, &none), plain));
        // the key of older converters
        const model_file old = changed("micro/llama-linear", [](model_file &f) {
            f.keys.erase("llama.rope.scaling.type");
            f.keys.erase("llama.rope.scaling.factor");
            f.keys.set_f32("llama.rope.scale_linear", 4);
        });
        CHECK(same_bits(logits_of(old, d), file));
    }
    {
        const data d = load("micro/qwen3");
        const ds_model_config yarn = config(DS_ROPE_YARN, 4, 128);
        const std::vector<float> file = logits_of(micro_file("micro/qwen3"), d);
        CHECK(same_bits(logits_of(unscaled("micro/qwen3", "qwen3"), d, &yarn), file));
        CHECK(!same_bits(logits_of(unscaled("micro/qwen3", "qwen3"), d), file));
        const ds_model_config other = config(DS_ROPE_YARN, 4, 256), of_file = config(DS_ROPE_YARN, 4, 0);
        CHECK(!same_bits(logits_of(micro_file("micro/qwen3"), d, &other), file));
        CHECK(same_bits(logits_of(micro_file("micro/qwen3"), d, &of_file), file));
    }
    {
        const data d = load("micro/llama3");
        const ds_model_config none = config(DS_ROPE_NONE, 0, 0);
        const std::vector<float> plain =
            logits_of(changed("micro/llama3", [](model_file &f) { f.erase("rope_freqs.weight"); }), d);
        CHECK(same_bits(logits_of(micro_file("micro/llama3"), d, &none), plain));
        CHECK(!same_bits(logits_of(micro_file("micro/llama3"), d), plain));
    }
}

TEST_CASE("model: the context chosen at load") {
    for (const uint32_t context : {1u, 100u, 4096u, 1u << 20, 1u << 30}) {
        ds_model_config c = model_config();
        c.context_length = context;
        const held_model m = hold(micro_file("micro/llama"), &c);
        ds_model_info info{};
        info.struct_size = sizeof info;
        MUST(ds_model_get_info(m.model.get(), &info, &err));
        CHECK(info.context_length == context);
        ds_engine_config ec = engine_config();
        ec.context_length = context;
        ec.kv_tokens = 128;
        if (context < 1u << 30) {
            ds_engine_config over = ec;
            over.context_length = context + 1;
            ds_engine *e = nullptr;
            CHECK(ds_engine_new(m.model.get(), &over, &e, nullptr) == DS_ERR_ARGUMENT);
        }
        const engine_ptr e = engine(m.model, ec);
        const std::vector<ds_token> one = {3};
        full_request r = short_request(one);
        ds_request_id id;
        CHECK(ds_engine_submit(e.get(), &r, &id, nullptr) == (context == 1 ? DS_ERR_TOO_LONG : DS_OK));
        r.flags = DS_REQUEST_SCORE;
        MUST(ds_engine_submit(e.get(), &r, &id, &err));
        run(e, [&](const ds_event &event) {
            if (event.request == id && event.type == DS_EVENT_DONE) CHECK(event.finish == DS_FINISH_SCORED);
        });
    }
}
