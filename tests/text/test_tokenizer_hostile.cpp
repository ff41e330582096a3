// Vocabularies that contradict themselves: each is refused with a message that names the key, or read as
// tokenizer.h says.
#include "../support/vocab_from_json.h"

#include <doctest/doctest.h>

#include <cstring>

using namespace ds;
using namespace ds::test;

namespace {

// The tokens a, b, c, ab and a control token.
gguf_writer small() {
    gguf_writer w;
    w.set_string("tokenizer.ggml.model", "gpt2");
    w.set_string("tokenizer.ggml.pre", "deepseek-v3");
    w.set_strings("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "c", "ab", "<end>"});
    w.set_i32s("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 1, 3});
    w.set_strings("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
    return w;
}

std::vector<token_id> encode(const gguf_writer &w, std::string_view text) {
    vocabulary const v(w);
    std::vector<token_id> out;
    v.tok.encode(text, {}, out);
    return out;
}

// Loading must fail with this status and a message that contains all of `parts`.
void check_refused(const gguf_writer &w, status code, std::initializer_list<const char *> parts) {
    try {
        vocabulary const v(w, "bad.gguf");
        FAIL("it was accepted");
    } catch (const error &e) {
        CAPTURE(e.text);
        CHECK(int(e.code) == int(code));
        CHECK(e.text.find("bad.gguf") != std::string::npos);
        for (const char *const part : parts) {
            CAPTURE(part);
            CHECK(e.text.find(part) != std::string::npos);
        }
    }
}

constexpr const char *tokens_key = "tokenizer.ggml.tokens", *types_key = "tokenizer.ggml.token_type",
                     *merges_key = "tokenizer.ggml.merges";

}  // namespace

TEST_CASE("tokenizer model and pre-tokenizer") {
    gguf_writer w = small();
    CHECK(encode(w, "abc") == std::vector<token_id>{3, 2});
    w.set_string("tokenizer.ggml.model", "llama");
    check_refused(w, status::unsupported, {"tokenizer.ggml.model", "llama", "gpt2"});
    w.erase("tokenizer.ggml.model");
    check_refused(w, status::format, {"tokenizer.ggml.model"});
    w = small();
    w.set_string("tokenizer.ggml.pre", "tekken");
    check_refused(w, status::unsupported, {"tokenizer.ggml.pre", "tekken", "deepseek-v3"});
    w.erase("tokenizer.ggml.pre");
    check_refused(w, status::format, {"tokenizer.ggml.pre", "llama-bpe"});
    w = small();
    w.set_u32("tokenizer.ggml.pre", 3);
    check_refused(w, status::format, {"tokenizer.ggml.pre"});
}

TEST_CASE("tokenizer arrays of every other element type") {
    uint64_t const zeros[16] = {};
    struct {
        gguf_type type;
        size_t bytes;
    } const types[] = {
        {gguf_type::u8, 1},     {gguf_type::i8, 1},  {gguf_type::u16, 2}, {gguf_type::i16, 2},
        {gguf_type::u32, 4},    {gguf_type::i32, 4}, {gguf_type::f32, 4}, {gguf_type::boolean, 1},
        {gguf_type::string, 8}, {gguf_type::u64, 8}, {gguf_type::i64, 8}, {gguf_type::f64, 8},
    };
    for (const char *const key : {tokens_key, types_key, merges_key, "tokenizer.ggml.scores"}) {
        for (const auto &t : types) {
            for (bool const array : {false, true}) {
                bool const strings = t.type == gguf_type::string && array,
                           floats = (t.type == gguf_type::f32 || t.type == gguf_type::f64) && array;
                std::string const k = key;
                if (strings && (k == tokens_key || k == merges_key)) continue;  // the right type
                gguf_writer w = small();
                if (!array && t.type == gguf_type::string) w.set_string(key, "text");
                else
                    w.set_raw(key, {t.type, array, array ? 5u : 1u, reinterpret_cast<const uint8_t *>(zeros),
                                    t.bytes * (array ? 5 : 1)});
                bool const ints = !floats && !strings && array && t.type != gguf_type::boolean;
                CAPTURE(k);
                CAPTURE(int(t.type));
                if ((k == types_key && ints) || (k == "tokenizer.ggml.scores" && floats)) {
                    vocabulary const v(w);
                    CHECK(v.tok.size() == 5);
                } else {
                    check_refused(w, status::format, {key});
                }
            }
        }
    }
}

TEST_CASE("tokenizer arrays of every other length") {
    for (size_t const n : {0, 4, 6}) {
        gguf_writer w = small();
        w.set_i32s(types_key, std::vector<int32_t>(n, 1));
        check_refused(w, status::format, {types_key, "5 tokens"});
        w = small();
        w.set_f32s("tokenizer.ggml.scores", std::vector<float>(n, 0.0f));
        check_refused(w, status::format, {"tokenizer.ggml.scores", "5 tokens"});
    }
    gguf_writer w = small();
    w.set_strings(tokens_key, std::vector<std::string>{});
    check_refused(w, status::format, {tokens_key, "empty"});
    w.erase(tokens_key);
    check_refused(w, status::format, {tokens_key});
    w = small();
    w.erase(merges_key);
    check_refused(w, status::format, {merges_key});
    w = small();
    w.erase(types_key);
    CHECK(encode(w, "abc") == std::vector<token_id>{3, 2});  // without types all are normal
    for (int32_t const type : {-1, 7, INT32_MIN, INT32_MAX}) {
        w = small();
        w.set_i32s(types_key, std::vector<int32_t>{1, 1, type, 1, 3});
        check_refused(w, status::format, {types_key, "token 2", std::to_string(type).c_str()});
    }
}

TEST_CASE("vocabularies of one and two tokens") {
    gguf_writer w = small();
    w.set_strings(merges_key, std::vector<std::string>{});
    w.erase(types_key);
    w.set_strings(tokens_key, std::vector<std::string>{"a"});
    CHECK(encode(w, "aa") == std::vector<token_id>{0, 0});
    w.set_u32("tokenizer.ggml.eos_token_id", 1);
    check_refused(w, status::format, {"tokenizer.ggml.eos_token_id"});
    w.set_strings(tokens_key, std::vector<std::string>{"", "a"});
    CHECK(encode(w, "aa") == std::vector<token_id>{1, 1});
}

TEST_CASE("special ids out of range") {
    // Refused if something depends on them: here only three bytes have tokens, so a text may need the unknown
    // token; the others are end tokens or BOS.
    auto const settings = [](gguf_writer &w, const std::string &name) {
        if (name == "bos" || name == "eos") w.set_bool("tokenizer.ggml.add_" + name + "_token", true);
    };
    for (std::string const name : {"bos", "eos", "padding", "unknown", "eot", "eom"}) {
        std::string const key = "tokenizer.ggml." + name + "_token_id";
        bool const none = name == "eot" || name == "eom" || name == "unknown", needed = name != "padding";
        gguf_writer w = small();
        settings(w, name);
        auto const check = [&](bool refused) {
            if (refused) return check_refused(w, status::format, {key.c_str()});
            vocabulary const v(w);
            REQUIRE(v.tok.remarks().size() == 1);
            CHECK(v.tok.remarks()[0].find(key) != std::string::npos);
            CHECK(v.tok.pad() == -1);
            CHECK(v.tok.end_tokens().empty());
        };
        w.set_u32(key, 4);
        CHECK(vocabulary(w).tok.size() == 5);
        CHECK(vocabulary(w).tok.remarks().empty());
        w.set_u32(key, 5);
        check(needed);
        w.set_u32(key, UINT32_MAX);
        check(needed && !none);
        w.set_u64(key, UINT64_MAX);
        check(needed && !none);
        w.set_i32(key, -1);
        check(needed && !none);
        w.set_string(key, "4");
        check_refused(w, status::format, {key.c_str()});
        w.set_f32(key, 1);
        check_refused(w, status::format, {key.c_str()});
    }
    // Not refused: no text begins with BOS, and nothing ends with EOS.
    gguf_writer w = small();
    w.set_u32("tokenizer.ggml.bos_token_id", 5);
    w.set_i32("tokenizer.ggml.eos_token_id", -1);
    CHECK(vocabulary(w).tok.remarks().size() == 2);
    CHECK(vocabulary(w).tok.bos() == -1);
    CHECK(vocabulary(w).tok.eos() == -1);
    w.set_u32("tokenizer.ggml.eos_token_id", 5);
    check_refused(w, status::format, {"eos_token_id"});
    w.set_i32("tokenizer.ggml.eos_token_id", -1);
    // llama-bpe begins texts with BOS by default
    w.set_string("tokenizer.ggml.pre", "llama-bpe");
    check_refused(w, status::format, {"bos_token_id"});
    for (std::string const name : {"bos", "eos"}) {
        gguf_writer added = small();
        added.set_bool("tokenizer.ggml.add_" + name + "_token", true);
        check_refused(added, status::format,
                      {("tokenizer.ggml.add_" + name + "_token").c_str(), (name + "_token_id").c_str()});
    }
}

TEST_CASE("merges that are not pairs of tokens") {
    for (const char *const merge : {"", "ab", " ", "a ", " a", " b c"}) {
        gguf_writer w = small();
        w.set_strings(merges_key, std::vector<std::string>{"a b", merge});
        check_refused(w, status::format, {merges_key, "merge 1"});
    }
    struct {
        const char *merge, *unknown;
    } const unknown[] = {{"a x", "'x'"}, {"x a", "'x'"}, {"b c", "'bc'"}, {"a b c", "'b c'"}};
    for (const auto &u : unknown) {
        gguf_writer w = small();
        w.set_strings(merges_key, std::vector<std::string>{u.merge});
        check_refused(w, status::format, {merges_key, "merge 0"});
    }
}

TEST_CASE("byte tokens") {
    gguf_writer w = small();
    std::vector<int32_t> const types{1, 6, 1, 1, 3};
    w.set_i32s(types_key, types);
    w.set_strings(merges_key, std::vector<std::string>{});
    for (const char *const bad : {"<0x-1>", "<0xZZ>", "<0x1", "<0x1>", "<0x123>", "<0x4g>", "<0X41>", "0x41",
                                  "", "<0x 1>", "<0x+1>"}) {
        w.set_strings(tokens_key, std::vector<std::string>{"a", bad, "c", "ab", "<end>"});
        check_refused(w, status::format, {tokens_key, "token 1"});
    }
    w.set_strings(tokens_key, std::vector<std::string>{"a", "<0xfF>", "c", "ab", "<end>"});
    vocabulary const v(w);
    CHECK(v.tok.bytes(1, false) == "\xff");
    CHECK(encode(w, "a\xff") == std::vector<token_id>{0, 1});
    // A normal token for the byte has priority, and the first of equal ones.
    w.set_i32s(types_key, std::vector<int32_t>{1, 6, 6, 1, 3});
    w.set_strings(tokens_key, std::vector<std::string>{"a", "<0x61>", "<0x62>", "<0x62>", "<end>"});
    CHECK(encode(w, "ab") == std::vector<token_id>{0, 2});
}

TEST_CASE("a byte without a token") {
    gguf_writer w = small();
    vocabulary const v(w);
    std::vector<token_id> out;
    CHECK_THROWS_WITH_AS(v.tok.encode("abz", {}, out), doctest::Contains("0x7A"), error);
    try {
        v.tok.encode("\xfc", {}, out);
        FAIL("it was accepted");
    } catch (const error &e) {
        CHECK(int(e.code) == int(status::argument));
        CHECK(e.text.find("0xFC") != std::string::npos);
    }
    w.set_u32("tokenizer.ggml.unknown_token_id", 4);
    CHECK(encode(w, "abz") == std::vector<token_id>{3, 4});
}

TEST_CASE("equal spellings, long added tokens, and a spelling outside the byte alphabet") {
    gguf_writer w = small();
    w.set_strings(tokens_key, std::vector<std::string>{"a", "b", "a", "ab", "<end>"});
    vocabulary const v(w);
    CHECK(v.tok.find("a") == 0);
    CHECK(encode(w, "aab") == std::vector<token_id>{0, 3});
    w.set_strings(tokens_key, std::vector<std::string>{"a", "b", "c", "ab", std::string(256, '<')});
    CHECK(vocabulary(w).tok.size() == 5);
    w.set_strings(tokens_key, std::vector<std::string>{"a", "b", "c", "ab", std::string(257, '<')});
    check_refused(w, status::unsupported, {tokens_key, "token 4", "257"});
    w.set_strings(tokens_key, std::vector<std::string>{"a", "b", "un élan", "ab", "<end>"});
    vocabulary const raw(w);
    CHECK(raw.tok.bytes(2, false) == "un élan");
    w.set_i32s(types_key, std::vector<int32_t>{1, 1, 5, 1, 3});
    vocabulary const unused(w);
    CHECK(unused.tok.bytes(2, true).empty());
}

// The hash of tokenizer.cpp, whose collisions a hostile file can choose.
static uint64_t spelling_hash(std::string_view s) {
    uint64_t h = s.size();
    for (size_t i = 0; i < s.size(); i += 8) {
        uint64_t word = 0;
        std::memcpy(&word, s.data() + i, std::min<size_t>(8, s.size() - i));
        h = (h ^ word) * 0x9e3779b97f4a7c15;
        h ^= h >> 29;
    }
    return h * 0xbf58476d1ce4e5b9 >> 20;
}

TEST_CASE("spellings made to collide are refused, not searched") {
    std::vector<std::string> tokens{"a", "b", "c", "ab", "<end>"};
    for (int i = 0; tokens.size() < 300; i++) {
        std::string const s = std::to_string(i);
        if ((spelling_hash(s) & 1023) == 5) tokens.push_back(s);  // 300 tokens use 1024 slots
    }
    gguf_writer w = small();
    w.set_strings(tokens_key, tokens);
    w.erase(types_key);
    check_refused(w, status::format, {tokens_key, "collide"});
}

TEST_CASE("a text longer than the limit is refused before it is read") {
    vocabulary const v(small());
    std::vector<token_id> out;
    for (size_t const n : {tokenizer::max_text_bytes + 1, size_t(1) << 31, (size_t(1) << 32) + 1}) {
        try {
            // only the size is given; the bytes do not exist
            v.tok.encode(std::string_view("a", n), {}, out);
            FAIL("it was accepted");
        } catch (const error &e) {
            CHECK(int(e.code) == int(status::too_long));
        }
    }
    CHECK(out.empty());
}

TEST_CASE("normalization and ignore_merges follow our own keys, or else the pre-tokenizer's name") {
    auto const with = [](const char *pre) {
        gguf_writer w = small();
        w.set_string("tokenizer.ggml.pre", pre);
        // "abc" is a token that no merge makes. Then come e, the two bytes of an acute accent, and those of
        // the composed letter, separate and merged.
        w.set_strings(tokens_key,
                      std::vector<std::string>{"a", "b", "c", "bc", "abc", "e", "Ì", "ģ", "Ã", "©", "Ã©"});
        w.set_strings(merges_key, std::vector<std::string>{"b c", "Ã ©"});
        w.erase(types_key);
        return w;
    };
    using ids = std::vector<token_id>;
    ids const whole{4}, merged{0, 3}, composed{10}, apart{5, 6, 7};
    for (const char *const pre :
         {"llama-bpe", "qwen2", "deepseek-r1-qwen", "deepseek-v3", "deepseek-llm", "deepseek-coder"}) {
        CAPTURE(pre);
        bool const llama = std::string(pre) == "llama-bpe",
                   qwen = std::string(pre).ends_with("qwen") || std::string(pre) == "qwen2";
        gguf_writer w = with(pre);
        CHECK(encode(w, "abc") == (llama ? whole : merged));
        CHECK(encode(w, "e\u0301") == (qwen ? composed : apart));
        w.set_bool("deepseek.tokenizer.ignore_merges", true);
        CHECK(encode(w, "abc") == whole);
        w.set_bool("deepseek.tokenizer.ignore_merges", false);
        CHECK(encode(w, "abc") == merged);
        w.set_string("deepseek.tokenizer.normalizer", "nfc");
        CHECK(encode(w, "e\u0301") == composed);
        w.set_string("deepseek.tokenizer.normalizer", "none");
        CHECK(encode(w, "e\u0301") == apart);
        w.set_string("deepseek.tokenizer.normalizer", "nfkc");
        check_refused(w, status::unsupported, {"deepseek.tokenizer.normalizer", "nfkc", "nfc, none"});
        w.erase("deepseek.tokenizer.normalizer");
        w.set_u32("deepseek.tokenizer.ignore_merges", 1);
        check_refused(w, status::format, {"deepseek.tokenizer.ignore_merges"});
    }
}
