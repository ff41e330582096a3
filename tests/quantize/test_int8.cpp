// I8 models from the quantize tool, run through the API: quality against the golden data, with and without
// calibration; outliers; formats mixed by measurement; and invalid texts, statistics and bounds.
#include "../support/checkpoint_files.h"
#include "../engine/right_answers.h"

#include "../../quantize/calibrate.h"
#include "../../quantize/inspect.h"
#include "../../quantize/mixed.h"
#include "../../quantize/requantize.h"
#include "../../quantize/smooth.h"
#include "../../quantize/synth.h"

#include <nlohmann/json.hpp>

#include <limits>

using namespace ds;
using namespace ds::test;
using golden::data;
using golden::mean_kl;
using golden::mean_nll;

static const char *const micro[] = {"micro/llama", "micro/llama-linear", "micro/llama3", "micro/qwen2",
                                    "micro/qwen3"};
static const std::string questions = data_path("tiny-r1/problems.jsonl");

static gguf_file open(const std::string &path) { return gguf_file(os::mapping::map_file(path), path); }

static golden::model_ptr load(const std::string &path) {
    ds_model *m = nullptr;
    MUST(ds_model_load(path.c_str(), nullptr, &m, &err));
    return golden::model_ptr(m);
}

static std::vector<float> logits(const std::string &path, const std::vector<ds_token> &ids, size_t vocab,
                                 ds_kv_type kv) {
    const golden::model_ptr m = load(path);
    ds_engine_config c = golden::engine_config();
    c.kv_type = kv;
    return golden::logits(golden::engine(m, c), ids, vocab);
}
static double divergence(const std::string &path, const data &d, ds_kv_type kv = DS_KV_INT8) {
    return mean_kl(d, logits(path, d.ids, d.vocab, kv));
}

static std::string text_of(const golden::model_ptr &m, const std::vector<ds_token> &ids) {
    std::vector<char> text(1 << 16);
    size_t n = 0;
    MUST(ds_detokenize(m.get(), ids.data(), ids.size(), DS_DETOKENIZE_SPECIAL, text.data(), text.size(), &n,
                       &err));
    return {text.data(), n};
}

// Conversations of the bundled model as it sees them: the first questions of the list, with its own answers.
static std::string own_text(size_t count) {
    const golden::model_ptr m = load(DS_SOURCE_DIR "/models/tiny-r1.gguf");
    const golden::engine_ptr e = golden::engine(m, golden::engine_config());
    std::string out;
    for (const golden::problem &p : golden::problems(count)) {
        std::vector<ds_token> prompt = golden::chat_prompt(m, p.question);
        const std::vector<ds_token> answer = golden::greedy(e, prompt, 100);
        const auto end = std::find(answer.begin(), answer.end(), ds_token_special(m.get(), DS_SPECIAL_EOS));
        prompt.insert(prompt.end(), answer.begin(), end == answer.end() ? end : end + 1);
        out += text_of(m, prompt);
    }
    return out;
}

static void calibrate_to(const std::string &model_path, const std::vector<std::string> &texts,
                         const std::string &stats) {
    save(calibrate(model_path, texts, {.window = 256, .tokens = 2048}, {}), stats);
}

// ---- Quality

TEST_CASE("int8: micro checkpoints with int8 pages, without calibration and with it") {
    const temp_dir dir;
    for (const char *const name : micro) {
        CAPTURE(name);
        const data d = golden::load(name);
        convert(data_path(name), dir / "float.gguf", {.type = format::f32}, {});
        requantize(dir / "float.gguf", dir / "plain.gguf", format::i8, {});
        calibrate_to(dir / "float.gguf", {questions}, dir / "stats");
        requantize_smoothed(dir / "float.gguf", dir / "smooth.gguf", format::i8, dir / "stats", {});
        for (const char *const file : {"plain.gguf", "smooth.gguf"}) {
            const double kl = divergence(dir / file, d);
            INFO(std::string(file) << ": mean KL " << kl);
            CHECK(kl <= 0.005);
            CHECK(kl > 0);
        }
    }
}

