// What the fuzz targets share. A target defines run() and mutated(); libFuzzer's entry points are in
// fuzz.cpp.
#pragma once

#include "../../tensor/gguf.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

namespace ds::fuzz {

// splitmix64 (Steele, Lea, Flood 2014), seeded by libFuzzer for each mutation.
struct dice {
    uint64_t state;
    uint64_t next();
    uint64_t below(uint64_t n) { return n ? next() % n : 0; }
    bool one_in(uint64_t n) { return below(n) == 0; }
    template <class list> auto &of(list &l) { return l[below(std::size(l))]; }
};

// Defined by the target: runs an input, and mutates one. ds::error means that the input was refused, which is
// a valid outcome.
void run(std::string_view input);
std::string mutated(std::string input, dice &d);

// ---- Changes

uint64_t interesting(dice &d);  // numbers at which errors are likely
double interesting_float(dice &d);
// by libFuzzer's own mutators
std::string changed_bytes(std::string s, dice &d);
using words = std::vector<std::string>;
// mutates the tree, and sometimes the text
std::string changed_json(const std::string &text, const words &known, dice &d);
std::string changed_gguf(const std::string &bytes, const words &keys, dice &d);
std::string changed_safetensors(const std::string &bytes, dice &d);
extern const words gguf_words, config_words, tokenizer_words;

// ---- Inputs of several parts: each is a u32 length and its bytes

std::string packed(const std::vector<std::string> &parts);
// a length that is too large means the rest
std::vector<std::string> unpacked(std::string_view bytes, size_t most);

// Missing weights are filled in, which keeps inputs short: with bytes that are small values in every format.
// Null if a file would be longer than `most`.
void fill(std::string &bytes, size_t size);
std::optional<std::string> filled_gguf(std::string bytes, size_t most);
std::optional<std::string> filled_safetensors(std::string bytes, size_t most);
std::string without_data(const std::string &gguf_or_safetensors);

// ---- Invariants

[[noreturn]] inline void broken(const std::string &what) {
    fprintf(stderr, "BROKEN: %s\n", what.c_str());
    abort();
}
inline void must(bool good, const char *what) {
    if (!good) broken(what);
}

// A directory in memory for files to be read. One for each process.
const std::string &scratch();
void write_file(const std::string &path, std::string_view bytes);
std::string read_file(const std::string &path);

// ---- Tiny checkpoints, made from those of tests/data/micro

extern const std::vector<std::string> tiny_names;
struct named_file {
    std::string name, bytes;
};
// config.json, tokenizer.json, tokenizer_config.json, model.safetensors
std::vector<named_file> tiny_checkpoint(const std::string &micro);
std::string tiny_gguf(const std::string &micro, format type);  // the same, converted

// Bytes at a multiple of 64.
struct aligned_copy {
    std::vector<std::max_align_t> room;
    uint8_t *data;
    explicit aligned_copy(const std::string &s) : room(s.size() / sizeof(std::max_align_t) + 8) {
        const auto at = reinterpret_cast<uintptr_t>(room.data());
        data = reinterpret_cast<uint8_t *>(room.data()) + (64 - at % 64) % 64;
        memcpy(data, s.data(), s.size());
    }
};

}  // namespace ds::fuzz
