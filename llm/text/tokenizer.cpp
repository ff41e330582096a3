// The vocabulary of a GGUF file, and text to ids and back. A normal token is spelled in GPT-2's byte
// alphabet, which has a printable character for each of the 256 bytes. Added tokens (control, user-defined)
// are spelled as themselves and are cut out of the text first. Merges work on ids, so the alphabet matters
// only while loading.
// Invariant: no file can make time or memory grow without bound. A look-up by spelling takes at most
// `max_probes` steps, and an added token has at most `max_added_bytes` bytes. Encoding a text takes no more
// memory than its ids do while they are collected, a vocabulary some 50 bytes per token.
#include "tokenizer.h"
#include "added_tokens.h"
#include "bpe.h"
#include "unicode.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace ds {

namespace {

// GPT-2's alphabet: bytes that are printable in Latin-1 stand for themselves, the other 68 are U+0100 and up,
// in order.
struct byte_alphabet {
    uint16_t character[256] = {};
    int16_t byte[256 + 68] = {};  // -1: no byte has this character

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

// Appends the bytes that a spelling stands for. False, with nothing appended, if a character is not in the
// alphabet.
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

// The byte of "<0xHH>", the spelling of a token of the byte kind; -1 for anything else.
int byte_token(std::string_view s) {
    auto const digit = [](char c) {
        return c >= '0' && c <= '9'   ? c - '0'
               : c >= 'A' && c <= 'F' ? c - 'A' + 10
               : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                      : -1;
    };
    if (s.size() != 6 || s.substr(0, 3) != "<0x" || s[5] != '>' || digit(s[3]) < 0 || digit(s[4]) < 0)
        return -1;
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

// Spelling to id: open addressing, at most half full. Spellings crafted to collide are refused, not searched.
class spelling_table {
public:
    static constexpr size_t max_probes = 256;

    explicit spelling_table(std::span<const std::string_view> tokens)
        : tokens_(tokens), ids_(std::bit_ceil(2 * tokens.size() + 2), -1), check_(ids_.size()) {}

    // False if too many spellings collide. Of equal spellings the first counts.
    bool add(token_id t) {
        uint64_t const h = hash(tokens_[size_t(t)]);
        size_t const i = probe(tokens_[size_t(t)], h);
        if (i == ids_.size()) return false;
        if (ids_[i] < 0) ids_[i] = t, check_[i] = tag(h);
        return true;
    }
    token_id find(std::string_view spelling) const {
        size_t const i = probe(spelling, hash(spelling));
        return i == ids_.size() ? -1 : ids_[i];
    }

private:
    static uint8_t tag(uint64_t h) { return uint8_t(h >> 36); }
    // The slot of a spelling, or an empty one for it; ids_.size() if max_probes steps find neither.
    size_t probe(std::string_view spelling, uint64_t h) const {
        size_t const mask = ids_.size() - 1;
        for (size_t n = 0; n < max_probes; n++) {
            size_t const i = (h + n) & mask;
            if (ids_[i] < 0 || (check_[i] == tag(h) && tokens_[size_t(ids_[i])] == spelling)) return i;
        }
        return ids_.size();
    }
    std::span<const std::string_view> tokens_;
    std::vector<token_id> ids_;   // -1: empty
    std::vector<uint8_t> check_;  // bits of the hash, so that few spellings are compared
};

constexpr size_t max_added_bytes = 256;

// Tokens that end an answer in the supported families, whatever eos the file names.
constexpr std::string_view known_ends[] = {
    "<｜end▁of▁sentence｜>", "<|EOT|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>",
    "<|endoftext|>",
};

bool is_text(token_kind k) { return k == token_kind::normal || k == token_kind::undefined; }

}  // namespace

struct tokenizer::impl {
    const gguf_file &file;
    pre_tokenizer pre;
    std::vector<std::string_view> tokens;
    std::vector<token_kind> kinds;
    std::string arena;           // the bytes of all tokens, concatenated
    std::vector<uint32_t> ends;  // [tokens] end offsets in it
    size_t longest = 0;          // bytes of the longest normal token
    spelling_table spellings;
    token_id symbols[256];  // tokens of one byte; -1 if the vocabulary has neither that nor an unknown token
    added_tokens user_defined, control;
    merge_table merges;
    token_id bos, eos, pad, unknown;
    bool adds_bos, adds_eos, ignore_merges, normalise;
    std::vector<token_id> end_tokens;
    std::vector<std::string> remarks;

