// The converter, compared with the checkpoints' own bytes, decoded here without it, and run on checkpoints
// with one fault each.
#include "../support/checkpoint_files.h"
#include "../support/formats.h"

#include "../../quantize/config.h"
#include "../../quantize/convert.h"
#include "../../quantize/encode.h"

#include <cmath>
#include <csignal>
#include <sys/resource.h>

using namespace ds;
using namespace ds::test;

static gguf_file open(const std::string &path) { return gguf_file(os::mapping::map_file(path), path); }
static gguf_file convert_to(const std::string &dir, const std::string &out, format type) {
    convert(dir, out, {type, false, "model"}, {});
    return open(out);
}

static const char *const micro[] = {"llama", "llama-linear", "llama3", "qwen2", "qwen3", "r1-zero"};

// The architecture that a dense checkpoint becomes.
static std::string arch_of(const nlohmann::json &config) {
    return config["model_type"] == "r1_zero" ? "llama" : config["model_type"];
}

// Checkpoint names to llama.cpp's GGUF names.
static std::string gguf_name(std::string name) {
    const std::pair<const char *, const char *> parts[] = {
        {"model.embed_tokens", "token_embd"},
        {"model.norm", "output_norm"},
        {"lm_head", "output"},
        {"model.layers", "blk"},
        {"input_layernorm", "attn_norm"},
        {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"},
        {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},
        {"self_attn.o_proj", "attn_output"},
        {"self_attn.q_norm", "attn_q_norm"},
        {"self_attn.k_norm", "attn_k_norm"},
        {"mlp.gate_proj", "ffn_gate"},
        {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},
    };
    for (const auto &[from, to] : parts)
        if (const size_t at = name.find(from); at != std::string::npos && (at == 0 || name[at - 1] == '.'))
            name.replace(at, strlen(from), to);
    return name;
}

// The row of llama's q and k that holds checkpoint row `r`: the first half of a head's rows has the even
// indices, the second half the odd ones.
static int64_t permuted(int64_t r, int64_t rows, int64_t heads) {
    const int64_t d = rows / heads, head = r / d, i = r % d;
    return head * d + (i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1);
}

// The element as stored, decoded here, and its scale: for Q8_0 the block's, for I8 the row's, which is in a
// separate tensor.
static float element(const gguf_tensor &t, size_t i, float *scale = nullptr,
                     const gguf_tensor *scales = nullptr) {
    if (t.type == format::i8) {
        memcpy(scale, scales->data + 4 * (i / static_cast<size_t>(t.ne[1])), 4);
        return *scale * static_cast<float>(static_cast<int8_t>(t.data[i]));
    }
    if (t.type == format::f32) {
        float f;
        memcpy(&f, t.data + 4 * i, 4);
        return f;
    }
    if (t.type == format::q8_0) {
        uint16_t d;
        memcpy(&d, t.data + i / 32 * 34, 2);
        const float step = std::ldexp(static_cast<float>(d & 0x3ff) + ((d & 0x7c00) ? 1024.0f : 0.0f),
                                      std::max((d >> 10 & 31), 1) - 25);
        if (scale) *scale = step;
        return step * static_cast<float>(static_cast<int8_t>(t.data[i / 32 * 34 + 2 + i % 32]));
    }
    uint16_t h;
    memcpy(&h, t.data + 2 * i, 2);
    if (t.type == format::bf16) {
        const uint32_t u = uint32_t(h) << 16;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
    const float magnitude = std::ldexp(static_cast<float>(h & 0x3ff) + ((h & 0x7c00) ? 1024.0f : 0.0f),
                                       std::max((h >> 10 & 31), 1) - 25);
    return h & 0x8000 ? -magnitude : magnitude;
}

// The largest error against the checkpoint's value, as a fraction of the format's tolerance.
static double worst_error(const raw_tensor &source, const gguf_tensor &t, int64_t heads,
                          const gguf_tensor *scales = nullptr) {
    double worst = 0;
    const int64_t rows = source.shape[0], cols = source.shape.size() > 1 ? source.shape[1] : 1;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c) {
            const float wanted = source.bf16(static_cast<size_t>(r * cols + c));
            float scale = 0;
            const float got =
                element(t, static_cast<size_t>((heads > 0 ? permuted(r, rows, heads) : r) * cols + c), &scale,
                        scales);
            double allowed = 0;  // F32 and BF16 represent a BF16 exactly
            if (t.type == format::f16) allowed = std::max(std::fabs(wanted) * 0x1p-11, 0x1p-25);
            // half a step, plus the rounding of the scale
            if (t.type == format::q8_0) allowed = 0.5 * scale + 127 * scale * 0x1p-11;
            // half a step, plus the roundings of x * (127 / largest)
            if (t.type == format::i8) allowed = 0.5 * scale * (1 + 127 * 0x1p-22);
            const double off = std::fabs(static_cast<double>(got) - wanted);
            worst = std::max(worst, allowed > 0 ? off / allowed : off > 0 ? INFINITY : 0);
        }
    return worst;
}

TEST_CASE("convert: every tensor of the micro checkpoints, in every format of one kind throughout") {
    const temp_dir dir;
    for (const char *const name : micro)
        for (const format type : uniform_formats()) {
            CAPTURE(name);
            CAPTURE(info(type).text);
            const checkpoint_files source(std::string("micro/") + name);
            const gguf_file f = convert_to(data_path(std::string("micro/") + name), dir / "out.gguf", type);
            const bool llama = arch_of(source.config) == "llama";
            size_t computed = 0, scales = 0, matrices = 0;
            for (const auto &[tensor_name, raw] : source.tensors) {
                // CAPTURE is a lambda, and those cannot capture structured bindings
                const std::string &checkpoint_name = tensor_name;
                CAPTURE(checkpoint_name);
                matrices += raw.shape.size() == 2;
                const gguf_tensor *const t = f.find_tensor(gguf_name(checkpoint_name));
                REQUIRE(t);
                CHECK(std::vector<int64_t>(t->ne, t->ne + t->rank) == raw.shape);
                CHECK(t->type == (raw.shape.size() == 1 ? format::f32 : type));
                const bool q = contains(checkpoint_name, "q_proj"), k = contains(checkpoint_name, "k_proj");
                const int64_t heads =
                    !llama || !(q || k)
                        ? 0
                        : source.config[q ? "num_attention_heads" : "num_key_value_heads"].get<int64_t>();
                CHECK(worst_error(raw, *t, heads, f.find_tensor(gguf_name(checkpoint_name) + "_scale")) <= 1);
            }
            for (const gguf_tensor &t : f.tensors()) computed += t.name == "rope_freqs.weight";
            for (const gguf_tensor &t : f.tensors()) scales += t.name.ends_with("_scale");
            CHECK(scales == (type == format::i8 ? matrices : 0));
            CHECK(f.tensors().size() == source.tensors.size() + computed + scales);
            CHECK(computed == (std::string(name) == "llama3"));
        }
}

TEST_CASE("convert: keys of each architecture") {
    const auto keys_of = [](const char *name) {
        return convert_metadata(data_path(std::string("micro/") + name), {}, {});
    };
    const auto parse = [](const std::string &bytes) {
        return gguf_file(os::mapping::borrow(bytes.data(), bytes.size()), "metadata");
    };
    for (const char *const name : micro) {
        CAPTURE(name);
        const nlohmann::json config = checkpoint_files(std::string("micro/") + name).config;
        const std::string bytes = keys_of(name), a = arch_of(config);
        const gguf_file f = parse(bytes);
        CHECK(f.get_string("general.architecture") == a);
        CHECK(f.get_string("general.name") == name);
        CHECK(f.get_uint(a + ".block_count", 1000) == 3);
        CHECK(f.get_uint(a + ".context_length", 10000) == 4096);
        CHECK(f.get_uint(a + ".embedding_length", 1000) == config["hidden_size"]);
        CHECK(f.get_uint(a + ".feed_forward_length", 1000) == config["intermediate_size"]);
        CHECK(f.get_uint(a + ".attention.head_count", 1000) == config["num_attention_heads"]);
        CHECK(f.get_uint(a + ".attention.head_count_kv", 1000) == config["num_key_value_heads"]);
        CHECK(f.get_float(a + ".attention.layer_norm_rms_epsilon") == 1e-6f);
        CHECK(f.get_float(a + ".rope.freq_base") == config["rope_theta"].get<float>());
        CHECK(f.get_uint(a + ".vocab_size", 1000) == 512);
        CHECK(f.get_uint(a + ".rope.dimension_count", 1000) == (std::string(name) == "qwen3" ? 32 : 16));
        CHECK(f.has(a + ".attention.key_length") == (std::string(name) == "qwen3"));
        CHECK(f.has(a + ".rope.scaling.type") ==
              (std::string(name) == "qwen3" || std::string(name) == "llama-linear"));
    }
    const std::string linear_bytes = keys_of("llama-linear"), yarn_bytes = keys_of("qwen3");
    const gguf_file linear = parse(linear_bytes), yarn = parse(yarn_bytes);
    CHECK(linear.get_string("llama.rope.scaling.type") == "linear");
    CHECK(linear.get_float("llama.rope.scaling.factor") == 4);
    CHECK(yarn.get_string("qwen3.rope.scaling.type") == "yarn");
    CHECK(yarn.get_float("qwen3.rope.scaling.factor") == 4);
    CHECK(yarn.get_uint("qwen3.rope.scaling.original_context_length", 1000) == 128);
    CHECK(yarn.get_uint("qwen3.attention.key_length", 1000) == 32);
    CHECK(yarn.get_uint("qwen3.attention.value_length", 1000) == 32);
}

TEST_CASE("convert: keys about the whole file") {
    const temp_dir dir;
    for (const auto &[type, number] :
         {std::pair(format::f32, 0), {format::f16, 1}, {format::bf16, 32}, {format::q8_0, 7}}) {
        const gguf_file f = convert_to(data_path("micro/qwen2"), dir / "out.gguf", type);
        CHECK(f.get_uint("general.file_type", 100) == static_cast<uint64_t>(number));
        CHECK(f.get_uint("general.quantization_version", 100) == 2);
        CHECK(f.get_string("general.name") == "model");
        CHECK(f.file_bytes() == fs::file_size(dir / "out.gguf"));
    }
    CHECK(open(dir / "out.gguf").find_tensor("output.weight"));
    // tied
    CHECK(!convert_to(data_path("micro/llama"), dir / "out.gguf", format::q8_0).find_tensor("output.weight"));
}

TEST_CASE("convert: rope_freqs by Llama 3's rule") {
    const temp_dir dir;
    const gguf_file f = convert_to(data_path("micro/llama3"), dir / "out.gguf", format::q8_0);
    const gguf_tensor *const t = f.find_tensor("rope_freqs.weight");
    REQUIRE(t);
    REQUIRE(t->ne[0] == 8);
    CHECK(t->type == format::f32);
    // factor 8, low 1, high 4, original context 64, base 500000, head size 16
    for (int i = 0; i < 8; ++i) {
        const double frequency = std::pow(500000.0, -i / 8.0), wavelength = 2 * 3.14159265358979 / frequency;
        double scaled = frequency;
        if (wavelength > 64.0 / 1) scaled = frequency / 8;
        else if (wavelength >= 64.0 / 4) {
            const double s = (64 / wavelength - 1) / (4 - 1);
            scaled = (1 - s) * frequency / 8 + s * frequency;
        }
        CHECK(element(*t, static_cast<size_t>(i)) == doctest::Approx(frequency / scaled).epsilon(1e-6));
    }
    CHECK(element(*t, 0) == 1);  // all three regions occur, the smooth one in element 1
    CHECK(element(*t, 1) > 1);
    CHECK(element(*t, 1) < 8);
    CHECK(element(*t, 7) == 8);
}

TEST_CASE("convert: the result depends neither on shards nor on threads, and the tool reproduces the bundled "
          "model") {
    const temp_dir dir;
    checkpoint_files("micro/qwen2").save(dir / "one");
    convert(dir / "one", dir / "one.gguf", {format::q8_0, false, "model"}, {});
    convert(data_path("micro/qwen2"), dir / "two.gguf", {format::q8_0, false, "model"}, {});
    convert(data_path("micro/qwen2"), dir / "three.gguf", {format::q8_0, false, "model"}, {.threads = 3});
    CHECK(file_bytes(dir / "one.gguf") == file_bytes(dir / "two.gguf"));
    CHECK(file_bytes(dir / "one.gguf") == file_bytes(dir / "three.gguf"));
    convert(data_path("tiny-r1"), dir / "tiny.gguf", {}, {});
    CHECK(file_bytes(dir / "tiny.gguf") == file_bytes(DS_SOURCE_DIR "/models/tiny-r1.gguf"));
}

TEST_CASE("convert: sources in F16 and F32, biases of llama, optional tensors") {
    const temp_dir dir;
    checkpoint_files c("micro/llama");
    const raw_tensor q = c.tensors.at("model.layers.0.self_attn.q_proj.weight");
    raw_tensor wide{"F32", q.shape, ""}, half{"F16", q.shape, ""};
    for (size_t i = 0; i < q.elements(); ++i) {
        const float x = q.bf16(i);
        const uint16_t h = f32_to_f16(x);
        wide.bytes.append(reinterpret_cast<const char *>(&x), 4);
        half.bytes.append(reinterpret_cast<const char *>(&h), 2);
    }
    c.save(dir / "bf16");
    c.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {8}, std::string(32, 'x')};
    c.tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = {"I64", {4}, std::string(32, 'x')};
    c.tensors["lm_head.weight"] = c.tensors.at("model.embed_tokens.weight");
    c.tensors["model.layers.0.self_attn.q_proj.weight"] = wide;
    c.save(dir / "f32");
    convert(dir / "bf16", dir / "a.gguf", {format::f32, false, "m"}, {});
    convert(dir / "f32", dir / "b.gguf", {format::f32, false, "m"}, {});
    CHECK(file_bytes(dir / "a.gguf") == file_bytes(dir / "b.gguf"));

    c.tensors["model.layers.0.self_attn.q_proj.weight"] = half;
    raw_tensor bias{"BF16", {96}, ""};
    for (uint16_t i = 0; i < 96; ++i) {
        const uint16_t h = f32_to_bf16(i);
        bias.bytes.append(reinterpret_cast<const char *>(&h), 2);
    }
    c.tensors["model.layers.2.self_attn.q_proj.bias"] = bias;
    c.save(dir / "f16");
    const gguf_file a = open(dir / "a.gguf"), f = convert_to(dir / "f16", dir / "c.gguf", format::q8_0);
    const gguf_tensor *const b = f.find_tensor("blk.2.attn_q.bias");
    REQUIRE(b);
    CHECK(b->type == format::f32);
    for (int64_t i = 0; i < 96; ++i) CHECK(element(*b, static_cast<size_t>(permuted(i, 96, 6))) == i);
    CHECK(worst_error(q, *f.find_tensor("blk.0.attn_q.weight"), 6) <= 1);
}

