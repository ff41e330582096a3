// The tokenizer: ids compared with published ones (data outside the repository, see tests/README.md), splits
// with the published patterns run by an independent regex engine (tests/data/tokenizer/splits.json, made by
// make_splits.py), merges with the definition, and the number of steps with linear bounds.
#include "../support/allocations.h"
#include "../support/files.h"
#include "../support/sanitizers.h"
#include "../support/skip.h"
#include "../support/vocab_from_json.h"
#include "../../llm/text/added_tokens.h"
#include "../../llm/text/bpe.h"
#include "../../llm/text/unicode.h"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <pthread.h>
#include <random>
#include <sstream>

using namespace ds;
using namespace ds::test;

namespace {

const std::string data_dir = DS_SOURCE_DIR "/tests/data/";

std::vector<token_id> encode(const tokenizer &tok, std::string_view text, tokenizer::encode_options o = {}) {
    std::vector<token_id> out;
    tok.encode(text, o, out);
    return out;
}

std::string decode(const tokenizer &tok, const std::vector<token_id> &ids) {
    std::string out;
    for (token_id const t : ids) out += tok.bytes(t, true);
    return out;
}

std::vector<uint32_t> split(pre_tokenizer p, std::string_view text) {
    std::vector<uint32_t> lengths;
    pre_tokenize(p, text, lengths);
    return lengths;
}

std::string normal(const std::string &text) {
    std::string out;
    return unicode::to_nfc(text, out) ? out : text;
}

const nlohmann::json &splits() {
    static const nlohmann::json data = read_json(data_dir + "tokenizer/splits.json");
    return data;
}

// Sanitizers make the code some ten times slower. A smaller text will do, since steps are counted rather than
// timed.
#if defined(DS_ADDRESS_SANITIZER) || defined(DS_THREAD_SANITIZER)
constexpr size_t run_bytes = 128 << 10;
#else
constexpr size_t run_bytes = 1 << 20;
#endif

struct run_job {
    const tokenizer *tok;
    std::string text;
    std::vector<token_id> ids;
    uint64_t steps = 0;
};

void *run_encode(void *p) {
    auto &job = *static_cast<run_job *>(p);
    job.tok->encode(job.text, {}, job.ids, &job.steps);
    return nullptr;
}

// A vocabulary whose merges double runs of each of `characters` up to 64 of them, so that a run needs many
// merges.
gguf_writer doubling_vocabulary(std::span<const std::string> characters) {
    gguf_writer w = vocabulary_from_json(data_dir + "tiny-r1");
    std::vector<std::string> tokens, merges;
    auto const symbol = [](uint8_t b) {
        bool const itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        std::string out;
        unicode::append_utf8(itself ? b : b < 33 ? 256u + b : b < 161 ? 256u + 33 + b - 127 : 256u + 67, out);
        return out;
    };
    for (int b = 0; b < 256; b++) tokens.push_back(symbol(uint8_t(b)));
    auto const merge = [&](const std::string &a, const std::string &b) {
        if (std::find(tokens.begin(), tokens.end(), a + b) != tokens.end()) return;
        tokens.push_back(a + b);
        merges.push_back(a + " " + b);
    };
    for (const std::string &c : characters) {
        std::string whole = symbol(uint8_t(c[0]));
        for (size_t i = 1; i < c.size(); i++)
            merge(whole, symbol(uint8_t(c[i]))), whole += symbol(uint8_t(c[i]));
        for (int n = 1; n < 64; n *= 2) merge(whole, whole), whole += whole;
    }
    w.set_strings("tokenizer.ggml.tokens", tokens);
    w.set_strings("tokenizer.ggml.merges", merges);
    w.erase("tokenizer.ggml.token_type");
    for (auto const key : {"bos", "eos", "padding"})
        w.erase(std::string("tokenizer.ggml.") + key + "_token_id");
    w.set_bool("tokenizer.ggml.add_bos_token", false);
    return w;
}

}  // namespace

