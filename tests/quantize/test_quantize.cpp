// The quantize tool apart from checkpoints: random files, requantizing, inspection, progress.
#include "../support/checkpoint_files.h"
#include "../support/formats.h"

#include "../../quantize/calibrate.h"
#include "../../quantize/convert.h"
#include "../../quantize/inspect.h"
#include "../../quantize/progress.h"
#include "../../quantize/requantize.h"
#include "../../quantize/synth.h"

#include <cmath>
#include <fstream>
#include <set>

using namespace ds;
using namespace ds::test;

static gguf_file open(const std::string &path) { return gguf_file(os::mapping::map_file(path), path); }

// ---- Random files

TEST_CASE("synth: bytes as byte-level BPE spells them") {
    const nlohmann::json vocab = checkpoint_files("tiny-r1").tokenizer["model"]["vocab"];
    std::set<std::string> spelled;
    for (unsigned b = 0; b < 256; ++b) {
        spelled.insert(byte_level_text(static_cast<uint8_t>(b)));
        CHECK(vocab.contains(byte_level_text(static_cast<uint8_t>(b))));
    }
    CHECK(spelled.size() == 256);
    CHECK(byte_level_text(' ') == "Ġ");
    CHECK(byte_level_text('\n') == "Ċ");
    CHECK(byte_level_text(0xad) == "Ń");
    CHECK(byte_level_text(0xff) == "ÿ");
}

TEST_CASE("synth: the named shapes are those of the published models") {
    CHECK(synth_shape_text("r1-1.5b") ==
          "qwen2, 28 layers of 1536, 12/2 heads of 128, ffn 8960, vocabulary 151936");
    CHECK(synth_shape_text("r1-7b") ==
          "qwen2, 28 layers of 3584, 28/4 heads of 128, ffn 18944, vocabulary 152064");
    CHECK(synth_shape_text("r1-8b") ==
          "llama, 32 layers of 4096, 32/8 heads of 128, ffn 14336, vocabulary 128256");
    CHECK(synth_shape_text("r1-0528-8b") ==
          "qwen3, 36 layers of 4096, 32/8 heads of 128, ffn 12288, vocabulary 151936");
    CHECK(synth_shape_text("r1-zero-6.7b") ==
          "llama, 32 layers of 4096, 32/32 heads of 128, ffn 11008, vocabulary 32256");
    CHECK(synth_shape_text("r1-13b") ==
          "r1, 71 layers of 4096, 32/32 heads of 192, ffn 11008, vocabulary 32256");
    const error e = failure_of([] { synth_shape_text("r1-9b"); });
    CHECK(e.code == status::argument);
    CHECK(contains(e.text, "r1-14b"));
}

TEST_CASE("synth: files load, tokenize and hold weights of a plausible size") {
    const temp_dir dir;
    for (const arch *const shaped : architectures())
        for (const format type : uniform_formats()) {
            const std::string shape = std::string("tiny-") + shaped->name;
            CAPTURE(shape);
            CAPTURE(info(type).text);
            synthesize(dir / "out.gguf", {shape, type, 1}, {});
            const gguf_file f = open(dir / "out.gguf");
            const arch *const a = arch_by_name(f.get_string("general.architecture"));
            REQUIRE(a == shaped);
            for (const tensor_row &row : a->tensors(a->read(f))) {
                const gguf_tensor *const t = f.find_tensor(row.name);
                if (row.optional && !t) continue;
                REQUIRE(t);
                CHECK(std::vector<int64_t>(t->ne, t->ne + t->rank) == row.ne);
                CHECK(t->type == (row.stays_f32() ? format::f32 : type));
            }
            // 128 x 256: deviation 1 / sqrt(256 * 2 * layers)
            const double deviation = 1 / std::sqrt(512.0 * static_cast<double>(a->read(f).layers));
            const gguf_tensor &down = *f.find_tensor("blk.0.ffn_down.weight");
            std::vector<float> x(128 * 256);
            decode_row(down.type, down.data, x.data(), x.size());
            if (type == format::i8) {
                const auto *scales =
                    reinterpret_cast<const float *>(f.find_tensor("blk.0.ffn_down.weight_scale")->data);
                for (size_t i = 0; i < x.size(); ++i) x[i] *= scales[i / 256];
            }
            double sum = 0, squares = 0;
            for (const float v : x) {
                sum += v;
                squares += static_cast<double>(v) * v;
            }
            CHECK(std::fabs(sum / static_cast<double>(x.size())) < 0.001);
            CHECK(std::sqrt(squares / static_cast<double>(x.size())) ==
                  doctest::Approx(deviation).epsilon(0.02));

            const tokenizer tok(f);
            std::vector<token_id> ids;
            const std::string text = "Hello there, 三 \xff\n";
            tok.encode(text, {}, ids);
            std::string back;
            for (const token_id id : ids) back += tok.bytes(id, false);
            CHECK(back == text);
            CHECK(ids.size() < text.size());
            CHECK(tok.size() == 512);
        }
    CHECK(open(dir / "out.gguf").find_tensor("rope_freqs.weight") == nullptr);
    synthesize(dir / "out.gguf", {"tiny-llama", format::q8_0, 1}, {});
    CHECK(open(dir / "out.gguf").find_tensor("rope_freqs.weight"));
    CHECK(open(dir / "out.gguf").find_tensor("output.weight") == nullptr);
}

