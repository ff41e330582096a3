// What every long operation of the tool shares: how it reports, and how a GGUF file is written tensor by
// tensor.
#pragma once

#include "../tensor/gguf.h"

#include <functional>
#include <optional>

namespace ds {

// How an operation talks to whoever started it; each part may be empty.
struct job {
    // Bytes written (or gone through) so far and in all, 0 in all while nobody knows; false stops with
    // status::cancelled.
    std::function<bool(uint64_t done, uint64_t total)> progress = {};
    std::function<void(const std::string &)> note = {};  // a remark for the user
    unsigned threads = 1;
    // what is written becomes parts, PREFIX-00001-of-00003.gguf
    std::optional<gguf_split_limits> split = {};
    // files that what is written may not replace: refuse_inputs
    std::vector<std::string> inputs = {};

    void remark(const std::string &text) const {
        if (note) note(text);
    }
    bool stopped() const { return progress && !progress(0, 0); }
};

// A place for an intermediate file beside `path`: the file, if one was made, is gone when the object is.
class scratch_file {
public:
    explicit scratch_file(const std::string &beside);  // throws status::io
    scratch_file(const scratch_file &) = delete;
    ~scratch_file();
    const std::string &path() const { return path_; }

private:
    std::string path_;
};

// Throws status::argument when the file `path` is one of `inputs`, under whatever name or link: writing it
// would destroy what the user has.
void refuse_inputs(const std::string &path, const std::vector<std::string> &inputs);

// What a checkpoint's directory has that an output may not replace: all its files but GGUF files, which are
// outputs of earlier.
std::vector<std::string> checkpoint_inputs(const std::string &directory);

using byte_sink = std::function<void(const void *data, size_t n)>;

// Writes the header, then for each tensor of `w` in order the bytes that `produce(i, sink)` gives, exactly
// tensor_bytes(i) of them. The file appears under `path` when it is complete; whatever is thrown leaves
// nothing new. With j.split the same for all parts together; `path`, without ".gguf", is their prefix then.
void write_gguf(const std::string &path, const gguf_writer &w, const job &j,
                const std::function<void(size_t i, const byte_sink &sink)> &produce);

// The scales of the I8 tensor X lie in a tensor of their own, X_scale: one f32 a row.
std::string scale_name(std::string_view tensor);
bool is_scales(const gguf_file &f, std::string_view name);

// What a file says of the format `f` of its matrices: general.file_type (llama.cpp's numbering,
// include/llama.h enum llama_ftype) and the version of ggml's formats; or, for I8, which is not one of those,
// deepseek.quant.version. What the writer had of another format is taken away.
void set_type_keys(gguf_writer &w, format f);

// The formats that the tool writes, and what it calls files of them: "int8" for i8, "q4_k_m" for q4_k and
// what goes with it (policy.h).
std::vector<format> target_formats();
const char *target_text(format f);

}  // namespace ds
