// Splits a text before the merges: one scanner for each pattern of the published tokenizers, and the table of
// those tokenizers. A tokenizer's patterns apply one after another, each to every piece that the previous one
// left; each match becomes a piece, and so does the text between two matches. A scanner is a hand-written
// regular expression, with its alternatives in order and the backtracking that they imply.
// Invariant: every scanner reads a code point a bounded number of times. \s is Unicode's White_Space.
// Patterns: tokenizer.json of the models named below.
#include "tokenizer.h"
#include "unicode.h"

#include <algorithm>
#include <iterator>

namespace ds {

namespace {

using namespace unicode;

struct character {
    uint32_t value;
    uint32_t bytes;  // 0 at the end of the piece
    uint8_t classes;
};

// A piece being scanned. Every read of a code point is a step.
struct reader {
    const char *end;
    uint64_t steps = 0;

    character at(const char *p) {
        steps++;
        if (p == end) return {limit, 0, 0};
        code_point const c = decode(p, end);
        return {c.value, c.bytes, class_of(c.value)};
    }
    const char *run(const char *p, uint8_t classes) {
        for (character c = at(p); c.classes & classes; c = at(p)) p += c.bytes;
        return p;
    }
    const char *newlines(const char *p) {
        while (p < end && (*p == '\r' || *p == '\n')) p++, steps++;
        return p;
    }
};

// The next match at or after a position; empty (from == to == end) if there is none.
struct match {
    const char *from, *to;
};
using scanner = match (*)(reader &r, const char *p);

// Searches for the next match. match_at returns the end of a match that starts at p, or p; to fail, it must
// read a bounded number of code points.
template <auto match_at> match search(reader &r, const char *p) {
    while (p < r.end) {
        if (const char *const to = match_at(r, p); to != p) return {p, to};
        p += r.at(p).bytes;
    }
    return {p, p};
}

// A character class such as "[a-zµ]", read from the pattern at compile time.
struct character_set {
    struct range {
        uint32_t first, last;
    };
    range ranges[128] = {};
    size_t count = 0;

