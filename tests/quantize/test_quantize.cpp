// The quantize tool apart from weights of checkpoints: vocabularies, random files, requantizing, inspection.
#include "../support/checkpoint_files.h"
#include "../support/formats.h"
#include "../support/skip.h"

#include "../../llm/text/tokenizer.h"
#include "../../quantize/calibrate.h"
#include "../../quantize/convert.h"
#include "../../quantize/inspect.h"
#include "../../quantize/progress.h"
#include "../../quantize/requantize.h"
#include "../../quantize/synth.h"

#include <cmath>
#include <fstream>
#include <set>

using namespace ds;
using namespace ds::test;

static gguf_file open(const std::string &path) { return gguf_file(os::mapping::map_file(path), path); }

// The metadata that a changed checkpoint converts to.
struct metadata {
    std::string bytes;
    std::vector<std::string> remarks;
    gguf_file file;
    explicit metadata(const checkpoint_files &c, const std::function<void(const std::string &)> &more = {}) {
        const temp_dir dir;
        c.save(dir.path, false);
        if (more) more(dir.path);
        bytes = convert_metadata(dir.path, {},
                                 {.note = [&](const std::string &text) { remarks.push_back(text); }});
        file = gguf_file(os::mapping::borrow(bytes.data(), bytes.size()), "metadata");
    }
};

// ---- Vocabulary

TEST_CASE("vocabulary: tokens, kinds, merges and special tokens of tiny-r1") {
    const metadata m(checkpoint_files("tiny-r1"));
    const gguf_file &f = m.file;
    const std::vector<std::string_view> tokens = f.get_strings("tokenizer.ggml.tokens"),
                                        merges = f.get_strings("tokenizer.ggml.merges");
    const std::vector<int32_t> kinds = f.get_ints("tokenizer.ggml.token_type");
    REQUIRE(tokens.size() == 512);
    REQUIRE(kinds.size() == 512);
    CHECK(f.get_string("tokenizer.ggml.model") == "gpt2");
    CHECK(f.get_string("tokenizer.ggml.pre") == "deepseek-v3");
    CHECK(tokens[48] == "0");
    CHECK(kinds[48] == 1);
    CHECK(tokens[477] == "<｜begin▁of▁sentence｜>");
    CHECK(kinds[477] == 3);
    CHECK(tokens[482] == "<think>");
    CHECK(kinds[482] == 4);
    CHECK(tokens[511] == "[PAD511]");
    CHECK(kinds[511] == 5);
    CHECK(merges.size() == 221);
    CHECK(merges[0] == "Ġ =");
    CHECK(f.get_uint("tokenizer.ggml.bos_token_id", 1000) == 477);
    CHECK(f.get_uint("tokenizer.ggml.eos_token_id", 1000) == 478);
    CHECK(f.get_uint("tokenizer.ggml.padding_token_id", 1000) == 478);
    CHECK(!f.has("tokenizer.ggml.eot_token_id"));
    CHECK(f.get_bool("tokenizer.ggml.add_bos_token", false));
    CHECK(!f.get_bool("tokenizer.ggml.add_eos_token", true));
    CHECK(f.get_string("tokenizer.chat_template").starts_with("{{ bos_token }}"));
    CHECK(m.remarks.empty());
}

TEST_CASE("vocabulary: merges as pairs equal merges as strings") {
    checkpoint_files c("tiny-r1");
    const metadata strings(c);
    for (nlohmann::json &merge : c.tokenizer["model"]["merges"]) {
        const std::string text = merge;
        merge = {text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)};
    }
    CHECK(strings.file.get_strings("tokenizer.ggml.merges") ==
          metadata(c).file.get_strings("tokenizer.ggml.merges"));
}

TEST_CASE("vocabulary: conversation marks are control tokens even without the flag") {
    checkpoint_files c("tiny-r1");
    for (nlohmann::json &t : c.tokenizer["added_tokens"]) t["special"] = false;
    const metadata m(c);
    const std::vector<int32_t> kinds = m.file.get_ints("tokenizer.ggml.token_type");
    CHECK(kinds[480] == 3);
    CHECK(kinds[483] == 4);
    CHECK(m.remarks.empty());
}

TEST_CASE("vocabulary: end tokens from the three files") {
    checkpoint_files c("tiny-r1");
    const auto with = [&](const nlohmann::json &generation) {
        return metadata(c, [&](const std::string &dir) {
            write_bytes(dir + "/generation_config.json", generation.dump());
        });
    };
    const metadata two = with({{"eos_token_id", {478, 481}}});
    CHECK(two.file.get_uint("tokenizer.ggml.eos_token_id", 1000) == 478);
    CHECK(two.file.get_uint("tokenizer.ggml.eot_token_id", 1000) == 481);
    CHECK(!two.file.has("tokenizer.ggml.eom_token_id"));
    const metadata four = with({{"eos_token_id", {478, 481, 480, 479}}});
    CHECK(four.file.get_uint("tokenizer.ggml.eom_token_id", 1000) == 480);
    REQUIRE(four.remarks.size() == 1);
    CHECK(contains(four.remarks[0], "479"));

    c.tokenizer_config.erase("eos_token");  // then config.json's are used, here a list
    c.config["eos_token_id"] = {481, 478};
    const metadata listed(c);
    CHECK(listed.file.get_uint("tokenizer.ggml.eos_token_id", 1000) == 481);
    CHECK(listed.file.get_uint("tokenizer.ggml.eot_token_id", 1000) == 478);
}

