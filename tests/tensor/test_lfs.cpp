// Git LFS pointers in place of each file that the tools and the library read. The error says what the file
// is.
#include "../support/checkpoint_files.h"

#include "../../deepseek.h"
#include "../../quantize/convert.h"
#include "../../quantize/requantize.h"
#include "../../tensor/lfs.h"

using namespace ds;
using namespace ds::test;

namespace {

constexpr const char *pointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:0000000000000000000000000000000000000000000000000000000000000000\nsize 988097824\n";

void check_named(const std::string &text, const std::string &file) {
    CAPTURE(text);
    CHECK(contains(
        text, file + ": is not the file itself but a pointer of Git LFS to it, a file of 988097824 bytes"));
    CHECK(contains(text, "git lfs pull"));
}

}  // namespace

TEST_CASE("lfs: a pointer in place of a checkpoint's file") {
    const checkpoint_files c("micro/llama");
    for (const char *name :
         {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
          "chat_template.jinja", "chat_template.json", "model.safetensors", "model.safetensors.index.json",
          "model-00001-of-00001.safetensors"}) {
        const temp_dir dir;
        c.save(dir / "in");
        if (std::string(name).starts_with("model") && std::string(name) != "model.safetensors") {
            fs::remove(dir / "in/model.safetensors");
            write_bytes(dir / "in/model.safetensors.index.json",
                        R"({"weight_map":{"a":"model-00001-of-00001.safetensors"}})");
        }
        write_bytes(dir / (std::string("in/") + name), pointer);
        const error e = failure_of([&] { convert(dir / "in", dir / "out.gguf", {}, {}); });
        CHECK(e.code == status::format);
        check_named(e.text, dir / (std::string("in/") + name));
        CHECK(!fs::exists(dir / "out.gguf"));
    }
}

TEST_CASE("lfs: a pointer in place of a model, however it is read") {
    const temp_dir dir;
    const std::string path = dir / "model.gguf";
    write_bytes(path, pointer);
    for (const uint32_t flags : {0u, uint32_t(DS_LOAD_READ)}) {
        ds_model_config config{};
        config.struct_size = sizeof config;
        config.flags = flags;
        ds_model *m = nullptr;
        ds_error err{};
        CHECK(ds_model_load(path.c_str(), &config, &m, &err) == DS_ERR_FORMAT);
        check_named(err.message, path);
    }
    ds_model *m = nullptr;
    ds_error err{};
    alignas(64) char bytes[256];
    strcpy(bytes, pointer);
    CHECK(ds_model_load_memory(bytes, strlen(bytes), nullptr, &m, &err) == DS_ERR_FORMAT);
    CHECK(contains(err.message, "pointer of Git LFS"));
    check_named(failure_of([&] { requantize(path, dir / "out.gguf", format::q8_0, {}); }).text, path);
}

TEST_CASE("lfs: pointers, and files that only begin like one") {
    const std::string p = pointer;
    const auto refused = [](const std::string &bytes) {
        try {
            refuse_lfs_pointer(bytes, "file");
        } catch (const error &) {
            return true;
        }
        return false;
    };
    CHECK(refused(p));
    CHECK(refused(p.substr(0, p.find("size"))));
    CHECK(refused("version https://hawser.github.com/spec/v1\noid sha256:00\nsize 1\n"));
    CHECK(refused("version https://git-lfs.github.com/spec/v1\r\noid sha256:00\r\nsize 1\r\n"));
    CHECK(!refused("version 1"));
    CHECK(!refused("versions https://git-lfs.github.com/spec/v1"));
    CHECK(!refused(p + std::string(1024, ' ')));  // pointers are shorter by definition
    CHECK(!refused(""));
}
