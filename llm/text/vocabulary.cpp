// A vocabulary's keys, R1's frame of a conversation, and vocabularies made from texts.
#include "vocabulary.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <queue>
#include <set>

namespace ds {

std::optional<token_id> vocabulary::find(std::string_view token) const {
    const auto i = std::find(tokens.begin(), tokens.end(), token);
    if (i == tokens.end()) return {};
    return static_cast<token_id>(i - tokens.begin());
}

void set_vocabulary_keys(const vocabulary &v, gguf_writer &w) {
    std::vector<int32_t> kinds;
    for (const token_kind k : v.kinds) kinds.push_back(static_cast<int32_t>(k));
    w.set_string("tokenizer.ggml.model", "gpt2");
    w.set_string("tokenizer.ggml.pre", v.pre);
    pre_tokenizer pre;
    // where GGUF has no key, the pre-tokenizer's name decides unless our keys are present
    if (pre_tokenizer_from_text(v.pre, &pre)) {
        if (v.nfc && *v.nfc != normalises(pre))
            w.set_string("deepseek.tokenizer.normalizer", *v.nfc ? "nfc" : "none");
        if (v.ignore_merges && *v.ignore_merges != ignores_merges(pre))
            w.set_bool("deepseek.tokenizer.ignore_merges", *v.ignore_merges);
    }
    w.set_strings("tokenizer.ggml.tokens", v.tokens);
    w.set_i32s("tokenizer.ggml.token_type", kinds);
    w.set_strings("tokenizer.ggml.merges", v.merges);
    const auto set_id = [&](const char *key, std::optional<token_id> t) {
        if (t) w.set_u32(key, static_cast<uint32_t>(*t));
    };
    set_id("tokenizer.ggml.bos_token_id", v.bos);
    set_id("tokenizer.ggml.eos_token_id", v.eos);
    set_id("tokenizer.ggml.eot_token_id", v.eot);
    set_id("tokenizer.ggml.eom_token_id", v.eom);
    set_id("tokenizer.ggml.unknown_token_id", v.unknown);
    set_id("tokenizer.ggml.padding_token_id", v.pad);
    w.set_bool("tokenizer.ggml.add_bos_token", v.add_bos);
    w.set_bool("tokenizer.ggml.add_eos_token", v.add_eos);
    if (!v.chat_template.empty()) w.set_string("tokenizer.chat_template", v.chat_template);
}

std::string byte_level_text(uint8_t byte) {
    const auto printable = [](unsigned b) {
        return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    };
    unsigned code = byte;
    if (!printable(byte)) {
        code = 0x100;
        for (unsigned b = 0; b < byte; ++b) code += !printable(b);
    }
    if (code < 0x80) return std::string(1, static_cast<char>(code));
    return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

// ---- R1's frame

namespace {
struct special_token {
    const char *text;
    token_kind kind;
};
constexpr special_token specials[] = {
    {"<｜begin▁of▁sentence｜>", token_kind::control},
    {"<｜end▁of▁sentence｜>", token_kind::control},
    {"<｜User｜>", token_kind::control},
    {"<｜Assistant｜>", token_kind::control},
    {"<think>", token_kind::user_defined},
    {"</think>", token_kind::user_defined},
};
constexpr const char *r1_template =
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% "
    "elif m['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + m['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}";
}  // namespace
static_assert(std::size(specials) == r1_frame_tokens);

void add_r1_frame(vocabulary &v) {
    for (const special_token &s : specials) v.add(s.text, s.kind);
    v.bos = v.find(specials[0].text);
    v.eos = v.pad = v.find(specials[1].text);
    v.add_bos = true;
    v.chat_template = r1_template;
}

// ---- BPE

namespace {

// A text without the frame's tokens, which are cut out of every text before it is split.
template <class F> void each_segment(std::string_view text, F &&f) {
    size_t begin = 0;
    for (size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at + 1))
        for (const special_token &s : specials)
            if (at >= begin && text.substr(at).starts_with(s.text)) {
                f(text.substr(begin, at - begin));
                begin = at + std::strlen(s.text);
                break;
            }
    f(text.substr(begin));
}

// Words of the texts, how often each occurs, and how often which pairs do.
class bpe_trainer {
public:
    explicit bpe_trainer(std::span<const std::string_view> texts) {
        std::map<std::string_view, uint64_t> counts;  // sorted: a word's place depends on the texts alone
        for (const std::string_view text : texts)
            each_segment(text, [&](std::string_view segment) {
                splitter pieces(pre_tokenizer::deepseek_v3, segment);
                for (std::string_view piece; pieces.next(piece);) ++counts[piece];
            });
        for (const auto &[text, count] : counts) {
            word w{{}, count};
            for (const char c : text) w.symbols.push_back(static_cast<uint8_t>(c));
            words_.push_back(std::move(w));
        }
        for (size_t i = 0; i < words_.size(); ++i)
            for (size_t at = 0; at + 1 < words_[i].symbols.size(); ++at) add(i, at);
        for (const auto &[p, f] : pairs_) heap_.push({f.count, p});
    }

    struct pair {
        uint32_t left, right;  // below 256: bytes; else merges, in their order
        auto operator<=>(const pair &) const = default;
    };
    // The pair that occurs most, if one occurs twice. One that is not merged then stays as it is.
    std::optional<pair> next() {
        while (!heap_.empty()) {
            const auto [count, best] = heap_.top();
            heap_.pop();
            const auto found = pairs_.find(best);
            const uint64_t now = found == pairs_.end() ? 0 : found->second.count;
            if (now >= count) return count < 2 ? std::nullopt : std::optional(best);
            if (now > 1) heap_.push({now, best});  // some have gone into other merges since
        }
        return {};
    }
    void merge(pair best, uint32_t result) {
        std::vector<size_t> in = std::move(pairs_[best].words);
        std::sort(in.begin(), in.end());
        in.erase(std::unique(in.begin(), in.end()), in.end());
        for (const size_t i : in) merge(i, best, result);
        pairs_.erase(best);
    }

private:
    struct word {
        std::vector<uint32_t> symbols;
        uint64_t count;
    };
    struct where {
        uint64_t count = 0;
        std::vector<size_t> words;  // some several times, some that no longer have it
    };
    struct candidate {
        uint64_t count;
        pair p;
        bool operator<(const candidate &o) const { return count != o.count ? count < o.count : o.p < p; }
    };
    static bool is_digit(uint32_t symbol) { return symbol >= '0' && symbol <= '9'; }

    // The pair at `at`, unless it is none that may be merged.
    std::optional<pair> pair_at(const word &w, size_t at) const {
        const pair p{w.symbols[at], w.symbols[at + 1]};
        if (is_digit(p.left) || is_digit(p.right)) return {};
        return p;
    }
    where *add(size_t i, size_t at) {
        const std::optional<pair> p = pair_at(words_[i], at);
        if (!p) return nullptr;
        where &f = pairs_[*p];
        f.count += words_[i].count;
        if (f.words.empty() || f.words.back() != i) f.words.push_back(i);
        return &f;
    }
    void remove(size_t i, size_t at) {
        if (const std::optional<pair> p = pair_at(words_[i], at)) pairs_[*p].count -= words_[i].count;
    }
    // All pairs of a word that has the merged one are counted anew; words are short.
    void merge(size_t i, pair best, uint32_t result) {
        word &w = words_[i];
        std::vector<uint32_t> merged;
        for (size_t at = 0; at < w.symbols.size(); ++at) {
            const bool here =
                at + 1 < w.symbols.size() && w.symbols[at] == best.left && w.symbols[at + 1] == best.right;
            merged.push_back(here ? result : w.symbols[at]);
            at += here;
        }
        if (merged.size() == w.symbols.size()) return;
        for (size_t at = 0; at + 1 < w.symbols.size(); ++at) remove(i, at);
        w.symbols = std::move(merged);
        for (size_t at = 0; at + 1 < w.symbols.size(); ++at) {
            const where *const f = add(i, at);
            if (f && (w.symbols[at] == result || w.symbols[at + 1] == result))
                heap_.push({f->count, *pair_at(w, at)});
        }
    }

    std::vector<word> words_;
    std::map<pair, where> pairs_;
    std::priority_queue<candidate> heap_;  // with counts as they were; never less than they are
};

}  // namespace

vocabulary train_bpe(std::span<const std::string_view> texts, size_t size) {
    vocabulary v;
    v.pre = pre_tokenizer_text(pre_tokenizer::deepseek_v3);
    add_r1_frame(v);
    for (unsigned b = 0; b < 256; ++b) v.add(byte_level_text(static_cast<uint8_t>(b)), token_kind::normal);
    bpe_trainer trainer(texts);
    std::set<std::string> known(v.tokens.begin(), v.tokens.end());
    while (v.tokens.size() < size) {
        const auto p = trainer.next();
        if (!p) break;
        const std::string left = v.tokens[r1_frame_tokens + p->left],
                          right = v.tokens[r1_frame_tokens + p->right];
        // A token is made in one way: a second one, of other parts, is no merge.
        if (!known.insert(left + right).second) continue;
        trainer.merge(*p, static_cast<uint32_t>(v.tokens.size() - r1_frame_tokens));
        v.add(left + right, token_kind::normal);
        v.merges.push_back(left + " " + right);
    }
    return v;
}

vocabulary byte_vocabulary(std::span<const std::string_view> texts) {
    bool occurs[256] = {};
    occurs[static_cast<unsigned>(' ')] = occurs[static_cast<unsigned>('\n')] = true;
    for (const std::string_view text : texts)
        each_segment(text, [&](std::string_view segment) {
            for (const char c : segment) occurs[static_cast<uint8_t>(c)] = true;
        });
    vocabulary v;
    v.pre = pre_tokenizer_text(pre_tokenizer::deepseek_v3);
    add_r1_frame(v);
    for (unsigned b = 0; b < 256; ++b)
        if (occurs[b]) v.add(byte_level_text(static_cast<uint8_t>(b)), token_kind::normal);
    return v;
}

}  // namespace ds