TEST_CASE("synth: fewer layers and a smaller vocabulary") {
    const temp_dir dir;
    synthesize(dir / "out.gguf", {"tiny-qwen2", format::q8_0, 1, 1, 300}, {});
    const gguf_file f = gguf_file::open(dir / "out.gguf");
    CHECK(f.get_uint("qwen2.block_count", 100) == 1);
    const gguf_tensor &embedding = *f.find_tensor("token_embd.weight");
    CHECK(std::vector<int64_t>(embedding.ne, embedding.ne + embedding.rank) ==
          std::vector<int64_t>{300, 128});
    CHECK(f.find_tensor("blk.0.attn_q.weight"));
    CHECK(!f.find_tensor("blk.1.attn_q.weight"));
    // shared blocks: as many layers to a block
    synthesize(dir / "out.gguf", {"tiny-r1", format::q8_0, 1, 2, 300}, {});
    CHECK(gguf_file::open(dir / "out.gguf").get_ints("r1.block_share_map") == std::vector<int32_t>{0, 0});
    synthesize(dir / "out.gguf", {"tiny-r1", format::q8_0, 1, 6, 300}, {});
    CHECK(gguf_file::open(dir / "out.gguf").get_ints("r1.block_share_map") ==
          std::vector<int32_t>{0, 0, 1, 1, 2, 2});
}

// The parameters of a shape's stored tensors, and of those that a pass over all layers reads. Nothing is
// written.
struct shape_size {
    double stored, run;
};
static shape_size size_of(const std::string &shape) {
    const std::string header = synth_metadata({shape});
    const gguf_file f(os::mapping::borrow(header.data(), header.size()), shape);
    const arch &a = *arch_of(f);
    const hparams h = a.read(f);
    shape_size size{};
    for (const tensor_row &row : a.tensors(h)) {
        if (row.what == role::rope_divisors) continue;
        double n = 1, runs = 0;
        for (const int64_t d : row.ne) n *= static_cast<double>(d);
        for (int64_t layer = 0; layer < h.layers; ++layer) runs += h.block_of(layer) == row.layer;
        size.stored += n;
        size.run += n * (row.layer < 0 ? 1 : runs);
    }
    return size;
}

TEST_CASE(
    "synth: r1-13b runs 1.7 times the parameters that it stores, in at most 18 % more than r1-zero-6.7b") {
    const shape_size zero = size_of("r1-zero-6.7b"), r1 = size_of("r1-13b");
    CHECK(zero.stored == doctest::Approx(6.74e9).epsilon(0.005));
    CHECK(zero.run == zero.stored);
    CHECK(r1.run == doctest::Approx(13.4e9).epsilon(0.01));
    CHECK(r1.run / r1.stored == doctest::Approx(1.7).epsilon(0.01));
    CHECK(r1.stored <= 1.18 * zero.stored);
}