TEST_CASE("int8: folding the scales in changes nothing but rounding") {
    const temp_dir dir;
    for (const char *const name : micro) {
        CAPTURE(name);
        const data d = golden::load(name);
        convert(data_path(name), dir / "float.gguf", {.type = format::f32}, {});
        calibrate_to(dir / "float.gguf", {questions}, dir / "stats");
        requantize_smoothed(dir / "float.gguf", dir / "folded.gguf", format::f32, dir / "stats", {});
        const gguf_file before = open(dir / "float.gguf"), after = open(dir / "folded.gguf");
        // each kind in at least one layer
        for (const char *const kind :
             {"attn_q.weight", "attn_output.weight", "ffn_gate.weight", "ffn_down.weight"}) {
            int changed = 0;
            for (int i = 0; i < 3; ++i) {
                const gguf_tensor &a = *before.find_tensor(format_text("blk.%d.%s", i, kind)),
                                  &b = *after.find_tensor(format_text("blk.%d.%s", i, kind));
                changed += memcmp(a.data, b.data, a.bytes) != 0;
            }
            CHECK(changed > 0);
        }
        CHECK(golden::largest_difference(logits(dir / "folded.gguf", d.ids, d.vocab, DS_KV_F32), d.logits) <=
              2e-3);
    }
}

TEST_CASE("int8: tiny-r1, calibrated on its own answers, predicts its own text and does arithmetic") {
    const temp_dir dir;
    const data d = golden::load("tiny-r1");
    convert(data_path("tiny-r1"), dir / "float.gguf", {.type = format::bf16}, {});
    write_bytes(dir / "talks.txt", own_text(20));
    calibrate_to(dir / "float.gguf", {dir / "talks.txt"}, dir / "stats");
    requantize_smoothed(dir / "float.gguf", dir / "int8.gguf", format::i8, dir / "stats", {});
    const double nll = mean_nll(d, logits(dir / "int8.gguf", d.ids, d.vocab, DS_KV_INT8));
    INFO("mean NLL " << nll);
    CHECK(std::fabs(nll / 2.453904 - 1) <= 0.01);
    CHECK(divergence(dir / "int8.gguf", d) <= 0.005);
    const int right = golden::right_answers(load(dir / "int8.gguf"));
    MESSAGE("i8, calibrated: " << right << " of " << golden::questions
                               << " right (reference in float32: 191 of 200)");
    CHECK(right >= (golden::sanitized ? 17 : 189));
    const gguf_file f = open(dir / "int8.gguf");
    CHECK(f.get_uint("deepseek.quant.version", 100) == 1);
    CHECK(f.get_uint("deepseek.quant.calibration_tokens", 100000) == load_calibration(dir / "stats").tokens);
    CHECK(f.get_float("deepseek.quant.smooth_alpha") > 0);
    CHECK(f.get_float("deepseek.quant.smooth_alpha") < 1);
    CHECK(f.get_floats("deepseek.quant.smooth_alphas").size() == 4 * 4 + 1);
    CHECK(!f.has("general.file_type"));
    requantize(dir / "int8.gguf", dir / "copy.gguf", format::i8, {});
    CHECK(file_bytes(dir / "int8.gguf") == file_bytes(dir / "copy.gguf"));
    requantize(dir / "int8.gguf", dir / "float.gguf", format::f16, {});
    for (const char *const key : {"version", "calibration_tokens", "smooth_alpha", "smooth_alphas"})
        CHECK(!open(dir / "float.gguf").has(std::string("deepseek.quant.") + key));
}

