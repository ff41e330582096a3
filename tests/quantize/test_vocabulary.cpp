// What becomes of a checkpoint's tokenizer: tokens, kinds, merges, templates, and fields that are refused.
#include "../support/checkpoint_files.h"
#include "../support/skip.h"

#include "../../quantize/convert.h"
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