TEST_CASE("unicode: classes of code points") {
    using namespace unicode;
    CHECK(std::string(unicode::version) == "15.0.0");
    struct {
        uint32_t cp;
        uint8_t classes;
    } const cases[] = {
        {'a', letter},
        {'1', number},
        {'_', punctuation},
        {'$', symbol},
        {' ', space},
        {'\n', space},
        {0x85, space},
        {0x200b, 0},
        {0xfeff, 0},
        {0x1f, 0},
        {0x301, mark | unsettled},
        {0x903, mark},
        {0x20dd, mark},
        {0x2160, number},
        {0xbd, number},
        {0x4e00, letter},
        {0x9fff, letter},
        {0xd7a3, letter},
        {0x3400, letter},
        {0x4dbf, letter},
        {0x20000, letter},
        {0x323af, letter},
        {0x323b0, 0},
        {0x1f680, symbol},
        {0xe000, 0},
        {0x10ffff, 0},
        {0x1e4d0, letter},
        {0x3000, space},
        {0x2126, letter | unsettled},
        {limit + 0xff, 0},
        {UINT32_MAX, 0},
    };
    for (const auto &c : cases) {
        CAPTURE(c.cp);
        CHECK(int(class_of(c.cp)) == int(c.classes));
    }
}

TEST_CASE("unicode: normalisation form C") {
    for (const auto &c : splits()["nfc"]) {
        CAPTURE(c[0].dump());
        CHECK(normal(c[0]) == c[1].get<std::string>());
        CHECK(normal(c[1]) == c[1].get<std::string>());
    }
    // an invalid byte is kept, and nothing composes across it
    CHECK(normal("e\xff\u0301\x80") == "e\xff\u0301\x80");
    CHECK(normal("\xff"
                 "e\u0301") == "\xff\u00e9");
}

TEST_CASE("pre-tokenizers split as their published patterns do") {
    for (const auto &s : splits()["splits"]) {
        pre_tokenizer p, recognised;
        REQUIRE(pre_tokenizer_from_text(s["name"].get<std::string>(), &p));
        CHECK(pre_tokenizer_text(p) == s["name"].get<std::string>());
        auto patterns = s["patterns"].get<std::vector<std::string>>();
        CHECK(pre_tokenizer_recognise(patterns, &recognised));
        CHECK(recognised == p);
        for (const auto &c : s["cases"]) {
            CAPTURE(c[0].dump());
            CHECK(split(p, c[0].get<std::string>()) == c[1].get<std::vector<uint32_t>>());
        }
        patterns.back() += "x";
        CHECK(!pre_tokenizer_recognise(patterns, &recognised));
        patterns.pop_back();
        CHECK(!pre_tokenizer_recognise(patterns, &recognised));
    }
    pre_tokenizer p;
    CHECK(!pre_tokenizer_from_text("gpt-2", &p));
    CHECK(!pre_tokenizer_recognise({}, &p));
    CHECK(split(pre_tokenizer::deepseek_r1_qwen, "we've 12") == std::vector<uint32_t>{2, 3, 1, 1, 1});
    CHECK(pre_tokenizers_known() ==
          "deepseek-llm, deepseek-coder, deepseek-v3, llama-bpe, qwen2, deepseek-r1-qwen");
}

TEST_CASE("a pattern is recognised with any spelling of its line ends") {
    auto patterns = splits()["splits"][0]["patterns"].get<std::vector<std::string>>();
    REQUIRE(patterns[0] == R"([\r\n])");
    patterns[0] = "[\r\n]";
    patterns.back() = R"(\p{N})";  // the published file's last step is Digits, each on its own
    pre_tokenizer p;
    CHECK(pre_tokenizer_recognise(patterns, &p));
    CHECK(p == pre_tokenizer::deepseek_llm);
}

TEST_CASE("invalid UTF-8 is scanned byte by byte, and every byte belongs to one piece") {
    std::mt19937 rng(5);
    for (int i = 0; i < 2000; i++) {
        std::string text(rng() % 24, '\0');
        for (char &c : text) c = char(rng() % 3 ? rng() : "a1 \n\xe4\xb8\x80."[rng() % 8]);
        for (auto const p : {pre_tokenizer::deepseek_llm, pre_tokenizer::deepseek_coder,
                             pre_tokenizer::deepseek_v3, pre_tokenizer::llama_bpe, pre_tokenizer::qwen2}) {
            size_t total = 0;
            for (uint32_t const n : split(p, text)) {
                CHECK(n > 0);
                total += n;
            }
            CHECK(total == text.size());
        }
    }
    // neither letters nor spaces: they are treated as symbols
    CHECK(split(pre_tokenizer::llama_bpe, "a\xff\xfe"
                                          "b\xff"
                                          "c") == std::vector<uint32_t>{1, 2, 1, 2});
}

