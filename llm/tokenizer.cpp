// The vocabulary of a GGUF file, and text to ids and back. A normal token is spelled in GPT-2's byte alphabet (a printable character for each of the
// 256 bytes); added tokens (control, user-defined) are spelled as themselves and are cut out of the text before anything else looks at it.
// Bytes become symbols and merges work on ids, so the alphabet matters only while loading. Everything a file can say is bounded: a look-up by
// spelling takes at most `max_probes` steps, an added token has at most `max_added_bytes` bytes.
#include "tokenizer.h"
#include "bpe.h"
#include "unicode.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace ds {

namespace {

// GPT-2's alphabet: the bytes that Latin-1 prints stand for themselves, the 68 others for U+0100 and on, in order.
struct byte_alphabet {
    uint16_t character[256] = {};
    int16_t byte[256 + 68] = {};    // -1 where no byte has this character

    constexpr byte_alphabet() {
        for (int16_t &b : byte) b = -1;
        int other = 256;
        for (int b = 0; b < 256; b++) {
            bool const itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
            character[b] = uint16_t(itself ? b : other++);
            byte[character[b]] = int16_t(b);
        }
    }
};
constexpr byte_alphabet alphabet;

// Appends the bytes that a spelling stands for; false, with nothing appended, when a character is not in the alphabet.
bool append_bytes(std::string_view spelling, std::string &out) {
    size_t const before = out.size();
    const char *const end = spelling.data() + spelling.size();
    for (const char *p = spelling.data(); p < end;) {
        unicode::code_point const c = unicode::decode(p, end);
        if (c.value >= std::size(alphabet.byte) || alphabet.byte[c.value] < 0) {
            out.resize(before);
            return false;
        }
        out += char(alphabet.byte[c.value]);
        p += c.bytes;
    }
    return true;
}

// "<0xHH>", the spelling of a token of the byte kind; -1 when it is not that.
int byte_token(std::string_view s) {
    auto const digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
    if (s.size() != 6 || s.substr(0, 3) != "<0x" || s[5] != '>' || digit(s[3]) < 0 || digit(s[4]) < 0) return -1;
    return digit(s[3]) * 16 + digit(s[4]);
}

uint64_t hash(std::string_view s) {
    uint64_t h = s.size();
    for (size_t i = 0; i < s.size(); i += 8) {
        uint64_t word = 0;
        std::memcpy(&word, s.data() + i, std::min<size_t>(8, s.size() - i));
        h = (h ^ word) * 0x9e3779b97f4a7c15;
        h ^= h >> 29;
    }
    return h * 0xbf58476d1ce4e5b9 >> 20;
}

// Spelling to id, open addressing at most a quarter full. Spellings made to collide are refused instead of searched.
class spelling_table {
public:
    static constexpr size_t max_probes = 128;

    explicit spelling_table(std::span<const std::string_view> tokens) : tokens_(tokens), slots_(std::bit_ceil(4 * tokens.size() + 4), slot{0, -1}) {}