TEST_CASE("convert: rows that are not whole blocks fall back to F16") {
    tensor_row row{"x", "x", {4, 48}, role::up, false};
    CHECK(target_format(row, format::q8_0) == format::f16);
    CHECK(target_format(row, format::bf16) == format::bf16);
    row.ne = {4, 64};
    CHECK(target_format(row, format::q8_0) == format::q8_0);
    row.what = role::norm;
    CHECK(target_format(row, format::q8_0) == format::f32);

    const temp_dir dir;
    checkpoint_files c("micro/qwen2");
    c.config["intermediate_size"] = 150;
    for (auto &[name, t] : c.tensors) {
        if (contains(name, "gate_proj") || contains(name, "up_proj"))
            t = {t.dtype, {150, 96}, t.bytes.substr(0, 150 * 96 * 2)};
        if (contains(name, "down_proj")) t = {t.dtype, {96, 150}, t.bytes.substr(0, 150 * 96 * 2)};
    }
    c.save(dir / "c");
    const gguf_file f = convert_to(dir / "c", dir / "out.gguf", format::q8_0);
    CHECK(f.find_tensor("blk.1.ffn_down.weight")->type == format::f16);
    CHECK(f.find_tensor("blk.1.ffn_up.weight")->type == format::q8_0);
    CHECK(worst_error(c.tensors.at("model.layers.1.mlp.down_proj.weight"),
                      *f.find_tensor("blk.1.ffn_down.weight"), 0) <= 1);
}