    explicit impl(const gguf_file &f);
    void read_kinds();
    void check_scores() const;
    void read_bytes();
    void read_added();
    void read_merges();
    void read_special();
    void read_options();
    token_id special(const char *key, bool needed);
    std::string_view bytes_of(size_t t) const {
        return std::string_view(arena).substr(t == 0 ? 0 : ends[t - 1], ends[t] - (t == 0 ? 0 : ends[t - 1]));
    }

    struct scratch;
    void encode_segment(std::string_view text, scratch &s, std::vector<token_id> &out) const;
    void encode_piece(std::string_view piece, scratch &s, std::vector<token_id> &out) const;
};

// ---- loading

static pre_tokenizer read_pre(const gguf_file &f) {
    std::string_view const model = f.get_string("tokenizer.ggml.model");
    if (model != "gpt2") {
        throw error(status::unsupported,
                    f.name() + ": tokenizer.ggml.model: " + quoted(std::string(model)) +
                        " is not among what this build reads; it reads 'gpt2' (byte-level BPE)");
    }
    std::string_view const name = f.get_string("tokenizer.ggml.pre", "");
    pre_tokenizer p;
    if (pre_tokenizer_from_text(name, &p)) return p;
    if (!f.has("tokenizer.ggml.pre"))
        f.fail("tokenizer.ggml.pre", "the key is missing; known are " + pre_tokenizers_known());
    throw error(status::unsupported, f.name() + ": tokenizer.ggml.pre: " + quoted(std::string(name)) +
                                         " is unknown; known are " + pre_tokenizers_known());
}

static std::vector<std::string_view> read_tokens(const gguf_file &f) {
    std::vector<std::string_view> tokens = f.get_strings("tokenizer.ggml.tokens");
    if (tokens.empty()) f.fail("tokenizer.ggml.tokens", "the vocabulary is empty");
    if (tokens.size() > size_t(std::numeric_limits<token_id>::max()))
        f.fail("tokenizer.ggml.tokens", "more than 2^31 - 1 tokens");
    return tokens;
}

tokenizer::impl::impl(const gguf_file &f)
    : file(f), pre(read_pre(f)), tokens(read_tokens(f)), spellings(tokens) {
    read_kinds();
    check_scores();
    for (size_t i = 0; i < tokens.size(); i++) {
        if (!spellings.add(token_id(i)))
            f.fail("tokenizer.ggml.tokens",
                   "token " + std::to_string(i) + " and many others are made to collide in a hash table");
    }
    read_bytes();
    read_added();
    read_merges();
    read_special();
    read_options();
    std::replace(std::begin(symbols), std::end(symbols), -1, unknown);
}

void tokenizer::impl::read_options() {
    constexpr const char *key = "deepseek.tokenizer.normalizer";
    ignore_merges = file.get_bool("deepseek.tokenizer.ignore_merges", ignores_merges(pre));
    std::string_view const normalizer = file.get_string(key, normalises(pre) ? "nfc" : "none");
    if (normalizer != "nfc" && normalizer != "none")
        throw error(status::unsupported, file.name() + ": " + key + ": " + quoted(std::string(normalizer)) +
                                             " is unknown; known are nfc, none");
    normalise = normalizer == "nfc";
}

void tokenizer::impl::read_kinds() {
    kinds.assign(tokens.size(), token_kind::normal);
    if (!file.has("tokenizer.ggml.token_type")) return;
    std::vector<int32_t> const types = file.get_ints("tokenizer.ggml.token_type");
    if (types.size() != tokens.size()) {
        file.fail("tokenizer.ggml.token_type",
                  std::to_string(types.size()) + " values for " + std::to_string(tokens.size()) + " tokens");
    }
    for (size_t i = 0; i < types.size(); i++) {
        if (types[i] < 0 || types[i] > int32_t(token_kind::byte)) {
            file.fail("tokenizer.ggml.token_type", "token " + std::to_string(i) + " has type " +
                                                       std::to_string(types[i]) +
                                                       ", which is not within 0 to 6");
        }
        kinds[i] = token_kind(types[i]);
    }
}

// Byte-level BPE does not use scores, but their number must match the vocabulary.
void tokenizer::impl::check_scores() const {
    if (!file.has("tokenizer.ggml.scores")) return;
    size_t const n = file.get_floats("tokenizer.ggml.scores").size();
    if (n != tokens.size())
        file.fail("tokenizer.ggml.scores",
                  std::to_string(n) + " values for " + std::to_string(tokens.size()) + " tokens");
}

void tokenizer::impl::read_bytes() {
    size_t total = 0;
    for (std::string_view const t : tokens) total += t.size();
    if (total > UINT32_MAX)
        throw error(status::unsupported, file.name() + ": tokenizer.ggml.tokens: " + std::to_string(total) +
                                             " bytes in all, more than 2^32 - 1");
    arena.reserve(total);
    ends.reserve(tokens.size());
    std::fill(std::begin(symbols), std::end(symbols), -1);
    token_id fallback[256];
    std::fill(std::begin(fallback), std::end(fallback), -1);
    for (size_t i = 0; i < tokens.size(); i++) {
        token_id *table = symbols;
        bool added = false;
        if (kinds[i] == token_kind::byte) {
            int const b = byte_token(tokens[i]);
            if (b < 0)
                file.fail("tokenizer.ggml.tokens", "token " + std::to_string(i) + ", " +
                                                       quoted(std::string(tokens[i])) +
                                                       ", is of the byte type but not spelled <0xHH>");
            arena += char(b);
            table = fallback;
        } else if (!is_text(kinds[i]) || !append_bytes(tokens[i], arena)) {
            arena += tokens[i];
            added = true;
        }
        ends.push_back(uint32_t(arena.size()));
        std::string_view const bytes = bytes_of(i);
        if (added) continue;
        longest = std::max(longest, bytes.size());
        if (bytes.size() == 1 && table[uint8_t(bytes[0])] < 0) table[uint8_t(bytes[0])] = token_id(i);
    }
    for (int b = 0; b < 256; b++) {
        if (symbols[b] < 0) symbols[b] = fallback[b];
    }
}

void tokenizer::impl::read_added() {
    for (token_kind const kind : {token_kind::control, token_kind::user_defined}) {
        std::vector<added_tokens::token> added;
        size_t total = 0;
        for (size_t i = 0; i < tokens.size(); i++) {
            if (kinds[i] != kind) continue;
            if (tokens[i].size() > max_added_bytes) {
                throw error(status::unsupported, file.name() + ": tokenizer.ggml.tokens: added token " +
                                                     std::to_string(i) + " has " +
                                                     std::to_string(tokens[i].size()) + " bytes, more than " +
                                                     std::to_string(max_added_bytes));
            }
            total += tokens[i].size();
            if (total > added_tokens::max_bytes) {
                throw error(status::unsupported,
                            file.name() + ": tokenizer.ggml.tokens: the added tokens up to " +
                                std::to_string(i) + " have " + std::to_string(total) + " bytes, more than " +
                                std::to_string(added_tokens::max_bytes));
            }
            if (!tokens[i].empty()) added.push_back({tokens[i], token_id(i)});
        }
        (kind == token_kind::control ? control : user_defined).build(std::move(added));
    }
}

// A merge is "left right". One that names a token outside the vocabulary is refused, as in the published
// tokenizers: it could never be applied, and a truncated vocabulary would silently give wrong ids.
void tokenizer::impl::read_merges() {
    std::vector<std::string_view> lines = file.get_strings("tokenizer.ggml.merges");
    if (lines.size() >= merge_table::none) file.fail("tokenizer.ggml.merges", "more than 2^32 - 2 merges");
    std::vector<merge_table::merge> found;
    found.reserve(lines.size());
    std::string joined;
    for (size_t i = 0; i < lines.size(); i++) {
        auto const complain = [&](const std::string &text) {
            file.fail("tokenizer.ggml.merges",
                      "merge " + std::to_string(i) + ", " + quoted(std::string(lines[i])) + ", " + text);
        };
        size_t const gap = lines[i].find(' ', 1);
        if (gap == std::string_view::npos || gap + 1 == lines[i].size())
            complain("is not two tokens with a space between");
        auto const id = [&](std::string_view spelling) {
            token_id const t = spellings.find(spelling);
            if (t < 0)
                complain("names " + quoted(std::string(spelling)) + ", which the vocabulary does not have");
            return t;
        };
        std::string_view const left = lines[i].substr(0, gap), right = lines[i].substr(gap + 1);
        joined.assign(left).append(right);
        found.push_back({id(left), id(right), id(joined)});
    }
    lines = {};
    merges = merge_table(std::move(found), tokens.size());
}

// The special token of a key, or -1. An id out of range counts as none, with a remark, if nothing depends on
// it.
token_id tokenizer::impl::special(const char *name, bool needed) {
    std::string const key = std::string("tokenizer.ggml.") + name;
    const gguf_value *const v = file.find(key);
    if (!v) return -1;
    bool const number = !v->is_array && v->type != gguf_type::string && v->type != gguf_type::boolean &&
                        v->type != gguf_type::f32 && v->type != gguf_type::f64;
    try {
        return token_id(file.get_uint(key, tokens.size() - 1));
    } catch (const error &e) {
        if (needed || !number) throw;
        remarks.push_back(e.text + "; it is taken for none");
        return -1;
    }
}

// Some files use -1, as a number of 4 or 8 bytes, for "none".
static bool says_none(const gguf_file &f, const char *name) {
    const gguf_value *const v = f.find(std::string("tokenizer.ggml.") + name);
    return v && !v->is_array && v->bytes >= 4 &&
           std::all_of(v->data, v->data + v->bytes, [](uint8_t b) { return b == 0xff; });
}

void tokenizer::impl::read_special() {
    bool const every_byte =
        std::none_of(std::begin(symbols), std::end(symbols), [](token_id t) { return t < 0; });
    auto const unless_none = [&](const char *key, bool needed) {
        return special(key, needed && !says_none(file, key));
    };
    // Llama 3's files may omit the key and mean true.
    bool const with_bos = file.get_bool("tokenizer.ggml.add_bos_token", pre == pre_tokenizer::llama_bpe);
    adds_eos = file.get_bool("tokenizer.ggml.add_eos_token", false);
    bos = special("bos_token_id", with_bos);
    eos = special("eos_token_id", adds_eos || !says_none(file, "eos_token_id"));
    pad = special("padding_token_id", false);
    unknown = unless_none("unknown_token_id", !every_byte);
    adds_bos = with_bos && (bos >= 0 || file.has("tokenizer.ggml.add_bos_token"));
    if (adds_bos && bos < 0)
        file.fail("tokenizer.ggml.add_bos_token", "it is true, but tokenizer.ggml.bos_token_id is missing");
    if (adds_eos && eos < 0)
        file.fail("tokenizer.ggml.add_eos_token", "it is true, but tokenizer.ggml.eos_token_id is missing");
    for (token_id const t : {eos, unless_none("eot_token_id", true), unless_none("eom_token_id", true)}) {
        if (t >= 0) end_tokens.push_back(t);
    }
    for (std::string_view const s : known_ends) {
        token_id const t = spellings.find(s);
        if (t >= 0 &&
            (kinds[size_t(t)] == token_kind::control || kinds[size_t(t)] == token_kind::user_defined))
            end_tokens.push_back(t);
    }
    std::sort(end_tokens.begin(), end_tokens.end());
    end_tokens.erase(std::unique(end_tokens.begin(), end_tokens.end()), end_tokens.end());
}

// ---- text to ids

struct tokenizer::impl::scratch {
    scratch(const merge_table &merges, size_t bytes) : pieces(merges), rest(bytes) {}
    std::string normal, spelling;
    merger pieces;
    size_t rest;  // bytes of the text that have no ids yet
    uint64_t steps = 0;