    // False when too many spellings collide. Of equal spellings the first is kept.
    bool add(token_id t) {
        uint64_t const h = hash(tokens_[size_t(t)]);
        size_t const i = probe(tokens_[size_t(t)], h);
        if (i == slots_.size()) return false;
        if (slots_[i].id < 0) slots_[i] = {uint32_t(h), t};
        return true;
    }
    token_id find(std::string_view spelling) const {
        size_t const i = probe(spelling, hash(spelling));
        return i == slots_.size() ? -1 : slots_[i].id;
    }

private:
    struct slot {
        uint32_t hash;
        token_id id;     // -1: empty
    };
    // The slot of a spelling or an empty one for it; slots_.size() when neither is near.
    size_t probe(std::string_view spelling, uint64_t h) const {
        size_t const mask = slots_.size() - 1;
        for (size_t n = 0; n < max_probes; n++) {
            size_t const i = (h + n) & mask;
            if (slots_[i].id < 0 || (slots_[i].hash == uint32_t(h) && tokens_[size_t(slots_[i].id)] == spelling)) return i;
        }
        return slots_.size();
    }
    std::span<const std::string_view> tokens_;
    std::vector<slot> slots_;
};

constexpr size_t max_added_bytes = 256;

// Finds added tokens in a text: sorted spellings, narrowed byte by byte.
class added_tokens {
public:
    void add(std::string_view spelling, token_id id) {
        if (!spelling.empty()) sorted_.push_back({spelling, id});
    }
    void finish() {
        std::sort(sorted_.begin(), sorted_.end());
        for (size_t i = sorted_.size(); i-- > 0;) first_[uint8_t(sorted_[i].first[0])] = uint32_t(i + 1);
    }
    // The longest one that `text` begins with; its length, 0 when there is none.
    size_t match(std::string_view text, token_id &id, uint64_t &steps) const {
        steps++;
        if (first_[uint8_t(text[0])] == 0) return 0;
        size_t longest = 0;
        auto from = sorted_.begin() + first_[uint8_t(text[0])] - 1, to = sorted_.end();
        for (size_t depth = 0; from != to; depth++) {
            if (from->first.size() == depth) {
                longest = depth;
                id = from->second;      // of equal spellings the lowest id comes first
                while (from != to && from->first.size() == depth) ++from;
            }
            if (depth == text.size()) break;
            // Those left all share `depth` bytes and are longer than that.
            auto const byte = [depth](const item &x) { return uint8_t(x.first[depth]); };
            auto const next = uint8_t(text[depth]);
            from = std::lower_bound(from, to, next, [&](const item &x, uint8_t b) { return byte(x) < b; });
            to = std::upper_bound(from, to, next, [&](uint8_t b, const item &x) { return b < byte(x); });
            steps++;
        }
        return longest;
    }

private:
    using item = std::pair<std::string_view, token_id>;
    std::vector<item> sorted_;
    uint32_t first_[256] = {};      // 1 + index of the first that begins with a byte, 0 when none does
};

// Tokens that end an answer in the families this library runs, whatever the file says of its eos.
constexpr std::string_view known_ends[] = {
    "<｜end▁of▁sentence｜>", "<|EOT|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|endoftext|>",
};

bool is_text(token_kind k) { return k == token_kind::normal || k == token_kind::undefined; }

} // namespace

struct tokenizer::impl {
    const gguf_file &file;
    pre_tokenizer pre;
    std::vector<std::string_view> tokens;
    std::vector<token_kind> kinds;
    std::vector<std::string_view> bytes;     // into `arena`, or the spelling itself
    std::string arena;
    size_t longest = 0;                      // bytes of the longest normal token
    spelling_table spellings;
    token_id symbols[256];                   // of one byte; -1 when the vocabulary has none
    added_tokens user_defined, all_added;
    merge_table merges;
    token_id bos, eos, pad, unknown;
    bool adds_bos, adds_eos, ignore_merges, normalise;
    std::vector<token_id> ends;
    std::vector<std::string> remarks;

    explicit impl(const gguf_file &f);
    void read_kinds();
    void check_scores() const;
    void read_bytes();
    void read_added();
    void read_merges();
    void read_special();
    void read_ways();
    token_id special(const char *key, bool needed);

    struct scratch;
    void encode_segment(std::string_view text, scratch &s, std::vector<token_id> &out) const;
    void encode_piece(std::string_view piece, scratch &s, std::vector<token_id> &out) const;
};

// ---- loading

static pre_tokenizer read_pre(const gguf_file &f) {
    std::string_view const model = f.get_string("tokenizer.ggml.model");
    if (model != "gpt2") {
        throw error(status::unsupported, f.name() + ": tokenizer.ggml.model: " + quoted(std::string(model)) + " is not among what this build reads; it reads 'gpt2' (byte-level BPE)");
    }
    std::string_view const name = f.get_string("tokenizer.ggml.pre", "");
    pre_tokenizer p;
    if (pre_tokenizer_from_text(name, &p)) return p;
    if (!f.has("tokenizer.ggml.pre")) f.fail("tokenizer.ggml.pre", "the key is missing; known are " + pre_tokenizers_known());
    throw error(status::unsupported, f.name() + ": tokenizer.ggml.pre: " + quoted(std::string(name)) + " is unknown; known are " + pre_tokenizers_known());
}

