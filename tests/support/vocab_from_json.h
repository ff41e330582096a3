// A vocabulary-only GGUF file in memory, made from a published tokenizer.json so that the tokenizer can be
// compared with published ids. It does not use the converter. Normal tokens come by id, then added tokens
// (special ones as control tokens, others as user-defined ones); merges are copied unchanged.
#pragma once

#include "../../llm/text/tokenizer.h"

#include <nlohmann/json_fwd.hpp>

namespace ds::test {

nlohmann::json read_json(const std::string &path);

// `directory` holds tokenizer.json and tokenizer_config.json.
gguf_writer vocabulary_from_json(const std::string &directory);

// A tokenizer together with the bytes and the file that it refers to.
struct vocabulary {
    std::string bytes;
    gguf_file file;
    tokenizer tok;

    explicit vocabulary(const gguf_writer &w, const std::string &name = "test")
        : bytes(w.header()), file(os::mapping::borrow(bytes.data(), bytes.size()), name), tok(file) {}
};

}  // namespace ds::test