TEST_CASE("synth: the result depends on the seed and nothing else") {
    const temp_dir dir;
    synthesize(dir / "a.gguf", {"tiny-qwen3", format::q8_0, 1}, {});
    synthesize(dir / "b.gguf", {"tiny-qwen3", format::q8_0, 1}, {.threads = 3});
    synthesize(dir / "c.gguf", {"tiny-qwen3", format::q8_0, 2}, {});
    CHECK(file_bytes(dir / "a.gguf") == file_bytes(dir / "b.gguf"));
    CHECK(file_bytes(dir / "a.gguf") != file_bytes(dir / "c.gguf"));
}

TEST_CASE("policy: llama.cpp's mixes, and the formats of rows of other lengths") {
    const auto row = [](role what, int64_t layer, int64_t columns) {
        tensor_row r{"x", "", {512, columns}, what, false};
        r.layer = layer;
        return r;
    };
    hparams h;
    h.layers = 32, h.heads = 32, h.kv_heads = 8;
    const auto choice = [&](format wanted, role what, int64_t layer, int64_t columns = 512,
                            bool tied = false) {
        return format_policy(wanted, h, tied)(row(what, layer, columns));
    };
    for (const format f : {format::q4_k, format::q5_k})
        for (const role what : {role::value, role::down}) {
            int more = 0;  // an eighth of the layers at each end, and a third of the rest
            for (int i = 0; i < 32; ++i) more += choice(f, what, i) == format::q6_k;
            CHECK(more == 16);
            CHECK(choice(f, what, 3) == format::q6_k);
            CHECK(choice(f, what, 4) == f);
            CHECK(choice(f, what, 6) == format::q6_k);
            CHECK(choice(f, what, 28) == format::q6_k);
        }
    CHECK(choice(format::q3_k, role::value, 1) == format::q5_k);
    CHECK(choice(format::q3_k, role::value, 2) == format::q4_k);
    CHECK(choice(format::q3_k, role::down, 1) == format::q5_k);
    CHECK(choice(format::q3_k, role::down, 2) == format::q4_k);
    CHECK(choice(format::q3_k, role::attention_output, 2) == format::q4_k);
    CHECK(choice(format::q2_k, role::value, 9) == format::q4_k);
    CHECK(choice(format::q2_k, role::down, 9) == format::q3_k);
    for (const format f : {format::q2_k, format::q3_k, format::q4_k, format::q5_k, format::q6_k, format::q4_0,
                           format::q5_1, format::iq4_nl}) {
        CHECK(choice(f, role::query, 9) == f);
        CHECK(choice(f, role::gate, 9) == f);
        CHECK(choice(f, role::embedding, -1) == f);
        CHECK(choice(f, role::embedding, -1, 512, true) == format::q6_k);
        CHECK(choice(f, role::output, -1) == format::q6_k);
        CHECK(choice(f, role::norm, 9) == format::f32);
    }
    for (const format f : {format::f16, format::q8_0, format::i8}) CHECK(choice(f, role::output, -1) == f);
    for (const auto &[f, narrow] : {std::pair(format::q2_k, format::iq4_nl),
                                    {format::q3_k, format::iq4_nl},
                                    {format::q4_k, format::q5_0},
                                    {format::q5_k, format::q5_1},
                                    {format::q6_k, format::q8_0}}) {
        CHECK(choice(f, role::query, 9, 480) == narrow);
        CHECK(choice(f, role::query, 9, 481) == format::f16);
    }
}