// No line needs an exception. The tokenizers that wrote the ids are known to differ from the published Rust
// ones for some characters (in JavaScript \s contains U+FEFF and lacks U+0085, and 'ſ is no contraction), but
// the texts have none of them. The splits above follow the Rust tokenizers.
TEST_CASE("published texts give exactly their published ids, and decode back") {
    for (std::string const name : {"deepseek-v3", "llama3", "qwen2.5"}) {
        std::string const base = reference_path("tokenizers/" + name);
        if (!std::filesystem::exists(base + ".jsonl")) {
            skip(base + ".jsonl is not available");
            continue;
        }
        vocabulary const v(vocabulary_from_json(base), name);
        std::ifstream in(base + ".jsonl");
        int lines = 0;
        for (std::string line; std::getline(in, line); lines++) {
            auto const j = nlohmann::json::parse(line);
            auto const text = j["text"].get<std::string>();
            auto const ids = encode(v.tok, text, {.parse_special = true});
            CAPTURE(line);
            CHECK(ids == j["ids"].get<std::vector<token_id>>());
            CHECK(decode(v.tok, ids) == (name == "qwen2.5" ? normal(text) : text));
        }
        CHECK(lines == 400);
    }
}

TEST_CASE("vocabulary-only GGUF files give their published ids") {
    for (std::string const name : {"deepseek-coder", "deepseek-llm"}) {
        std::string const path = reference_path("vocab/ggml-vocab-" + name + ".gguf");
        if (!std::filesystem::exists(path)) {
            skip(path + " is not available");
            continue;
        }
        gguf_file const file(os::mapping::map_file(path), path);
        tokenizer const tok(file);
        CHECK(pre_tokenizer_text(tok.pre()) == name);
        CHECK(tok.adds_bos());
        CHECK(tok.text(tok.bos()) == "<｜begin▁of▁sentence｜>");
        std::ifstream in(path + ".inp"), out(path + ".out");
        std::stringstream all;
        all << in.rdbuf();
        std::string const texts = all.str(), mark = "\n__ggml_vocab_test__\n";
        size_t from = 0, lines = 0;
        for (std::string line; std::getline(out, line); lines++) {
            size_t const to = texts.find(mark, from);
            REQUIRE(to != std::string::npos);
            std::string const text = texts.substr(from, to - from);
            from = to + mark.size();
            std::istringstream numbers(line);
            std::vector<token_id> ids;
            for (token_id t; numbers >> t;) ids.push_back(t);
            CAPTURE(text);
            CHECK(encode(tok, text) == ids);
            CHECK(decode(tok, ids) == text);
        }
        CHECK(lines == 46);
    }
}

// The definition, without optimisation: merge the adjacent pair of the lowest rank, the leftmost of equals,
// until none is left.
static std::vector<std::string>
merge_slowly(std::vector<std::string> symbols,
             const std::map<std::pair<std::string, std::string>, size_t> &ranks) {
    for (;;) {
        size_t best = SIZE_MAX, at = 0;
        for (size_t i = 0; i + 1 < symbols.size(); i++) {
            auto const r = ranks.find({symbols[i], symbols[i + 1]});
            if (r != ranks.end() && r->second < best) best = r->second, at = i;
        }
        if (best == SIZE_MAX) return symbols;
        symbols[at] += symbols[at + 1];
        symbols.erase(symbols.begin() + long(at) + 1);
    }
}

TEST_CASE("merges follow the definition") {
    std::string const dir = data_dir + "tiny-r1";
    vocabulary const v(vocabulary_from_json(dir));
    auto const model = read_json(dir + "/tokenizer.json")["model"];
    std::map<std::pair<std::string, std::string>, size_t> ranks;
    for (size_t i = 0; i < model["merges"].size(); i++) {
        auto const m = model["merges"][i].get<std::string>();
        ranks[{m.substr(0, m.find(' ')), m.substr(m.find(' ') + 1)}] = i;
    }
    std::mt19937 rng(3);
    std::vector<std::string> words;
    for (const auto &[spelling, id] : model["vocab"].items()) {
        if (std::all_of(spelling.begin(), spelling.end(), [](char c) { return c >= 'a' && c <= 'z'; }))
            words.push_back(spelling);
    }
    REQUIRE(words.size() > 50);
    for (int i = 0; i < 500; i++) {
        std::string word;
        for (int n = int(rng() % 12) + 1; n > 0; n--) word += words[rng() % words.size()];
        std::vector<std::string> letters;
        for (char const c : word) letters.emplace_back(1, c);
        std::vector<token_id> want;
        for (const std::string &s : merge_slowly(letters, ranks)) want.push_back(model["vocab"][s]);
        CAPTURE(word);
        CHECK(encode(v.tok, word) == want);
    }
}