// ---- Faults

struct checkpoint_fault {
    const char *what;
    std::function<void(checkpoint_files &)> change;
    status code;
    const char *message;
    format type = format::q8_0;
};

static void set_bf16(checkpoint_files &c, const char *name, size_t i, float x) {
    const uint16_t h = static_cast<uint16_t>(std::isnan(x) ? 0x7fc0 : f32_to_bf16(x));
    memcpy(c.tensors.at(name).bytes.data() + 2 * i, &h, 2);
}
constexpr const char *up = "model.layers.1.mlp.up_proj.weight",
                     *q0 = "model.layers.0.self_attn.q_proj.weight";

static const checkpoint_fault faults[] = {
    {"architecture", [](auto &c) { c.config["architectures"] = {"MambaForCausalLM"}; }, status::unsupported,
     "'MambaForCausalLM' is not known"},
    {"two architectures",
     [](auto &c) {
         c.config["architectures"] = {"LlamaForCausalLM", "Qwen2ForCausalLM"};
     },
     status::format, "architectures"},
    {"no architecture", [](auto &c) { c.config.erase("architectures"); }, status::format,
     "'architectures': missing"},
    {"no size", [](auto &c) { c.config.erase("hidden_size"); }, status::format, "'hidden_size': missing"},
    {"negative size", [](auto &c) { c.config["num_hidden_layers"] = -3; }, status::format,
     "num_hidden_layers"},
    {"huge size", [](auto &c) { c.config["num_hidden_layers"] = 1ull << 40; }, status::format,
     "num_hidden_layers"},
    {"no heads", [](auto &c) { c.config["num_attention_heads"] = 0; }, status::format, "num_attention_heads"},
    {"head size", [](auto &c) { c.config["num_attention_heads"] = 7; }, status::format, "head_dim"},
    {"activation", [](auto &c) { c.config["hidden_act"] = "gelu"; }, status::unsupported, "'gelu'"},
    {"sliding window", [](auto &c) { c.config["use_sliding_window"] = true; }, status::unsupported,
     "use_sliding_window"},
    {"layer types",
     [](auto &c) {
         c.config["layer_types"] = {"full_attention", "sliding_attention", "full_attention"};
     },
     status::unsupported, "layer_types[1]"},
    {"partial rotary", [](auto &c) { c.config["partial_rotary_factor"] = 0.5; }, status::unsupported,
     "partial_rotary_factor"},
    {"quantized already",
     [](auto &c) {
         c.config["quantization_config"] = {{"quant_method", "awq"}};
     },
     status::unsupported, "('awq') are not read; known: fp8"},
    {"rope scaling",
     [](auto &c) {
         c.config["rope_scaling"] = {{"rope_type", "longrope"}};
     },
     status::unsupported, "'longrope'"},
    {"rope factor",
     [](auto &c) {
         c.config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", -1.0}};
     },
     status::format, "rope_scaling.factor"},
    {"rope factor missing",
     [](auto &c) {
         c.config["rope_scaling"] = {{"rope_type", "yarn"}};
     },
     status::format, "rope_scaling.factor"},
    {"missing tensor", [](auto &c) { c.tensors.erase(up); }, status::format, up},
    {"missing output", [](auto &c) { c.config["tie_word_embeddings"] = false; }, status::format,
     "lm_head.weight"},
    {"extra tensor",
     [](auto &c) {
         c.tensors["model.layers.0.mlp.extra"] = {"BF16", {1}, "xx"};
     },
     status::unsupported, "model.layers.0.mlp.extra"},
    {"a layer too many", [](auto &c) { c.config["num_hidden_layers"] = 2; }, status::unsupported,
     "model.layers.2."},
    {"shape", [](auto &c) { std::swap(c.tensors[up].shape[0], c.tensors[up].shape[1]); }, status::format,
     "shape [96, 160], but config.json asks for [160, 96]"},
    {"element type", [](auto &c) { c.tensors[up].dtype = "I16"; }, status::unsupported,
     "element type I16 is not read"},
    {"NaN", [](auto &c) { set_bf16(c, up, 3 * 96 + 17, NAN); }, status::numeric,
     "mlp.up_proj.weight[3, 17]: nan is not a finite number"},
    {"infinity", [](auto &c) { set_bf16(c, up, 0, -INFINITY); }, status::numeric, "[0, 0]: -inf"},
    {"infinity, kept in F32", [](auto &c) { set_bf16(c, up, 0, INFINITY); }, status::numeric, "[0, 0]: inf",
     format::f32},
    {"NaN in a row that moves", [](auto &c) { set_bf16(c, q0, 9 * 96 + 1, NAN); }, status::numeric,
     "q_proj.weight[9, 1]"},
    {"NaN in a norm", [](auto &c) { set_bf16(c, "model.norm.weight", 5, NAN); }, status::numeric,
     "model.norm.weight[5]"},
    {"too large for F16", [](auto &c) { set_bf16(c, up, 96, 70144); }, status::numeric,
     "[1, 0]: 70144 is too large for f16; convert to bf16", format::f16},
    {"too large for Q8_0", [](auto &c) { set_bf16(c, up, 96, 1e9f); }, status::numeric,
     "is too large for q8_0"},
    {"vocabulary", [](auto &c) { c.config["vocab_size"] = 400; }, status::format, "vocab_size"},
    {"merge", [](auto &c) { c.tokenizer["model"]["merges"][5] = "abc"; }, status::format, "model.merges[5]"},
    {"merge of a pair",
     [](auto &c) {
         c.tokenizer["model"]["merges"][5] = {"a", "b", "c"};
     },
     status::format, "model.merges[5]"},
    {"id twice", [](auto &c) { c.tokenizer["model"]["vocab"]["another"] = 5; }, status::format,
     "id 5 is given to"},
    {"id", [](auto &c) { c.tokenizer["model"]["vocab"]["another"] = 1u << 30; }, status::format, "another"},
    {"model type", [](auto &c) { c.tokenizer["model"]["type"] = "Unigram"; }, status::unsupported,
     "'Unigram'"},
    {"patterns",
     [](auto &c) { c.tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\d+"; },
     status::unsupported, "deepseek-v3"},
    {"normalizer",
     [](auto &c) {
         c.tokenizer["normalizer"] = {{"type", "Lowercase"}};
     },
     status::unsupported, "'Lowercase'"},
    {"special token", [](auto &c) { c.tokenizer_config["bos_token"] = "<s>"; }, status::format,
     "\"<s>\" is not in the vocabulary"},
    {"end token",
     [](auto &c) {
         c.config["eos_token_id"] = 512;
         c.tokenizer_config.erase("eos_token");
     },
     status::format, "eos_token_id"},
};

TEST_CASE("convert: every fault is named, and existing files are left alone") {
    const checkpoint_files good("micro/llama");
    for (const checkpoint_fault &fault : faults) {
        CAPTURE(fault.what);
        const temp_dir dir;
        checkpoint_files c = good;
        fault.change(c);
        c.save(dir / "in");
        fs::create_directory(dir / "out");
        write_bytes(dir / "out/model.gguf", "what was there");
        const error e = failure_of([&] {
            convert(dir / "in", dir / "out/model.gguf", {fault.type, false, ""}, {.threads = 2});
        });
        INFO(e.text);
        CHECK(e.code == fault.code);
        CHECK(contains(e.text, fault.message));
        CHECK(contains(e.text, dir / "in"));
        CHECK(file_bytes(dir / "out/model.gguf") == "what was there");
        CHECK(std::distance(fs::directory_iterator(dir / "out"), fs::directory_iterator()) == 1);
    }
}

TEST_CASE("convert: values at the limit of a format are accepted") {
    const temp_dir dir;
    checkpoint_files c("micro/llama");
    set_bf16(c, up, 0, 65280);
    set_bf16(c, up, 1, -65280);
    c.save(dir / "in");
    const gguf_file f = convert_to(dir / "in", dir / "out.gguf", format::f16);
    CHECK(element(*f.find_tensor("blk.1.ffn_up.weight"), 0) == 65280);
    CHECK(element(*f.find_tensor("blk.1.ffn_up.weight"), 1) == -65280);
}

TEST_CASE("convert: a full disk, a missing directory and a stop leave no files") {
    const temp_dir dir;
    const std::string in = data_path("micro/llama");
    write_bytes(dir / "model.gguf", "what was there");
    const auto check_untouched = [&] {
        CHECK(file_bytes(dir / "model.gguf") == "what was there");
        CHECK(dir.entries() == 1);
    };
    // A limit on the file's size stands for a full disk: a write fails in the middle.
    rlimit old;
    REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
    const rlimit small{200000, old.rlim_max};
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    const error full = failure_of([&] { convert(in, dir / "model.gguf", {format::f32, false, ""}, {}); });
    REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
    std::signal(SIGXFSZ, handler);
    CHECK(full.code == status::io);
    CHECK(contains(full.text, dir / "model.gguf"));
    check_untouched();

    int calls = 0;
    const error stopped = failure_of([&] {
        convert(in, dir / "model.gguf", {}, {.progress = [&](uint64_t done, uint64_t total) {
                    CHECK(done <= total);
                    return ++calls < 5;
                }});
    });
    CHECK(stopped.code == status::cancelled);
    CHECK(calls == 5);
    check_untouched();

    CHECK(failure_of([&] { convert(in, dir / "no/model.gguf", {}, {}); }).code == status::io);
    const error nothing = failure_of([&] { convert(dir / "no", dir / "model.gguf", {}, {}); });
    CHECK(nothing.code == status::io);
    CHECK(contains(nothing.text, dir / "no/config.json"));
    check_untouched();
}

TEST_CASE("convert: progress ends at the file's size") {
    const temp_dir dir;
    uint64_t last = 0, total = 0;
    convert(data_path("micro/llama"), dir / "model.gguf", {}, {.progress = [&](uint64_t done, uint64_t all) {
                CHECK(done >= last);
                last = done;
                total = all;
                return true;
            }});
    CHECK(last == total);
    CHECK(total == fs::file_size(dir / "model.gguf"));
}

TEST_CASE("config: YaRN's magnitude in each form that checkpoints have") {
    const auto factor = [](nlohmann::json scaling) {
        nlohmann::json config = checkpoint_files("micro/qwen3").config;
        scaling.update({{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 128}});
        config["rope_scaling"] = scaling;
        gguf_writer w;
        set_architecture_keys(json_node(parse_json(config.dump(), "config.json")), w);
        const std::string bytes = w.header();
        return gguf_file(os::mapping::borrow(bytes.data(), bytes.size()), "m")
            .get_float("qwen3.rope.scaling.attn_factor", 1);
    };
    const double usual = 0.1 * std::log(4.0) + 1;
    CHECK(factor({{"attn_factor", 1.0}}) == 1);
    CHECK(factor(nlohmann::json::object()) == 1);
    CHECK(factor({{"attn_factor", 1.5}}) == 1.5);
    CHECK(factor({{"attention_factor", 1.5}}) == doctest::Approx(1.5 / usual));
    CHECK(factor({{"mscale", 1.0}, {"mscale_all_dim", 1.0}}) == doctest::Approx(1 / usual));
}

TEST_CASE("config: transformers 5 keeps rope's parameters in one object") {
    checkpoint_files c("micro/llama-linear");
    gguf_writer four, five;
    set_architecture_keys(json_node(parse_json(c.config.dump(), "config.json")), four);
    c.config["rope_parameters"] = {
        {"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", c.config["rope_theta"]}};
    c.config.erase("rope_theta");
    c.config.erase("rope_scaling");
    set_architecture_keys(json_node(parse_json(c.config.dump(), "config.json")), five);
    CHECK(four.header() == five.header());
}

// The keys that a changed config.json of a micro checkpoint converts to, and the remarks.
struct config_keys {
    std::string bytes;
    std::vector<std::string> remarks;
    gguf_file file;
    config_keys(const char *name, const std::function<void(nlohmann::json &)> &change) {
        nlohmann::json config = checkpoint_files(name).config;
        change(config);
        gguf_writer w;
        set_architecture_keys(json_node(parse_json(config.dump(), "config.json")), w,
                              {.note = [&](const std::string &text) { remarks.push_back(text); }});
        bytes = w.header();
        file = gguf_file(os::mapping::borrow(bytes.data(), bytes.size()), "m");
    }
    bool remarked(const std::string &part) const {
        return std::any_of(remarks.begin(), remarks.end(),
                           [&](const std::string &r) { return contains(r, part); });
    }
};

TEST_CASE("config: rope's parameters in two objects are read as transformers 5 reads them") {
    const auto qwen2 = [](const nlohmann::json &fields) {
        return config_keys("micro/qwen2", [&](nlohmann::json &config) {
            for (const char *const field : {"rope_theta", "rope_scaling", "rope_parameters"})
                config.erase(field);
            config.update(fields);
        });
    };
    const auto base = [](const config_keys &k) { return k.file.get_float("qwen2.rope.freq_base"); };
    const auto type = [](const config_keys &k) {
        return std::string(k.file.get_string("qwen2.rope.scaling.type", "none"));
    };
    const nlohmann::json yarn = {
        {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};

    CHECK(base(qwen2(nlohmann::json::object())) == 1e4f);
    CHECK(base(qwen2({{"rope_theta", 1e6}, {"rope_parameters", {{"rope_type", "default"}}}})) == 1e6f);
    CHECK(base(qwen2({{"rope_theta", 1e6}, {"rope_parameters", nlohmann::json::object()}})) == 1e6f);
    CHECK(base(qwen2({{"rope_theta", 1e6}, {"rope_scaling", nullptr}, {"rope_parameters", nullptr}})) ==
          1e6f);
    CHECK(qwen2({{"rope_theta", 1e6}, {"rope_parameters", {{"rope_type", "default"}}}}).remarks.empty());

    const config_keys inner =
        qwen2({{"rope_theta", 1e6}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}}}});
    CHECK(base(inner) == 5e5f);
    CHECK(inner.remarked("'rope_theta' differs from 'rope_parameters.rope_theta'"));
    CHECK(qwen2({{"rope_theta", 5e5}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}}}})
              .remarks.empty());

    const config_keys beside =
        qwen2({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}}, {"rope_scaling", yarn}});
    CHECK(base(beside) == 1e6f);
    CHECK(type(beside) == "yarn");
    CHECK(beside.file.get_float("qwen2.rope.scaling.factor") == 4);
    CHECK(beside.file.get_uint("qwen2.rope.scaling.original_context_length", 1 << 20) == 1024);
    CHECK(type(qwen2({{"rope_scaling", nlohmann::json::object()}, {"rope_parameters", yarn}})) == "yarn");
    CHECK(type(qwen2({{"rope_scaling", yarn}, {"rope_parameters", yarn}})) == "yarn");
    nlohmann::json other = yarn;
    other["factor"] = 2.0;
    CHECK(contains(failure_of([&] {
                       qwen2({{"rope_scaling", yarn}, {"rope_parameters", other}});
                   }).text,
                   "'rope_parameters.factor'"));
    CHECK(contains(failure_of([&] {
                       qwen2({{"rope_scaling", {{"rope_theta", 1e6}}}, {"rope_parameters", yarn}});
                   }).text,
                   "rope_parameters."));

    // One set for each type of layer.
    const nlohmann::json nested = {{"full_attention", yarn}};
    CHECK(type(qwen2({{"rope_parameters", nested}, {"rope_theta", 1e6}})) == "yarn");
    CHECK(base(qwen2({{"rope_parameters", nested}, {"rope_theta", 1e6}})) == 1e6f);
    const error two = failure_of([&] {
        qwen2({{"rope_parameters", {{"full_attention", yarn}, {"sliding_attention", yarn}}}});
    });
    CHECK(two.code == status::unsupported);
    CHECK(contains(two.text, "'rope_parameters.full_attention'"));
    CHECK(contains(failure_of([&] {
                       qwen2({{"rope_parameters", {{"sliding_attention", yarn}}}});
                   }).text,
                   "'rope_parameters.sliding_attention'"));
    CHECK(contains(failure_of([&] {
                       config_keys("micro/llama", [&](nlohmann::json &c) { c["rope_parameters"] = nested; });
                   }).text,
                   "full_attention"));
    config_keys("micro/llama", [&](nlohmann::json &c) {
        c["rope_parameters"] = nested,
        c["layer_types"] = {"full_attention", "full_attention", "full_attention"};
    });

    // Values that are not understood, in either object.
    const auto refused = [&](const nlohmann::json &fields, const char *field) {
        const error e = failure_of([&] { qwen2(fields); });
        CAPTURE(e.text);
        CHECK(e.code == status::unsupported);
        CHECK(contains(e.text, field));
    };
    refused({{"partial_rotary_factor", 0.5}}, "'partial_rotary_factor'");
    refused({{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}}},
            "'rope_parameters.partial_rotary_factor'");
    refused({{"rope_parameters", {{"full_attention", {{"partial_rotary_factor", 0.5}}}}}},
            "'rope_parameters.full_attention.partial_rotary_factor'");
    refused({{"rope_scaling", yarn}, {"rope_parameters", {{"partial_rotary_factor", 0.5}}}},
            "'rope_parameters.partial_rotary_factor'");
    refused({{"rope_scaling", {{"rope_type", "default"}, {"mrope_section", {1, 1}}}}},
            "'rope_scaling.mrope_section'");
    refused({{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}}}, "dynamic");
    refused({{"rope_parameters", {{"rope_type", "longrope"}}}}, "longrope");
    CHECK(qwen2({{"rope_parameters", {{"rope_type", "default"}, {"factor", 2.0}}}})
              .remarked("'rope_parameters.factor' has no meaning"));
    CHECK(qwen2({{"rope_scaling", {{"rope_type", "default"}, {"type", "linear"}}}})
              .remarked("'rope_scaling.type'"));
    CHECK(contains(failure_of([&] { qwen2({{"rope_parameters", 1}}); }).text, "not an object"));
}