// The same function, but one channel of each norm's result is 100 times larger and the weights that read it
// are 100 times smaller, like the outliers of large models.
static void plant_outliers(const std::string &in, const std::string &out,
                           const std::vector<std::pair<std::string, std::vector<std::string>>> &readers,
                           size_t channel) {
    const gguf_file f = open(in);
    gguf_writer w;
    for (size_t i = 0; i < f.key_count(); ++i) w.set_raw(f.key(i), f.value(i));
    std::vector<std::vector<float>> all;
    for (const gguf_tensor &t : f.tensors()) {
        REQUIRE(t.type == format::f32);
        w.add_tensor(std::string(t.name), t.type, std::span(t.ne, static_cast<size_t>(t.rank)));
        std::vector<float> &x = all.emplace_back(t.bytes / 4);
        memcpy(x.data(), t.data, t.bytes);
        for (const auto &[norm, matrices] : readers) {
            if (t.name == norm) x[channel] *= 100;
            if (std::find(matrices.begin(), matrices.end(), t.name) == matrices.end()) continue;
            for (size_t r = 0; r < static_cast<size_t>(t.ne[0]); ++r)
                x[r * static_cast<size_t>(t.ne[1]) + channel] /= 100;
        }
    }
    write_gguf(out, w, {}, [&](size_t i, const byte_sink &sink) { sink(all[i].data(), all[i].size() * 4); });
}

TEST_CASE("int8: an outlier channel does harm without calibration and little with it") {
    const temp_dir dir;
    const data d = golden::load("tiny-r1");
    convert(data_path("tiny-r1"), dir / "float.gguf", {.type = format::f32}, {});
    std::vector<std::pair<std::string, std::vector<std::string>>> readers;
    for (int i = 0; i < 4; ++i) {
        const std::string b = "blk." + std::to_string(i) + ".";
        readers.push_back(
            {b + "attn_norm.weight", {b + "attn_q.weight", b + "attn_k.weight", b + "attn_v.weight"}});
        readers.push_back({b + "ffn_norm.weight", {b + "ffn_gate.weight", b + "ffn_up.weight"}});
    }
    plant_outliers(dir / "float.gguf", dir / "planted.gguf", readers, 17);
    CHECK(golden::largest_difference(logits(dir / "planted.gguf", d.ids, d.vocab, DS_KV_F32), d.logits) <=
          2e-3);
    write_bytes(dir / "talks.txt", own_text(20));
    calibrate_to(dir / "planted.gguf", {dir / "talks.txt"}, dir / "stats");
    requantize(dir / "planted.gguf", dir / "plain.gguf", format::i8, {});
    requantize_smoothed(dir / "planted.gguf", dir / "smooth.gguf", format::i8, dir / "stats", {});
    const double plain = divergence(dir / "plain.gguf", d), smooth = divergence(dir / "smooth.gguf", d);
    MESSAGE("mean KL with an outlier channel: " << plain << " without calibration, " << smooth << " with it");
    CHECK(plain > 0.05);
    CHECK(smooth <= 0.005);
}

// ---- Files

// The size that a file would have; it is not written.
static uint64_t synthetic_size(const char *shape, format type, const temp_dir &dir) {
    uint64_t bytes = 0;
    const job measure{.progress = [&](uint64_t, uint64_t total) {
        bytes = total;
        return false;
    }};
    CHECK(failure_of([&] {
              synthesize(dir / "never.gguf", {shape, type, 1}, measure);
          }).code == status::cancelled);
    CHECK(!fs::exists(dir / "never.gguf"));
    return bytes;
}

TEST_CASE("int8: sizes of a published shape") {
    const temp_dir dir;
    const auto size = static_cast<double>(synthetic_size("r1-1.5b", format::i8, dir));
    CHECK(size > 1777088000.0);  // the number of its parameters
    CHECK(size <= 0.26 * static_cast<double>(synthetic_size("r1-1.5b", format::f32, dir)));
    CHECK(size <= 0.52 * static_cast<double>(synthetic_size("r1-1.5b", format::bf16, dir)));
}

