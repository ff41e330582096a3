// tokenizer.json (Hugging Face tokenizers) to GGUF keys. The pre-tokenizer is recognised by its patterns, not by a model's name; whatever would make
// ids differ from the published tokenizer's (a normalizer, a byte fallback, affixes) is refused.

#include "vocabulary.h"

#include <algorithm>

namespace ds {

namespace {

constexpr uint64_t max_tokens = 1u << 24;

// ---- Tokens and merges -----------------------------------------------------------------------------------------------------------------------

// Tokens that frame a conversation are control tokens whatever the file's flag says (DeepSeek leaves it off for <｜User｜>): text that a user types
// must never become one. llama.cpp's converter decides alike.
bool frames_conversation(std::string_view text) {
    return (text.starts_with("<|") && text.ends_with("|>")) || (text.starts_with("<｜") && text.ends_with("｜>"));
}

void put_token(vocabulary &v, const json_node &where, uint64_t id, const std::string &text, token_kind kind) {
    if (id >= v.tokens.size()) {
        v.tokens.resize(id + 1);
        v.kinds.resize(id + 1, token_kind::undefined);
    }
    if (v.kinds[id] != token_kind::undefined && v.tokens[id] != text)
        where.fail(status::format, "id " + std::to_string(id) + " is given to " + ds::quoted(v.tokens[id]) + " and to " + ds::quoted(text));
    v.tokens[id] = text;
    v.kinds[id] = kind;
}

void read_tokens(vocabulary &v, const json_node &root, const job &j) {
    const json_node vocab = root.at("model").at("vocab").object();
    for (const auto &[text, id] : vocab.value().items()) put_token(v, vocab, json_node(id, vocab.file(), "model.vocab." + text).whole(max_tokens), text, token_kind::normal);
    if (!root.has("added_tokens")) return;
    const json_node added = root.at("added_tokens").array();
    for (size_t i = 0; i < added.size(); ++i) {
        const json_node a = added.at(i);
        const std::string &text = a.at("content").text();
        const bool control = a.flag("special", false) || frames_conversation(text);
        put_token(v, a, a.at("id").whole(max_tokens), text, control ? token_kind::control : token_kind::user_defined);
        if (a.flag("lstrip", false) || a.flag("rstrip", false) || a.flag("single_word", false))
            j.remark(ds::quoted(text) + ": lstrip, rstrip and single_word of an added token are not kept");
    }
}

void read_merges(vocabulary &v, const json_node &model) {
    const json_node merges = model.at("merges").array();
    v.merges.reserve(merges.size());
    for (const nlohmann::json &m : merges.value()) {
        const bool pair = m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string();
        if (!pair && !m.is_string()) merges.at(v.merges.size()).fail(status::format, "neither a string nor a pair of strings");
        v.merges.push_back(pair ? m[0].get_ref<const std::string &>() + " " + m[1].get_ref<const std::string &>() : m.get<std::string>());
        if (std::count(v.merges.back().begin(), v.merges.back().end(), ' ') != 1)
            merges.at(v.merges.size() - 1).fail(status::format, ds::quoted(v.merges.back()) + " is not two tokens with one space between");
    }
}

// Exactly the `size` tokens that the embedding has rows for.
void fill_up(vocabulary &v, size_t size) {
    v.tokens.resize(size);
    v.kinds.resize(size, token_kind::undefined);
    for (size_t i = 0; i < size; ++i) {
        if (v.kinds[i] != token_kind::undefined) continue;
        v.tokens[i] = "[PAD" + std::to_string(i) + "]";
        v.kinds[i] = token_kind::unused;
    }
}

// ---- How text is split ---------------------------------------------------------------------------------------------------------------------------

void read_split(const json_node &step, std::vector<std::string> &patterns) {
    const std::string type = step.at("type").text();
    if (type == "Sequence") {
        const json_node steps = step.at("pretokenizers").array();
        for (size_t i = 0; i < steps.size(); ++i) read_split(steps.at(i), patterns);
    } else if (type == "Split") {
        if (step.text("behavior", "") != "Isolated" || step.flag("invert", false)) step.fail(status::unsupported, "only isolated, not inverted splits are known");
        patterns.push_back(step.at("pattern").at("Regex").text());
    } else if (type == "Digits") {
        patterns.push_back(step.flag("individual_digits", false) ? "\\p{N}" : "\\p{N}+");
    } else if (type == "ByteLevel") {
        if (step.flag("add_prefix_space", true)) step.at("add_prefix_space").fail(status::unsupported, "only false is known");
        if (step.flag("use_regex", true)) step.fail(status::unsupported, "GPT-2's own pattern (use_regex) is not known");
    } else {
        step.at("type").fail(status::unsupported, ds::quoted(type) + " is not known; known: Sequence, Split, Digits, ByteLevel");
    }
}

bool asks_for_nfc(const json_node &root) {
    if (!root.has("normalizer")) return false;
    const json_node n = root.at("normalizer");
    const std::string type = n.at("type").text();
    if (type == "NFC") return true;
    if (type != "Sequence" || n.at("normalizers").array().size() != 0) n.fail(status::unsupported, ds::quoted(type) + " is not known; known: NFC, or none");
    return false;
}

std::string read_pre_tokenizer(const json_node &root) {
    std::vector<std::string> patterns;
    read_split(root.at("pre_tokenizer"), patterns);
    pre_tokenizer p;
    if (!pre_tokenizer_recognise(patterns, &p)) {
        std::string listed;
        for (const std::string &s : patterns) listed += "\n  " + s;
        root.at("pre_tokenizer").fail(status::unsupported, "these patterns are none of " + pre_tokenizers_known() + ":" + listed);
    }
    // Qwen's own tokenizer asks for NFC; the one that DeepSeek made of it splits alike and does not.
    const bool nfc = asks_for_nfc(root);
    if (p == pre_tokenizer::qwen2 && !nfc) p = pre_tokenizer::deepseek_r1_qwen;
    if (p != pre_tokenizer::qwen2 && nfc) root.at("normalizer").fail(status::unsupported, "NFC is not known for " + std::string(pre_tokenizer_text(p)));
    return std::string(pre_tokenizer_text(p));
}

void refuse_unsupported(const json_node &model) {
    if (model.at("type").text() != "BPE") model.at("type").fail(status::unsupported, ds::quoted(model.at("type").text()) + " is not known; known: BPE");
    if (model.flag("byte_fallback", false)) model.at("byte_fallback").fail(status::unsupported, "only false is known");
    for (const char *const affix : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (!model.text(affix, "").empty()) model.at(affix).fail(status::unsupported, "only an empty one is known");
}

// ---- Special tokens ---------------------------------------------------------------------------------------------------------------------------------

std::optional<token_id> token_named(const vocabulary &v, const json_node &config, const char *field) {
    if (!config.has(field)) return {};
    const json_node n = config.at(field).is_object() ? config.at(field).at("content") : config.at(field);
    const std::optional<token_id> id = v.find(n.text());
    if (!id) n.fail(status::format, ds::quoted(n.text()) + " is not in the vocabulary");
    return id;
}

std::vector<token_id> ids_in(const vocabulary &v, const json_node &config, const char *field) {
    std::vector<token_id> out;
    if (!config.has(field)) return out;
    const json_node n = config.at(field);
    for (size_t i = 0; i < (n.is_array() ? n.size() : 1); ++i)
        out.push_back(static_cast<token_id>((n.is_array() ? n.at(i) : n).whole(v.tokens.size() - 1)));
    return out;
}

// Of several tokens that end an answer GGUF names three: eos, eot (a turn) and eom (a message that waits for a tool).
void set_ends(vocabulary &v, const std::vector<token_id> &ends, const job &j) {
    for (const token_id t : ends) {
        if (!v.eos) v.eos = t;
        if (t == v.eos || t == v.eot || t == v.eom) continue;
        std::optional<token_id> &slot = v.tokens[static_cast<size_t>(t)] == "<|eom_id|>" || v.eot ? v.eom : v.eot;
        if (slot) j.remark("eos_token_id: a fourth end token, " + std::to_string(t) + ", has no key in GGUF");
        else slot = t;
    }
}

// Whether tokenizer.json's own post-processor puts BOS first.
bool template_starts_with(const json_node &step, const std::string &token) {
    const std::string type = step.text("type", "");
    if (type == "Sequence") {
        const json_node steps = step.at("processors").array();
        for (size_t i = 0; i < steps.size(); ++i)
            if (template_starts_with(steps.at(i), token)) return true;
    }
    if (type != "TemplateProcessing" || step.at("single").array().size() == 0) return false;
    const json_node first = step.at("single").at(size_t(0));
    return first.has("SpecialToken") && first.at("SpecialToken").at("id").text() == token;
}

void read_chat_template(vocabulary &v, const std::string &directory, const json_node &config) {
    const std::string file = directory + "/chat_template.jinja";
    if (file_exists(file)) {
        const os::mapping text = os::mapping::map_file(file);
        v.chat_template.assign(reinterpret_cast<const char *>(text.data()), text.size());
    } else if (config.has("chat_template")) {
        const json_node t = config.at("chat_template");
        for (size_t i = 0; t.is_array() && i < t.size(); ++i)
            if (t.at(i).text("name", "") == "default") v.chat_template = t.at(i).at("template").text();
        if (!t.is_array()) v.chat_template = t.text();
    }
}

nlohmann::json read_optional(const std::string &path) { return file_exists(path) ? read_json(path) : nlohmann::json::object(); }

void read_special_tokens(vocabulary &v, const std::string &directory, const json_node &root, const json_node *config, const job &j) {
    const std::string config_path = directory + "/tokenizer_config.json", generation_path = directory + "/generation_config.json";
    const nlohmann::json config_tree = read_optional(config_path), generation_tree = read_optional(generation_path), none = nlohmann::json::object();
    const json_node settings = json_node(config_tree, config_path), generation = json_node(generation_tree, generation_path);
    const json_node model = config ? *config : json_node(none, directory);
    v.bos = token_named(v, settings, "bos_token");
    v.eos = token_named(v, settings, "eos_token");
    v.pad = token_named(v, settings, "pad_token");
    v.unknown = token_named(v, settings, "unk_token");
    for (const json_node &n : {model, generation}) {
        for (const token_id t : ids_in(v, n, "bos_token_id"))
            if (!v.bos) v.bos = t;
        for (const token_id t : ids_in(v, n, "pad_token_id"))
            if (!v.pad) v.pad = t;
        set_ends(v, ids_in(v, n, "eos_token_id"), j);
    }
    const bool by_template = v.bos && root.has("post_processor") && template_starts_with(root.at("post_processor"), v.tokens[static_cast<size_t>(*v.bos)]);
    v.add_bos = settings.flag("add_bos_token", by_template);
    v.add_eos = settings.flag("add_eos_token", false);
    read_chat_template(v, directory, settings);
}

} // namespace

std::optional<token_id> vocabulary::find(std::string_view token) const {
    const auto i = std::find(tokens.begin(), tokens.end(), token);
    if (i == tokens.end()) return {};
    return static_cast<token_id>(i - tokens.begin());
}

vocabulary read_vocabulary(const std::string &directory, const json_node *config, const job &j) {
    const std::string path = directory + "/tokenizer.json";
    const nlohmann::json tree = read_json(path);
    const json_node root = json_node(tree, path).object();
    vocabulary v;
    refuse_unsupported(root.at("model"));
    v.pre = read_pre_tokenizer(root);
    read_tokens(v, root, j);
    read_merges(v, root.at("model"));
    const size_t size = config ? config->at("vocab_size").whole(max_tokens) : v.tokens.size();
    if (v.tokens.size() > size) config->at("vocab_size").fail(status::format, std::to_string(size) + " tokens, but " + path + " has the id " + std::to_string(v.tokens.size() - 1));
    if (size == 0) root.at("model").at("vocab").fail(status::format, "empty");
    fill_up(v, size);
    read_special_tokens(v, directory, root, config, j);
    return v;
}

void set_vocabulary_keys(const vocabulary &v, gguf_writer &w) {
    std::vector<int32_t> kinds;
    for (const token_kind k : v.kinds) kinds.push_back(static_cast<int32_t>(k));
    w.set_string("tokenizer.ggml.model", "gpt2");
    w.set_string("tokenizer.ggml.pre", v.pre);
    w.set_strings("tokenizer.ggml.tokens", v.tokens);
    w.set_i32s("tokenizer.ggml.token_type", kinds);
    w.set_strings("tokenizer.ggml.merges", v.merges);
    const auto set_id = [&](const char *key, std::optional<token_id> t) { if (t) w.set_u32(key, static_cast<uint32_t>(*t)); };
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

} // namespace ds
