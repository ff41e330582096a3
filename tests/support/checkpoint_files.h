// A checkpoint of tests/data in memory, changed and saved for the converter's tests. Safetensors are read and
// written here without the converter's reader, so that a mistake of it cannot hide.
#pragma once

#include "files.h"

#include <nlohmann/json.hpp>

#include <map>

namespace ds::test {

struct raw_tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    std::string bytes;

    size_t elements() const { return dtype == "F32" ? bytes.size() / 4 : bytes.size() / 2; }
    // Element i of a BF16 tensor: the upper half of an F32.
    float bf16(size_t i) const {
        uint32_t u = static_cast<uint32_t>(static_cast<uint8_t>(bytes[2 * i])) << 16 |
                     static_cast<uint32_t>(static_cast<uint8_t>(bytes[2 * i + 1])) << 24;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
};
using raw_tensors = std::map<std::string, raw_tensor>;

// A safetensors file without its data: the header after its length, u64 little endian.
inline std::string with_length(const std::string &header) {
    const uint64_t n = header.size();
    return std::string(reinterpret_cast<const char *>(&n), 8) + header;
}

std::string safetensors_bytes(const raw_tensors &tensors);
// Adds the file's tensors to `out`.
void read_safetensors(const std::string &path, raw_tensors &out);

struct checkpoint_files {
    nlohmann::json config, tokenizer, tokenizer_config;
    raw_tensors tensors;

    explicit checkpoint_files(const std::string &name);
    void save(const std::string &directory, bool weights = true) const;
};

}  // namespace ds::test
