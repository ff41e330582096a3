// What the fuzz targets share: a target gives run() and mutated(), and libFuzzer's entry points are here.
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

// splitmix64 (Steele, Lea, Flood 2014), from the seed that libFuzzer gives for each mutation.
struct dice {
    uint64_t state;
    uint64_t next();
    uint64_t below(uint64_t n) { return n ? next() % n : 0; }
    bool one_in(uint64_t n) { return below(n) == 0; }
    template <class list> auto &of(list &l) { return l[below(std::size(l))]; }
};

// Of the target: what is done with an input, and how inputs are changed. What throws ds::error was refused,
// which is fine.
void run(std::string_view input);
std::string mutated(std::string input, dice &d);

// ---- Changes

uint64_t interesting(dice &d);  // numbers at which something may go wrong
double interesting_float(dice &d);
// by libFuzzer, which knows what was compared with what
std::string changed_bytes(std::string s, dice &d);
using words = std::vector<std::string>;
// of the tree; and now and then of the text
std::string changed_json(const std::string &text, const words &known, dice &d);
std::string changed_gguf(const std::string &bytes, const words &keys, dice &d);
std::string changed_safetensors(const std::string &bytes, dice &d);
extern const words gguf_words, config_words, tokenizer_words;

// ---- Inputs of several parts: each is a u32 length and its bytes

std::string packed(const std::vector<std::string> &parts);
// a length that is too large takes the rest
std::vector<std::string> unpacked(std::string_view bytes, size_t most);

// Inputs are short because weights that they lack are made up: bytes that are small numbers in every format.
// Null where a file would be longer than `most`.
void fill(std::string &bytes, size_t size);
std::optional<std::string> filled_gguf(std::string bytes, size_t most);
std::optional<std::string> filled_safetensors(std::string bytes, size_t most);
std::string without_data(const std::string &gguf_or_safetensors);

// ---- What must hold

[[noreturn]] inline void broken(const std::string &what) {
    fprintf(stderr, "BROKEN: %s\n", what.c_str());
    abort();
}
inline void must(bool good, const char *what) {
    if (!good) broken(what);
}

// A directory in memory, for what is read from files. One a process.
const std::string &scratch();
void write_file(const std::string &path, std::string_view bytes);
std::string read_file(const std::string &path);

// ---- Tiny checkpoints, made of those of tests/data/micro

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
