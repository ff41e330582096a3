// Directories, files and safetensors made, changed and read for tests; safetensors without the converter's
// reader.
#pragma once

#include "../../tensor/base.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <unistd.h>

namespace ds::test {

namespace fs = std::filesystem;

struct temp_dir {
    std::string path = (fs::temp_directory_path() / "deepseek-test-XXXXXX").string();
    temp_dir() { REQUIRE(mkdtemp(path.data()) != nullptr); }
    temp_dir(const temp_dir &) = delete;
    ~temp_dir() { fs::remove_all(path); }
    std::string operator/(const std::string &name) const { return path + "/" + name; }
    size_t entries() const {
        return static_cast<size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
    }
};

inline std::string file_bytes(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE_MESSAGE(in, path);
    std::stringstream all;
    all << in.rdbuf();
    return std::move(all).str();
}
inline void write_bytes(const std::string &path, const std::string &bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string data_path(const std::string &name) { return DS_SOURCE_DIR "/tests/data/" + name; }

// What a call throws; fails the test when it throws nothing.
inline error failure_of(const std::function<void()> &call) {
    try {
        call();
    } catch (const error &e) {
        return e;
    }
    FAIL_CHECK("nothing was thrown");
    return error(status::ok, "");
}
inline bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

struct raw_tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    std::string bytes;

    size_t elements() const { return dtype == "F32" ? bytes.size() / 4 : bytes.size() / 2; }
    float bf16(size_t i) const {  // element i of a BF16 tensor: the upper half of an F32
        uint32_t u = static_cast<uint32_t>(static_cast<uint8_t>(bytes[2 * i])) << 16 |
                     static_cast<uint32_t>(static_cast<uint8_t>(bytes[2 * i + 1])) << 24;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
};
using raw_tensors = std::map<std::string, raw_tensor>;

inline std::string with_length(const std::string &header) {
    const uint64_t n = header.size();
    return std::string(reinterpret_cast<const char *>(&n), 8) + header;
}

// In checkpoint_files.cpp, with what else needs JSON.
std::string safetensors_bytes(const raw_tensors &tensors);
void read_safetensors(const std::string &path, raw_tensors &out);  // adds to `out`

}  // namespace ds::test