static std::vector<std::string_view> read_tokens(const gguf_file &f) {
    std::vector<std::string_view> tokens = f.get_strings("tokenizer.ggml.tokens");
    if (tokens.empty()) f.fail("tokenizer.ggml.tokens", "the vocabulary is empty");
    if (tokens.size() > size_t(std::numeric_limits<token_id>::max())) f.fail("tokenizer.ggml.tokens", "more than 2^31 - 1 tokens");
    return tokens;
}

tokenizer::impl::impl(const gguf_file &f) : file(f), pre(read_pre(f)), tokens(read_tokens(f)), spellings(tokens) {
    read_kinds();
    check_scores();
    for (size_t i = 0; i < tokens.size(); i++) {
        if (!spellings.add(token_id(i))) f.fail("tokenizer.ggml.tokens", "token " + std::to_string(i) + " and many others are made to collide in a hash table");
    }
    read_bytes();
    read_added();
    read_merges();
    read_special();
    read_ways();
}

void tokenizer::impl::read_ways() {
    constexpr const char *key = "deepseek.tokenizer.normalizer";
    ignore_merges = file.get_bool("deepseek.tokenizer.ignore_merges", ignores_merges(pre));
    std::string_view const normalizer = file.get_string(key, normalises(pre) ? "nfc" : "none");
    if (normalizer != "nfc" && normalizer != "none")
        throw error(status::unsupported, file.name() + ": " + key + ": " + quoted(std::string(normalizer)) + " is unknown; known are nfc, none");
    normalise = normalizer == "nfc";
}

void tokenizer::impl::read_kinds() {
    kinds.assign(tokens.size(), token_kind::normal);
    if (!file.has("tokenizer.ggml.token_type")) return;
    std::vector<int32_t> const types = file.get_ints("tokenizer.ggml.token_type");
    if (types.size() != tokens.size()) {
        file.fail("tokenizer.ggml.token_type", std::to_string(types.size()) + " values for " + std::to_string(tokens.size()) + " tokens");
    }
    for (size_t i = 0; i < types.size(); i++) {
        if (types[i] < 0 || types[i] > int32_t(token_kind::byte)) {
            file.fail("tokenizer.ggml.token_type", "token " + std::to_string(i) + " has type " + std::to_string(types[i]) + ", which is not within 0 to 6");
        }
        kinds[i] = token_kind(types[i]);
    }
}

// Byte-level BPE has no use for scores, but a file that carries them must mean the same vocabulary.
void tokenizer::impl::check_scores() const {
    if (!file.has("tokenizer.ggml.scores")) return;
    size_t const n = file.get_floats("tokenizer.ggml.scores").size();
    if (n != tokens.size()) file.fail("tokenizer.ggml.scores", std::to_string(n) + " values for " + std::to_string(tokens.size()) + " tokens");
}

void tokenizer::impl::read_bytes() {
    size_t total = 0;
    for (std::string_view const t : tokens) total += t.size();
    arena.reserve(total);    // so that views into it stay
    bytes.resize(tokens.size());
    std::fill(std::begin(symbols), std::end(symbols), -1);
    token_id fallback[256];
    std::fill(std::begin(fallback), std::end(fallback), -1);
    for (size_t i = 0; i < tokens.size(); i++) {
        size_t const before = arena.size();
        token_id *table = symbols;
        if (kinds[i] == token_kind::byte) {
            int const b = byte_token(tokens[i]);
            if (b < 0) file.fail("tokenizer.ggml.tokens", "token " + std::to_string(i) + ", " + quoted(std::string(tokens[i])) + ", is of the byte type but not spelled <0xHH>");
            arena += char(b);
            table = fallback;
        } else if (!is_text(kinds[i]) || !append_bytes(tokens[i], arena)) {
            bytes[i] = tokens[i];
            continue;
        }
        bytes[i] = {arena.data() + before, arena.size() - before};
        longest = std::max(longest, bytes[i].size());
        if (bytes[i].size() == 1 && table[uint8_t(bytes[i][0])] < 0) table[uint8_t(bytes[i][0])] = token_id(i);
    }
    for (int b = 0; b < 256; b++) {
        if (symbols[b] < 0) symbols[b] = fallback[b];
    }
}