TEST_CASE("any bytes are restored from their ids") {
    vocabulary const v(vocabulary_from_json(data_dir + "tiny-r1"));
    std::mt19937 rng(7);
    for (int i = 0; i < 300; i++) {
        std::string text(rng() % 64, '\0');
        for (char &c : text) c = char(rng());
        CHECK(decode(v.tok, encode(v.tok, text)) == text);
    }
}

TEST_CASE("tiny-r1: special tokens, kinds and ends") {
    vocabulary const v(vocabulary_from_json(data_dir + "tiny-r1"));
    const tokenizer &tok = v.tok;
    CHECK(tok.size() == 484);
    CHECK(tok.pre() == pre_tokenizer::deepseek_v3);
    CHECK(tok.bos() == 477);
    CHECK(tok.eos() == 478);
    CHECK(tok.pad() == 478);
    CHECK(tok.unknown() == -1);
    CHECK(tok.adds_bos());
    CHECK(!tok.adds_eos());
    CHECK(tok.end_tokens() == std::vector<token_id>{478});
    CHECK(tok.find("<｜User｜>") == 480);
    CHECK(tok.find("<｜Nobody｜>") == -1);
    CHECK(tok.kind(480) == token_kind::control);
    CHECK(tok.kind(482) == token_kind::user_defined);
    CHECK(encode(tok, "", {.add_bos = true}) == std::vector<token_id>{477});
    CHECK(encode(tok, "") == std::vector<token_id>{});
    std::string const text = "<｜User｜><think>";
    CHECK(encode(tok, text, {.parse_special = true}) == std::vector<token_id>{480, 482});
    auto const plain = encode(tok, text);
    CHECK(plain.back() == 482);
    CHECK(plain.size() > 5);
    CHECK(std::count(plain.begin(), plain.end(), 480) == 0);
    CHECK(decode(tok, plain) == text);
    CHECK(tok.bytes(480, true) == "<｜User｜>");
    CHECK(tok.bytes(480, false).empty());
    CHECK(tok.bytes(482, false) == "<think>");
    auto const found = tok.added_in("<｜Use <｜User｜> and on<think>");
    REQUIRE(found.size() == 2);
    CHECK((found[0].at == 8 && found[0].bytes == std::string("<｜User｜>").size() && found[0].id == 480));
    CHECK(found[1].id == 482);
    CHECK(tok.added_in("<｜Use").empty());
    CHECK(tok.added_in("").empty());
}

TEST_CASE("of added tokens the longest at the leftmost position wins") {
    gguf_writer w = vocabulary_from_json(data_dir + "tiny-r1");
    std::vector<std::string> tokens{"a", "b", "c", "<", "<a", "<a>", "<a>b", "ab", "<|im_end|>", ""};
    std::vector<int32_t> const types{1, 1, 1, 1, 4, 4, 4, 3, 3, 4};
    w.set_strings("tokenizer.ggml.tokens", tokens);
    w.set_i32s("tokenizer.ggml.token_type", types);
    w.set_strings("tokenizer.ggml.merges", std::vector<std::string>{});
    w.set_u32("tokenizer.ggml.bos_token_id", 0);
    w.set_u32("tokenizer.ggml.eos_token_id", 2);
    w.set_u32("tokenizer.ggml.eot_token_id", 1);
    w.erase("tokenizer.ggml.padding_token_id");
    vocabulary const v(w);
    CHECK(encode(v.tok, "<a>b<a>c<a<") == std::vector<token_id>{6, 5, 2, 4, 3});
    CHECK(encode(v.tok, "ab<ab") == std::vector<token_id>{0, 1, 4, 1});
    CHECK(encode(v.tok, "ab<ab", {.parse_special = true}) == std::vector<token_id>{7, 4, 1});
    CHECK(v.tok.end_tokens() == std::vector<token_id>{1, 2, 8});
    CHECK(v.tok.pad() == -1);
}