TEST_CASE("config: where the original context is stated, and the context that YaRN derives from it") {
    const auto keys = [](double factor, const nlohmann::json &fields, const nlohmann::json &inner) {
        return config_keys("micro/qwen2", [&](nlohmann::json &config) {
            config["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", factor}};
            config["rope_scaling"].update(inner);
            config.update(fields);
        });
    };
    const auto original = [](const config_keys &k) {
        return k.file.get_uint("qwen2.rope.scaling.original_context_length", UINT64_MAX);
    };
    const auto context = [](const config_keys &k) {
        return k.file.get_uint("qwen2.context_length", UINT64_MAX);
    };
    const nlohmann::json inside = {{"original_max_position_embeddings", 1024}},
                         none = nlohmann::json::object();
    // as Qwen 2.5's model card says to add it
    const config_keys card = keys(4, {{"max_position_embeddings", 1024}}, inside);
    CHECK(original(card) == 1024);
    CHECK(context(card) == 4096);
    CHECK(context(keys(40, {{"max_position_embeddings", 40960}}, inside)) == 40960);
    // never less than the file's own context
    CHECK(context(keys(2, {{"max_position_embeddings", 4096}}, inside)) == 4096);
    CHECK(context(keys(2.5, {{"max_position_embeddings", 1001}}, none)) == 2502);
    CHECK(original(keys(4, {{"max_position_embeddings", 2048}}, none)) == 2048);
    const config_keys outside =
        keys(4, {{"max_position_embeddings", 1024}, {"original_max_position_embeddings", 512}}, inside);
    CHECK(original(outside) == 512);
    CHECK(outside.remarked("'rope_scaling.original_max_position_embeddings' differs"));
    CHECK(context(keys(1e6, {{"max_position_embeddings", 1 << 30}}, none)) == 1 << 30);
    CHECK(contains(failure_of([&] {
                       keys(4, none, {{"original_max_position_embeddings", 0}});
                   }).text,
                   "original_max_position_embeddings"));
}

TEST_CASE("config: an unknown class is refused with a list of the known ones") {
    const error e = failure_of([] {
        config_keys("micro/qwen2",
                    [](nlohmann::json &config) { config["architectures"] = {"MistralForCausalLM"}; });
    });
    CHECK(e.code == status::unsupported);
    CHECK(contains(e.text, "'MistralForCausalLM' is not known; known: LlamaForCausalLM, "));
    for (const arch *const a : architectures()) {
        std::istringstream classes(a->checkpoint_class);
        for (std::string name; classes >> name;) CHECK(contains(e.text, name));
    }
}