TEST_CASE("int8: from int8 to a float format and back") {
    const temp_dir dir;
    std::vector<std::string> remarks;
    const job j{.note = [&](const std::string &text) { remarks.push_back(text); }};
    convert(data_path("micro/qwen2"), dir / "a.gguf", {.type = format::i8}, j);
    REQUIRE(remarks.size() == 1);
    CHECK(contains(remarks[0], "--calibration"));
    requantize(dir / "a.gguf", dir / "copy.gguf", format::i8, j);
    CHECK(file_bytes(dir / "a.gguf") == file_bytes(dir / "copy.gguf"));
    CHECK(remarks.size() == 1);
    requantize(dir / "a.gguf", dir / "f32.gguf", format::f32, j);
    const gguf_file a = open(dir / "a.gguf"), f = open(dir / "f32.gguf");
    CHECK(!f.has("deepseek.quant.version"));
    CHECK(f.get_uint("general.file_type", 100) == 0);
    CHECK(!f.find_tensor("output.weight_scale"));
    const gguf_tensor &q = *a.find_tensor("blk.1.ffn_down.weight"),
                      &scales = *a.find_tensor("blk.1.ffn_down.weight_scale"),
                      &x = *f.find_tensor("blk.1.ffn_down.weight");
    CHECK(scales.rank == 1);
    CHECK(scales.ne[0] == q.ne[0]);
    size_t wrong = 0;
    for (size_t i = 0; i < q.bytes; ++i) {
        float scale, value;
        memcpy(&scale, scales.data + i / static_cast<size_t>(q.ne[1]) * 4, 4);
        memcpy(&value, x.data + 4 * i, 4);
        wrong += value != scale * static_cast<float>(static_cast<int8_t>(q.data[i]));
    }
    CHECK(wrong == 0);
    requantize(dir / "f32.gguf", dir / "b.gguf", format::i8, j);
    const gguf_file b = open(dir / "b.gguf");
    for (const gguf_tensor &t : a.tensors())
        if (t.type == format::i8) CHECK(memcmp(t.data, b.find_tensor(t.name)->data, t.bytes) == 0);
}

TEST_CASE("int8: rows of zeros and of the smallest floats") {
    int8_t q[4] = {9, 9, 9, 9};
    const float zero[4] = {}, tiny[4] = {1e-38f, -2e-38f, 0.0f, 1e-40f},
                plain[4] = {-2.54f, 0.01f, 0.03f, 1.27f};
    CHECK(encode_row_i8(zero, q, 4) == 0);
    CHECK(q[0] == 0);
    CHECK(encode_row_i8(tiny, q, 4) == 0);
    for (const int8_t x : q) CHECK(x == 0);
    CHECK(encode_row_i8(plain, q, 4) == doctest::Approx(0.02));
    CHECK(q[0] == -127);
    CHECK(q[1] == 0);   // 0.5, to even
    CHECK(q[2] == 2);   // 1.5, to even
    CHECK(q[3] == 64);  // 63.5, to even
}

TEST_CASE("int8: inspect adds scales to their tensors") {
    const temp_dir dir;
    convert(data_path("tiny-r1"), dir / "a.gguf", {.type = format::i8}, {});
    const gguf_file f = open(dir / "a.gguf");
    const nlohmann::json j = nlohmann::json::parse(inspect_json(f, {}));
    CHECK(j["totals"]["i8"]["tensors"] == 30);
    CHECK(j["totals"]["i8"]["elements"] == 4 * (4 * 160 * 160 + 3 * 160 * 448) + 2 * 512 * 160);
    const int rows = 4 * (4 * 160 + 2 * 448 + 160) + 2 * 512;
    CHECK(j["totals"]["i8"]["bytes"] == 4 * (4 * 160 * 160 + 3 * 160 * 448) + 2 * 512 * 160 + 4 * rows);
    CHECK(j["totals"]["f32"]["tensors"] == 9);
    CHECK(j["totals"]["all"]["tensors"] == 39);
    const std::string text = inspect_text(f, {});
    CHECK(contains(text, "39 tensors"));
    CHECK(contains(text, "blk.3.ffn_down.weight"));
    CHECK(contains(text, "with a scale a row"));
    CHECK(!contains(text, "weight_scale"));
}

// ---- Texts and statistics