    explicit constexpr character_set(std::string_view pattern) {
        size_t at = pattern.find('[') + 1;
        while (pattern[at] != ']') {
            uint32_t const first = next(pattern, at);
            bool const wide = pattern[at] == '-';
            ranges[count++] = {first, wide ? next(pattern, ++at) : first};
        }
        std::sort(ranges, ranges + count, [](range a, range b) { return a.first < b.first; });
    }
    bool contains(uint32_t c) const {
        const range *const r =
            std::lower_bound(ranges, ranges + count, c, [](range x, uint32_t v) { return x.last < v; });
        return r != ranges + count && r->first <= c;
    }

private:
    static constexpr uint32_t next(std::string_view s, size_t &at) {
        auto const lead = uint8_t(s[at++]);
        if (lead < 0x80) return lead;
        uint32_t const more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
        uint32_t value = lead & (0x3fu >> more);
        for (uint32_t i = 0; i < more; i++) value = value << 6 | (uint8_t(s[at++]) & 0x3fu);
        return value;
    }
};

// ---- patterns of deepseek-llm and deepseek-coder

constexpr std::string_view newline_pattern = R"([\r\n])";
constexpr std::string_view cased_pattern =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼι)"
    R"(ῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃)"
    R"(]+)";
constexpr std::string_view ascii_like_pattern = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";
constexpr std::string_view trailing_pattern = R"(\s+$)";
constexpr std::string_view asian_pattern = "[一-龥ࠀ-一가-퟿]+";

constexpr character_set cased(cased_pattern), ascii_like(ascii_like_pattern), asian(asian_pattern);

const char *newline(reader &r, const char *p) {
    r.steps++;
    return *p == '\r' || *p == '\n' ? p + 1 : p;
}

// \s?X+ for a set X. White space that belongs to X is tried as \s first, then as X.
template <auto belongs> const char *spaced_run(reader &r, const char *p) {
    character c = r.at(p);
    const char *q = p;
    if (c.classes & space) {
        character const after = r.at(p + c.bytes);
        if (belongs(after)) q = p + c.bytes, c = after;
    }
    if (!belongs(c)) return p;
    while (belongs(c)) q += c.bytes, c = r.at(q);
    return q;
}

template <const character_set &set> bool in_set(const character &c) { return set.contains(c.value); }

template <uint8_t classes> bool in_class(const character &c) { return c.classes & classes; }

template <const character_set &set> const char *set_run(reader &r, const char *p) {
    for (character c = r.at(p); set.contains(c.value); c = r.at(p)) p += c.bytes;
    return p;
}

// \s+$, in one forward pass over the piece instead of a trial at every white space
match trailing_space(reader &r, const char *p) {
    const char *from = nullptr;
    while (p < r.end) {
        character const c = r.at(p);
        if (!(c.classes & space)) from = nullptr;
        else if (!from) from = p;
        p += c.bytes;
    }
    return {from ? from : p, p};
}

// \p{N}{1,most}
template <int most> const char *numbers(reader &r, const char *p) {
    character c = r.at(p);
    for (int n = 0; n < most && c.classes & number; n++) p += c.bytes, c = r.at(p);
    return p;
}

const char *number_run(reader &r, const char *p) { return r.run(p, number); }

// ---- shared by the later patterns

// \s*[\r\n]+|\s+(?!\S)|\s+ for p at white space. The first alternative ends after the run's last line end,
// the second leaves the run's last space to the following word, the third takes a single space.
const char *white_space(reader &r, const char *p) {
    const char *line_end = nullptr, *last = p, *q = p;
    for (character c = r.at(q); c.classes & space; c = r.at(q)) {
        last = q;
        q += c.bytes;
        if (c.value == '\r' || c.value == '\n') line_end = q;
    }
    if (line_end) return line_end;
    return q == r.end || last == p ? q : last;
}

// ---- deepseek-v3 (and R1)

constexpr std::string_view number3_pattern = R"(\p{N}{1,3})";
constexpr std::string_view cjk_pattern = "[一-龥぀-ゟ゠-ヿ]+";
constexpr std::string_view v3_pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr character_set cjk(cjk_pattern);

bool ascii_letter(uint32_t c) { return (c | 0x20) - 'a' < 26; }

const char *v3_word(reader &r, const char *p) {
    character const c = r.at(p), after = c.bytes ? r.at(p + c.bytes) : c;
    if (c.value < 0x80 && c.classes & (punctuation | symbol) && ascii_letter(after.value)) {
        const char *q = p + 1;
        while (q < r.end && ascii_letter(uint8_t(*q))) q++, r.steps++;
        return q;
    }
    if (c.classes & (letter | mark)) return r.run(p, letter | mark);
    bool const line_end = c.value == '\r' || c.value == '\n';
    if (!line_end && !(c.classes & (punctuation | symbol)) && after.classes & (letter | mark))
        return r.run(p + c.bytes, letter | mark);
    if (c.classes & (punctuation | symbol)) return r.newlines(r.run(p, punctuation | symbol));
    if (c.value == ' ' && after.classes & (punctuation | symbol))
        return r.newlines(r.run(p + 1, punctuation | symbol));
    return c.classes & space ? white_space(r, p) : p;
}

// ---- llama 3 and qwen 2: the same pattern except for the digits

constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// (?i:'s|'t|'re|'ve|'m|'ll|'d) after the apostrophe. In Unicode's case folding, ſ (U+017F) is an s.
const char *contraction(reader &r, const char *p) {
    auto const lower = [](uint32_t c) {
        return c == 0x17f ? uint32_t('s') : c < 0x80 && ascii_letter(c) ? c | 0x20 : c;
    };
    character const first = r.at(p);
    uint32_t const a = lower(first.value);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + first.bytes;
    if (a != 'r' && a != 'v' && a != 'l') return p;
    uint32_t const b = lower(r.at(p + 1).value);
    return b == (a == 'l' ? 'l' : 'e') ? p + 2 : p;
}

template <int most_digits> const char *llama3_word(reader &r, const char *p) {
    auto const other = [](const character &c) { return c.bytes && !(c.classes & (space | letter | number)); };
    character const c = r.at(p);
    if (c.value == '\'') {
        if (const char *const q = contraction(r, p + 1); q != p + 1) return q;
    }
    if (c.classes & letter) return r.run(p, letter);
    if (c.classes & number) return numbers<most_digits>(r, p);
    character const after = r.at(p + c.bytes);
    if (c.value != '\r' && c.value != '\n' && after.classes & letter) return r.run(p + c.bytes, letter);
    if (other(c) || (c.value == ' ' && other(after))) {
        const char *q = p + c.bytes;
        for (character d = after; other(d); d = r.at(q)) q += d.bytes;
        return r.newlines(q);
    }
    return white_space(r, p);
}

// ---- the table

struct stage {
    std::string_view pattern;
    scanner next;
    std::string_view also = {};  // another pattern that gives the same tokens
};

struct row {
    pre_tokenizer id;
    std::string_view name;
    stage stages[6];  // used ones first

