// What the tool's long operations share: progress and remarks, and writing a GGUF file tensor by tensor.
#pragma once

#include "../tensor/gguf.h"

#include <functional>
#include <optional>

namespace ds {

// An operation's connection to its caller; each callback may be empty.
struct job {
    // Bytes written (or read) so far and in all; in all is 0 while unknown. false stops with
    // status::cancelled.
    std::function<bool(uint64_t done, uint64_t total)> progress = {};
    std::function<void(const std::string &)> note = {};  // a remark for the user
    unsigned threads = 1;
    // the output becomes parts, PREFIX-00001-of-00003.gguf
    std::optional<gguf_split_limits> split = {};
    // files that the output may not replace: refuse_inputs
    std::vector<std::string> inputs = {};

    void remark(const std::string &text) const {
        if (note) note(text);
    }
    bool stopped() const { return progress && !progress(0, 0); }
};

// An intermediate file beside `path`, removed with the object.
class scratch_file {
public:
    explicit scratch_file(const std::string &beside);  // throws status::io
    scratch_file(const scratch_file &) = delete;
    ~scratch_file();
    const std::string &path() const { return path_; }

private:
    std::string path_;
};

// Throws status::argument when the file `path` is one of `inputs`, under any name or link: writing would
// destroy the user's data.
void refuse_inputs(const std::string &path, const std::vector<std::string> &inputs);

// The files of a checkpoint directory that an output may not replace: all but GGUF files, which are earlier
// outputs.
std::vector<std::string> checkpoint_inputs(const std::string &directory);

using byte_sink = std::function<void(const void *data, size_t n)>;

// Writes the header, then for each tensor of `w` in order the bytes that `produce(i, sink)` passes to the
// sink, exactly tensor_bytes(i). The file appears as `path` when it is complete; an exception leaves nothing
// new. With j.split this holds for all parts together, and `path`, without ".gguf", is their prefix.
void write_gguf(const std::string &path, const gguf_writer &w, const job &j,
                const std::function<void(size_t i, const byte_sink &sink)> &produce);

// The scales of the I8 tensor X are a tensor of their own, X_scale: one f32 a row.
std::string scale_name(std::string_view tensor);
bool is_scales(const gguf_file &f, std::string_view name);

// Sets the keys for matrices of format `f`: general.file_type (llama.cpp's numbering, include/llama.h enum
// llama_ftype) and the version of ggml's formats; or, for I8, which is not one of those,
// deepseek.quant.version. Keys of another format are removed.
void set_type_keys(gguf_writer &w, format f);

// The formats that the tool writes, and their names: "int8" for i8, "q4_k_m" for q4_k and its mix (policy.h).
std::vector<format> target_formats();
const char *target_text(format f);

}  // namespace ds
