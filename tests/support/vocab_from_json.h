// A vocabulary-only GGUF file in memory from a published tokenizer.json, so that the tokenizer can be held
// against published ids. It is written here independently of the converter: normal tokens by id, added tokens
// on top (special ones control, the others user-defined), merges as they stand.
#pragma once

#include "../../llm/text/tokenizer.h"

#include <nlohmann/json_fwd.hpp>

namespace ds::test {

nlohmann::json read_json(const std::string &path);

// which holds tokenizer.json and tokenizer_config.json
gguf_writer vocabulary_from_json(const std::string &directory);

// A vocabulary and the file that it reads from.
struct vocabulary {
    std::string bytes;
    gguf_file file;
    tokenizer tok;

    explicit vocabulary(const gguf_writer &w, const std::string &name = "test")
        : bytes(w.header()), file(os::mapping::borrow(bytes.data(), bytes.size()), name), tok(file) {}
};

}  // namespace ds::test