TEST_CASE("vocabulary: whether texts begin with BOS") {
    checkpoint_files c("tiny-r1");
    c.tokenizer_config.erase("add_bos_token");
    CHECK(!metadata(c).file.get_bool("tokenizer.ggml.add_bos_token", true));
    c.tokenizer["post_processor"] = {
        {"type", "Sequence"},
        {"processors",
         {{{"type", "ByteLevel"}},
          {{"type", "TemplateProcessing"},
           {"single",
            {{{"SpecialToken", {{"id", "<｜begin▁of▁sentence｜>"}, {"type_id", 0}}}},
             {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}}}}};
    CHECK(metadata(c).file.get_bool("tokenizer.ggml.add_bos_token", false));
    c.tokenizer_config["add_bos_token"] = false;
    CHECK(!metadata(c).file.get_bool("tokenizer.ggml.add_bos_token", true));
}

TEST_CASE("vocabulary: where a chat template may be stored, and special tokens written as objects") {
    checkpoint_files c("tiny-r1");
    c.tokenizer_config["chat_template"] = {{{"name", "tool_use"}, {"template", "tools"}},
                                           {{"name", "default"}, {"template", "plain"}}};
    c.tokenizer_config["bos_token"] = {{"__type", "AddedToken"}, {"content", "<｜User｜>"}};
    const metadata listed(c);
    CHECK(listed.file.get_string("tokenizer.chat_template") == "plain");
    CHECK(listed.file.get_uint("tokenizer.ggml.bos_token_id", 1000) == 480);
    const metadata jinja(
        c, [](const std::string &dir) { write_bytes(dir + "/chat_template.jinja", "from the file"); });
    CHECK(jinja.file.get_string("tokenizer.chat_template") == "from the file");
    c.tokenizer_config.erase("chat_template");
    CHECK(!metadata(c).file.has("tokenizer.chat_template"));
}

TEST_CASE("vocabulary: chat templates in files of their own, named ones, several, and none") {
    checkpoint_files c("tiny-r1");
    const auto template_of = [](const metadata &m) {
        return std::string(
            m.file.has("tokenizer.chat_template") ? m.file.get_string("tokenizer.chat_template") : "(none)");
    };
    const auto with = [](const char *file, const std::string &text) {
        return [file, text](const std::string &dir) { write_bytes(dir + "/" + file, text); };
    };
    const auto json = [&](const std::string &text) { return with("chat_template.json", text); };
    const auto remarked = [](const metadata &m, const std::vector<std::string> &parts) {
        REQUIRE(m.remarks.size() == 1);
        for (const std::string &part : parts) CHECK(contains(m.remarks[0], part));
    };
    const std::string own = c.tokenizer_config["chat_template"];

    // The first of chat_template.jinja, tokenizer_config.json and chat_template.json is used. Another that
    // renders differently causes a remark.
    const metadata both(c, json(R"({"chat_template": "other"})"));
    CHECK(template_of(both) == own);
    remarked(both, {"chat_template.json", "differs", "tokenizer_config.json"});
    const metadata jinja(c, with("chat_template.jinja", "other"));
    CHECK(template_of(jinja) == "other");
    remarked(jinja, {"tokenizer_config.json", "differs", "chat_template.jinja"});
    CHECK(metadata(c, with("chat_template.jinja", own + "\n")).remarks.empty());
    CHECK(metadata(c, json(nlohmann::json{{"chat_template", own}}.dump())).remarks.empty());
    CHECK(metadata(c, json(R"({"chat_template": null})")).remarks.empty());

    c.tokenizer_config.erase("chat_template");
    const metadata alone(c, json(R"({"chat_template": "x{{ messages[0].content }}"})"));
    CHECK(template_of(alone) == "x{{ messages[0].content }}");
    CHECK(alone.remarks.empty());
    CHECK(template_of(metadata(c, json(R"({"chat_template": {"rag": "a", "default": "b"}})"))) == "b");
    const metadata objects(c, json(R"({"chat_template": {"rag": "a", "tool_use": "b"}})"));
    CHECK(template_of(objects) == "(none)");
    remarked(objects, {"chat_template.json", "'default'", "'rag', 'tool_use'"});

    const metadata none(c);
    CHECK(template_of(none) == "(none)");
    remarked(none, {"there is no chat template"});
    c.tokenizer_config["chat_template"] = "";
    remarked(metadata(c), {"there is no chat template"});
    const metadata folder(c, [](const std::string &dir) {
        fs::create_directory(dir + "/additional_chat_templates");
        write_bytes(dir + "/additional_chat_templates/tool_use.jinja", "a");
    });
    remarked(folder, {"additional_chat_templates", "'tool_use'"});

    c.tokenizer_config["chat_template"] = {{{"name", "rag"}, {"template", "a"}},
                                           {{"name", "tool_use"}, {"template", "b"}}};
    const metadata named(c);
    CHECK(template_of(named) == "(none)");
    remarked(named, {"tokenizer_config.json", "'chat_template'", "'rag', 'tool_use'"});
    const metadata elsewhere(c, json(R"({"chat_template": "x"})"));
    CHECK(template_of(elsewhere) == "x");

    for (const char *const wrong :
         {R"({"chat_template": 1})", R"({"chat_template": ["x"]})", R"({"chat_template": {"default": 1}})",
          R"({"chat_template": [{"name": 1}]})"}) {
        const auto e = failure_of([&] { metadata m(c, json(wrong)); });
        CHECK(e.code == status::format);
        CHECK(contains(e.text, "chat_template"));
    }
}

TEST_CASE("vocabulary: alone in a file, without weights and without config.json") {
    const temp_dir dir;
    const checkpoint_files c("tiny-r1");
    c.save(dir / "in", false);
    convert(dir / "in", dir / "with.gguf", {format::q8_0, true, ""}, {});
    CHECK(open(dir / "with.gguf").tensors().empty());
    CHECK(open(dir / "with.gguf").get_uint("llama.block_count", 100) == 4);
    CHECK(tokenizer(open(dir / "with.gguf")).size() == 512);
    fs::remove(dir / "in/config.json");
    convert(dir / "in", dir / "without.gguf", {format::q8_0, true, ""}, {});
    CHECK(tokenizer(open(dir / "without.gguf")).size() == 484);
    CHECK(tokenizer(open(dir / "without.gguf")).eos() == 478);
    CHECK(failure_of([&] { convert(dir / "in", dir / "x.gguf", {}, {}); }).code == status::io);
}

TEST_CASE("vocabulary: the published tokenizers' pre-tokenizers") {
    const std::string root = reference_path("tokenizers/");
    for (const auto &[name, pre] :
         {std::pair("deepseek-v3", "deepseek-v3"), {"llama3", "llama-bpe"}, {"qwen2.5", "qwen2"}}) {
        if (!fs::exists(root + name)) {
            skip(root + name + " is not available");
            continue;
        }
        const std::string bytes = convert_metadata(root + name, {}, {});
        const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), name);
        CHECK(f.get_string("tokenizer.ggml.pre") == pre);
        CHECK(f.get_strings("tokenizer.ggml.tokens").size() > 128000);
    }
}