TEST_CASE(
    "requantize: types of few bits in files that load, remarks for rows that do not fit, refusals by name") {
    const temp_dir dir;
    std::vector<std::string> remarks;
    const job j{.note = [&](const std::string &text) { remarks.push_back(text); }};
    synthesize(dir / "in.gguf", {"small-llama", format::f32, 1}, {});
    for (const auto &[type, number] : {std::pair(format::q4_k, 15),
                                       {format::q5_k, 17},
                                       {format::q3_k, 12},
                                       {format::q2_k, 10},
                                       {format::q6_k, 18},
                                       {format::q4_0, 2},
                                       {format::iq4_nl, 25}}) {
        requantize(dir / "in.gguf", dir / "out.gguf", type, j);
        const gguf_file f = open(dir / "out.gguf");
        CHECK(f.get_uint("general.file_type", 100) == static_cast<uint64_t>(number));
        CHECK(f.get_uint("general.quantization_version", 100) == 2);
        CHECK(f.find_tensor("output.weight")->type == format::q6_k);
        CHECK(f.find_tensor("blk.1.attn_q.weight")->type == type);
    }
    CHECK(remarks.empty());
    synthesize(dir / "tiny.gguf", {"tiny-llama", format::f32, 1}, {});
    requantize(dir / "tiny.gguf", dir / "out.gguf", format::q4_k, j);
    REQUIRE(remarks.size() == 1);
    for (const char *const part : {"token_embd.weight", "128", "q6_k", "q8_0", "more"})
        CHECK(contains(remarks[0], part));
    CHECK(open(dir / "out.gguf").find_tensor("blk.0.attn_q.weight")->type == format::q5_0);
    CHECK(open(dir / "out.gguf").find_tensor("blk.1.ffn_down.weight")->type == format::q6_k);  // of 256

    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 70000.0f}) {
        std::string bytes = file_bytes(dir / "in.gguf");
        const gguf_file f = open(dir / "in.gguf");
        memcpy(&bytes[f.find_tensor("blk.2.ffn_up.weight")->offset + 4 * (256 * 3 + 5)], &bad, sizeof bad);
        write_bytes(dir / "bad.gguf", bytes);
        const error e = failure_of([&] { requantize(dir / "bad.gguf", dir / "out.gguf", format::q4_k, {}); });
        CHECK(e.code == status::numeric);
        CHECK(contains(e.text, "blk.2.ffn_up.weight[3, 5]"));
    }
}

TEST_CASE("requantize: statistics lower the error where the inputs are large") {
    const temp_dir dir;
    synthesize(dir / "in.gguf", {"small-llama", format::f32, 1}, {});
    write_bytes(dir / "text.txt", "the quick brown fox jumps over the lazy dog and then some more of it, "
                                  "again and again, until there is enough");
    calibration c = calibrate(dir / "in.gguf", {dir / "text.txt"}, {}, {});
    for (linear_input &in : c.inputs)
        for (size_t i = 0; i < in.channels(); ++i) in.mean_square[i] = i % 8 ? 0.01f : 1.0f;
    save(c, dir / "stats");
    requantize(dir / "in.gguf", dir / "plain.gguf", format::q4_k, {});
    requantize_weighted(dir / "in.gguf", dir / "weighted.gguf", format::q4_k, dir / "stats", {});
    const gguf_file in = open(dir / "in.gguf"), plain = open(dir / "plain.gguf"),
                    weighted = open(dir / "weighted.gguf");
    const auto error_of = [&](const gguf_file &f, const std::string &name) {
        const gguf_tensor &t = *f.find_tensor(name);
        std::vector<float> x(in.find_tensor(name)->bytes / 4), y(x.size());
        memcpy(x.data(), in.find_tensor(name)->data, 4 * x.size());
        decode_row(t.type, t.data, y.data(), y.size());
        double sum = 0;
        for (size_t i = 0; i < x.size(); i += 8)
            sum += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
        return sum;
    };
    for (const char *const name : {"blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.1.attn_output.weight",
                                   "blk.1.ffn_up.weight", "blk.2.ffn_down.weight", "output.weight"})
        CHECK(error_of(weighted, name) < 0.8 * error_of(plain, name));
    CHECK(error_of(weighted, "token_embd.weight") == error_of(plain, "token_embd.weight"));
    CHECK(weighted.get_uint("deepseek.quant.calibration_tokens", 1000) == c.tokens);
}