void tokenizer::impl::read_added() {
    for (size_t i = 0; i < tokens.size(); i++) {
        bool const user = kinds[i] == token_kind::user_defined;
        if (!user && kinds[i] != token_kind::control) continue;
        if (tokens[i].size() > max_added_bytes) {
            throw error(status::unsupported, file.name() + ": tokenizer.ggml.tokens: added token " + std::to_string(i) + " has " + std::to_string(tokens[i].size()) +
                                                 " bytes, more than " + std::to_string(max_added_bytes));
        }
        all_added.add(tokens[i], token_id(i));
        if (user) user_defined.add(tokens[i], token_id(i));
    }
    all_added.finish();
    user_defined.finish();
}

// A merge is "left right". The published tokenizers refuse one that names a token outside the vocabulary, and so do we: it could never be
// applied, and a vocabulary cut short gives wrong ids without a word.
void tokenizer::impl::read_merges() {
    std::vector<std::string_view> const lines = file.get_strings("tokenizer.ggml.merges");
    if (lines.size() >= merge_table::none) file.fail("tokenizer.ggml.merges", "more than 2^32 - 2 merges");
    std::vector<merge_table::merge> found;
    found.reserve(lines.size());
    std::string joined;
    for (size_t i = 0; i < lines.size(); i++) {
        auto const complain = [&](const std::string &text) {
            file.fail("tokenizer.ggml.merges", "merge " + std::to_string(i) + ", " + quoted(std::string(lines[i])) + ", " + text);
        };
        size_t const gap = lines[i].find(' ', 1);
        if (gap == std::string_view::npos || gap + 1 == lines[i].size()) complain("is not two tokens with a space between");
        auto const id = [&](std::string_view spelling) {
            token_id const t = spellings.find(spelling);
            if (t < 0) complain("names " + quoted(std::string(spelling)) + ", which the vocabulary does not have");
            return t;
        };
        std::string_view const left = lines[i].substr(0, gap), right = lines[i].substr(gap + 1);
        joined.assign(left).append(right);
        found.push_back({id(left), id(right), id(joined)});
    }
    merges = merge_table(std::move(found), tokens.size());
}

// The token of a duty, -1 when there is none. An id that no token has is none, too, and remarked upon, where nothing depends on it.
token_id tokenizer::impl::special(const char *name, bool needed) {
    std::string const key = std::string("tokenizer.ggml.") + name;
    const gguf_value *const v = file.find(key);
    if (!v) return -1;
    bool const number = !v->is_array && v->type != gguf_type::string && v->type != gguf_type::boolean && v->type != gguf_type::f32 && v->type != gguf_type::f64;
    try {
        return token_id(file.get_uint(key, tokens.size() - 1));
    } catch (const error &e) {
        if (needed || !number) throw;
        remarks.push_back(e.text + "; it is taken for none");
        return -1;
    }
}

// Some files say -1, in one size of number or another, for "none".
static bool says_none(const gguf_file &f, const char *name) {
    const gguf_value *const v = f.find(std::string("tokenizer.ggml.") + name);
    return v && !v->is_array && v->bytes >= 4 && std::all_of(v->data, v->data + v->bytes, [](uint8_t b) { return b == 0xff; });
}