    size_t used() const {
        return size_t(
            std::find_if(std::begin(stages), std::end(stages), [](const stage &s) { return !s.next; }) -
            std::begin(stages));
    }
};

constexpr row rows[] = {
    // No token of deepseek-llm's vocabulary has two digits, so splitting digits one by one gives the same
    // tokens.
    {pre_tokenizer::deepseek_llm,
     "deepseek-llm",
     {{newline_pattern, search<newline>},
      {cased_pattern, search<spaced_run<in_set<cased>>>},
      {ascii_like_pattern, search<spaced_run<in_set<ascii_like>>>},
      {trailing_pattern, trailing_space},
      {asian_pattern, search<set_run<asian>>},
      {R"(\p{N}+)", search<number_run>, R"(\p{N})"}}},
    {pre_tokenizer::deepseek_coder,
     "deepseek-coder",
     {{newline_pattern, search<newline>},
      {R"(\s?\p{L}+)", search<spaced_run<in_class<letter>>>},
      {R"(\s?\p{P}+)", search<spaced_run<in_class<punctuation>>>},
      {asian_pattern, search<set_run<asian>>},
      {R"(\p{N})", search<numbers<1>>}}},
    {pre_tokenizer::deepseek_v3,
     "deepseek-v3",
     {{number3_pattern, search<numbers<3>>},
      {cjk_pattern, search<set_run<cjk>>},
      {v3_pattern, search<v3_word>}}},
    {pre_tokenizer::llama_bpe, "llama-bpe", {{llama3_pattern, search<llama3_word<3>>}}},
    {pre_tokenizer::qwen2, "qwen2", {{qwen2_pattern, search<llama3_word<1>>}}},
    {pre_tokenizer::deepseek_r1_qwen, "deepseek-r1-qwen", {{qwen2_pattern, search<llama3_word<1>>}}},
};

const row &row_of(pre_tokenizer p) {
    return *std::find_if(std::begin(rows), std::end(rows), [&](const row &r) { return r.id == p; });
}

// A pattern may contain line ends as themselves or escaped.
std::string escaped(std::string_view pattern) {
    std::string out;
    for (char const c : pattern) {
        if (c == '\r') out += "\\r";
        else if (c == '\n') out += "\\n";
        else out += c;
    }
    return out;
}

}  // namespace

splitter::splitter(pre_tokenizer p, std::string_view text) : pre_(p), patterns_(row_of(p).used()) {
    const char *const begin = text.data();
    parts_[0] = {begin, begin, begin, begin + text.size()};
}

// Each piece goes to the next pattern immediately, so that no list of pieces is needed.
bool splitter::next(std::string_view &piece) {
    const row &r = row_of(pre_);
    while (open_ > 0) {
        part &p = parts_[open_ - 1];
        if (p.at == p.end) {
            open_--;
            continue;
        }
        if (p.at == p.to) {
            reader text{p.end};
            match const m = r.stages[open_ - 1].next(text, p.at);
            p.from = m.from, p.to = m.to;
            steps_ += text.steps;
        }
        const char *const begin = p.at;
        p.at = begin < p.from ? p.from : p.to;
        if (open_ == patterns_) {
            piece = {begin, size_t(p.at - begin)};
            return true;
        }
        parts_[open_++] = {begin, begin, begin, p.at};
    }
    return false;
}

void pre_tokenize(pre_tokenizer p, std::string_view text, std::vector<uint32_t> &lengths, uint64_t *steps) {
    lengths.clear();
    splitter pieces(p, text);
    for (std::string_view piece; pieces.next(piece);) lengths.push_back(uint32_t(piece.size()));
    if (steps) *steps += pieces.steps();
}

bool pre_tokenizer_from_text(std::string_view name, pre_tokenizer *out) {
    for (const row &r : rows) {
        if (r.name != name) continue;
        *out = r.id;
        return true;
    }
    return false;
}

std::string_view pre_tokenizer_text(pre_tokenizer p) { return row_of(p).name; }

std::string pre_tokenizers_known() {
    std::string out;
    for (const row &r : rows) out += (out.empty() ? "" : ", ") + std::string(r.name);
    return out;
}

bool pre_tokenizer_recognise(std::span<const std::string> patterns, pre_tokenizer *out) {
    auto const same = [](const stage &s, const std::string &p) {
        return escaped(p) == s.pattern || escaped(p) == s.also;
    };
    for (const row &r : rows) {
        if (!std::equal(r.stages, r.stages + r.used(), patterns.begin(), patterns.end(), same)) continue;
        *out = r.id;
        return true;
    }
    return false;
}

}  // namespace ds