TEST_CASE("synth: files of few bits hold weights of a plausible size") {
    const temp_dir dir;
    for (const format type : {format::q4_0, format::q4_k, format::q6_k, format::q2_k}) {
        CAPTURE(info(type).text);
        synthesize(dir / "out.gguf", {"small-llama", type, 1}, {});
        const gguf_file f = open(dir / "out.gguf");
        // 768 x 256: deviation 1 / sqrt(256)
        const gguf_tensor &gate = *f.find_tensor("blk.1.ffn_gate.weight");
        CHECK(gate.type == type);
        std::vector<float> x(768 * 256);
        decode_row(gate.type, gate.data, x.data(), x.size());
        double squares = 0;
        for (const float v : x) squares += static_cast<double>(v) * v;
        CHECK(std::sqrt(squares / static_cast<double>(x.size())) == doctest::Approx(1.0 / 16).epsilon(0.05));
    }
}

// ---- Requantizing

TEST_CASE("requantize: the same file as converting directly, from each lossless format") {
    const temp_dir dir;
    for (const char *const name : {"micro/llama3", "micro/qwen2"})
        for (const format through : {format::f32, format::bf16}) {
            convert(data_path(name), dir / "first.gguf", {through, false, "m"}, {});
            for (const format type : target_formats()) {
                convert(data_path(name), dir / "direct.gguf", {type, false, "m"}, {});
                requantize(dir / "first.gguf", dir / "second.gguf", type, {.threads = 2});
                CHECK(file_bytes(dir / "direct.gguf") == file_bytes(dir / "second.gguf"));
            }
        }
}

TEST_CASE("requantize: to a larger format with a remark, and over its own source") {
    const temp_dir dir;
    std::vector<std::string> remarks;
    const job j{.note = [&](const std::string &text) { remarks.push_back(text); }};
    convert(data_path("micro/qwen3"), dir / "a.gguf", {}, {});
    requantize(dir / "a.gguf", dir / "b.gguf", format::f32, j);
    REQUIRE(remarks.size() == 1);
    const gguf_file a = open(dir / "a.gguf"), b = open(dir / "b.gguf");
    REQUIRE(a.tensors().size() == b.tensors().size());
    for (size_t i = 0; i < a.tensors().size(); ++i) {
        const gguf_tensor &from = a.tensors()[i], &to = b.tensors()[i];
        const size_t n = to.bytes / 4;
        std::vector<float> wanted(n);
        decode_row(from.type, from.data, wanted.data(), n);
        CHECK(to.type == format::f32);
        CHECK(memcmp(wanted.data(), to.data, to.bytes) == 0);
    }
    requantize(dir / "b.gguf", dir / "b.gguf", format::f16, j);
    CHECK(remarks.size() == 1);
    CHECK(open(dir / "b.gguf").get_uint("general.file_type", 100) == 1);
    CHECK(open(dir / "b.gguf").find_tensor("output.weight")->type == format::f16);
    CHECK(dir.entries() == 2);
}

TEST_CASE("requantize: unknown tensors and keys are kept, and unreadable ones are named") {
    const temp_dir dir;
    convert(data_path("micro/llama"), dir / "good.gguf", {}, {});
    const gguf_file good = open(dir / "good.gguf");
    const auto rebuilt = [&](const char *change) {
        gguf_writer w;
        for (size_t i = 0; i < good.key_count(); ++i) w.set_raw(good.key(i), good.value(i));
        w.set_string("company.note", "kept");
        if (change == std::string("arch")) w.set_string("general.architecture", "mamba");
        std::vector<std::string> data;
        for (const gguf_tensor &t : good.tensors()) {
            const bool other = change == std::string("type") && t.name == "blk.0.ffn_up.weight";
            w.add_tensor(std::string(t.name), other ? format::mxfp4 : t.type,
                         std::span(t.ne, static_cast<size_t>(t.rank)));
            data.push_back(other ? std::string(t.bytes / 34 * 17, 'x')
                                 : std::string(reinterpret_cast<const char *>(t.data), t.bytes));
        }
        const int64_t ne[] = {3};
        w.add_tensor("company.tensor", format::i32, ne);
        data.push_back("123456789abc");
        std::string bytes = w.header();
        for (size_t i = 0; i < data.size(); ++i) bytes += data[i] + std::string(w.padding(i), '\0');
        write_bytes(dir / "in.gguf", bytes);
    };
    rebuilt("none");
    requantize(dir / "in.gguf", dir / "out.gguf", format::bf16, {});
    const gguf_file f = open(dir / "out.gguf");
    CHECK(f.get_string("company.note") == "kept");
    REQUIRE(f.find_tensor("company.tensor"));
    CHECK(memcmp(f.find_tensor("company.tensor")->data, "123456789abc", 12) == 0);

    fs::remove(dir / "out.gguf");
    rebuilt("type");
    const error type = failure_of([&] { requantize(dir / "in.gguf", dir / "out.gguf", format::f32, {}); });
    CHECK(type.code == status::unsupported);
    CHECK(contains(type.text, "'blk.0.ffn_up.weight': mxfp4 is not read"));
    rebuilt("arch");
    CHECK(contains(failure_of([&] { requantize(dir / "in.gguf", dir / "out.gguf", format::f32, {}); }).text,
                   "'mamba' is not known"));
    CHECK(!fs::exists(dir / "out.gguf"));
}

