// FP8 checkpoints. The codes are compared with the formula of the OCP specification in double precision. A
// converted checkpoint must equal, byte for byte, the conversion of one that holds the same weights in F32,
// decoded here.
#include "../support/checkpoint_files.h"

#include "../../quantize/convert.h"
#include "../../quantize/fp8.h"

#include <cmath>

using namespace ds;
using namespace ds::test;

// (-1)^s 2^(e - 7) (1 + m / 8), subnormal (-1)^s 2^-6 m / 8, and all ones but the sign is NaN (OCP 8-bit
// Floating Point Specification, table 1).
static double e4m3_by_formula(unsigned code) {
    const int exponent = static_cast<int>(code >> 3 & 15), mantissa = static_cast<int>(code & 7);
    if (exponent == 15 && mantissa == 7) return NAN;
    const double magnitude =
        exponent ? std::ldexp(1 + mantissa / 8.0, exponent - 7) : std::ldexp(mantissa / 8.0, -6);
    return code & 0x80 ? -magnitude : magnitude;
}

TEST_CASE("fp8: all codes of E4M3") {
    for (unsigned code = 0; code < 256; ++code) {
        CAPTURE(code);
        const float x = e4m3_to_f32(static_cast<uint8_t>(code));
        if ((code & 0x7f) == 0x7f) CHECK(std::isnan(x));
        else CHECK(x == e4m3_by_formula(code));
        CHECK(std::signbit(x) == (code >= 0x80));
    }
    CHECK(e4m3_to_f32(0x7e) == 448);
    CHECK(e4m3_to_f32(0x01) == 0x1p-9f);
}

namespace {

bool is_layer_matrix(const std::string &name, const raw_tensor &t) {
    return name.starts_with("model.layers.") && t.shape.size() == 2;
}

// Replaces the matrices of the layers by FP8: all codes but the NaNs occur, with a scale of a full
// significand for each block of rows x columns. `wide`: the same weights in F32.
void make_fp8(checkpoint_files &c, checkpoint_files *wide, int64_t block_rows, int64_t block_columns,
              const std::string &scale_type = "F32") {
    c.config["quantization_config"] = {{"quant_method", "fp8"},
                                       {"fmt", "e4m3"},
                                       {"activation_scheme", "dynamic"},
                                       {"weight_block_size", {block_rows, block_columns}}};
    uint32_t seed = 1;
    for (const auto &[name, t] : checkpoint_files(c).tensors) {
        if (!is_layer_matrix(name, t)) continue;
        const int64_t rows = t.shape[0], cols = t.shape[1],
                      across = (cols + block_columns - 1) / block_columns,
                      down = (rows + block_rows - 1) / block_rows;
        std::vector<float> scales(static_cast<size_t>(across * down));
        raw_tensor codes{"F8_E4M3", t.shape, ""}, blocks{scale_type, {down, across}, ""},
            values{"F32", t.shape, ""};
        for (float &s : scales) {
            s = std::ldexp(1.0f + static_cast<float>((seed = seed * 1664525 + 1013904223) >> 9) * 0x1p-23f,
                           -12);
            if (scale_type == "BF16") s = bf16_to_f32(f32_to_bf16(s));
            const uint16_t half = f32_to_bf16(s);
            blocks.bytes += scale_type == "BF16" ? std::string(reinterpret_cast<const char *>(&half), 2)
                                                 : std::string(reinterpret_cast<const char *>(&s), 4);
        }
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < cols; ++i) {
                seed = seed * 1664525 + 1013904223;
                // without 0x7f and 0xff, the NaNs
                const unsigned code = (seed >> 24) % 254, shifted = code + (code >= 0x7f);
                const auto x = static_cast<float>(
                    e4m3_by_formula(shifted) *
                    static_cast<double>(
                        scales[static_cast<size_t>(r / block_rows * across + i / block_columns)]));
                codes.bytes += static_cast<char>(shifted);
                values.bytes.append(reinterpret_cast<const char *>(&x), 4);
            }
        c.tensors[name] = codes;
        c.tensors[name + "_scale_inv"] = blocks;
        if (wide) wide->tensors[name] = values;
    }
}

}  // namespace

TEST_CASE("fp8: a checkpoint converts to the same bytes as one of the same weights in F32, for every type") {
    struct {
        int64_t rows, columns;
        const char *scales;
    } const cases[] = {
        {128, 128, "F32"}, {32, 48, "F32"}, {128, 128, "BF16"}, {1, 1000, "F32"}, {7, 1, "F32"}};
    for (const auto &b : cases) {
        CAPTURE(b.rows);
        const temp_dir dir;
        // 96 and 160 wide: full blocks, partial ones, and blocks larger than the tensor
        checkpoint_files fp8("micro/llama"), wide("micro/llama");
        make_fp8(fp8, &wide, b.rows, b.columns, b.scales);
        fp8.save(dir / "fp8");
        wide.save(dir / "wide");
        CHECK(lossless_type(dir / "fp8") == format::f32);
        for (const format type : target_formats()) {
            CAPTURE(info(type).text);
            convert(dir / "fp8", dir / "fp8.gguf", {type, false, "m"}, {.threads = 2});
            convert(dir / "wide", dir / "wide.gguf", {type, false, "m"}, {});
            CHECK(file_bytes(dir / "fp8.gguf") == file_bytes(dir / "wide.gguf"));
            if (b.rows != 128) break;
        }
    }
}

