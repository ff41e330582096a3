// Byte-level BPE as DeepSeek, Llama 3 and Qwen publish it: text to token ids and back, exactly as the
// published tokenizers do. Linear time in the text's length, no recursion, no regular-expression engine;
// immutable after construction and shared between threads.
#pragma once

#include "../../tensor/gguf.h"

#include <array>

namespace ds {

using token_id = int32_t;

// How a text is split before the merges (names as GGUF's tokenizer.ggml.pre spells them). `deepseek-r1-qwen`
// splits as qwen2 does. The name also says what else GGUF has no key for: text is normalised to form C by
// qwen2 and deepseek-r1-qwen alone, and a piece that is a token as a whole is not merged by llama-bpe alone
// (tokenizer.json: normalizer, model.ignore_merges). A tokenizer that differs has keys of ours:
// deepseek.tokenizer.normalizer, "nfc" or "none", and deepseek.tokenizer.ignore_merges, a bool.
// Whether texts begin with BOS is the key add_bos_token; where that is missing, they do with llama-bpe alone.
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
        // put the vocabulary's BOS first when the file says that texts begin with it
        bool add_bos = false;
        // control tokens' texts in the input become those tokens; else only user-defined ones do
        bool parse_special = false;
    };
    // Appends the ids of `text` (any bytes; bad UTF-8 is encoded byte by byte) to `out`. `steps`, when not
    // null, is increased by the number of elementary steps taken, so that a test can hold the work to linear.
    // Throws status::too_long for a text over max_text_bytes, and status::argument, naming the byte, where
    // the vocabulary has no token for a byte and no unknown token; `out` then holds what came before.
    void encode(std::string_view text, const encode_options &o, std::vector<token_id> &out,
                uint64_t *steps = nullptr) const;

    // The control and user-defined tokens in `text` as `encode` finds them: the longest at the leftmost
    // place, then on behind it.
    struct added {
        size_t at, bytes;
        token_id id;
    };
    std::vector<added> added_in(std::string_view text) const;

    // The bytes of one token. Control tokens give their text when `special` is set, nothing otherwise; but
    // marks of tool calls always do. `t` must be in range.
    std::string_view bytes(token_id t, bool special) const;
    std::string_view text(token_id t) const;  // as the file spells it
    token_kind kind(token_id t) const;
    // by the file's spelling, or the raw text of an added token; -1 when absent
    token_id find(std::string_view text) const;

    token_id bos() const;  // -1 when the file names none; likewise below
    token_id eos() const;
    token_id pad() const;
    token_id unknown() const;
    bool adds_bos() const;  // tokenizer.ggml.add_bos_token
    bool adds_eos() const;
    // on what the file says and nothing here depends on, such as a padding token that is not there
    const std::vector<std::string> &remarks() const;
    // every token that ends an answer: eos, eot, eom and what the known families use, sorted
    const std::vector<token_id> &end_tokens() const;

private:
    struct impl;
    std::unique_ptr<impl> impl_;
};

// DeepSeek's marks around calls of tools, "<｜tool▁calls▁begin｜>" and the like, are control tokens (a user
// cannot write them), but part of an answer. The length of the one that `text` begins with, 0 when it begins
// with none.
constexpr std::string_view tool_mark_begin = "<｜tool▁";
size_t tool_mark_at(std::string_view text);

// The split, one piece after the other.
class splitter {
public:
    splitter(pre_tokenizer p, std::string_view text);
    bool next(std::string_view &piece);  // false behind the last one; no piece is empty
    uint64_t steps() const { return steps_; }

private:
    // A piece that one pattern makes pieces of: what is left of it begins at `at`, the match found last is
    // [from, to).
    struct part {
        const char *at, *from, *to, *end;
    };
    static constexpr size_t max_patterns = 6;
    pre_tokenizer pre_;
    size_t patterns_;
    std::array<part, max_patterns> parts_;  // of each pattern
    size_t open_ = 1;                       // of them, the last made last
    uint64_t steps_ = 0;
};

// The byte lengths of all pieces, for tests.
void pre_tokenize(pre_tokenizer p, std::string_view text, std::vector<uint32_t> &lengths,
                  uint64_t *steps = nullptr);
bool pre_tokenizer_from_text(std::string_view name, pre_tokenizer *out);
std::string_view pre_tokenizer_text(pre_tokenizer p);
// where no key says
constexpr bool normalises(pre_tokenizer p) {
    return p == pre_tokenizer::qwen2 || p == pre_tokenizer::deepseek_r1_qwen;
}
constexpr bool ignores_merges(pre_tokenizer p) { return p == pre_tokenizer::llama_bpe; }
std::string pre_tokenizers_known();  // "deepseek-llm, deepseek-coder, …" for messages

// The pre-tokenizer whose patterns are `patterns`: the regular expressions of a tokenizer.json's
// pre_tokenizer section in their order, a Digits step as "\p{N}" (individual_digits) or "\p{N}+", the
// ByteLevel step left out. False when none has them; qwen2 stands for deepseek-r1-qwen too.
bool pre_tokenizer_recognise(std::span<const std::string> patterns, pre_tokenizer *out);

// Turns a stream of tokens into text, holding back an incomplete UTF-8 sequence until it is complete or known
// to be broken (then U+FFFD, one for each maximal ill-formed part, as Unicode 15 section 3.9 recommends).
class utf8_stream {
public:
    void push(std::string_view bytes, std::string &out);  // appends what is complete
    void finish(std::string &out);                        // appends U+FFFD for what was left incomplete

private:
    std::array<char, 4> held_{};
    unsigned n_held_ = 0;
};

}  // namespace ds