TEST_CASE("calibrate: the same statistics for any number of threads, and from every float format of a model "
          "the same fingerprint") {
    const temp_dir dir;
    convert(data_path("micro/qwen2"), dir / "a.gguf", {.type = format::bf16}, {});
    save(calibrate(dir / "a.gguf", {questions}, {.window = 100, .tokens = 300}, {.threads = 1}), dir / "one");
    save(calibrate(dir / "a.gguf", {questions}, {.window = 100, .tokens = 300}, {.threads = 3}),
         dir / "three");
    CHECK(file_bytes(dir / "one") == file_bytes(dir / "three"));
    for (const format type : {format::f32, format::f16, format::q8_0, format::i8}) {
        requantize(dir / "a.gguf", dir / "b.gguf", type, {});
        CHECK(fingerprint_of(open(dir / "b.gguf")) == fingerprint_of(open(dir / "a.gguf")));
    }
    const calibration c = load_calibration(dir / "one");
    CHECK(c.tokens <= 300);
    CHECK(c.tokens > 200);
    REQUIRE(c.inputs.size() == 3 * 4 + 1);
    for (const linear_input &in : c.inputs) {
        CAPTURE(in.name);
        CHECK(in.rows() == 32);
        for (size_t i = 0; i < in.channels(); ++i) {
            CHECK(in.mean_square[i] <= in.largest[i] * in.largest[i] * 1.000001f);
            for (size_t r = 0; r < in.rows(); ++r)
                CHECK(std::fabs(in.samples[r * in.channels() + i]) <= in.largest[i]);
        }
    }
    CHECK(c.input_of("blk.2.ffn_down.weight", 160).channels() == 160);
    CHECK(contains(failure_of([&] { c.input_of("blk.2.ffn_down.weight", 161); }).text, "160"));
    CHECK(contains(failure_of([&] { c.input_of("blk.3.ffn_down.weight", 160); }).text, "was not measured"));
}

// The first product's input is the normalized embedding of each token, which needs no forward pass.
TEST_CASE("calibrate: inputs of the first product") {
    const temp_dir dir;
    convert(data_path("micro/llama"), dir / "a.gguf", {.type = format::f32}, {});
    write_bytes(dir / "text", "abcabd");
    const model m(open(dir / "a.gguf"), {});
    const text_windows w = read_windows(m, {dir / "text"}, 64, {});
    REQUIRE(w.list.size() == 1);
    const calibration c = calibrate(dir / "a.gguf", {dir / "text"}, {}, {});
    CHECK(c.tokens == w.list[0].size());
    std::vector<double> largest(96), squares(96);
    for (const token_id t : w.list[0]) {
        const float *const x = static_cast<const float *>(m.weights.embedding->data) + 96 * t,
                           *const norm = static_cast<const float *>(m.weights.layer[0].attn_norm->data);
        double sum = 0;
        for (int i = 0; i < 96; ++i) sum += static_cast<double>(x[i]) * x[i];
        for (size_t i = 0; i < 96; ++i) {
            const double y = x[i] / std::sqrt(sum / 96 + static_cast<double>(m.h.norm_eps)) * norm[i];
            largest[i] = std::max(largest[i], std::fabs(y));
            squares[i] += y * y / static_cast<double>(w.list[0].size());
        }
    }
    const linear_input &in = c.input_of("blk.0.attn_q.weight", 96);
    CHECK(in.rows() == w.list[0].size());  // fewer than the limit
    for (size_t i = 0; i < 96; ++i) {
        CHECK(in.largest[i] == doctest::Approx(largest[i]).epsilon(1e-5));
        CHECK(in.mean_square[i] == doctest::Approx(squares[i]).epsilon(1e-5));
    }
}