TEST_CASE("ignore_merges: a piece that is a token is that token, whatever the merges say") {
    gguf_writer w = vocabulary_from_json(data_dir + "tiny-r1");
    std::vector<std::string> const tokens{"a", "b", "c", "ab", "abc", "Ġ", "Ġabc", "bc", "cab"};
    std::vector<int32_t> const types{1, 1, 1, 1, 1, 1, 1, 1, 3};
    w.set_strings("tokenizer.ggml.tokens", tokens);
    w.set_i32s("tokenizer.ggml.token_type", types);
    w.set_strings("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
    for (auto const key : {"bos", "eos", "padding"})
        w.erase(std::string("tokenizer.ggml.") + key + "_token_id");
    w.erase("tokenizer.ggml.add_bos_token");
    std::vector<token_id> const merged{3, 2}, whole{4};
    CHECK(encode(vocabulary(w).tok, "abc") == merged);
    w.set_string("tokenizer.ggml.pre", "llama-bpe");
    vocabulary const v(w);
    CHECK(!v.tok.adds_bos());
    CHECK(encode(v.tok, "abc") == whole);
    CHECK(encode(v.tok, "abc abc") == std::vector<token_id>{4, 6});
    CHECK(encode(v.tok, "abca") == std::vector<token_id>{3, 2, 0});
    // the text of a control token in a piece is not that token
    CHECK(encode(v.tok, "cab") == std::vector<token_id>{2, 3});
}

// ---- Added tokens

namespace {

struct match {
    size_t at, bytes;
    int32_t id;
};

bool operator==(const match &a, const match &b) { return a.at == b.at && a.bytes == b.bytes && a.id == b.id; }

// The definition, without optimisation: at the leftmost position the longest spelling, of equal ones the
// lowest id.
std::vector<match> added_slowly(const std::vector<added_tokens::token> &tokens, std::string_view text) {
    std::vector<match> out;
    for (size_t at = 0; at < text.size();) {
        match best{at, 0, 0};
        for (const auto &t : tokens) {
            bool const here = !t.spelling.empty() && text.substr(at).starts_with(t.spelling);
            if (here &&
                (t.spelling.size() > best.bytes || (t.spelling.size() == best.bytes && t.id < best.id)))
                best = {at, t.spelling.size(), t.id};
        }
        if (best.bytes > 0) out.push_back(best);
        at += std::max<size_t>(best.bytes, 1);
    }
    return out;
}

std::vector<match> added_by_search(std::span<const added_tokens *const> sets, std::string_view text,
                                   uint64_t *steps = nullptr) {
    std::vector<match> out;
    added_search search(sets, text);
    added_tokens::match m;
    for (size_t from = 0, at; search.next(from, at, m); from = at + m.bytes)
        out.push_back({at, m.bytes, m.id});
    if (steps) *steps = search.steps();
    return out;
}

}  // namespace

TEST_CASE("added tokens: the automaton follows the definition") {
    std::mt19937 rng(11);
    for (int i = 0; i < 3000; i++) {
        size_t const letters = 1 + rng() % 3, count = rng() % 12;
        auto const word = [&](size_t most) {
            std::string s(rng() % (most + 1), ' ');
            for (char &c : s) c = "ab\xff"[rng() % letters];
            return s;
        };
        std::vector<std::string> spellings;
        for (size_t k = 0; k < count; k++) spellings.push_back(word(1 + rng() % 8));
        std::vector<added_tokens::token> all, part[2];
        for (size_t k = 0; k < count; k++) {
            all.push_back({spellings[k], int32_t(k)});
            part[rng() % 2].push_back(all.back());
        }
        added_tokens sets[2];
        for (int k : {0, 1}) sets[k].build(part[k]);
        const added_tokens *const both[] = {&sets[0], &sets[1]};
        // sometimes longer than one block of the search
        std::string const text = word(i % 50 == 0 ? 9000 : 40);
        CHECK(added_by_search(both, text) == added_slowly(all, text));
    }
}

TEST_CASE("added tokens that share a prefix, or a suffix, take a bounded number of steps a byte") {
    std::string const run(250, 'a');
    size_t const n = 1 << 18;
    std::string ends_in_b, no_end(n, 'a');
    while (ends_in_b.size() < n) ends_in_b += run.substr(0, 7) + "b";
    for (int const shape : {0, 1, 2, 3}) {
        std::vector<std::string> spellings;
        for (size_t k = 1; k < 250; k++) {
            if (shape == 0) spellings.push_back(run + char(k));           // a long common prefix
            if (shape == 1) spellings.push_back(run.substr(0, k) + "b");  // each longer by one
            if (shape == 2) spellings.push_back("b" + run.substr(0, k));  // a common suffix
            if (shape == 3) spellings.push_back(run.substr(0, k % 125) + "b" + run.substr(0, k / 2));
        }
        if (shape == 1) spellings.emplace_back("a");
        std::vector<added_tokens::token> tokens;
        for (const std::string &s : spellings) tokens.push_back({s, int32_t(tokens.size())});
        added_tokens set;
        set.build(tokens);
        const added_tokens *const sets[] = {&set};
        for (const std::string &text : {no_end, ends_in_b}) {
            uint64_t steps = 0;
            added_by_search(sets, text, &steps);
            CAPTURE(shape);
            CHECK(steps >= text.size());
            CHECK(steps <= 6 * text.size());
        }
    }
}

TEST_CASE("added tokens: encoding's steps include those of the search") {
    gguf_writer w = vocabulary_from_json(data_dir + "tiny-r1");
    std::vector<std::string> tokens{"a", "b"};
    std::vector<int32_t> types{1, 1};
    for (int n = 1; n <= 200; n++) tokens.push_back(std::string(size_t(n), 'a') + "b"), types.push_back(4);
    w.set_strings("tokenizer.ggml.tokens", tokens);
    w.set_i32s("tokenizer.ggml.token_type", types);
    w.set_strings("tokenizer.ggml.merges", std::vector<std::string>{});
    for (auto const key : {"bos", "eos", "padding"})
        w.erase(std::string("tokenizer.ggml.") + key + "_token_id");
    w.set_bool("tokenizer.ggml.add_bos_token", false);
    vocabulary const v(w);
    std::string const text(100000, 'a');
    std::vector<token_id> ids;
    uint64_t split_only = 0, steps = 0;
    std::vector<uint32_t> lengths;
    pre_tokenize(v.tok.pre(), text, lengths, &split_only);
    v.tok.encode(text, {}, ids, &steps);
    CHECK(ids.size() == text.size());
    CHECK(steps >= split_only + 2 * text.size());  // at least one step a byte to search, and one to merge
    CHECK(steps <= split_only + 40 * text.size());
}

TEST_CASE("added tokens of more bytes than the automaton supports are refused") {
    gguf_writer w = vocabulary_from_json(data_dir + "tiny-r1");
    auto const with = [&](size_t count) {
        std::vector<std::string> tokens{"a"};
        std::vector<int32_t> types{1};
        for (size_t i = 0; i < count; i++)
            tokens.push_back(std::string(250, '<') + format_text("%06zu", i)), types.push_back(3);
        w.set_strings("tokenizer.ggml.tokens", tokens);
        w.set_i32s("tokenizer.ggml.token_type", types);
        w.set_strings("tokenizer.ggml.merges", std::vector<std::string>{});
        for (auto const key : {"bos", "eos", "padding"})
            w.erase(std::string("tokenizer.ggml.") + key + "_token_id");
        w.set_bool("tokenizer.ggml.add_bos_token", false);
        return w;
    };
    CHECK(vocabulary(with(added_tokens::max_bytes / 256)).tok.size() == 1 + added_tokens::max_bytes / 256);
    CHECK_THROWS_WITH_AS(
        vocabulary(with(added_tokens::max_bytes / 256 + 1)),
        doctest::Contains("tokenizer.ggml.tokens: the added tokens up to 8193 have 2097408 bytes"), error);
}

// ---- Long pieces

TEST_CASE("merges of a long piece, in place, equal those of a short one") {
    std::mt19937 rng(13);
    for (int i = 0; i < 2000; i++) {
        // Tokens by spelling, and merges in random order of existing tokens and of those that merges make.
        std::vector<std::string> tokens{"a", "b", "c"};
        std::map<std::string, int32_t> id{{"a", 0}, {"b", 1}, {"c", 2}};
        std::vector<merge_table::merge> merges;
        for (size_t k = rng() % 40; k > 0; k--) {
            auto const left = int32_t(rng() % tokens.size()), right = int32_t(rng() % tokens.size());
            std::string const both = tokens[size_t(left)] + tokens[size_t(right)];
            if (both.size() > 200) continue;
            if (id.emplace(both, int32_t(tokens.size())).second) tokens.push_back(both);
            merges.push_back({left, right, id[both]});
        }
        std::shuffle(merges.begin(), merges.end(), rng);
        merge_table const table(merges, tokens.size());
        int32_t symbols[256] = {};
        symbols[uint8_t('b')] = 1, symbols[uint8_t('c')] = 2;
        std::string text(rng() % (i % 20 == 0 ? 3000 : 60) + 1, 'a');
        for (char &c : text) c = char('a' + rng() % (1 + size_t(i) % 3));
        merger m(table);
        for (char const c : text) m.add(symbols[uint8_t(c)]);
        std::vector<int32_t> want{7}, got{7};
        m.finish(want);
        merge_long(table, symbols, text, got);
        CHECK(got == want);
    }
}

// ---- Memory

TEST_CASE("tokenizing takes at most 8 bytes a byte of the text and 16 MiB, the ids included") {
    std::vector<std::string> const characters{"a", " ", "\u0301"};
    gguf_writer w = doubling_vocabulary(characters);
    size_t const n = run_bytes * 4;  // of which 16 MiB more are no more than 4 bytes a byte
    std::mt19937 rng(17);
    std::string words, random(n, ' '), nothing_merges, marks, tokens;
    while (words.size() < n) words += "the " + std::to_string(rng() % 1000) + " ";
    for (char &c : random) c = char(rng());
    while (nothing_merges.size() < n) nothing_merges += "xyzw";
    for (int const m : {0x301, 0x323, 0x327})
        while (marks.size() < n / 3 * size_t(m == 0x301 ? 1 : m == 0x323 ? 2 : 3))
            unicode::append_utf8(uint32_t(m), marks);
    for (int i = 0; i < 3; i++) marks += "\u0344";
    while (tokens.size() < n) tokens += "<a>";
    for (std::string const pre : {"deepseek-v3", "deepseek-r1-qwen"}) {
        w.set_string("tokenizer.ggml.pre", pre);
        vocabulary const v(w);
        for (const std::string &text :
             {std::string(n, 'a'), words, random, nothing_merges, "a" + marks, tokens}) {
            std::vector<token_id> ids;
            int64_t const most = most_bytes([&] {
                ids = {};
                v.tok.encode(text, {}, ids);
            });
            CAPTURE(pre);
            CAPTURE(text.substr(0, 8));
            CHECK(most <= int64_t(8 * text.size() + (16 << 20)));
        }
    }
}

TEST_CASE("a vocabulary takes at most 8 bytes a byte of its file and 16 MiB, refused or not") {
    struct kind {
        const char *name;
        std::function<void(std::vector<std::string> &, std::vector<int32_t> &, std::vector<std::string> &)>
            fill;
    };
    auto const short_name = [](size_t i) {
        std::string s;
        for (i++; i > 0; i /= 60) s += char('A' + i % 60);
        return s;
    };
    size_t const n = run_bytes * 2;
    const kind kinds[] = {
        {"short tokens",
         [&](auto &tokens, auto &, auto &) {
             for (size_t i = 0; i < n; i++) tokens.push_back(short_name(i));
         }},
        {"empty tokens", [&](auto &tokens, auto &, auto &) { tokens.resize(n); }},
        {"long tokens",
         [&](auto &tokens, auto &, auto &) {
             for (size_t i = 0; i < n / 64; i++) tokens.push_back(std::string(500, 'x') + short_name(i));
         }},
        {"control tokens",
         [&](auto &tokens, auto &types, auto &) {
             for (size_t i = 0; i < n; i++) tokens.push_back(short_name(i));
             types.assign(tokens.size(), 3);
         }},
        {"long control tokens",
         [&](auto &tokens, auto &types, auto &) {
             for (size_t i = 0; i < n / 64; i++) tokens.push_back(std::string(200, 'x') + short_name(i));
             types.assign(tokens.size(), 3);
         }},
        {"added tokens as many as are read",
         [&](auto &tokens, auto &types, auto &) {
             for (size_t i = 0; i < added_tokens::max_bytes / 256; i++)
                 tokens.push_back(short_name(i + 60 * 60 * 60) + std::string(252, 'x'));
             types.assign(tokens.size(), 4);
         }},
        {"merges",
         [&](auto &tokens, auto &, auto &merges) {
             tokens = {"a", "b", "ab"};
             merges.assign(n, "a b");
         }},
        {"merges of many tokens",
         [&](auto &tokens, auto &, auto &merges) {
             for (size_t i = 0; i < n / 4; i++) tokens.push_back(short_name(i));
             for (size_t i = 0; i < n / 4; i++)
                 merges.push_back(short_name(i % 60) + " " + short_name(i % 59));
         }},
    };
    for (const kind &k : kinds) {
        std::vector<std::string> tokens, merges;
        std::vector<int32_t> types;
        k.fill(tokens, types, merges);
        gguf_writer w;
        w.set_string("tokenizer.ggml.model", "gpt2");
        w.set_string("tokenizer.ggml.pre", "deepseek-v3");
        w.set_strings("tokenizer.ggml.tokens", tokens);
        if (!types.empty()) w.set_i32s("tokenizer.ggml.token_type", types);
        w.set_strings("tokenizer.ggml.merges", merges);
        tokens = {}, merges = {};
        std::string const bytes = w.header();
        int64_t const most = most_bytes([&] {
            try {
                gguf_file const file(os::mapping::borrow(bytes.data(), bytes.size()), "file");
                tokenizer const tok(file);
                CHECK(tok.size() > 0);
            } catch (const error &e) {
                MESSAGE(std::string(k.name) << ": " << e.text.substr(0, 120));
            }
        });
        CAPTURE(k.name);
        CHECK(most <= int64_t(8 * bytes.size() + (16 << 20)));
    }
}

// ---- Linear work

TEST_CASE("a run of 1 MiB of one class takes near-linear steps on a small stack") {
    constexpr size_t stack_bytes = 256 << 10;
    std::vector<std::string> const characters{"a", "7", "一", " ", "\n", ".", "🚀", "\u0301"};
    gguf_writer w = doubling_vocabulary(characters);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    REQUIRE(pthread_attr_setstacksize(&attr, stack_bytes) == 0);
    for (const auto &s : splits()["splits"]) {
        w.set_string("tokenizer.ggml.pre", s["name"].get<std::string>());
        vocabulary const v(w);
        for (const std::string &c : characters) {
            run_job job{&v.tok, "", {}};
            while (job.text.size() < run_bytes) job.text += c;
            pthread_t thread;
            REQUIRE(pthread_create(&thread, &attr, run_encode, &job) == 0);
            pthread_join(thread, nullptr);
            CAPTURE(s["name"].dump());
            CAPTURE(c);
            // At most 6 patterns with 4 looks a byte each, plus 2 pushes and 2 pops a byte at 21 levels of
            // the heap. A quadratic scan would take 10^11.
            CHECK(job.steps >= run_bytes);
            CHECK(job.steps <= run_bytes * (6 * 4 + 4 * 21));
            CHECK(decode(v.tok, job.ids) == job.text);
        }
    }
    pthread_attr_destroy(&attr);
}

TEST_CASE("the steps of splitting are linear for mixed runs too") {
    // Runs that make a careless scanner look again: white space before a word, before a line end, and between
    // empty matches.
    for (std::string const unit :
         {" ", " \n", "\u3000", " \u200b", "'", "' ", "\u0301 ", "a\u0301", "\xff", ". ", "\xe4"}) {
        std::string text;
        while (text.size() < 1 << 15) text += unit;
        for (std::string const tail : {"", "a", "\u0915", "\u200b"}) {
            for (const auto &s : splits()["splits"]) {
                pre_tokenizer p;
                pre_tokenizer_from_text(s["name"].get<std::string>(), &p);
                uint64_t steps = 0;
                std::vector<uint32_t> lengths;
                pre_tokenize(p, text + tail, lengths, &steps);
                CAPTURE(unit);
                CHECK(steps <= 6 * 4 * (text.size() + 4));
            }
        }
    }
}

// ---- utf8_stream

static std::string stream(std::string_view bytes, size_t chunk) {
    utf8_stream s;
    std::string out;
    for (size_t i = 0; i < bytes.size(); i += chunk) s.push(bytes.substr(i, chunk), out);
    s.finish(out);
    return out;
}

TEST_CASE("utf8_stream holds back incomplete sequences and replaces invalid ones") {
    std::string const r = "\ufffd";
    struct {
        std::string in, out;
    } const cases[] = {
        {"plain", "plain"},
        {"é一🚀", "é一🚀"},
        // The Unicode Standard 15, tables 3-8 to 3-11
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", r + r + r + r + r + r + r + r + "A"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", r + r + r + r + r + "A" + r + r + "B"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", r + r + r + r + "A"},
        {"a\xf0\x9f\x9a", "a" + r},
        {"\xe4\xb8", r},
        {"\x80", r},
    };
    for (const auto &c : cases) {
        for (size_t chunk = 1; chunk <= 9; chunk++) {
            CAPTURE(chunk);
            CHECK(stream(c.in, chunk) == c.out);
        }
    }
    utf8_stream s;
    std::string out;
    s.push("a\xf0\x9f", out);
    CHECK(out == "a");
    s.push("", out);
    s.push("\x9a\x80!", out);
    CHECK(out == "a🚀!");
    s.push("\xc0", out);  // cannot begin a sequence: replaced immediately
    CHECK(out == "a🚀!" + r);
    s.finish(out);
    CHECK(out == "a🚀!" + r);
}