void tokenizer::impl::read_special() {
    bool const every_byte = std::none_of(std::begin(symbols), std::end(symbols), [](token_id t) { return t < 0; });
    auto const unless_none = [&](const char *key, bool needed) { return special(key, needed && !says_none(file, key)); };
    // llama 3's files may leave the key out and mean true.
    bool const with_bos = file.get_bool("tokenizer.ggml.add_bos_token", pre == pre_tokenizer::llama_bpe);
    adds_eos = file.get_bool("tokenizer.ggml.add_eos_token", false);
    bos = special("bos_token_id", with_bos);
    eos = special("eos_token_id", adds_eos || !says_none(file, "eos_token_id"));
    pad = special("padding_token_id", false);
    unknown = unless_none("unknown_token_id", !every_byte);
    adds_bos = with_bos && (bos >= 0 || file.has("tokenizer.ggml.add_bos_token"));
    if (adds_bos && bos < 0) file.fail("tokenizer.ggml.add_bos_token", "it is true, but tokenizer.ggml.bos_token_id is missing");
    if (adds_eos && eos < 0) file.fail("tokenizer.ggml.add_eos_token", "it is true, but tokenizer.ggml.eos_token_id is missing");
    for (token_id const t : {eos, unless_none("eot_token_id", true), unless_none("eom_token_id", true)}) {
        if (t >= 0) ends.push_back(t);
    }
    for (std::string_view const s : known_ends) {
        token_id const t = spellings.find(s);
        if (t >= 0 && (kinds[size_t(t)] == token_kind::control || kinds[size_t(t)] == token_kind::user_defined)) ends.push_back(t);
    }
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

// ---- text to ids

struct tokenizer::impl::scratch {
    explicit scratch(const merge_table &merges) : pieces(merges) {}
    std::string normal, spelling;
    std::vector<uint32_t> lengths;
    merger pieces;
    uint64_t steps = 0;
};

void tokenizer::impl::encode_piece(std::string_view piece, scratch &s, std::vector<token_id> &out) const {
    if (ignore_merges && piece.size() <= longest) {
        s.spelling.clear();
        for (char const c : piece) unicode::append_utf8(alphabet.character[uint8_t(c)], s.spelling);
        s.steps += piece.size();
        token_id const whole = spellings.find(s.spelling);
        if (whole >= 0 && is_text(kinds[size_t(whole)])) {
            out.push_back(whole);
            return;
        }
    }
    for (char const c : piece) {
        token_id const t = symbols[uint8_t(c)] >= 0 ? symbols[uint8_t(c)] : unknown;
        if (t < 0) throw error(status::argument, format_text("byte 0x%02X has no token in the vocabulary, which names no unknown token", unsigned(uint8_t(c))));
        s.pieces.add(t);
    }
    s.steps += s.pieces.finish(out);
}

void tokenizer::impl::encode_segment(std::string_view text, scratch &s, std::vector<token_id> &out) const {
    if (normalise && unicode::to_nfc(text, s.normal)) text = s.normal;
    pre_tokenize(pre, text, s.lengths, &s.steps);
    for (uint32_t const n : s.lengths) {
        encode_piece(text.substr(0, n), s, out);
        text.remove_prefix(n);
    }
}

void tokenizer::encode(std::string_view text, const encode_options &o, std::vector<token_id> &out, uint64_t *steps) const {
    if (text.size() > max_text_bytes) {
        throw error(status::too_long, "the text has " + std::to_string(text.size()) + " bytes, more than " + std::to_string(max_text_bytes));
    }
    if (o.add_bos && impl_->adds_bos) out.push_back(impl_->bos);
    const added_tokens &added = o.parse_special ? impl_->all_added : impl_->user_defined;
    impl::scratch s(impl_->merges);
    size_t from = 0;
    for (size_t at = 0; at < text.size();) {
        token_id id = -1;
        size_t const n = added.match(text.substr(at), id, s.steps);
        if (n == 0) {
            at++;
            continue;
        }
        impl_->encode_segment(text.substr(from, at - from), s, out);
        out.push_back(id);
        from = at += n;
    }
    impl_->encode_segment(text.substr(from), s, out);
    if (steps) *steps += s.steps;
}

size_t tokenizer::added_at(std::string_view text, token_id *id) const {
    uint64_t steps = 0;
    return text.empty() ? 0 : impl_->all_added.match(text, *id, steps);
}

// ---- ids to text

size_t tool_mark_at(std::string_view text) {
    constexpr std::string_view names[] = {"calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep", "outputs▁begin", "outputs▁end", "output▁begin", "output▁end"};
    constexpr std::string_view end = "｜>";
    if (!text.starts_with(tool_mark_begin)) return 0;
    std::string_view const rest = text.substr(tool_mark_begin.size());
    for (std::string_view const name : names)
        if (rest.starts_with(name) && rest.substr(name.size()).starts_with(end)) return tool_mark_begin.size() + name.size() + end.size();
    return 0;
}

std::string_view tokenizer::bytes(token_id t, bool special) const {
    token_kind const k = kind(t);
    bool const tool_mark = k == token_kind::control && tool_mark_at(impl_->tokens[size_t(t)]) > 0;
    bool const shown = is_text(k) || k == token_kind::byte || k == token_kind::user_defined || tool_mark || (special && k != token_kind::unused);
    return shown ? impl_->bytes[size_t(t)] : std::string_view();
}

tokenizer::tokenizer(const gguf_file &file) : impl_(std::make_unique<impl>(file)) {}
tokenizer::~tokenizer() = default;

size_t tokenizer::size() const { return impl_->tokens.size(); }
pre_tokenizer tokenizer::pre() const { return impl_->pre; }
std::string_view tokenizer::text(token_id t) const { return impl_->tokens[size_t(t)]; }
token_kind tokenizer::kind(token_id t) const { return impl_->kinds[size_t(t)]; }
token_id tokenizer::find(std::string_view text) const { return impl_->spellings.find(text); }
token_id tokenizer::bos() const { return impl_->bos; }
token_id tokenizer::eos() const { return impl_->eos; }
token_id tokenizer::pad() const { return impl_->pad; }
token_id tokenizer::unknown() const { return impl_->unknown; }
bool tokenizer::adds_bos() const { return impl_->adds_bos; }
bool tokenizer::adds_eos() const { return impl_->adds_eos; }
const std::vector<std::string> &tokenizer::remarks() const { return impl_->remarks; }
const std::vector<token_id> &tokenizer::end_tokens() const { return impl_->ends; }

void utf8_stream::push(std::string_view bytes, std::string &out) {
    if (n_held_ && !bytes.empty()) {    // what is held, and as much as may belong to it
        char joined[8];
        const size_t more = std::min<size_t>(bytes.size(), 4), size = n_held_ + more;
        std::copy_n(held_.data(), n_held_, joined);
        std::copy_n(bytes.data(), more, joined + n_held_);
        uint32_t good;
        const uint32_t n = utf8_sequence(joined, joined + size, &good);
        if (!n && good == size) {       // still not complete
            std::copy_n(joined, size, held_.data());
            n_held_ = static_cast<unsigned>(size);
            return;
        }
        if (n) out.append(joined, n);
        else unicode::append_utf8(0xfffd, out);
        bytes.remove_prefix((n ? n : good) - n_held_);    // what was held began a character, so it is used up
        n_held_ = 0;
    }
    const char *const end = bytes.data() + bytes.size();
    for (const char *p = bytes.data(); p < end;) {
        uint32_t good;
        uint32_t const n = utf8_sequence(p, end, &good);
        if (n) {
            out.append(p, n);
        } else if (p + good == end && uint8_t(*p) >= 0xc2 && uint8_t(*p) <= 0xf4) {    // a lead byte whose sequence is cut off
            std::copy(p, end, held_.begin());
            n_held_ = good;
        } else {
            unicode::append_utf8(0xfffd, out);
        }
        p += n ? n : good;
    }
}

void utf8_stream::finish(std::string &out) {
    if (n_held_) unicode::append_utf8(0xfffd, out);
    n_held_ = 0;
}

} // namespace ds