    // Reserves memory for the ids of the next piece. Unlimited doubling would take three times the memory of
    // the ids; the most that the rest of the text can need limits it.
    void reserve_for(size_t bytes, std::vector<token_id> &out) const {
        if (out.capacity() - out.size() >= bytes) return;
        size_t const most = out.size() + std::max(rest, out.size() / 8),
                     doubled = std::max(2 * out.capacity(), out.size() + rest / 4);
        out.reserve(std::max(out.size() + bytes, std::min(most, doubled)));
    }
};

// bytes from which the merger's 40 bytes per symbol are too many
constexpr size_t long_piece = size_t(1) << 15;

void tokenizer::impl::encode_piece(std::string_view piece, scratch &s, std::vector<token_id> &out) const {
    s.reserve_for(piece.size(), out);
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
        token_id const t = symbols[uint8_t(c)];
        if (t < 0)
            throw error(
                status::argument,
                format_text("byte 0x%02X has no token in the vocabulary, which names no unknown token",
                            unsigned(uint8_t(c))));
        if (piece.size() < long_piece) s.pieces.add(t);
    }
    s.steps += piece.size() < long_piece ? s.pieces.finish(out) : merge_long(merges, symbols, piece, out);
}

void tokenizer::impl::encode_segment(std::string_view text, scratch &s, std::vector<token_id> &out) const {
    size_t const after = s.rest - text.size();
    if (normalise && unicode::to_nfc(text, s.normal)) text = s.normal;
    splitter pieces(pre, text);
    for (std::string_view piece; pieces.next(piece);) {
        s.rest = after + text.size() - size_t(piece.data() - text.data());
        encode_piece(piece, s, out);
    }
    s.steps += pieces.steps();
    s.rest = after;
}

void tokenizer::encode(std::string_view text, const encode_options &o, std::vector<token_id> &out,
                       uint64_t *steps) const {
    if (text.size() > max_text_bytes) {
        throw error(status::too_long, "the text has " + std::to_string(text.size()) + " bytes, more than " +
                                          std::to_string(max_text_bytes));
    }
    if (o.add_bos && impl_->adds_bos) out.push_back(impl_->bos);
    impl::scratch s(impl_->merges, text.size());
    const added_tokens *const sets[] = {&impl_->user_defined, &impl_->control};
    added_search search(std::span(sets, o.parse_special ? 2 : 1), text);
    added_tokens::match found;
    size_t from = 0;
    for (size_t at; search.next(from, at, found); from = at + found.bytes) {
        impl_->encode_segment(text.substr(from, at - from), s, out);
        s.reserve_for(1, out);
        out.push_back(found.id);
        s.rest -= found.bytes;
    }
    impl_->encode_segment(text.substr(from), s, out);
    if (steps) *steps += s.steps + search.steps();
}

std::vector<tokenizer::added> tokenizer::added_in(std::string_view text) const {
    const added_tokens *const sets[] = {&impl_->user_defined, &impl_->control};
    added_search search(sets, text);
    added_tokens::match found;
    std::vector<added> out;
    for (size_t from = 0, at; search.next(from, at, found); from = at + found.bytes)
        out.push_back({at, found.bytes, found.id});
    return out;
}

// ---- ids to text

size_t tool_mark_at(std::string_view text) {
    constexpr std::string_view names[] = {"calls▁begin",   "calls▁end",   "call▁begin",   "call▁end",  "sep",
                                          "outputs▁begin", "outputs▁end", "output▁begin", "output▁end"};
    constexpr std::string_view end = "｜>";
    if (!text.starts_with(tool_mark_begin)) return 0;
    std::string_view const rest = text.substr(tool_mark_begin.size());
    for (std::string_view const name : names)
        if (rest.starts_with(name) && rest.substr(name.size()).starts_with(end))
            return tool_mark_begin.size() + name.size() + end.size();
    return 0;
}

std::string_view tokenizer::bytes(token_id t, bool special) const {
    token_kind const k = kind(t);
    bool const tool_mark = k == token_kind::control && tool_mark_at(impl_->tokens[size_t(t)]) > 0;
    bool const shown = is_text(k) || k == token_kind::byte || k == token_kind::user_defined || tool_mark ||
                       (special && k != token_kind::unused);
    return shown ? impl_->bytes_of(size_t(t)) : std::string_view();
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
const std::vector<token_id> &tokenizer::end_tokens() const { return impl_->end_tokens; }

void utf8_stream::push(std::string_view bytes, std::string &out) {
    if (n_held_ && !bytes.empty()) {  // complete the held bytes
        char joined[8];
        const size_t more = std::min<size_t>(bytes.size(), 4), size = n_held_ + more;
        std::copy_n(held_.data(), n_held_, joined);
        std::copy_n(bytes.data(), more, joined + n_held_);
        uint32_t good;
        const uint32_t n = utf8_sequence(joined, joined + size, &good);
        if (!n && good == size) {  // still incomplete
            std::copy_n(joined, size, held_.data());
            n_held_ = static_cast<unsigned>(size);
            return;
        }
        if (n) out.append(joined, n);
        else unicode::append_utf8(0xfffd, out);
        // the held bytes were a valid beginning: good >= n_held_
        bytes.remove_prefix((n ? n : good) - n_held_);
        n_held_ = 0;
    }
    const char *const end = bytes.data() + bytes.size();
    for (const char *p = bytes.data(); p < end;) {
        uint32_t good;
        uint32_t const n = utf8_sequence(p, end, &good);
        if (n) {
            out.append(p, n);
            // A valid lead byte whose sequence is cut off.
        } else if (p + good == end && uint8_t(*p) >= 0xc2 && uint8_t(*p) <= 0xf4) {
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

}  // namespace ds