TEST_CASE("calibrate: texts of every kind") {
    const temp_dir dir;
    std::vector<std::string> remarks;
    const job j{.note = [&](const std::string &text) { remarks.push_back(text); }};
    const std::string path = DS_SOURCE_DIR "/models/tiny-r1.gguf";
    const model m(open(path), {});
    write_bytes(dir / "empty", "");
    write_bytes(dir / "bad", "1 + 1 \xff\xfe = 2");
    write_bytes(dir / "long", std::string(5000, '7'));
    write_bytes(dir / "talk", "<｜User｜>1");

    const error empty = failure_of([&] { calibrate(path, {dir / "empty"}, {}, j); });
    CHECK(empty.code == status::argument);
    CHECK(contains(empty.text, "too few tokens"));
    REQUIRE(remarks.size() == 1);
    CHECK(contains(remarks[0], "is empty"));
    const text_windows bad = read_windows(m, {dir / "empty", dir / "bad"}, 64, j);
    CHECK(bad.list.size() == 1);
    REQUIRE(remarks.size() == 3);
    CHECK(contains(remarks[2], "not UTF-8 from byte 6"));
    CHECK(calibrate(path, {dir / "bad"}, {}, {}).tokens == bad.tokens);

    text_windows cut = read_windows(m, {dir / "long"}, m.h.context, {});
    CHECK(cut.list.size() > 5);
    uint64_t sum = 0;
    for (const auto &w : cut.list) {
        CHECK(w.size() <= static_cast<size_t>(m.h.context));
        CHECK(w[0] == m.vocabulary.bos());
        sum += w.size();
    }
    CHECK(cut.tokens == sum);
    const size_t all = cut.list.size();
    cut.keep(sum / 2);
    CHECK(cut.tokens <= sum / 2 + 512);
    CHECK(cut.list.size() >= all / 2 - 1);
    cut.keep(1);
    CHECK(cut.list.size() == 1);
    CHECK(calibrate(path, {dir / "long"}, {.window = m.h.context, .tokens = 600}, {}).tokens > 500);

    // BOS, the user's mark, a digit
    CHECK(read_windows(m, {dir / "talk"}, 64, {}).list[0] == std::vector<token_id>{477, 480, '1'});
    CHECK(failure_of([&] { calibrate(path, {dir / "long"}, {.window = 513}, {}); }).code == status::argument);
    CHECK(failure_of([&] { calibrate(path, {dir / "nowhere"}, {}, {}); }).code == status::io);
}

TEST_CASE("calibration: damaged statistics, and those of another model") {
    const temp_dir dir;
    convert(data_path("micro/qwen3"), dir / "a.gguf", {.type = format::f32}, {});
    convert(data_path("micro/qwen2"), dir / "b.gguf", {.type = format::f32}, {});
    calibrate_to(dir / "a.gguf", {questions}, dir / "stats");
    const auto smooth_with = [&](const std::string &model, const std::string &stats) {
        return failure_of(
            [&] { requantize_smoothed(dir / model, dir / "out.gguf", format::i8, dir / stats, {}); });
    };
    const error other = smooth_with("b.gguf", "stats");
    CHECK(other.code == status::argument);
    CHECK(contains(other.text, "another model, 'qwen3'"));
    CHECK(contains(smooth_with("a.gguf", "a.gguf").text, "not a file of calibration statistics"));
    CHECK(smooth_with("a.gguf", "nowhere").code == status::io);

    const std::string good = file_bytes(dir / "stats");
    for (const size_t n : {size_t(0), size_t(3), size_t(100), good.size() / 2, good.size() - 1}) {
        write_bytes(dir / "cut", good.substr(0, n));
        CHECK(smooth_with("a.gguf", "cut").code == status::format);
    }
    calibration c = load_calibration(dir / "stats");
    const auto changed = [&](const std::function<void(calibration &)> &change) {
        calibration copy = c;
        change(copy);
        save(copy, dir / "changed");
        return smooth_with("a.gguf", "changed");
    };
    CHECK(contains(changed([](calibration &x) {
                       x.inputs[1].largest[3] = std::numeric_limits<float>::quiet_NaN();
                   }).text,
                   ".largest"));
    CHECK(contains(changed([](calibration &x) { x.inputs[1].mean_square[3] = -1; }).text, ".mean_square"));
    CHECK(contains(
        changed([](calibration &x) { x.inputs[0].samples[3] = std::numeric_limits<float>::infinity(); }).text,
        ".samples"));
    CHECK(contains(changed([](calibration &x) { x.inputs.erase(x.inputs.begin() + 2); }).text,
                   "was not measured"));
    CHECK(contains(changed([](calibration &x) { x.inputs.clear(); }).text, "no statistics"));
    CHECK(contains(changed([](calibration &x) {
                       x.inputs[0].mean_square.pop_back();
                       x.inputs[0].largest.pop_back();
                       x.inputs[0].samples.resize(95);
                   }).text,
                   "95 channels"));
    CHECK(!fs::exists(dir / "out.gguf"));

    // A smoothed model is a different model: statistics of the original do not apply to it.
    requantize_smoothed(dir / "a.gguf", dir / "out.gguf", format::i8, dir / "stats", {});
    CHECK(smooth_with("out.gguf", "stats").code == status::argument);
}

