// Byte-level BPE of DeepSeek, Llama 3 and Qwen: text to token ids and back, exactly as the published
// tokenizers do. Time is linear in the text's length, without recursion or a regular-expression engine.
// Immutable after construction, so threads may share it.
#pragma once

#include "../../tensor/gguf.h"

#include <array>

namespace ds {

using token_id = int32_t;

// How a text is split before the merges, named as in GGUF's tokenizer.ggml.pre. deepseek-r1-qwen splits as
// qwen2 does. The name also implies two options for which GGUF has no key: only qwen2 and deepseek-r1-qwen
// normalise text to form C, and only llama-bpe leaves a piece unmerged that is a token as a whole
// (tokenizer.json: normalizer, model.ignore_merges). Tokenizers that differ use keys of this library:
// deepseek.tokenizer.normalizer, "nfc" or "none", and deepseek.tokenizer.ignore_merges, a bool. Whether texts
// begin with BOS is the key add_bos_token; if it is missing, only llama-bpe's do.
enum class pre_tokenizer { deepseek_llm, deepseek_coder, deepseek_v3, llama_bpe, qwen2, deepseek_r1_qwen };

// tokenizer.ggml.token_type
enum class token_kind : uint8_t {
    undefined = 0,
    normal = 1,
    unknown = 2,
    control = 3,
    user_defined = 4,
    unused = 5,
    byte = 6
};

class tokenizer {
public:
    static constexpr size_t max_text_bytes = size_t(512) << 20;

    // Throws status::format or status::unsupported naming key and value. The tokenizer keeps views of the
    // file's bytes, so `file` must outlive it.
    explicit tokenizer(const gguf_file &file);
    ~tokenizer();
    tokenizer(const tokenizer &) = delete;

    size_t size() const;  // tokens in the vocabulary
    pre_tokenizer pre() const;

    struct encode_options {
        // Begin with BOS if the file says that texts begin with it.
        bool add_bos = false;
        // Spellings of control tokens in the input become those tokens, not only those of user-defined ones.
        bool parse_special = false;
    };
    // Appends the ids of `text` (any bytes; ill-formed UTF-8 is encoded byte by byte) to `out`. `steps`,
    // unless null, is increased by the number of elementary steps, so that tests can check that the work is
    // linear. Throws status::too_long for a text over max_text_bytes, and status::argument, naming the byte,
    // if the vocabulary has neither a token for a byte nor an unknown token; `out` then has the ids before
    // it.
    void encode(std::string_view text, const encode_options &o, std::vector<token_id> &out,
                uint64_t *steps = nullptr) const;

    // The control and user-defined tokens in `text` as `encode` finds them: the longest at the leftmost
    // position, then on after it.
    struct added {
        size_t at, bytes;
        token_id id;
    };
    std::vector<added> added_in(std::string_view text) const;

    // The bytes of one token, which must be in range. Control tokens yield their spelling if `special` is
    // set, otherwise nothing, except the marks around tool calls, which always do.
    std::string_view bytes(token_id t, bool special) const;
    std::string_view text(token_id t) const;  // the file's spelling
    token_kind kind(token_id t) const;
    // By the file's spelling, which is the raw text of an added token; -1 if absent.
    token_id find(std::string_view text) const;

    token_id bos() const;  // -1 if the file names none, here and below
    token_id eos() const;
    token_id pad() const;
    token_id unknown() const;
    bool adds_bos() const;  // tokenizer.ggml.add_bos_token
    bool adds_eos() const;
    // Warnings about wrong values in the file that nothing depends on, such as a padding token out of range.
    const std::vector<std::string> &remarks() const;
    // All tokens that end an answer: eos, eot, eom and those of the known families. Sorted.
    const std::vector<token_id> &end_tokens() const;

private:
    struct impl;
    std::unique_ptr<impl> impl_;
};

// DeepSeek's marks around tool calls, such as "<｜tool▁calls▁begin｜>", are control tokens (a user cannot write
// them), but part of an answer. tool_mark_at returns the length of the mark that `text` begins with, or 0.
constexpr std::string_view tool_mark_begin = "<｜tool▁";
size_t tool_mark_at(std::string_view text);

// Splits a text, piece by piece.
class splitter {
public:
    splitter(pre_tokenizer p, std::string_view text);
    bool next(std::string_view &piece);  // false after the last one; no piece is empty
    uint64_t steps() const { return steps_; }

private:
    // A piece that a pattern divides further: the rest begins at `at`, the last match is [from, to).
    struct part {
        const char *at, *from, *to, *end;
    };
    static constexpr size_t max_patterns = 6;
    pre_tokenizer pre_;
    size_t patterns_;
    std::array<part, max_patterns> parts_;  // one per pattern
    size_t open_ = 1;                       // how many of them are in use, as a stack
    uint64_t steps_ = 0;
};

// The byte lengths of all pieces, for tests.
void pre_tokenize(pre_tokenizer p, std::string_view text, std::vector<uint32_t> &lengths,
                  uint64_t *steps = nullptr);
bool pre_tokenizer_from_text(std::string_view name, pre_tokenizer *out);
std::string_view pre_tokenizer_text(pre_tokenizer p);
// Defaults where the file has no key.
constexpr bool normalises(pre_tokenizer p) {
    return p == pre_tokenizer::qwen2 || p == pre_tokenizer::deepseek_r1_qwen;
}
constexpr bool ignores_merges(pre_tokenizer p) { return p == pre_tokenizer::llama_bpe; }
std::string pre_tokenizers_known();  // "deepseek-llm, deepseek-coder, …" for messages

// Finds the pre-tokenizer with these patterns: the regular expressions of a tokenizer.json's pre_tokenizer
// section in order, a Digits step as "\p{N}" (individual_digits) or "\p{N}+", without the ByteLevel step.
// False if there is none; for the patterns that deepseek-r1-qwen shares, it is qwen2.
bool pre_tokenizer_recognise(std::span<const std::string> patterns, pre_tokenizer *out);

// Converts a stream of bytes to well-formed UTF-8, holding back an incomplete sequence until it is complete
// or certainly ill-formed (then U+FFFD, one for each maximal ill-formed part, as Unicode 15 section 3.9
// recommends).
class utf8_stream {
public:
    void push(std::string_view bytes, std::string &out);  // appends what is complete
    void finish(std::string &out);                        // appends U+FFFD for an incomplete sequence

private:
    std::array<char, 4> held_{};
    unsigned n_held_ = 0;
};

}  // namespace ds
