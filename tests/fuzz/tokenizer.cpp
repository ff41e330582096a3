// Loads a vocabulary from GGUF, encodes a text and decodes it again. Input, in parts: the GGUF file; a text.
#include "fuzz.h"

#include "../../llm/text/tokenizer.h"

#include <memory>
#include <numeric>

namespace ds::fuzz {

namespace {

struct loaded {
    std::string bytes;
    gguf_file file;
    tokenizer t;
    explicit loaded(const std::string &b)
        : bytes(b), file(os::mapping::borrow(bytes.data(), bytes.size()), "input"), t(file) {}
};

void look_at(const tokenizer &t) {
    const auto n = static_cast<token_id>(t.size());
    for (token_id i = 0; i < n; i += 1 + n / 64) {
        t.bytes(i, true), t.kind(i);
        must(t.find(t.text(i)) >= 0 || t.text(i).empty(), "a token is found by its text");
    }
    for (const token_id special : {t.bos(), t.eos(), t.pad(), t.unknown()})
        must(special >= -1 && special < n, "special tokens are in range");
    if (t.adds_bos()) must(t.bos() >= 0, "BOS exists if texts begin with it");
    if (t.adds_eos()) must(t.eos() >= 0, "EOS exists if texts end with it");
    for (const token_id end : t.end_tokens()) must(end >= 0 && end < n, "end tokens are in range");
}

void pieces_of(std::string_view text) {
    for (const pre_tokenizer p :
         {pre_tokenizer::deepseek_llm, pre_tokenizer::deepseek_coder, pre_tokenizer::deepseek_v3,
          pre_tokenizer::llama_bpe, pre_tokenizer::qwen2}) {
        std::vector<uint32_t> lengths;
        uint64_t steps = 0;
        pre_tokenize(p, text, lengths, &steps);
        must(std::accumulate(lengths.begin(), lengths.end(), size_t(0)) == text.size(),
             "pieces cover the text");
        must(steps <= 64 * (text.size() + 16), "splitting is linear");
    }
}

void there_and_back(const gguf_file &f, const tokenizer &t, std::string_view text, bool special) {
    std::vector<token_id> ids;
    uint64_t steps = 0;
    t.encode(text, {.parse_special = special}, ids, &steps);
    // Twice the text may take twice the steps, plus the logarithmic cost of the merges' heap.
    must(steps <= 512 * (text.size() + 64), "encoding is linear");
    std::string back, shown;
    utf8_stream stream;
    bool lossy = t.unknown() >= 0 || f.get_string("deepseek.tokenizer.normalizer",
                                                  normalises(t.pre()) ? "nfc" : "none") != "none";
    for (const token_id id : ids) {
        must(id >= 0 && static_cast<size_t>(id) < t.size(), "ids are in range");
        // a file may name one for what no token spells
        must(special || t.kind(id) != token_kind::control || id == t.unknown(),
             "a text alone makes no control token");
        back += t.bytes(id, true);
        stream.push(t.bytes(id, true), shown);
    }
    stream.finish(shown);
    must(lossy || back == text, "the tokens' bytes are the text");
}

}  // namespace

void run(std::string_view input) {
    static std::unique_ptr<loaded> last;  // cached, since mostly only the text changes
    const std::vector<std::string> parts = unpacked(input, 2);
    if (parts.size() < 2) return;
    if (!last || last->bytes != parts[0]) {
        last.reset();
        last = std::make_unique<loaded>(parts[0]);
        look_at(last->t);
    }
    const std::string_view text = std::string_view(parts[1]).substr(0, 4096);
    pieces_of(text);
    there_and_back(last->file, last->t, text, false);
    there_and_back(last->file, last->t, text, true);
    for (size_t i = 0; i < text.size() && i < 64; ++i)
        must(tool_mark_at(text.substr(i)) <= text.size() - i, "no longer than the text");
}

std::string mutated(std::string input, dice &d) {
    static const words texts = {"<\xef\xbd\x9c"
                                "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
                                "<think>",
                                "</think>",
                                "<|im_end|>",
                                " ",
                                "  ",
                                "\n",
                                "\r\n",
                                "\t",
                                "123456",
                                "'s",
                                "'LL",
                                "don't",
                                "\xc3\xa9",
                                "e\xcc\x81",
                                "\xe4\xb8\xad\xe6\x96\x87",
                                "\xf0\x9f\x98\x80",
                                "\xed\xa0\x80",
                                "\xff",
                                "\xc2",
                                "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8",
                                "\xd9\xa1\xd9\xa2",
                                "A1b2",
                                "!?...",
                                "+=",
                                "\xc2\xa0",
                                "\xe3\x80\x80",
                                "\xc4\xa0the"};
    std::vector<std::string> parts = unpacked(input, 2);
    if (parts.size() < 2) return "";
    if (d.one_in(6)) parts[0] = changed_gguf(parts[0], gguf_words, d);
    else if (d.one_in(2)) parts[1].insert(d.below(parts[1].size() + 1), d.of(texts));
    else if (d.one_in(8)) parts[1] += parts[1].substr(0, 2000);
    else if (d.one_in(3)) parts[1].erase(d.below(parts[1].size() + 1), d.below(50));
    else parts[1] = changed_bytes(parts[1], d);
    return packed(parts);
}

}  // namespace ds::fuzz
