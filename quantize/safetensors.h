// Safetensors: one file, and a checkpoint directory of one file or of shards with an index. Any byte string
// is a safe input; nothing is copied. Specification: github.com/huggingface/safetensors, README.
#pragma once

#include "json.h"

#include "../tensor/formats.h"
#include "../tensor/os.h"

#include <optional>
#include <vector>

namespace ds {

struct safetensor {
    std::string name;
    std::string dtype;           // as the file spells it
    std::optional<format> type;  // what decode_row can read; none for other element types
    std::vector<int64_t> ne;     // outermost first
    const uint8_t *data;
    uint64_t bytes;
    size_t file;  // of the checkpoint
};

class safetensors_file {
public:
    // Throws status::format, naming the tensor: header length, JSON, shapes, offsets that leave the file,
    // overlap, or do not add up.
    safetensors_file(os::mapping bytes, std::string name, const stop_asked &stopped = {});
    const std::string &name() const { return name_; }
    const std::vector<safetensor> &tensors() const { return tensors_; }  // in the order of their bytes
    std::vector<safetensor> take_tensors() { return std::move(tensors_); }
    // the system may drop its pages from memory
    void forget(const safetensor &t) const;

private:
    os::mapping bytes_;
    std::string name_;
    std::vector<safetensor> tensors_;
};

class checkpoint {
public:
    // Opens model.safetensors of a directory, or the shards that model.safetensors.index.json names.
    explicit checkpoint(const std::string &directory, const stop_asked &stopped = {});
    const safetensor *find(std::string_view name) const;  // null when absent
    const std::vector<safetensor> &tensors() const { return tensors_; }
    const std::string &file_name(const safetensor &t) const { return files_[t.file].name(); }
    void forget(const safetensor &t) const { files_[t.file].forget(t); }

private:
    void add_file(const std::string &path, const stop_asked &stopped);
    void sort_names();
    std::vector<safetensors_file> files_;
    std::vector<safetensor> tensors_;
    std::vector<uint32_t> by_name_;  // indices in tensors_
};

}  // namespace ds