TEST_CASE(
    "int8: rows that are too long for it are refused by every tool that makes it, before a file is written") {
    const temp_dir dir;
    checkpoint_files c("micro/qwen2");
    const int64_t ffn = 132105, layers = 1;
    const auto bytes = static_cast<size_t>(ffn * 96 * 2);
    c.config["intermediate_size"] = ffn;
    c.config["num_hidden_layers"] = layers;
    std::erase_if(c.tensors, [](const auto &t) {
        return contains(t.first, ".layers.1.") || contains(t.first, ".layers.2.");
    });
    for (auto &[name, t] : c.tensors) {
        if (contains(name, "gate_proj") || contains(name, "up_proj"))
            t = {t.dtype, {ffn, 96}, std::string(bytes, '\x11')};
        if (contains(name, "down_proj")) t = {t.dtype, {96, ffn}, std::string(bytes, '\x11')};
    }
    c.save(dir / "c");
    const auto refused = [&](const char *where, const std::function<void()> &f) {
        const error e = failure_of(f);
        CAPTURE(e.text);
        CHECK(e.code == status::unsupported);
        CHECK(contains(e.text, where));
        CHECK(contains(e.text, "132105"));
        CHECK(contains(e.text, "132104"));
        CHECK(!fs::exists(dir / "out.gguf"));
    };
    refused("mlp.down_proj.weight", [&] { convert(dir / "c", dir / "out.gguf", {.type = format::i8}, {}); });
    convert(dir / "c", dir / "float.gguf", {.type = format::bf16}, {});
    refused("blk.0.ffn_down.weight",
            [&] { requantize(dir / "float.gguf", dir / "out.gguf", format::i8, {}); });
    write_bytes(dir / "text", "What is 3 + 4?");
    save(calibrate(dir / "float.gguf", {dir / "text"}, {.window = 8, .tokens = 8}, {}), dir / "stats");
    refused("blk.0.ffn_down.weight", [&] {
        requantize_smoothed(dir / "float.gguf", dir / "out.gguf", format::i8, dir / "stats", {});
    });
    refused("blk.0.ffn_down.weight", [&] {
        requantize_mixed(dir / "float.gguf", dir / "out.gguf",
                         {.texts = {dir / "text"}, .max_bytes = 1 << 20}, {});
    });
}

// ---- Mixed

// Mean negative log-likelihood of the text's tokens in one window, through the API.
static double nll_of(const std::string &path, const std::string &text, ds_kv_type kv) {
    const golden::model_ptr m = load(path);
    std::vector<ds_token> ids(1024);
    size_t n = 0;
    MUST(ds_tokenize(m.get(), text.data(), text.size(), DS_TOKENIZE_BOS | DS_TOKENIZE_SPECIAL, ids.data(),
                     ids.size(), &n, &err));
    ids.resize(n);
    data d{ids, {}, {}, 512};
    ds_engine_config c = golden::engine_config();
    c.kv_type = kv;
    return mean_nll(d, golden::logits(golden::engine(m, c), ids, d.vocab));
}