TEST_CASE("vocabulary: qwen's patterns without NFC are DeepSeek's") {
    checkpoint_files c("tiny-r1");
    c.tokenizer["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"behavior", "Isolated"},
           {"invert", false},
           {"pattern",
            {{"Regex",
              R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}}},
          {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    CHECK(metadata(c).file.get_string("tokenizer.ggml.pre") == "deepseek-r1-qwen");
    c.tokenizer["normalizer"] = {{"type", "NFC"}};
    CHECK(metadata(c).file.get_string("tokenizer.ggml.pre") == "qwen2");
    c.tokenizer["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true;
    CHECK(contains(failure_of([&] { metadata m(c); }).text, "add_prefix_space"));
    c.tokenizer["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = false;
    c.tokenizer["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed";
    CHECK(contains(failure_of([&] { metadata m(c); }).text, "isolated"));
}

// The ids of a text by a changed tokenizer.
static std::vector<token_id> ids_of(const checkpoint_files &c, std::string_view text) {
    const metadata m(c);
    const tokenizer t(m.file);
    std::vector<token_id> out;
    t.encode(text, {.add_bos = false, .parse_special = true}, out);
    return out;
}

static const nlohmann::json llama3_split = {
    {"type", "Split"},
    {"behavior", "Isolated"},
    {"invert", false},
    {"pattern",
     {{"Regex",
       R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}}};
static const nlohmann::json qwen_split = {
    {"type", "Split"},
    {"behavior", "Isolated"},
    {"invert", false},
    {"pattern",
     {{"Regex",
       R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}}};
static const nlohmann::json byte_level = {
    {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};

// Bytes, "bc" by a merge, "abc" by no merge, the letter that e and an acute accent compose to, and two added
// tokens.
static checkpoint_files small_tokenizer(const nlohmann::json &split) {
    checkpoint_files c("tiny-r1");
    c.tokenizer = {{"normalizer", nullptr},
                   {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
                   {"decoder", byte_level},
                   {"post_processor", nullptr},
                   {"truncation", nullptr},
                   {"padding", nullptr},
                   {"version", "1.0"}};
    nlohmann::json vocab;
    for (int b = 0; b < 256; ++b) vocab[byte_level_text(static_cast<uint8_t>(b))] = b;
    vocab.update({{"bc", 256}, {"abc", 257}, {"Ã©", 258}});
    c.tokenizer["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"b c", "Ã ©"}}};
    c.tokenizer["added_tokens"] = {{{"id", 259}, {"content", "<s>"}, {"special", true}},
                                   {{"id", 260}, {"content", "</s>"}, {"special", true}}};
    c.tokenizer_config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"chat_template", "x"}};
    c.config["vocab_size"] = 261;
    for (const char *const id : {"bos_token_id", "eos_token_id", "pad_token_id"}) c.config.erase(id);
    return c;
}

TEST_CASE("vocabulary: the normalizer and ignore_merges come from tokenizer.json, whatever the pattern") {
    using ids = std::vector<token_id>;
    for (const nlohmann::json &split : {llama3_split, qwen_split})
        for (const bool nfc : {false, true})
            for (const bool ignore : {false, true}) {
                checkpoint_files c = small_tokenizer(split);
                if (nfc) c.tokenizer["normalizer"] = {{"type", "NFC"}};
                if (ignore || split == qwen_split) c.tokenizer["model"]["ignore_merges"] = ignore;
                CHECK(ids_of(c, "abc") == (ignore ? ids{257} : ids{97, 256}));
                CHECK(ids_of(c, "e\u0301") == (nfc ? ids{258} : ids{101, 204, 129}));
                if (!nfc) continue;
                c.tokenizer["normalizer"] = {
                    {"type", "Sequence"},
                    {"normalizers",
                     {{{"type", "NFC"}}, {{"type", "Sequence"}, {"normalizers", nlohmann::json::array()}}}}};
                CHECK(ids_of(c, "e\u0301") == ids{258});
            }
    // Settings implied by the pre-tokenizer's name need no keys.
    checkpoint_files c = small_tokenizer(qwen_split);
    c.tokenizer["normalizer"] = {{"type", "NFC"}};
    CHECK(!metadata(c).file.has("deepseek.tokenizer.normalizer"));
    CHECK(!metadata(c).file.has("deepseek.tokenizer.ignore_merges"));
    c = small_tokenizer(llama3_split);
    c.tokenizer["model"]["ignore_merges"] = true;
    CHECK(!metadata(c).file.has("deepseek.tokenizer.normalizer"));
    CHECK(!metadata(c).file.has("deepseek.tokenizer.ignore_merges"));
}

TEST_CASE("vocabulary: every field of tokenizer.json is checked") {
    const auto refused = [](const char *pointer, const nlohmann::json &value, const char *field) {
        checkpoint_files c = small_tokenizer(llama3_split);
        c.tokenizer[nlohmann::json::json_pointer(pointer)] = value;
        const error e = failure_of([&] { metadata m(c); });
        CAPTURE(pointer);
        CAPTURE(e.text);
        CHECK(contains(e.text, std::string("tokenizer.json: '") + field));
    };
    const auto taken = [](const char *pointer, const nlohmann::json &value) {
        checkpoint_files c = small_tokenizer(llama3_split);
        c.tokenizer[nlohmann::json::json_pointer(pointer)] = value;
        CAPTURE(pointer);
        CHECK(ids_of(c, "abc<s>d") == std::vector<token_id>{97, 256, 259, 100});
        CHECK(metadata(c).remarks.empty());
    };
    refused("/truncation", {{"max_length", 2}}, "truncation");
    refused("/padding", {{"strategy", "BatchLongest"}}, "padding");
    refused("/lower_case", true, "lower_case");
    refused("/normalizer", {{"type", "NFD"}}, "normalizer");
    refused("/normalizer",
            {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Lowercase"}}}}},
            "normalizer.normalizers[1]");
    refused("/normalizer", {{"type", "Prepend"}, {"prepend", "_"}}, "normalizer");
    refused("/model/type", "Unigram", "model.type");
    refused("/model/dropout", 0.1, "model.dropout");
    refused("/model/byte_fallback", true, "model.byte_fallback");
    refused("/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix");
    refused("/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix");
    refused("/model/ignore_merges", 1, "model.ignore_merges");
    refused("/model/max_input_chars_per_word", 100, "model.max_input_chars_per_word");
    refused("/pre_tokenizer/pretokenizers/1/add_prefix_space", true,
            "pre_tokenizer.pretokenizers[1].add_prefix_space");
    refused("/pre_tokenizer/pretokenizers/1/use_regex", true, "pre_tokenizer.pretokenizers[1]");
    refused("/pre_tokenizer/pretokenizers/0/invert", true, "pre_tokenizer.pretokenizers[0]");
    refused("/pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext", "pre_tokenizer.pretokenizers[0]");
    refused("/pre_tokenizer/pretokenizers/0/limit", 3, "pre_tokenizer.pretokenizers[0].limit");
    refused("/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}},
            "pre_tokenizer.pretokenizers[0].pattern.String");
    // no ByteLevel
    refused("/pre_tokenizer/pretokenizers/1", llama3_split, "pre_tokenizer");
    // its bytes would be split
    refused("/pre_tokenizer/pretokenizers", {byte_level, llama3_split}, "pre_tokenizer.pretokenizers[1]");
    refused("/pre_tokenizer/pretokenizers/1", {{"type", "Metaspace"}}, "pre_tokenizer.pretokenizers[1].type");
    refused("/pre_tokenizer", nullptr, "pre_tokenizer");
    refused("/decoder", {{"type", "Metaspace"}}, "decoder.type");
    refused("/decoder",
            {{"type", "Sequence"}, {"decoders", {byte_level, {{"type", "Strip"}, {"content", " "}}}}},
            "decoder.decoders[1]");
    refused("/post_processor", {{"type", "BertProcessing"}, {"sep", {"</s>", 260}}}, "post_processor.type");
    for (const char *const flag : {"lstrip", "rstrip", "single_word"})
        refused((std::string("/added_tokens/1/") + flag).c_str(), true,
                (std::string("added_tokens[1].") + flag).c_str());
    refused("/added_tokens/1/stretch", true, "added_tokens[1].stretch");
    refused("/added_tokens/1/content", "abc", "added_tokens[1].id");
    taken("/normalizer", {{"type", "Sequence"}, {"normalizers", nlohmann::json::array()}});
    taken("/model/dropout", 0.0);
    taken("/model/continuing_subword_prefix", "");
    taken("/model/unk_token", "<s>");  // allowed: every byte has a token
    taken("/model/fuse_unk", true);
    taken("/decoder", {{"type", "Sequence"}, {"decoders", {byte_level, {{"type", "Fuse"}}}}});
    taken("/decoder", nullptr);
    taken("/post_processor", byte_level);
    taken("/added_tokens/1/normalized", true);
    taken("/model/merges/0", nlohmann::json::array({"b", "c"}));
    taken("/model/merges", {"#version: 0.2", "b c", "Ã ©"});
}

TEST_CASE("vocabulary: added tokens beside a normalizer") {
    checkpoint_files c = small_tokenizer(qwen_split);
    c.tokenizer["normalizer"] = {{"type", "NFC"}};
    c.tokenizer["added_tokens"][1]["normalized"] = true;
    const metadata m(c);
    REQUIRE(m.remarks.size() == 1);
    CHECK(contains(m.remarks[0], "added_tokens[1].normalized"));
    c.tokenizer["added_tokens"][1]["content"] = "<e\u0301>";
    c.tokenizer_config.erase("eos_token");
    CHECK(contains(failure_of([&] { metadata other(c); }).text, "added_tokens[1].normalized"));
}

TEST_CASE("vocabulary: bytes without a token") {
    checkpoint_files c = small_tokenizer(llama3_split);
    c.tokenizer["model"]["vocab"].erase("z");
    const metadata without(c);
    REQUIRE(without.remarks.size() == 1);
    CHECK(contains(without.remarks[0], "1 bytes have no token, the first is 0x7A"));
    c.tokenizer["model"]["unk_token"] = "~";
    CHECK(ids_of(c, "zaz") == std::vector<token_id>{126, 97, 126});
    c.tokenizer["model"]["fuse_unk"] = true;
    CHECK(contains(failure_of([&] { metadata m(c); }).text, "model.fuse_unk"));
    c.tokenizer["model"]["fuse_unk"] = false;
    c.tokenizer["model"]["unk_token"] = "<unk>";
    CHECK(contains(failure_of([&] { metadata m(c); }).text, "model.unk_token"));
}

TEST_CASE("vocabulary: tokens that the post-processor puts around a text") {
    const auto special = [](const char *id) {
        return nlohmann::json{{"SpecialToken", {{"id", id}, {"type_id", 0}}}};
    };
    const nlohmann::json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    const auto with = [&](const std::vector<nlohmann::json> &single,
                          const nlohmann::json &special_tokens = nullptr) {
        checkpoint_files c = small_tokenizer(llama3_split);
        c.tokenizer["post_processor"] = {
            {"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", special_tokens}};
        return c;
    };
    const auto adds = [](const checkpoint_files &c, const char *which) {
        return metadata(c).file.get_bool(std::string("tokenizer.ggml.add_") + which + "_token", false);
    };
    const auto fault = [](const checkpoint_files &c) { return failure_of([&] { metadata m(c); }).text; };
    CHECK(!adds(with({text}), "bos"));
    CHECK(adds(with({special("<s>"), text}), "bos"));
    CHECK(!adds(with({special("<s>"), text}), "eos"));
    CHECK(adds(with({text, special("</s>")}), "eos"));
    CHECK(adds(with({special("<s>"), text}, {{"<s>", {{"id", "<s>"}, {"ids", {259}}}}}), "bos"));
    CHECK(contains(fault(with({special("<s>"), text}, {{"<s>", {{"id", "<s>"}, {"ids", {260}}}}})),
                   "post_processor.special_tokens.<s>.ids"));
    CHECK(contains(fault(with({special("<s>"), special("<s>"), text})), "post_processor.single[1]"));
    CHECK(contains(fault(with({special("</s>"), text})), "post_processor"));  // not BOS
    CHECK(contains(fault(with({special("<t>"), text})), "'<t>' is not in the vocabulary"));
    CHECK(contains(fault(with({special("<s>")})), "post_processor.single"));
    checkpoint_files c = with({special("<s>"), text});
    c.tokenizer_config.erase("bos_token");
    CHECK(metadata(c).file.get_uint("tokenizer.ggml.bos_token_id", 1000) == 259);
    c = with({special("</s>"), text});
    c.tokenizer_config["add_bos_token"] = false;  // tokenizer_config.json decides
    CHECK(!adds(c, "bos"));
}

TEST_CASE("vocabulary: special tokens that do not exist") {
    const auto with = [](const char *field, const nlohmann::json &value) {
        checkpoint_files c = small_tokenizer(llama3_split);
        c.config[field] = value;
        return c;
    };
    const auto remarked = [](const checkpoint_files &c, const char *field, const char *key) {
        const metadata m(c);
        REQUIRE(m.remarks.size() == 1);
        CHECK(contains(m.remarks[0], field));
        CHECK(!m.file.has(std::string("tokenizer.ggml.") + key));
    };
    for (const nlohmann::json &id : {nlohmann::json(-1), nlohmann::json(261), nlohmann::json(UINT32_MAX),
                                     nlohmann::json(UINT64_MAX), nlohmann::json(INT64_MIN)}) {
        CAPTURE(id.dump());
        remarked(with("pad_token_id", id), "'pad_token_id'", "padding_token_id");
        checkpoint_files c = with("bos_token_id", id);
        c.tokenizer_config.erase("bos_token");
        remarked(c, "'bos_token_id'", "bos_token_id");
        c.tokenizer_config["add_bos_token"] = true;
        CHECK(contains(failure_of([&] { metadata m(c); }).text, "'bos_token_id'"));
        c = with("eos_token_id", id);
        CHECK(metadata(c).remarks.size() == 1);  // tokenizer_config.json names another
        c.tokenizer_config.erase("eos_token");
        if (id == 261)
            CHECK(contains(failure_of([&] { metadata m(c); }).text,
                           "'eos_token_id': 261 is not in the vocabulary"));
        else remarked(c, "'eos_token_id'", "eos_token_id");
    }
    CHECK(contains(failure_of([&] { metadata m(with("pad_token_id", "259")); }).text, "'pad_token_id'"));
    CHECK(contains(failure_of([&] { metadata m(with("pad_token_id", 1.5)); }).text, "'pad_token_id'"));
    checkpoint_files c = small_tokenizer(llama3_split);
    c.tokenizer_config["pad_token"] = "[PAD]";
    c.tokenizer_config["unk_token"] = nullptr;
    remarked(c, "'pad_token': \"[PAD]\" is not in the vocabulary", "padding_token_id");
    c.tokenizer_config["eos_token"] = "<end>";
    CHECK(contains(failure_of([&] { metadata m(c); }).text, "'eos_token'"));
    // A list of end tokens, one of which does not exist.
    c = with("eos_token_id", {260, -1, 259});
    CHECK(metadata(c).file.get_uint("tokenizer.ggml.eot_token_id", 1000) == 259);
}

TEST_CASE("vocabulary: numbers in a small file cannot demand much more memory than its tokens") {
    checkpoint_files c = small_tokenizer(llama3_split);
    c.config["vocab_size"] = 1 << 24;
    const error e = failure_of([&] { metadata m(c); });
    CHECK(contains(e.text, "'vocab_size': 16777216 tokens, but"));
    c.config["vocab_size"] = 261 + (1 << 16);
    CHECK(metadata(c).file.get_strings("tokenizer.ggml.tokens").size() == 261 + (1 << 16));
    c.tokenizer["model"]["vocab"]["abc"] = (1 << 24) - 1;
    CHECK(contains(failure_of([&] { metadata m(c); }).text, "'vocab_size': 65797 tokens"));
    c.config["vocab_size"] = 1 << 24;
    CHECK(
        contains(failure_of([&] { metadata m(c); }).text, "'model.vocab.abc': 16777215 is an id far beyond"));
    c.tokenizer["model"]["vocab"]["abc"] = 257;
    c.tokenizer["added_tokens"][1]["id"] = (1 << 24) - 1;
    CHECK(contains(failure_of([&] { metadata m(c); }).text, "'added_tokens[1].id'"));
}

// ---- Random files

TEST_CASE("synth: bytes as byte-level BPE spells them") {
    const nlohmann::json vocab = checkpoint_files("tiny-r1").tokenizer["model"]["vocab"];
    std::set<std::string> spelled;
    for (unsigned b = 0; b < 256; ++b) {
        spelled.insert(byte_level_text(static_cast<uint8_t>(b)));
        CHECK(vocab.contains(byte_level_text(static_cast<uint8_t>(b))));
    }
    CHECK(spelled.size() == 256);
    CHECK(byte_level_text(' ') == "Ġ");
    CHECK(byte_level_text('\n') == "Ċ");
    CHECK(byte_level_text(0xad) == "Ń");
    CHECK(byte_level_text(0xff) == "ÿ");
}

TEST_CASE("synth: the named shapes are those of the published models") {
    CHECK(synth_shape_text("r1-1.5b") ==
          "qwen2, 28 layers of 1536, 12/2 heads of 128, ffn 8960, vocabulary 151936");
    CHECK(synth_shape_text("r1-7b") ==
          "qwen2, 28 layers of 3584, 28/4 heads of 128, ffn 18944, vocabulary 152064");
    CHECK(synth_shape_text("r1-8b") ==
          "llama, 32 layers of 4096, 32/8 heads of 128, ffn 14336, vocabulary 128256");
    CHECK(synth_shape_text("r1-0528-8b") ==
          "qwen3, 36 layers of 4096, 32/8 heads of 128, ffn 12288, vocabulary 151936");
    const error e = failure_of([] { synth_shape_text("r1-9b"); });
    CHECK(e.code == status::argument);
    CHECK(contains(e.text, "r1-14b"));
}

TEST_CASE("synth: files load, tokenize and hold weights of a plausible size") {
    const temp_dir dir;
    for (const arch *const shaped : architectures())
        for (const format type : uniform_formats()) {
            const std::string shape = std::string("tiny-") + shaped->name;
            CAPTURE(shape);
            CAPTURE(info(type).text);
            synthesize(dir / "out.gguf", {shape, type, 1}, {});
            const gguf_file f = open(dir / "out.gguf");
            const arch *const a = arch_by_name(f.get_string("general.architecture"));
            REQUIRE(a == shaped);
            for (const tensor_row &row : a->tensors(a->read(f))) {
                const gguf_tensor *const t = f.find_tensor(row.name);
                if (row.optional && !t) continue;
                REQUIRE(t);
                CHECK(std::vector<int64_t>(t->ne, t->ne + t->rank) == row.ne);
                CHECK(t->type == (row.stays_f32() ? format::f32 : type));
            }
            // 128 x 256 in a model of two layers: deviation 1 / sqrt(256 * 4)
            const gguf_tensor &down = *f.find_tensor("blk.0.ffn_down.weight");
            std::vector<float> x(128 * 256);
            decode_row(down.type, down.data, x.data(), x.size());
            if (type == format::i8) {
                const auto *scales =
                    reinterpret_cast<const float *>(f.find_tensor("blk.0.ffn_down.weight_scale")->data);
                for (size_t i = 0; i < x.size(); ++i) x[i] *= scales[i / 256];
            }
            double sum = 0, squares = 0;
            for (const float v : x) {
                sum += v;
                squares += static_cast<double>(v) * v;
            }
            CHECK(std::fabs(sum / static_cast<double>(x.size())) < 0.001);
            CHECK(std::sqrt(squares / static_cast<double>(x.size())) ==
                  doctest::Approx(1.0 / 32).epsilon(0.02));

            const tokenizer tok(f);
            std::vector<token_id> ids;
            const std::string text = "Hello there, 三 \xff\n";
            tok.encode(text, {}, ids);
            std::string back;
            for (const token_id id : ids) back += tok.bytes(id, false);
            CHECK(back == text);
            CHECK(ids.size() < text.size());
            CHECK(tok.size() == 512);
        }
    CHECK(open(dir / "out.gguf").find_tensor("rope_freqs.weight") == nullptr);
    synthesize(dir / "out.gguf", {"tiny-llama", format::q8_0, 1}, {});
    CHECK(open(dir / "out.gguf").find_tensor("rope_freqs.weight"));
    CHECK(open(dir / "out.gguf").find_tensor("output.weight") == nullptr);
}

TEST_CASE("synth: fewer layers and a smaller vocabulary") {
    const temp_dir dir;
    synthesize(dir / "out.gguf", {"tiny-qwen2", format::q8_0, 1, 1, 300}, {});
    const gguf_file f = gguf_file::open(dir / "out.gguf");
    CHECK(f.get_uint("qwen2.block_count", 100) == 1);
    const gguf_tensor &embedding = *f.find_tensor("token_embd.weight");
    CHECK(std::vector<int64_t>(embedding.ne, embedding.ne + embedding.rank) ==
          std::vector<int64_t>{300, 128});
    CHECK(f.find_tensor("blk.0.attn_q.weight"));
    CHECK(!f.find_tensor("blk.1.attn_q.weight"));
}

TEST_CASE("synth: the result depends on the seed and nothing else") {
    const temp_dir dir;
    synthesize(dir / "a.gguf", {"tiny-qwen3", format::q8_0, 1}, {});
    synthesize(dir / "b.gguf", {"tiny-qwen3", format::q8_0, 1}, {.threads = 3});
    synthesize(dir / "c.gguf", {"tiny-qwen3", format::q8_0, 2}, {});
    CHECK(file_bytes(dir / "a.gguf") == file_bytes(dir / "b.gguf"));
    CHECK(file_bytes(dir / "a.gguf") != file_bytes(dir / "c.gguf"));
}

TEST_CASE("policy: llama.cpp's mixes, and the formats of rows of other lengths") {
    const auto row = [](role what, int64_t layer, int64_t columns) {
        tensor_row r{"x", "", {512, columns}, what, false};
        r.layer = layer;
        return r;
    };
    hparams h;
    h.layers = 32, h.heads = 32, h.kv_heads = 8;
    const auto choice = [&](format wanted, role what, int64_t layer, int64_t columns = 512,
                            bool tied = false) {
        return format_policy(wanted, h, tied)(row(what, layer, columns));
    };
    for (const format f : {format::q4_k, format::q5_k})
        for (const role what : {role::value, role::down}) {
            int more = 0;  // an eighth of the layers at each end, and a third of the rest
            for (int i = 0; i < 32; ++i) more += choice(f, what, i) == format::q6_k;
            CHECK(more == 16);
            CHECK(choice(f, what, 3) == format::q6_k);
            CHECK(choice(f, what, 4) == f);
            CHECK(choice(f, what, 6) == format::q6_k);
            CHECK(choice(f, what, 28) == format::q6_k);
        }
    CHECK(choice(format::q3_k, role::value, 1) == format::q5_k);
    CHECK(choice(format::q3_k, role::value, 2) == format::q4_k);
    CHECK(choice(format::q3_k, role::down, 1) == format::q5_k);
    CHECK(choice(format::q3_k, role::down, 2) == format::q4_k);
    CHECK(choice(format::q3_k, role::attention_output, 2) == format::q4_k);
    CHECK(choice(format::q2_k, role::value, 9) == format::q4_k);
    CHECK(choice(format::q2_k, role::down, 9) == format::q3_k);
    for (const format f : {format::q2_k, format::q3_k, format::q4_k, format::q5_k, format::q6_k, format::q4_0,
                           format::q5_1, format::iq4_nl}) {
        CHECK(choice(f, role::query, 9) == f);
        CHECK(choice(f, role::gate, 9) == f);
        CHECK(choice(f, role::embedding, -1) == f);
        CHECK(choice(f, role::embedding, -1, 512, true) == format::q6_k);
        CHECK(choice(f, role::output, -1) == format::q6_k);
        CHECK(choice(f, role::norm, 9) == format::f32);
    }
    for (const format f : {format::f16, format::q8_0, format::i8}) CHECK(choice(f, role::output, -1) == f);
    for (const auto &[f, narrow] : {std::pair(format::q2_k, format::iq4_nl),
                                    {format::q3_k, format::iq4_nl},
                                    {format::q4_k, format::q5_0},
                                    {format::q5_k, format::q5_1},
                                    {format::q6_k, format::q8_0}}) {
        CHECK(choice(f, role::query, 9, 480) == narrow);
        CHECK(choice(f, role::query, 9, 481) == format::f16);
    }
}

TEST_CASE(
    "requantize: types of few bits in files that load, remarks for rows that do not fit, refusals by name") {
    const temp_dir dir;
    std::vector<std::string> remarks;
    const job j{.note = [&](const std::string &text) { remarks.push_back(text); }};
    synthesize(dir / "in.gguf", {"small-llama", format::f32, 1}, {});
    for (const auto &[type, number] : {std::pair(format::q4_k, 15),
                                       {format::q5_k, 17},
                                       {format::q3_k, 12},
                                       {format::q2_k, 10},
                                       {format::q6_k, 18},
                                       {format::q4_0, 2},
                                       {format::iq4_nl, 25}}) {
        requantize(dir / "in.gguf", dir / "out.gguf", type, j);
        const gguf_file f = open(dir / "out.gguf");
        CHECK(f.get_uint("general.file_type", 100) == static_cast<uint64_t>(number));
        CHECK(f.get_uint("general.quantization_version", 100) == 2);
        CHECK(f.find_tensor("output.weight")->type == format::q6_k);
        CHECK(f.find_tensor("blk.1.attn_q.weight")->type == type);
    }
    CHECK(remarks.empty());
    synthesize(dir / "tiny.gguf", {"tiny-llama", format::f32, 1}, {});
    requantize(dir / "tiny.gguf", dir / "out.gguf", format::q4_k, j);
    REQUIRE(remarks.size() == 1);
    for (const char *const part : {"token_embd.weight", "128", "q6_k", "q8_0", "more"})
        CHECK(contains(remarks[0], part));
    CHECK(open(dir / "out.gguf").find_tensor("blk.0.attn_q.weight")->type == format::q5_0);
    CHECK(open(dir / "out.gguf").find_tensor("blk.1.ffn_down.weight")->type == format::q6_k);  // of 256

    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 70000.0f}) {
        std::string bytes = file_bytes(dir / "in.gguf");
        const gguf_file f = open(dir / "in.gguf");
        memcpy(&bytes[f.find_tensor("blk.2.ffn_up.weight")->offset + 4 * (256 * 3 + 5)], &bad, sizeof bad);
        write_bytes(dir / "bad.gguf", bytes);
        const error e = failure_of([&] { requantize(dir / "bad.gguf", dir / "out.gguf", format::q4_k, {}); });
        CHECK(e.code == status::numeric);
        CHECK(contains(e.text, "blk.2.ffn_up.weight[3, 5]"));
    }
}

TEST_CASE("requantize: statistics lower the error where the inputs are large") {
    const temp_dir dir;
    synthesize(dir / "in.gguf", {"small-llama", format::f32, 1}, {});
    write_bytes(dir / "text.txt", "the quick brown fox jumps over the lazy dog and then some more of it, "
                                  "again and again, until there is enough");
    calibration c = calibrate(dir / "in.gguf", {dir / "text.txt"}, {}, {});
    for (linear_input &in : c.inputs)
        for (size_t i = 0; i < in.channels(); ++i) in.mean_square[i] = i % 8 ? 0.01f : 1.0f;
    save(c, dir / "stats");
    requantize(dir / "in.gguf", dir / "plain.gguf", format::q4_k, {});
    requantize_weighted(dir / "in.gguf", dir / "weighted.gguf", format::q4_k, dir / "stats", {});
    const gguf_file in = open(dir / "in.gguf"), plain = open(dir / "plain.gguf"),
                    weighted = open(dir / "weighted.gguf");
    const auto error_of = [&](const gguf_file &f, const std::string &name) {
        const gguf_tensor &t = *f.find_tensor(name);
        std::vector<float> x(in.find_tensor(name)->bytes / 4), y(x.size());
        memcpy(x.data(), in.find_tensor(name)->data, 4 * x.size());
        decode_row(t.type, t.data, y.data(), y.size());
        double sum = 0;
        for (size_t i = 0; i < x.size(); i += 8)
            sum += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
        return sum;
    };
    for (const char *const name : {"blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.1.attn_output.weight",
                                   "blk.1.ffn_up.weight", "blk.2.ffn_down.weight", "output.weight"})
        CHECK(error_of(weighted, name) < 0.8 * error_of(plain, name));
    CHECK(error_of(weighted, "token_embd.weight") == error_of(plain, "token_embd.weight"));
    CHECK(weighted.get_uint("deepseek.quant.calibration_tokens", 1000) == c.tokens);
}

TEST_CASE("synth: files of few bits hold weights of a plausible size") {
    const temp_dir dir;
    for (const format type : {format::q4_0, format::q4_k, format::q6_k, format::q2_k}) {
        CAPTURE(info(type).text);
        synthesize(dir / "out.gguf", {"small-llama", type, 1}, {});
        const gguf_file f = open(dir / "out.gguf");
        // 768 x 256: deviation 1 / sqrt(256)
        const gguf_tensor &gate = *f.find_tensor("blk.1.ffn_gate.weight");
        CHECK(gate.type == type);
        std::vector<float> x(768 * 256);
        decode_row(gate.type, gate.data, x.data(), x.size());
        double squares = 0;
        for (const float v : x) squares += static_cast<double>(v) * v;
        CHECK(std::sqrt(squares / static_cast<double>(x.size())) == doctest::Approx(1.0 / 16).epsilon(0.05));
    }
}

// ---- Requantizing

TEST_CASE("requantize: the same file as converting directly, from each lossless format") {
    const temp_dir dir;
    for (const char *const name : {"micro/llama3", "micro/qwen2"})
        for (const format through : {format::f32, format::bf16}) {
            convert(data_path(name), dir / "first.gguf", {through, false, "m"}, {});
            for (const format type : target_formats()) {
                convert(data_path(name), dir / "direct.gguf", {type, false, "m"}, {});
                requantize(dir / "first.gguf", dir / "second.gguf", type, {.threads = 2});
                CHECK(file_bytes(dir / "direct.gguf") == file_bytes(dir / "second.gguf"));
            }
        }
}

TEST_CASE("requantize: to a larger format with a remark, and over its own source") {
    const temp_dir dir;
    std::vector<std::string> remarks;
    const job j{.note = [&](const std::string &text) { remarks.push_back(text); }};
    convert(data_path("micro/qwen3"), dir / "a.gguf", {}, {});
    requantize(dir / "a.gguf", dir / "b.gguf", format::f32, j);
    REQUIRE(remarks.size() == 1);
    const gguf_file a = open(dir / "a.gguf"), b = open(dir / "b.gguf");
    REQUIRE(a.tensors().size() == b.tensors().size());
    for (size_t i = 0; i < a.tensors().size(); ++i) {
        const gguf_tensor &from = a.tensors()[i], &to = b.tensors()[i];
        const size_t n = to.bytes / 4;
        std::vector<float> wanted(n);
        decode_row(from.type, from.data, wanted.data(), n);
        CHECK(to.type == format::f32);
        CHECK(memcmp(wanted.data(), to.data, to.bytes) == 0);
    }
    requantize(dir / "b.gguf", dir / "b.gguf", format::f16, j);
    CHECK(remarks.size() == 1);
    CHECK(open(dir / "b.gguf").get_uint("general.file_type", 100) == 1);
    CHECK(open(dir / "b.gguf").find_tensor("output.weight")->type == format::f16);
    CHECK(dir.entries() == 2);
}

TEST_CASE("requantize: unknown tensors and keys are kept, and unreadable ones are named") {
    const temp_dir dir;
    convert(data_path("micro/llama"), dir / "good.gguf", {}, {});
    const gguf_file good = open(dir / "good.gguf");
    const auto rebuilt = [&](const char *change) {
        gguf_writer w;
        for (size_t i = 0; i < good.key_count(); ++i) w.set_raw(good.key(i), good.value(i));
        w.set_string("company.note", "kept");
        if (change == std::string("arch")) w.set_string("general.architecture", "mamba");
        std::vector<std::string> data;
        for (const gguf_tensor &t : good.tensors()) {
            const bool other = change == std::string("type") && t.name == "blk.0.ffn_up.weight";
            w.add_tensor(std::string(t.name), other ? format::mxfp4 : t.type,
                         std::span(t.ne, static_cast<size_t>(t.rank)));
            data.push_back(other ? std::string(t.bytes / 34 * 17, 'x')
                                 : std::string(reinterpret_cast<const char *>(t.data), t.bytes));
        }
        const int64_t ne[] = {3};
        w.add_tensor("company.tensor", format::i32, ne);
        data.push_back("123456789abc");
        std::string bytes = w.header();
        for (size_t i = 0; i < data.size(); ++i) bytes += data[i] + std::string(w.padding(i), '\0');
        write_bytes(dir / "in.gguf", bytes);
    };
    rebuilt("none");
    requantize(dir / "in.gguf", dir / "out.gguf", format::bf16, {});
    const gguf_file f = open(dir / "out.gguf");
    CHECK(f.get_string("company.note") == "kept");
    REQUIRE(f.find_tensor("company.tensor"));
    CHECK(memcmp(f.find_tensor("company.tensor")->data, "123456789abc", 12) == 0);

    fs::remove(dir / "out.gguf");
    rebuilt("type");
    const error type = failure_of([&] { requantize(dir / "in.gguf", dir / "out.gguf", format::f32, {}); });
    CHECK(type.code == status::unsupported);
    CHECK(contains(type.text, "'blk.0.ffn_up.weight': mxfp4 is not read"));
    rebuilt("arch");
    CHECK(contains(failure_of([&] { requantize(dir / "in.gguf", dir / "out.gguf", format::f32, {}); }).text,
                   "'mamba' is not known"));
    CHECK(!fs::exists(dir / "out.gguf"));
}

// ---- Inspection

TEST_CASE("inspect: the bundled model as text and as JSON") {
    const std::string path = DS_SOURCE_DIR "/models/tiny-r1.gguf";
    const gguf_file f = open(path);
    const nlohmann::json j = nlohmann::json::parse(inspect_json(f, {}));
    CHECK(j["version"] == 3);
    CHECK(j["bytes"] == fs::file_size(path));
    CHECK(j["tensors"].size() == 39);
    CHECK(j["totals"]["q8_0"]["tensors"] == 30);  // 4 layers of 7 matrices, embedding, output
    CHECK(j["totals"]["q8_0"]["elements"] == 4 * (4 * 160 * 160 + 3 * 160 * 448) + 2 * 512 * 160);
    CHECK(j["totals"]["q8_0"]["bits_per_weight"] == 8.5);
    CHECK(j["totals"]["f32"]["elements"] == 9 * 160);
    CHECK(j["totals"]["all"]["tensors"] == 39);
    CHECK(j["metadata"][0]["key"] == "general.architecture");
    CHECK(j["metadata"][0]["value"] == "llama");
    uint64_t last = 0;
    for (const nlohmann::json &t : j["tensors"]) {
        CHECK(t["offset"].get<uint64_t>() > last);
        last = t["offset"];
        if (t["name"] == "blk.2.ffn_down.weight") CHECK(t["shape"] == nlohmann::json({160, 448}));
    }
    const std::string text = inspect_text(f, {});
    CHECK(contains(text, "blk.3.attn_norm.weight"));
    CHECK(contains(text, "string[512]"));
    CHECK(contains(text, "8.500"));
    CHECK(contains(text, "Ġ ="));
    CHECK(!contains(inspect_text(f, {8, false}), "blk.3.attn_norm.weight"));
    CHECK(!nlohmann::json::parse(inspect_json(f, {8, false})).contains("tensors"));
}

TEST_CASE("inspect: a file's strings cannot control the terminal or break the JSON") {
    gguf_writer w;
    w.set_string("general.name", "red \x1b[31m\x07 \xff\xfe");
    const std::string bytes = w.header();
    const gguf_file f(os::mapping::borrow(bytes.data(), bytes.size()), "file");
    CHECK(contains(inspect_text(f, {}), "red \\x1b[31m\\x07"));
    CHECK(inspect_text(f, {}).find('\x1b') == std::string::npos);
    CHECK(nlohmann::json::parse(inspect_json(f, {}))["metadata"][0]["key"] == "general.name");
}

TEST_CASE("progress: one line with share, rate and time left") {
    CHECK(progress_line(0, 1000000, 0) == "[------------------------------]   0%  0 B of 1.00 MB");
    CHECK(progress_line(1500000000, 3000000000, 5) ==
          "[###############---------------]  50%  1.50 GB of 3.00 GB  300 MB/s  0:05 left");
    CHECK(progress_line(1000, 4000000, 1) ==
          "[------------------------------]   0%  1.00 kB of 4.00 MB  1.00 kB/s  1:06:39 left");
    CHECK(progress_line(7, 7, 2) == "[##############################] 100%  7 B of 7 B  4 B/s  0:00 left");
    CHECK(bytes_text(999) == "999 B");
    CHECK(bytes_text(99950) == "100 kB");
    CHECK(bytes_text(12345678) == "12.3 MB");
}
