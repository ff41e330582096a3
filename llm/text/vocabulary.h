// A vocabulary for a GGUF file: what its keys say, and how one is made from texts.
#pragma once

#include "tokenizer.h"

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
    void add(std::string text, token_kind kind) {
        tokens.push_back(std::move(text));
        kinds.push_back(kind);
    }
};

void set_vocabulary_keys(const vocabulary &v, gguf_writer &w);

// A byte as byte-level BPE spells it: one character of UTF-8 (GPT-2's bytes_to_unicode: printable ones as
// themselves, the others from U+0100 on).
std::string byte_level_text(uint8_t byte);

// DeepSeek-R1's frame of a conversation: adds its special tokens, and sets what depends on them, the template
// too.
void add_r1_frame(vocabulary &v);
constexpr size_t r1_frame_tokens = 6;

// Byte-level BPE (Sennrich et al., arXiv 1508.07909): R1's frame, the 256 bytes, and a token for each merge,
// until there are `size` tokens or no pair is left that occurs twice. Texts are split as DeepSeek-V3 does,
// but no token joins digits. Of pairs that occur equally often the one of the lowest ids counts, so that the
// texts alone decide.
vocabulary train_bpe(std::span<const std::string_view> texts, size_t size);
constexpr size_t fewest_bpe_tokens = r1_frame_tokens + 256;

// R1's frame, and a token for each byte that occurs, for the space and for the end of a line. Texts with
// other bytes have no tokens.
vocabulary byte_vocabulary(std::span<const std::string_view> texts);

}  // namespace ds