TEST_CASE("mixed: bounds on size and on likelihood are kept") {
    const temp_dir dir;
    convert(data_path("tiny-r1"), dir / "float.gguf", {.type = format::bf16}, {});
    std::string text = own_text(4);
    const std::string bos = "<｜begin▁of▁sentence｜>";
    if (text.starts_with(bos)) text.erase(0, bos.size());  // the window starts with one
    write_bytes(dir / "text", text);
    const uint64_t most = fs::file_size(dir / "float.gguf");
    const double nll = nll_of(dir / "float.gguf", text, DS_KV_F32);
    mixed_options o{.texts = {dir / "text"}};
    o.max_bytes = most * 3 / 4;
    requantize_mixed(dir / "float.gguf", dir / "sized.gguf", o, {.threads = 2});
    CHECK(fs::file_size(dir / "sized.gguf") <= o.max_bytes);
    // one more matrix would have saved more than needed
    CHECK(fs::file_size(dir / "sized.gguf") > o.max_bytes - 2 * 84000);
    const nlohmann::json totals = nlohmann::json::parse(inspect_json(open(dir / "sized.gguf"), {}))["totals"];
    CHECK(totals["i8"]["tensors"] > 0);
    CHECK(totals["bf16"]["tensors"] > 0);  // the checkpoint's own format, so nothing is lost
    CHECK(totals["all"]["tensors"] == 39);
    CHECK(dir.entries() == 3);  // no temporary file is left

    o.max_bytes = UINT64_MAX;
    o.max_nll_loss = 0.0005;
    requantize_mixed(dir / "float.gguf", dir / "bound.gguf", o, {.threads = 2});
    const double loss = nll_of(dir / "bound.gguf", text, DS_KV_DEFAULT) / nll - 1;
    INFO("loss " << loss);
    CHECK(loss <= 0.0005);
    CHECK(open(dir / "bound.gguf").get_float("deepseek.quant.nll_loss") ==
          doctest::Approx(loss).epsilon(0.01));
    CHECK(fs::file_size(dir / "bound.gguf") < most);
}

TEST_CASE("mixed: with calibration, with unsupported settings, and with an f16 that overflows") {
    const temp_dir dir;
    convert(data_path("micro/qwen3"), dir / "float.gguf", {.type = format::f32}, {});
    write_bytes(dir / "text", "Twenty-one sheep and 3 dogs: how many legs?");
    calibrate_to(dir / "float.gguf", {questions}, dir / "stats");
    mixed_options o{.texts = {dir / "text"}, .calibration = dir / "stats", .max_nll_loss = 0.1};
    requantize_mixed(dir / "float.gguf", dir / "out.gguf", o, {});
    CHECK(open(dir / "out.gguf").get_floats("deepseek.quant.smooth_alphas").size() == 13);
    CHECK(divergence(dir / "out.gguf", golden::load("micro/qwen3"), DS_KV_DEFAULT) <= 0.005);
    fs::remove(dir / "out.gguf");

    o.max_bytes = 1000;
    const error small = failure_of([&] { requantize_mixed(dir / "float.gguf", dir / "out.gguf", o, {}); });
    CHECK(small.code == status::argument);
    CHECK(contains(small.text, "max-bytes"));
    o.max_bytes = UINT64_MAX;
    o.max_nll_loss = -1;
    CHECK(contains(failure_of([&] { requantize_mixed(dir / "float.gguf", dir / "out.gguf", o, {}); }).text,
                   "max-nll-loss"));
    o.max_nll_loss = 0.1;
    o.texts = {};
    CHECK(contains(failure_of([&] { requantize_mixed(dir / "float.gguf", dir / "out.gguf", o, {}); }).text,
                   "too few tokens"));
    o.calibration = dir / "text";
    CHECK(failure_of([&] { requantize_mixed(dir / "float.gguf", dir / "out.gguf", o, {}); }).code ==
          status::format);
    CHECK(!fs::exists(dir / "out.gguf"));
    CHECK(dir.entries() == 3);

    // ffn_up times 2^22 and ffn_down divided by 2^22: the same function, but out of range for f16.
    std::string bytes = file_bytes(dir / "float.gguf");
    const gguf_file f = open(dir / "float.gguf");
    for (const auto &[name, factor] :
         {std::pair("blk.1.ffn_up.weight", 0x1p22f), std::pair("blk.1.ffn_down.weight", 0x1p-22f)}) {
        const gguf_tensor &t = *f.find_tensor(name);
        for (size_t i = 0; i < t.bytes; i += 4) {
            float x;
            memcpy(&x, &bytes[t.offset + i], 4);
            x *= factor;
            memcpy(&bytes[t.offset + i], &x, 4);
        }
    }
    write_bytes(dir / "large.gguf", bytes);
    requantize_mixed(dir / "large.gguf", dir / "out.gguf",
                     {.texts = {dir / "text"}, .max_bytes = bytes.size()}, {});
    CHECK(open(dir / "out.gguf").find_tensor("blk.1.ffn_up.weight")->type == format::bf16);
}
