// A tokenizer's vocabulary for a GGUF file: read from a checkpoint directory, or synthetic (synth.cpp).
#pragma once

#include "json.h"
#include "output.h"

#include "../llm/text/tokenizer.h"

#include <optional>

namespace ds {

struct vocabulary {
    std::vector<std::string> tokens;  // by id; byte-level spelling, added tokens as they are
    std::vector<token_kind> kinds;
    std::vector<std::string> merges;  // "left right", best first
    std::string pre;                  // tokenizer.ggml.pre
    std::optional<token_id> bos, eos, eot, eom, pad, unknown;
    bool add_bos = false, add_eos = false;
    // whether text is normalized to NFC, and whole tokens skip the merges; none: as `pre` implies
    std::optional<bool> nfc, ignore_merges;
    std::string chat_template;  // empty: none

    std::optional<token_id> find(std::string_view token) const;  // slow: for a handful of special tokens
};

// Reads tokenizer.json and, if present, tokenizer_config.json, generation_config.json and the files of chat
// templates. `config` is config.json, or null if the directory has none. Its vocab_size is the number of
// tokens; ids without a token get fillers, as in llama.cpp's converter. Throws status::format and
// status::unsupported naming file, field and value.
vocabulary read_vocabulary(const std::string &directory, const json_node *config, const job &j);

void set_vocabulary_keys(const vocabulary &v, gguf_writer &w);

}  // namespace ds
