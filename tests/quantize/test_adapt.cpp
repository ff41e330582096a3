// `quantize adapt`: a model with an adapter added to its weights, against the sum in the test.
#include "../support/adapter_file.h"
#include "../support/files.h"

#include "../../quantize/requantize.h"

using namespace golden;
using ds::format;
using ds::test::failure_of;
using ds::test::file_bytes;
using ds::test::temp_dir;
using ds::test::write_bytes;

TEST_CASE("adapt: weights with an adapter are the sum, in the file's formats or in another") {
    const temp_dir dir;
    const std::string in = dir / "in.gguf", out = dir / "out.gguf", path = dir / "a.gguf";
    const char *const models[][2] = {
        {"micro/llama", "llama"}, {"micro/deepseek-v2-lite", "deepseek2"}, {"micro/r1", "r1"}};
    for (const auto &of : models) {
        const char *const name = of[0], *const architecture = of[1];
        CAPTURE(std::string(name));
        const model_file &base = micro_file(name);
        const model_file adapter = random_adapter(base, architecture, 3, 6, 4, 2);
        write_bytes(path, adapter.bytes());
        write_bytes(in, base.bytes());
        ds::apply_adapter(in, path, 0.5f, {}, out, {});
        const model_file wanted = merged(base, adapter, 6, 0.5);
        model_file got = read_model_file(out);
        REQUIRE(got.parts.size() == wanted.parts.size());
        for (const model_file::part &p : wanted.parts) {
            CAPTURE(p.name);
            CHECK(got.find(p.name).bytes == p.bytes);
        }
        // a packed format and I8: what is adapted is within the format's step of the sum, the rest is copied
        for (const format type : {format::q8_0, format::i8}) {
            CAPTURE(std::string(ds::info(type).text));
            const model_file &packed = micro_file(name, type);
            write_bytes(in, packed.bytes());
            ds::apply_adapter(in, path, 1, {}, out, {});
            const ds::gguf_file before(ds::os::mapping::map_file(in), in),
                after(ds::os::mapping::map_file(out), out);
            REQUIRE(before.tensors().size() == after.tensors().size());
            CHECK(before.key_count() == after.key_count());
            const auto row_of = [](const ds::gguf_file &f, const ds::gguf_tensor &t, int64_t r) {
                std::vector<float> row(static_cast<size_t>(t.ne[1]));
                ds::decode_row(t.type, t.data + ds::row_bytes(t.type, row.size()) * static_cast<uint64_t>(r),
                               row.data(), row.size());
                const ds::gguf_tensor *const s = f.find_tensor(std::string(t.name) + "_scale");
                for (float &x : row) x *= s ? reinterpret_cast<const float *>(s->data)[r] : 1.0f;
                return row;
            };
            size_t changed = 0;
            for (const ds::gguf_tensor &t : before.tensors()) {
                const std::string tensor(t.name);
                CAPTURE(tensor);
                const ds::gguf_tensor &u = *after.find_tensor(tensor);
                REQUIRE(u.type == t.type);
                const auto a = std::find_if(adapter.parts.begin(), adapter.parts.end(),
                                            [&](const auto &p) { return p.name == tensor + ".lora_a"; });
                if (a == adapter.parts.end()) {
                    if (!tensor.ends_with("_scale")) CHECK(std::memcmp(t.data, u.data, t.bytes) == 0);
                    continue;
                }
                ++changed;
                model_file pair = adapter;
                const float *const av = pair.find(tensor + ".lora_a").f32(), *const bv =
                                                                                 pair.find(tensor + ".lora_b")
                                                                                     .f32();
                for (int64_t r = 0; r < t.ne[0]; r += 5) {
                    const std::vector<float> x = row_of(before, t, r), y = row_of(after, u, r);
                    std::vector<double> sum;
                    double largest = 0;
                    for (size_t k = 0; k < x.size(); ++k) {
                        double z = 0;
                        for (int64_t e = 0; e < 3; ++e)
                            z += double(bv[r * 3 + e]) * double(av[e * t.ne[1] + static_cast<int64_t>(k)]);
                        sum.push_back(double(x[k]) + 2 * z);  // alpha / rank
                        largest = std::max(largest, std::fabs(sum.back()));
                    }
                    for (size_t k = 0; k < x.size(); ++k)
                        CHECK(std::fabs(double(y[k]) - sum[k]) <= largest * (0.5 / 127 + 0.001));
                }
            }
            CHECK(changed == adapter.parts.size() / 2);
        }
        write_bytes(in, base.bytes());
        ds::apply_adapter(in, path, 1, format::q8_0, out, {});
        CHECK(read_model_file(out).find("blk.0.ffn_down.weight").type != format::f32);
    }
    // refused: another architecture's adapter; nothing is written
    write_bytes(in, micro_file("micro/qwen2").bytes());
    ds::test::fs::remove(out);
    CHECK(failure_of([&] { ds::apply_adapter(in, path, 1, {}, out, {}); }).code == ds::status::format);
    CHECK_FALSE(ds::test::fs::exists(out));
}
