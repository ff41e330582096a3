// What every long operation of the tool shares: how it reports, and how a GGUF file is written tensor by tensor.
#pragma once

#include "../tensor/gguf.h"

#include <functional>

namespace ds {

// How an operation talks to whoever started it; each part may be empty.
struct job {
    std::function<bool(uint64_t done, uint64_t total)> progress = {};   // bytes written so far and in all; false stops with status::cancelled
    std::function<void(const std::string &)> note = {};                  // a remark for the user
    unsigned threads = 1;

    void remark(const std::string &text) const { if (note) note(text); }
};

using byte_sink = std::function<void(const void *data, size_t n)>;

// Writes the header, then for each tensor of `w` in order the bytes that `produce(i, sink)` gives, exactly tensor_bytes(i) of them. The file
// appears under `path` when it is complete; whatever is thrown leaves nothing new.
void write_gguf(const std::string &path, const gguf_writer &w, const job &j, const std::function<void(size_t i, const byte_sink &sink)> &produce);

// general.file_type of a file whose matrices are of format `f` (llama.cpp's numbering, include/llama.h enum llama_ftype).
uint32_t gguf_file_type(format f);

// The formats that the tool writes.
std::vector<format> target_formats();

} // namespace ds
