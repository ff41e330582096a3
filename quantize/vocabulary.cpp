// tokenizer.json (Hugging Face tokenizers) to GGUF keys. The pre-tokenizer is recognised by its patterns, not
// by a model's name.
// Invariant: every field of the file is used, or stored in a key of ours where GGUF has none, or refused by
// name if it could change ids; none is ignored.

#include "vocabulary.h"

#include "../llm/text/template_text.h"
#include "../llm/text/unicode.h"

#include <algorithm>
#include <filesystem>

namespace ds {

namespace {

constexpr uint64_t max_tokens = 1u << 24;

// Unknown fields may change ids.
void check_fields(const json_node &n, std::initializer_list<std::string_view> known) {
    for (const std::string &name : n.names())
        if (n.has(name) && std::find(known.begin(), known.end(), name) == known.end())
            n.at(name).fail(status::unsupported, "is not known");
}

// ---- Tokens and merges

// Tokens that frame a conversation are control tokens whatever the file's flag says (DeepSeek leaves it off
// for <｜User｜>): text that a user types must never become one. llama.cpp's converter does the same.
bool frames_conversation(std::string_view text) {
    return (text.starts_with("<|") && text.ends_with("|>")) ||
           (text.starts_with("<｜") && text.ends_with("｜>"));
}

// The most ids without a token: published vocabularies have hundreds. A number in a small file must not
// allocate gigabytes.
constexpr uint64_t max_filled = 1u << 16;

void put_token(vocabulary &v, const json_node &where, uint64_t id, const std::string &text, token_kind kind) {
    if (id >= v.tokens.size()) {
        v.tokens.resize(id + 1);
        v.kinds.resize(id + 1, token_kind::undefined);
    }
    if (v.kinds[id] != token_kind::undefined && v.tokens[id] != text)
        where.fail(status::format, "id " + std::to_string(id) + " is given to " + ds::quoted(v.tokens[id]) +
                                       " and to " + ds::quoted(text));
    v.tokens[id] = text;
    v.kinds[id] = kind;
}

// Ids are checked before memory is allocated: against config.json's vocab_size, and against the number of
// tokens.
uint64_t read_id(const json_node &n, uint64_t given, const json_node *config) {
    const uint64_t id = n.whole(max_tokens), most = given + max_filled;
    const uint64_t size = config ? config->at("vocab_size").whole(max_tokens) : most;
    if (id >= size)
        config->at("vocab_size")
            .fail(status::format,
                  std::to_string(size) + " tokens, but " + n.file() + " has the id " + std::to_string(id));
    if (id >= most)
        n.fail(status::format, std::to_string(id) + " is an id far beyond the " + std::to_string(given) +
                                   " tokens of the file");
    return id;
}

void check_added(const json_node &a, const json_node &vocab, bool nfc, const job &j) {
    check_fields(a, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    for (const char *const flag : {"single_word", "lstrip", "rstrip"})
        if (a.flag(flag, false))
            a.at(flag).fail(status::unsupported,
                            "only false is known, here of " + ds::quoted(a.at("content").text()));
    const std::string text = a.at("content").text();
    if (vocab.has(text) && vocab.at(text).whole(max_tokens) != a.at("id").whole(max_tokens))
        a.at("id").fail(status::format, ds::quoted(text) + " has another id in model.vocab");
    if (!nfc || !a.flag("normalized", false)) return;
    std::string composed;
    if (unicode::to_nfc(text, composed) && composed != text)
        a.at("normalized").fail(status::unsupported, ds::quoted(text) + " is not in form C");
    j.remark(a.file() + ": " + ds::quoted(a.at("normalized").field()) + ": " + ds::quoted(text) +
             " is found in the text as it is written, not as NFC composes it");
}

void read_tokens(vocabulary &v, const json_node &root, const json_node *config, bool nfc, const job &j) {
    const json_node vocab = root.at("model").at("vocab").object();
    std::optional<json_node> added;
    if (root.has("added_tokens")) added = root.at("added_tokens").array();
    const uint64_t given = vocab.size() + (added ? added->size() : 0);
    v.tokens.reserve(given), v.kinds.reserve(given);
    vocab.each([&](std::string_view text, const json_node &id) {
        put_token(v, vocab, read_id(id, given, config), std::string(text), token_kind::normal);
    });
    if (!added) return;
    added->each([&](size_t, const json_node &a) {
        check_added(a, vocab, nfc, j);
        const std::string text = a.at("content").text();
        const bool control = a.flag("special", false) || frames_conversation(text);
        put_token(v, a, read_id(a.at("id"), given, config), text,
                  control ? token_kind::control : token_kind::user_defined);
    });
}

void read_merges(vocabulary &v, const json_node &model) {
    const json_node merges = model.at("merges").array();
    v.merges.reserve(merges.size());
    merges.each([&](size_t, const json_node &m) {
        const bool pair = m.is_array() && m.size() == 2 && m.at(size_t(0)).is_text() && m.at(1).is_text();
        if (!pair && !m.is_text()) m.fail(status::format, "neither a string nor a pair of strings");
        if (!pair && m.view().starts_with("#version")) return;  // the first line of a merges.txt
        v.merges.push_back(pair ? m.at(size_t(0)).text() + " " + m.at(1).text() : m.text());
        if (std::count(v.merges.back().begin(), v.merges.back().end(), ' ') != 1)
            m.fail(status::format, ds::quoted(v.merges.back()) + " is not two tokens with one space between");
    });
}

// A byte without a token becomes the unknown token, one for each byte.
void read_unknown(vocabulary &v, const json_node &model, const job &j) {
    const json_node vocab = model.at("vocab");
    unsigned missing = 0, first = 0;
    for (unsigned b = 256; b-- > 0;)
        if (!vocab.has(byte_level_text(static_cast<uint8_t>(b)))) ++missing, first = b;
    if (missing == 0) return;
    const std::string which = format_text("%u bytes have no token, the first is 0x%02X", missing, first);
    if (!model.has("unk_token"))
        return j.remark(vocab.file() + ": 'model.vocab': " + which + "; texts that have one are refused");
    if (model.flag("fuse_unk", false))
        model.at("fuse_unk").fail(status::unsupported, "only false is known where " + which);
    const json_node name = model.at("unk_token");
    if (!vocab.has(name.text()))
        name.fail(status::format, ds::quoted(name.text()) + " is not in the vocabulary");
    v.unknown = static_cast<token_id>(vocab.at(name.text()).whole(v.tokens.size() - 1));
}

// Adds fillers up to the `size` tokens for which the embedding has rows.
void fill_up(vocabulary &v, size_t size) {
    v.tokens.resize(size);
    v.kinds.resize(size, token_kind::undefined);
    for (size_t i = 0; i < size; ++i) {
        if (v.kinds[i] != token_kind::undefined) continue;
        v.tokens[i] = "[PAD" + std::to_string(i) + "]";
        v.kinds[i] = token_kind::unused;
    }
}

// ---- How text is split

void check_byte_level(const json_node &step) {
    check_fields(step, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
}

void read_split(const json_node &step, std::vector<std::string> &patterns, bool &bytes) {
    const std::string type = step.at("type").text();
    if (bytes) step.fail(status::unsupported, "a step after ByteLevel is not known");
    if (type == "Sequence") {
        check_fields(step, {"type", "pretokenizers"});
        const json_node steps = step.at("pretokenizers").array();
        for (size_t i = 0; i < steps.size(); ++i) read_split(steps.at(i), patterns, bytes);
    } else if (type == "Split") {
        check_fields(step, {"type", "pattern", "behavior", "invert"});
        if (step.text("behavior", "") != "Isolated" || step.flag("invert", false))
            step.fail(status::unsupported, "only isolated, not inverted splits are known");
        check_fields(step.at("pattern"), {"Regex"});
        patterns.push_back(step.at("pattern").at("Regex").text());
    } else if (type == "Digits") {
        check_fields(step, {"type", "individual_digits"});
        patterns.push_back(step.flag("individual_digits", false) ? "\\p{N}" : "\\p{N}+");
    } else if (type == "ByteLevel") {
        check_byte_level(step);
        bytes = true;
        if (step.flag("add_prefix_space", true))
            step.at("add_prefix_space").fail(status::unsupported, "only false is known");
        if (step.flag("use_regex", true))
            step.fail(status::unsupported, "GPT-2's own pattern (use_regex) is not known");
    } else {
        step.at("type").fail(status::unsupported,
                             ds::quoted(type) + " is not known; known: Sequence, Split, Digits, ByteLevel");
    }
}

// Whether text is normalized to form C (NFC), by one step or several. Nothing else is supported.
bool asks_for_nfc(const json_node &n) {
    const std::string type = n.at("type").text();
    check_fields(n, {"type", type == "Sequence" ? "normalizers" : "type"});
    if (type == "NFC") return true;
    if (type != "Sequence")
        n.fail(status::unsupported, ds::quoted(type) + " is not known; known: NFC, Sequence, or none");
    const json_node steps = n.at("normalizers").array();
    bool nfc = false;
    for (size_t i = 0; i < steps.size(); ++i) nfc |= asks_for_nfc(steps.at(i));
    return nfc;
}

void read_pre_tokenizer(vocabulary &v, const json_node &root) {
    std::vector<std::string> patterns;
    bool bytes = false;
    read_split(root.at("pre_tokenizer"), patterns, bytes);
    if (!bytes) root.at("pre_tokenizer").fail(status::unsupported, "without ByteLevel it is not known");
    pre_tokenizer p;
    if (!pre_tokenizer_recognise(patterns, &p)) {
        std::string listed;
        for (const std::string &s : patterns) listed += "\n  " + s;
        root.at("pre_tokenizer")
            .fail(status::unsupported, "these patterns are none of " + pre_tokenizers_known() + ":" + listed);
    }
    const bool nfc = root.has("normalizer") && asks_for_nfc(root.at("normalizer"));
    v.nfc = nfc;
    v.ignore_merges = root.at("model").flag("ignore_merges", false);
    // Qwen's own tokenizer normalizes to NFC; DeepSeek's variant of it does not, and splits alike.
    if (p == pre_tokenizer::qwen2 && !nfc) p = pre_tokenizer::deepseek_r1_qwen;
    v.pre = pre_tokenizer_text(p);
}

void refuse_unsupported(const json_node &root) {
    check_fields(root, {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                        "post_processor", "decoder", "model"});
    for (const char *const cut : {"truncation", "padding"})
        if (root.has(cut))
            root.at(cut).fail(status::unsupported,
                              "texts are neither cut nor filled up here; null is known alone");
    const json_node model = root.at("model").object();
    check_fields(model, {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                         "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (model.at("type").text() != "BPE")
        model.at("type").fail(status::unsupported,
                              ds::quoted(model.at("type").text()) + " is not known; known: BPE");
    if (model.number("dropout", 0) != 0)
        model.at("dropout").fail(status::unsupported, "only 0 and null are known");
    if (model.flag("byte_fallback", false))
        model.at("byte_fallback").fail(status::unsupported, "only false is known");
    for (const char *const affix : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (!model.text(affix, "").empty())
            model.at(affix).fail(status::unsupported, "only an empty one is known");
}

// Tokens become bytes, and bytes become text. Fuse changes nothing then.
void check_decoder(const json_node &step) {
    const std::string type = step.at("type").text();
    if (type == "ByteLevel") return check_byte_level(step);
    check_fields(step, {"type", type == "Sequence" ? "decoders" : "type"});
    if (type == "Fuse") return;
    if (type != "Sequence")
        step.at("type").fail(status::unsupported,
                             ds::quoted(type) + " is not known; known: Sequence, ByteLevel, Fuse");
    const json_node steps = step.at("decoders").array();
    for (size_t i = 0; i < steps.size(); ++i) check_decoder(steps.at(i));
}

// ---- Special tokens

// A token that a file names and the vocabulary lacks. -1 and the like mean "none" in many files. It is an
// error only if inference needs the token.
struct missing_token {
    json_node at;
    bool named, none;
};
using missing_tokens = std::vector<missing_token>;

std::optional<token_id> token_named(const vocabulary &v, const json_node &config, const char *field,
                                    missing_tokens &missing) {
    if (!config.has(field)) return {};
    const json_node n = config.at(field).is_object() ? config.at(field).at("content") : config.at(field);
    const std::optional<token_id> id = v.find(n.text());
    if (!id) missing.push_back({n, true, false});
    return id;
}

std::vector<token_id> ids_in(const vocabulary &v, const json_node &config, const char *field,
                             missing_tokens &missing) {
    std::vector<token_id> out;
    if (!config.has(field)) return out;
    const json_node n = config.at(field);
    for (size_t i = 0; i < (n.is_array() ? n.size() : 1); ++i) {
        const json_node one = n.is_array() ? n.at(i) : n;
        if (one.is_whole(v.tokens.size() - 1))
            out.push_back(static_cast<token_id>(one.whole(v.tokens.size() - 1)));
        else if (one.is_integer()) missing.push_back({one, false, !one.is_whole(UINT32_MAX - 1)});
        else one.whole(v.tokens.size() - 1);
    }
    return out;
}

// If inference needs the token, a name must be in the vocabulary, and so must one of the ids, which may be in
// several files. With `may_lack` a file may also say that there is none.
void require_or_remark(const missing_tokens &missing, bool needed, bool filled, bool may_lack, const job &j) {
    for (const missing_token &a : missing) {
        const std::string text = a.at.shown() + " is not in the vocabulary";
        if (needed && (a.named || (!filled && !(a.none && may_lack)))) a.at.fail(status::format, text);
        j.remark(a.at.file() + ": " + ds::quoted(a.at.field()) + ": " + text + "; it is taken for none");
    }
}

// GGUF has keys for three tokens that end an answer: eos, eot (a turn) and eom (a message that waits for a
// tool).
void set_ends(vocabulary &v, const std::vector<token_id> &ends, const job &j) {
    for (const token_id t : ends) {
        if (!v.eos) v.eos = t;
        if (t == v.eos || t == v.eot || t == v.eom) continue;
        std::optional<token_id> &slot =
            v.tokens[static_cast<size_t>(t)] == "<|eom_id|>" || v.eot ? v.eom : v.eot;
        if (slot) j.remark("eos_token_id: a fourth end token, " + std::to_string(t) + ", has no key in GGUF");
        else slot = t;
    }
}

// The tokens that tokenizer.json's post-processor adds around a text.
struct framing {
    std::optional<token_id> first, last;
};

void put_frame(const json_node &step, const json_node &piece, const vocabulary &v,
               std::optional<token_id> &token) {
    const std::string name = piece.at("SpecialToken").at("id").text();
    const std::optional<token_id> id = v.find(name);
    if (!id) piece.fail(status::format, ds::quoted(name) + " is not in the vocabulary");
    if (token) piece.fail(status::unsupported, "more than one token at one end of a text is not known");
    if (step.has("special_tokens") && step.at("special_tokens").has(name)) {
        const json_node ids = step.at("special_tokens").at(name).at("ids").array();
        if (ids.size() != 1 || !ids.at(size_t(0)).is_whole(max_tokens) ||
            ids.at(size_t(0)).whole(max_tokens) != static_cast<uint64_t>(*id))
            ids.fail(status::unsupported, "is not the id of " + ds::quoted(name) + " alone");
    }
    token = id;
}

void read_framing(const json_node &step, const vocabulary &v, framing &out) {
    const std::string type = step.at("type").text();
    if (type == "ByteLevel") return check_byte_level(step);  // changes offsets only
    if (type == "Sequence") {
        check_fields(step, {"type", "processors"});
        const json_node steps = step.at("processors").array();
        for (size_t i = 0; i < steps.size(); ++i) read_framing(steps.at(i), v, out);
        return;
    }
    if (type != "TemplateProcessing")
        step.at("type").fail(status::unsupported,
                             ds::quoted(type) +
                                 " is not known; known: Sequence, ByteLevel, TemplateProcessing");
    check_fields(step, {"type", "single", "pair", "special_tokens"});
    const json_node pieces = step.at("single").array();
    size_t texts = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
        if (pieces.at(i).has("Sequence")) ++texts;
        else put_frame(step, pieces.at(i), v, texts == 0 ? out.first : out.last);
    }
    if (texts != 1) pieces.fail(status::unsupported, "does not have the text once");
}

// Whether BOS or EOS is added: as the post-processor does, unless tokenizer_config.json decides. In that case
// Llama's class rebuilds the post-processor.
bool added_by(const json_node &root, const json_node &settings, const char *flag,
              std::optional<token_id> framed, std::optional<token_id> &token) {
    if (settings.has(flag) || !framed) return settings.flag(flag, false);
    if (!token) token = framed;
    if (token != framed)
        root.at("post_processor")
            .fail(status::unsupported,
                  "the token at that end of a text is not the one of tokenizer_config.json");
    return true;
}

json_tree read_optional(const std::string &path, const job &j) {
    return file_exists(path) ? read_json(path, [&] { return j.stopped(); }) : parse_json("{}", path);
}

// The chat template of a checkpoint, from wherever transformers stores it or has stored it. Of several named
// ones the default is used.
class chat_template_search {
public:
    explicit chat_template_search(const job &j) : j_(j) {}

    void read_text(const std::string &path) {
        if (!file_exists(path)) return;
        const os::mapping text = os::mapping::map_file(path);
        take(std::string(reinterpret_cast<const char *>(text.data()), text.size()), path);
    }
    void read_field(const json_node &file) {
        if (!file.has("chat_template")) return;
        const json_node t = file.at("chat_template");
        const std::string where = t.file() + ": " + ds::quoted(t.field());
        if (!t.is_array() && !t.is_object()) return take(t.text(), where);
        std::string named;
        std::optional<std::string> chosen;
        const auto offer = [&](const std::string &name, const json_node &text) {
            if (name == "default") chosen = text.text();
            named += (named.empty() ? "" : ", ") + ds::quoted(name);
        };
        for (size_t i = 0; t.is_array() && i < t.size(); ++i)
            offer(t.at(i).at("name").text(), t.at(i).at("template"));
        if (t.is_object())
            t.each([&](std::string_view name, const json_node &text) { offer(std::string(name), text); });
        if (chosen) take(*chosen, where);
        else if (!named.empty())
            unused_.push_back(
                where + ": none of its templates is named 'default', so none of them is kept: " + named);
    }
    void read_folder(const std::string &path) {
        std::error_code failed;
        std::vector<std::string> names;
        for (const auto &entry : std::filesystem::directory_iterator(path, failed))
            if (entry.path().extension() == ".jinja")
                names.push_back(ds::quoted(entry.path().stem().string()));
        std::sort(names.begin(), names.end());
        std::string named;
        for (const std::string &name : names) named += (named.empty() ? "" : ", ") + name;
        if (!named.empty())
            unused_.push_back(
                path +
                ": none of its templates is the checkpoint's default, so none of them is kept: " + named);
    }

    std::string found(const std::string &directory) {
        if (text_.empty()) {
            for (const std::string &why : unused_) j_.remark(why);
            if (unused_.empty())
                j_.remark(directory +
                          ": there is no chat template; programs that chat have to be told the name of one");
        }
        return text_;
    }

private:
    void take(const std::string &text, const std::string &where) {
        if (text_.empty()) {
            text_ = text;
            where_ = where;
        } else if (!text.empty() && template_fingerprint(text) != template_fingerprint(text_)) {
            j_.remark(where + ": differs from " + where_ + ", which counts");
        }
    }

    const job &j_;
    std::string text_, where_;
    std::vector<std::string> unused_;
};

void read_special_tokens(vocabulary &v, const std::string &directory, const json_node &root,
                         const json_node *config, const job &j) {
    const std::string config_path = directory + "/tokenizer_config.json",
                      generation_path = directory + "/generation_config.json";
    const json_tree config_tree = read_optional(config_path, j),
                    generation_tree = read_optional(generation_path, j);
    const json_tree none = parse_json("{}", directory);
    const json_node settings(config_tree), generation(generation_tree),
        model = config ? *config : json_node(none);
    missing_tokens no_bos, no_eos, unneeded;
    v.bos = token_named(v, settings, "bos_token", no_bos);
    v.eos = token_named(v, settings, "eos_token", no_eos);
    v.pad = token_named(v, settings, "pad_token", unneeded);
    const std::optional<token_id> unknown = token_named(v, settings, "unk_token", unneeded);
    if (!v.unknown) v.unknown = unknown;
    for (const json_node &n : {model, generation}) {
        for (const token_id t : ids_in(v, n, "bos_token_id", no_bos))
            if (!v.bos) v.bos = t;
        for (const token_id t : ids_in(v, n, "pad_token_id", unneeded))
            if (!v.pad) v.pad = t;
        set_ends(v, ids_in(v, n, "eos_token_id", no_eos), j);
    }
    framing frame;
    if (root.has("post_processor")) read_framing(root.at("post_processor"), v, frame);
    v.add_bos = added_by(root, settings, "add_bos_token", frame.first, v.bos);
    v.add_eos = added_by(root, settings, "add_eos_token", frame.last, v.eos);
    require_or_remark(no_bos, v.add_bos, v.bos.has_value(), false, j);
    require_or_remark(no_eos, true, v.eos.has_value(), true, j);
    require_or_remark(unneeded, false, false, true, j);
    const std::string processor_path = directory + "/chat_template.json";
    const json_tree processor_tree = read_optional(processor_path, j);
    chat_template_search templates(j);
    templates.read_text(directory + "/chat_template.jinja");
    templates.read_field(settings);
    templates.read_field(json_node(processor_tree));
    templates.read_folder(directory + "/additional_chat_templates");
    v.chat_template = templates.found(directory);
}

}  // namespace

vocabulary read_vocabulary(const std::string &directory, const json_node *config, const job &j) {
    const std::string path = directory + "/tokenizer.json";
    const json_tree tree = read_json(path, [&] { return j.stopped(); });
    const json_node root = json_node(tree).object();
    vocabulary v;
    refuse_unsupported(root);
    read_pre_tokenizer(v, root);
    if (root.has("decoder")) check_decoder(root.at("decoder"));
    read_tokens(v, root, config, *v.nfc, j);
    read_merges(v, root.at("model"));
    read_unknown(v, root.at("model"), j);
    const size_t size = config ? config->at("vocab_size").whole(max_tokens) : v.tokens.size();
    if (size > v.tokens.size() + max_filled)
        config->at("vocab_size")
            .fail(status::format, std::to_string(size) + " tokens, but " + path + " has no id above " +
                                      std::to_string(v.tokens.size() - 1));
    if (size == 0) root.at("model").at("vocab").fail(status::format, "empty");
    fill_up(v, size);
    read_special_tokens(v, directory, root, config, j);
    return v;
}

}  // namespace ds