// ---- Inspection

TEST_CASE("inspect: the bundled model as text and as JSON") {
    const std::string path = DS_SOURCE_DIR "/models/tiny-r1.gguf";
    const gguf_file f = open(path);
    const nlohmann::json j = nlohmann::json::parse(inspect_json(f, {}));
    CHECK(j["version"] == 3);
    CHECK(j["bytes"] == fs::file_size(path));
    CHECK(j["tensors"].size() == 39);
    CHECK(j["totals"]["q8_0"]["tensors"] == 30);  // 4 layers of 7 matrices, embedding, output
    CHECK(j["totals"]["q8_0"]["elements"] == 4 * (4 * 160 * 160 + 3 * 160 * 448) + 2 * 512 * 160);
    CHECK(j["totals"]["q8_0"]["bits_per_weight"] == 8.5);
    CHECK(j["totals"]["f32"]["elements"] == 9 * 160);
    CHECK(j["totals"]["all"]["tensors"] == 39);
    CHECK(j["metadata"][0]["key"] == "general.architecture");
    CHECK(j["metadata"][0]["value"] == "llama");
    uint64_t last = 0;
    for (const nlohmann::json &t : j["tensors"]) {
        CHECK(t["offset"].get<uint64_t>() > last);
        last = t["offset"];
        if (t["name"] == "blk.2.ffn_down.weight") CHECK(t["shape"] == nlohmann::json({160, 448}));
    }
    const std::string text = inspect_text(f, {});
    CHECK(contains(text, "blk.3.attn_norm.weight"));
    CHECK(contains(text, "string[512]"));
    CHECK(contains(text, "8.500"));
    CHECK(contains(text, "Ġ ="));
    CHECK(!contains(inspect_text(f, {8, false}), "blk.3.attn_norm.weight"));
    CHECK(!nlohmann::json::parse(inspect_json(f, {8, false})).contains("tensors"));
}

TEST_CASE("inspect: a file's strings cannot control the terminal or break the JSON") {
    gguf_writer w;
    w.set_string("general.name", "red \x1b[31m\x07 \xff\xfe");
    const std::string bytes = w.header();
    const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "file");
    CHECK(contains(inspect_text(f, {}), "red \\x1b[31m\\x07"));
    CHECK(inspect_text(f, {}).find('\x1b') == std::string::npos);
    CHECK(nlohmann::json::parse(inspect_json(f, {}))["metadata"][0]["key"] == "general.name");
}

TEST_CASE("progress: one line with share, rate and time left") {
    CHECK(progress_line(0, 1000000, 0) == "[------------------------------]   0%  0 B of 1.00 MB");
    CHECK(progress_line(1500000000, 3000000000, 5) ==
          "[###############---------------]  50%  1.50 GB of 3.00 GB  300 MB/s  0:05 left");
    CHECK(progress_line(1000, 4000000, 1) ==
          "[------------------------------]   0%  1.00 kB of 4.00 MB  1.00 kB/s  1:06:39 left");
    CHECK(progress_line(7, 7, 2) == "[##############################] 100%  7 B of 7 B  4 B/s  0:00 left");
    CHECK(bytes_text(999) == "999 B");
    CHECK(bytes_text(99950) == "100 kB");
    CHECK(bytes_text(12345678) == "12.3 MB");
}