TEST_CASE("fp8: every fault is named with file, tensor and index") {
    // [160, 96] and [2, 1]
    const std::string up = "model.layers.1.mlp.up_proj.weight", q = "model.layers.0.self_attn.q_proj.weight",
                      scale = up + "_scale_inv";
    const auto set_scale = [&](checkpoint_files &c, size_t i, float x) {
        memcpy(c.tensors.at(scale).bytes.data() + 4 * i, &x, 4);
    };
    struct fault {
        const char *what;
        std::function<void(checkpoint_files &)> change;
        status code;
        std::string message;
    };
    const fault faults[] = {
        {"no scales", [&](auto &c) { c.tensors.erase(scale); }, status::format,
         "'" + up + "': F8_E4M3, but the checkpoint lacks '" + scale + "'"},
        {"scales transposed",
         [&](auto &c) {
             c.tensors[scale].shape = {1, 2};
         },
         status::format,
         "'" + scale + "': shape [1, 2], but blocks of [128, 128] of a weight of [160, 96] ask for [2, 1]"},
        {"too few scales",
         [&](auto &c) {
             c.tensors[scale].shape = {1, 1}, c.tensors[scale].bytes.resize(4);
         },
         status::format, "ask for [2, 1]"},
        {"too many scales",
         [&](auto &c) {
             c.tensors[scale].shape = {3, 1}, c.tensors[scale].bytes.resize(12);
         },
         status::format, "ask for [2, 1]"},
        {"scales of one dimension", [&](auto &c) { c.tensors[scale].shape = {2}; }, status::format,
         "shape [2]"},
        {"scales of integers", [&](auto &c) { c.tensors[scale].dtype = "I32"; }, status::unsupported,
         "'" + scale + "': scales of element type I32"},
        {"scales of a weight that needs none",
         [&](auto &c) {
             c.tensors["model.norm.weight_scale_inv"] = {"F32", {1, 1}, "1234"};
         },
         status::unsupported, "no place for 'model.norm.weight_scale_inv'"},
        {"NaN", [&](auto &c) { c.tensors[up].bytes[3 * 96 + 17] = 0x7f; }, status::numeric,
         ": " + up + "[3, 17]: nan is not a finite number"},
        {"negative NaN in a row that moves",
         [&](auto &c) { c.tensors[q].bytes[9 * 96 + 95] = static_cast<char>(0xff); }, status::numeric,
         ": " + q + "[9, 95]: "},
        {"infinite scale", [&](auto &c) { set_scale(c, 1, INFINITY); }, status::numeric,
         ": " + scale + "[1, 0]: inf is not a finite number"},
        {"scale is NaN", [&](auto &c) { set_scale(c, 0, NAN); }, status::numeric,
         ": " + scale + "[0, 0]: nan is not a finite number"},
        {"product too large",
         [&](auto &c) { set_scale(c, 0, 3e38f), c.tensors[up].bytes.replace(0, 1, "\x7e"); }, status::numeric,
         ": " + up + "[0, 0]: inf"},
        {"a vector in FP8",
         [&](auto &c) {
             c.tensors["model.norm.weight"] = {"F8_E4M3", {96}, std::string(96, '8')};
         },
         status::unsupported, "only matrices are read"},
        {"no quantization_config", [&](auto &c) { c.config.erase("quantization_config"); }, status::format,
         "config.json has no quantization_config"},
        {"no block size", [&](auto &c) { c.config["quantization_config"].erase("weight_block_size"); },
         status::format, "'quantization_config.weight_block_size': missing"},
        {"block size 0",
         [&](auto &c) {
             c.config["quantization_config"]["weight_block_size"] = {128, 0};
         },
         status::format, "weight_block_size': not positive"},
        {"block size of three",
         [&](auto &c) {
             c.config["quantization_config"]["weight_block_size"] = {1, 128, 128};
         },
         status::format, "weight_block_size': not two numbers"},
        {"E5M2", [&](auto &c) { c.config["quantization_config"]["fmt"] = "e5m2"; }, status::unsupported,
         "'e5m2' is not known; known: e4m3"},
        {"tensor of E5M2", [&](auto &c) { c.tensors[up].dtype = "F8_E5M2"; }, status::unsupported,
         "element type F8_E5M2 is not read; known: F32, F16, BF16, F8_E4M3"},
    };
    checkpoint_files good("micro/llama");
    make_fp8(good, nullptr, 128, 128);
    for (const fault &f : faults) {
        CAPTURE(f.what);
        const temp_dir dir;
        checkpoint_files c = good;
        f.change(c);
        c.save(dir / "in");
        const error e = failure_of([&] {
            convert(dir / "in", dir / "out.gguf", {format::q8_0, false, "m"}, {.threads = 2});
        });
        INFO(e.text);
        CHECK(e.code == f.code);
        CHECK(contains(e.text, f.message));
        CHECK(contains(e.text, dir / "in"));
        CHECK(!fs::exists(dir / "out.gguf"));
    }
}
