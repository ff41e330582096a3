// The prompt templates of the supported families, as rows of text around the messages. A file's own Jinja
// template is never executed. It is recognised if it is one of the published texts, whose fingerprints the
// rows list, so that no template that renders differently is taken for a row.
// Sources: tokenizer_config.json of the models named at each row, as in the npm package
// @huggingface/ollama-utils 0.0.18 and in llama.cpp's repository. tests/interop/templates renders them with
// @huggingface/jinja; tests/data/templates.json has the results.
#include "chat.h"
#include "template_text.h"
#include "unicode.h"

#include <algorithm>

namespace ds {

struct chat_template {
    // When the generation prompt is written: if it is asked for and the last message is not a tool's; always;
    // the same, but not after a question, which already ends with it; only after a question.
    enum class prompting { asked, always, not_after_question, after_question };
    // What an earlier answer loses: nothing; the text up to its last </think>, or up to its first; its
    // thought, if a question follows (Qwen 3).
    enum class forgetting { nothing, to_last, to_first, before_question };
    // Outputs of tools: not supported; in a list, which DeepSeek-V3 opens once per conversation; one by one;
    // as a question (Qwen).
    enum class outputs { none, listed, single, asked };

    std::string_view name;
    uint64_t texts[3] = {};  // fingerprints; template_text.h

    // Texts of the template; "{bos}" and "{eos}" stand for the spellings of the vocabulary's tokens.
    std::string_view begin = {};
    std::string_view default_system = {};  // if no message is a system message
    std::string_view default_first = {};   // if the first message is not a system message
    std::string_view system_open = {}, system_close = {};
    std::string_view user_open = {}, user_close = {};
    std::string_view assistant_open = {}, assistant_close = {};
    std::string_view generation = {};
    // The end of the generation prompt, in families that think.
    std::string_view think_default = {}, think_on = {}, think_off = {};
    // All system messages come first, separated by empty lines.
    bool system_first = false;
    bool last_system = false;            // with system_first: only the last of them
    std::string_view before_begin = {};  // written before `begin`, once per system message
    bool trims = false;                  // messages lose white space at both ends
    bool opens_after_question = false;   // assistant_open is written only after a question
    prompting prompts = prompting::asked;
    forgetting forgets = forgetting::nothing;
    bool forgets_after_outputs = false;  // else an answer after outputs of tools loses nothing
    outputs tools = outputs::none;
    std::string_view between_outputs = "\n";
};

namespace {

using prompting = chat_template::prompting;
using forgetting = chat_template::forgetting;
using outputs = chat_template::outputs;

constexpr std::string_view outputs_open = "<｜tool▁outputs▁begin｜>",
                           outputs_close = "<｜tool▁outputs▁end｜>";
constexpr std::string_view output_open = "<｜tool▁output▁begin｜>", output_close = "<｜tool▁output▁end｜>";
constexpr std::string_view r1_opens = "<think>\n", r1_closes = "<think>\n\n</think>\n\n";

// Common to the templates of DeepSeek since V2.5.
constexpr chat_template deepseek(std::string_view name, std::initializer_list<uint64_t> texts) {
    chat_template t = {.name = name,
                       .begin = "{bos}",
                       .user_open = "<｜User｜>",
                       .assistant_open = "<｜Assistant｜>",
                       .assistant_close = "<｜end▁of▁sentence｜>",
                       .generation = "<｜Assistant｜>",
                       .system_first = true,
                       .tools = outputs::listed};
    std::copy(texts.begin(), texts.end(), t.texts);
    return t;
}
constexpr chat_template with_last_system(chat_template t) {
    t.last_system = true;
    return t;
}
constexpr chat_template thinking(chat_template t, std::string_view by_default = {}) {
    t.forgets = forgetting::to_last;
    t.think_default = by_default;
    t.think_on = r1_opens;
    t.think_off = r1_closes;
    return t;
}
constexpr chat_template with_joined_outputs(chat_template t) {
    t.between_outputs = {};
    return t;
}
// The generation prompt follows every question, and answers do not write it.
constexpr chat_template prompting_at_questions(chat_template t) {
    t.user_close = t.assistant_open;
    t.assistant_open = {};
    t.prompts = prompting::not_after_question;
    t.forgets_after_outputs = true;
    return t;
}
constexpr chat_template v25(chat_template t) {
    t.before_begin = "        ";  // white space between two Jinja tags that no "-" strips
    return t;
}
constexpr chat_template v31(chat_template t) {
    t.opens_after_question = true;
    t.prompts = prompting::after_question;
    t.forgets = forgetting::to_first;
    t.tools = outputs::single;
    t.think_default = t.think_off = "</think>";
    t.think_on = "<think>";
    return t;
}
constexpr chat_template chatml(std::string_view name, std::initializer_list<uint64_t> texts) {
    chat_template t = {.name = name,
                       .system_open = "<|im_start|>system\n",
                       .system_close = "<|im_end|>\n",
                       .user_open = "<|im_start|>user\n",
                       .user_close = "<|im_end|>\n",
                       .assistant_open = "<|im_start|>assistant\n",
                       .assistant_close = "<|im_end|>\n",
                       .generation = "<|im_start|>assistant\n"};
    std::copy(texts.begin(), texts.end(), t.texts);
    return t;
}
constexpr chat_template qwen25(chat_template t) {
    t.default_first = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
                      "assistant.<|im_end|>\n";
    t.tools = outputs::asked;
    return t;
}
constexpr chat_template qwen3(chat_template t) {
    t.tools = outputs::asked;
    t.forgets = forgetting::before_question;
    t.think_on = r1_opens;
    t.think_off = r1_closes;
    return t;
}
constexpr chat_template llama3(std::string_view name, uint64_t text, prompting prompts) {
    return {.name = name,
            .texts = {text},
            .begin = "{bos}",
            .system_open = "<|start_header_id|>system<|end_header_id|>\n\n",
            .system_close = "<|eot_id|>",
            .user_open = "<|start_header_id|>user<|end_header_id|>\n\n",
            .user_close = "<|eot_id|>",
            .assistant_open = "<|start_header_id|>assistant<|end_header_id|>\n\n",
            .assistant_close = "<|eot_id|>",
            .generation = "<|start_header_id|>assistant<|end_header_id|>\n\n",
            .trims = true,
            .prompts = prompts};
}

constexpr chat_template templates[] = {
    // The distillations of DeepSeek-R1: of several system messages the last counts. In the first text, of
    // January 2025 (deepseek-r1-first), the model begins its thought itself; in later ones the prompt does.
    // The second fingerprint is the same text with arguments of calls as JSON.
    thinking(with_last_system(deepseek("deepseek-r1-distill", {0x133c03788ea920e4, 0x6eaa9d097c38b38c})),
             r1_opens),
    thinking(with_last_system(deepseek("deepseek-r1-first", {0xbc9bd860948c18b8}))),
    // DeepSeek-R1 since February 2025. The second text belongs to the models in tests/data: the same frame,
    // and nothing else.
    thinking(with_joined_outputs(deepseek("deepseek-r1", {0x1e5fb5df43a45036, 0x63d6c322a1c032a4})),
             r1_opens),
    // R1 for some days before that, and R1 1776.
    thinking(with_joined_outputs(deepseek("r1-1776", {0x19a9c52a7d19c72a}))),
    // R1-0528 and its distillation to Qwen 3: the model begins its thought itself. The second text is the
    // same with arguments of calls as JSON.
    prompting_at_questions(thinking(deepseek("deepseek-r1-0528", {0x32ff03f98fb84380, 0x4d89f5c1e4867b2c}))),
    deepseek("deepseek-v3", {0x904ed4da0be0d12b}),
    with_last_system(deepseek("deepseek-v3-first", {0x37ed6c7241ec1206})),
    prompting_at_questions(deepseek("deepseek-v3-0324", {0x9830632a52f7fc94})),
    v31(deepseek("deepseek-v3.1", {0xbaa4b623fce38050})),
    v25(with_last_system(deepseek("deepseek-v2.5", {0x85173a1e265b429a}))),
    // deepseek-llm chat, DeepSeek-V2 chat, DeepSeek-Coder-V2.
    {.name = "deepseek-llm",
     .texts = {0xc89fbd19fc6e864a},
     .begin = "{bos}",
     .system_close = "\n\n",
     .user_open = "User: ",
     .user_close = "\n\n",
     .assistant_open = "Assistant: ",
     .assistant_close = "{eos}",
     .generation = "Assistant:"},
    {.name = "deepseek-coder",
     .texts = {0x25823404eda3aea9},
     .begin = "{bos}",
     .default_system = "You are an AI programming assistant, utilizing the Deepseek Coder model, developed "
                       "by Deepseek Company, and you only answer questions "
                       "related to computer science. For politically sensitive questions, security and "
                       "privacy issues, and other non-computer science questions, "
                       "you will refuse to answer\n",
     .user_open = "### Instruction:\n",
     .user_close = "\n",
     .assistant_open = "### Response:\n",
     .assistant_close = "\n<|EOT|>\n",
     .generation = "### Response:\n"},
    // Llama 3. Its first text (llama3-first) always writes the generation prompt. 3.1 and later are not
    // supported: they write dates and tools into the system message.
    llama3("llama3", 0xc6d951ecf128fdc3, prompting::asked),
    llama3("llama3-first", 0x0d1f31f8d1c85636, prompting::always),
    // The two texts differ only if tools are offered.
    qwen25(chatml("qwen2.5", {0x3d3683ec2c58a4b2, 0x21507a99716396ae})),
    qwen3(chatml("qwen3", {0x996d31a5b0249772, 0xbb080546c0c7a3f9})),
    chatml("chatml", {0x9d34b9da9a31b8e8, 0x1895b93b35354696}),
};

std::string_view trimmed(std::string_view s) {
    const char *const end = s.data() + s.size();
    const char *first = nullptr, *last = s.data();
    for (const char *p = s.data(); p < end;) {
        unicode::code_point const c = unicode::decode(p, end);
        // The white space of Python's str.strip.
        bool const space =
            (unicode::class_of(c.value) & unicode::space) || (c.value >= 0x1c && c.value <= 0x1f);
        if (!space && !first) first = p;
        p += c.bytes;
        if (!space) last = p;
    }
    return first ? std::string_view(first, size_t(last - first)) : std::string_view();
}

// Collects parts, joining adjacent ones of the same kind.
struct writer {
    const tokenizer &tok;
    std::vector<chat_part> parts;

    void put(std::string_view text, bool special) {
        if (text.empty()) return;
        if (parts.empty() || parts.back().special != special) parts.push_back({"", special});
        parts.back().text += text;
    }
    void own(std::string_view text) {
        token_id const t = text == "{bos}" ? tok.bos() : text == "{eos}" ? tok.eos() : -2;
        put(t == -2 ? text : t == -1 ? "" : tok.text(t), true);
    }
    void message(std::string_view open, std::string_view content, std::string_view close) {
        own(open);
        put(content, false);
        own(close);
    }
    // An answer of the model, in which the marks around tool calls become tokens again.
    void answer(std::string_view open, std::string_view content, std::string_view close) {
        own(open);
        while (!content.empty()) {
            size_t const at = std::min(content.find(tool_mark_begin), content.size());
            put(content.substr(0, at), false);
            content.remove_prefix(at);
            size_t const n = tool_mark_at(content);
            put(content.substr(0, n > 0 ? n : std::min(content.size(), tool_mark_begin.size())), n > 0);
            content.remove_prefix(n > 0 ? n : std::min(content.size(), tool_mark_begin.size()));
        }
        own(close);
    }
};

bool asks(const chat_message &m) { return m.role == "user"; }
bool has_tools(const chat_template &t) { return t.tools != outputs::none; }

void check(const chat_template &t, std::span<const chat_message> messages) {
    if (messages.empty()) throw error(status::argument, "there are no messages");
    for (size_t i = 0; i < messages.size(); ++i) {
        const std::string_view role = messages[i].role;
        if (role == "system" || role == "user" || role == "assistant" || (has_tools(t) && role == "tool"))
            continue;
        throw error(status::argument, "role " + quoted(std::string(role)) + " is unknown to " +
                                          std::string(t.name) + " (message " + std::to_string(i + 1) +
                                          " of " + std::to_string(messages.size()) +
                                          "); known are 'system', 'user'" +
                                          (has_tools(t) ? ", 'assistant' and 'tool'" : " and 'assistant'"));
    }
}

std::string_view without_line_feeds(std::string_view s) {
    s.remove_prefix(std::min(s.find_first_not_of('\n'), s.size()));
    return s.substr(0, s.find_last_not_of('\n') + 1);
}

// The text before a closing tag and after it. Without a tag, all of it is answer.
struct remembered {
    std::string_view thought, answer;
};
remembered split_at(std::string_view content, size_t close) {
    if (close == std::string_view::npos) return {{}, content};
    return {content.substr(0, close), content.substr(close + think_close.size())};
}

// Writes a conversation, message by message.
class renderer {
public:
    renderer(const chat_template &t, std::span<const chat_message> messages, writer &out)
        : t_(t), messages_(messages), out_(out) {
        last_question_ = messages.size() - 1;
        for (size_t i = messages.size(); i-- > 0;)
            if (asks(messages[i]) && !(messages[i].content.starts_with(response_open) &&
                                       messages[i].content.ends_with(response_close))) {
                last_question_ = i;
                break;
            }
    }

    void render(const chat_options &o) {
        const auto is_system = [](const chat_message &m) { return m.role == "system"; };
        for (const chat_message &m : messages_)
            if (is_system(m)) out_.own(t_.before_begin);
        out_.own(t_.begin);
        if (std::none_of(messages_.begin(), messages_.end(), is_system)) out_.own(t_.default_system);
        if (!is_system(messages_.front())) out_.own(t_.default_first);
        if (t_.system_first) put_systems();
        for (size_t i = 0; i < messages_.size(); ++i) put(i);
        if (in_outputs_ && t_.tools == outputs::listed) out_.own(outputs_close);
        put_generation(o);
    }

private:
    static constexpr std::string_view response_open = "<tool_response>", response_close = "</tool_response>";

    void put_systems() {
        bool first = true;
        const chat_message *last = nullptr;
        for (const chat_message &m : messages_)
            if (m.role == "system") last = &m;
        for (const chat_message &m : messages_) {
            if (m.role != "system" || (t_.last_system && &m != last)) continue;
            if (!first) out_.own("\n\n");
            out_.message(t_.system_open, m.content, t_.system_close);
            first = false;
        }
    }

    void put(size_t i) {
        const chat_message &m = messages_[i];
        const std::string_view content = t_.trims ? trimmed(m.content) : m.content;
        if (m.role == "system") {
            if (!t_.system_first) out_.message(t_.system_open, content, t_.system_close);
        } else if (m.role == "user") {
            out_.message(t_.user_open, content, t_.user_close);
            in_outputs_ = false;
            asked_ = true;
        } else if (m.role == "tool") {
            put_output(i, content);
            asked_ = false;
        } else {
            put_answer(i, content);
            in_outputs_ = asked_ = false;
        }
    }

    void put_output(size_t i, std::string_view content) {
        if (t_.tools == outputs::asked) {
            const auto is_tool = [&](size_t k) {
                return k < messages_.size() && messages_[k].role == "tool";
            };
            if (i == 0 || !is_tool(i - 1)) out_.own("<|im_start|>user");
            out_.own("\n" + std::string(response_open) + "\n");
            out_.message({}, content, "\n" + std::string(response_close));
            if (!is_tool(i + 1)) out_.own(t_.user_close);
            return;
        }
        // The list is opened once per conversation and not for later outputs, as in the published templates.
        if (t_.tools == outputs::listed) out_.own(had_outputs_ ? t_.between_outputs : outputs_open);
        out_.message(output_open, content, output_close);
        in_outputs_ = had_outputs_ = true;
    }

    void put_answer(size_t i, std::string_view content) {
        if (t_.forgets == forgetting::before_question) return put_recent_answer(i, content);
        std::string_view open = t_.assistant_open;
        if (in_outputs_) open = t_.tools == outputs::listed ? outputs_close : "";
        else if (t_.opens_after_question && !asked_) open = {};
        else if (t_.opens_after_question) {
            out_.own(open);
            open = t_.think_off;
        }
        if (!in_outputs_ || t_.forgets_after_outputs) {
            if (t_.forgets == forgetting::to_last)
                content = split_at(content, content.rfind(think_close)).answer;
            if (t_.forgets == forgetting::to_first)
                content = split_at(content, content.find(think_close)).answer;
        }
        out_.answer(open, content, t_.assistant_close);
    }

    // Qwen 3 retains the thoughts of answers since the last question (between tool calls), in a uniform
    // format.
    void put_recent_answer(size_t i, std::string_view content) {
        std::string_view thought, answer = content;
        if (content.find(think_close) != std::string_view::npos) {
            answer = split_at(content, content.rfind(think_close)).answer;
            answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
            thought = split_at(content, content.find(think_close)).thought;
            const size_t open = thought.rfind(think_open);
            if (open != std::string_view::npos) thought.remove_prefix(open + think_open.size());
            thought = without_line_feeds(thought);
        }
        if (i > last_question_ && (i + 1 == messages_.size() || !thought.empty())) {
            answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
            out_.own(t_.assistant_open);
            out_.message(r1_opens, thought, "\n</think>\n\n");
            out_.answer({}, answer, t_.assistant_close);
        } else {
            out_.answer(t_.assistant_open, answer, t_.assistant_close);
        }
    }

    void put_generation(const chat_options &o) {
        using think = chat_options::think;
        // After outputs of tools, the answer follows directly.
        const bool wanted = o.add_generation_prompt && !in_outputs_;
        const bool due = t_.prompts == prompting::always ||
                         (wanted && (t_.prompts != prompting::after_question || asked_));
        if (!due) return;
        if (t_.prompts != prompting::not_after_question || !asked_) out_.own(t_.generation);
        out_.own(o.thinking == think::on    ? t_.think_on
                 : o.thinking == think::off ? t_.think_off
                                            : t_.think_default);
    }

    const chat_template &t_;
    std::span<const chat_message> messages_;
    writer &out_;
    // For Qwen 3: the last user message that is not an output of a tool, else the last message.
    size_t last_question_;
    // outputs of tools: the last message is one; there was one
    bool in_outputs_ = false, had_outputs_ = false;
    bool asked_ = false;  // the last message, system ones aside, is a question
};

}  // namespace

const chat_template *chat_template_by_name(std::string_view name) {
    auto const t = std::find_if(std::begin(templates), std::end(templates),
                                [&](const chat_template &x) { return x.name == name; });
    return t == std::end(templates) ? nullptr : t;
}

const chat_template *chat_template_recognise(std::string_view jinja) {
    uint64_t const text = template_fingerprint(jinja);
    auto const has = [&](const chat_template &t) {
        return std::find(std::begin(t.texts), std::end(t.texts), text) != std::end(t.texts);
    };
    auto const t = std::find_if(std::begin(templates), std::end(templates), has);
    return t == std::end(templates) ? nullptr : t;
}

const char *chat_template_name(const chat_template &t) { return t.name.data(); }

std::string chat_templates_known() {
    std::string out;
    for (const chat_template &t : templates) out += (out.empty() ? "" : ", ") + std::string(t.name);
    return out;
}

std::vector<chat_part> chat_render(const chat_template &t, const tokenizer &tok,
                                   std::span<const chat_message> messages, const chat_options &o) {
    check(t, messages);
    writer out{tok, {}};
    renderer(t, messages, out).render(o);
    return std::move(out.parts);
}

std::string chat_text(std::span<const chat_part> parts) {
    std::string out;
    for (const chat_part &p : parts) out += p.text;
    return out;
}

// Text between two control tokens is encoded as a whole, since tokens may span the boundary of two parts
// ("User:" + " Hello").
void chat_encode(const tokenizer &tok, std::span<const chat_part> parts, std::vector<token_id> &out) {
    std::string plain;
    auto const flush = [&] {
        tok.encode(plain, {}, out);
        plain.clear();
    };
    for (const chat_part &p : parts) {
        if (!p.special) {
            plain += p.text;
            continue;
        }
        size_t from = 0;
        for (const tokenizer::added &a : tok.added_in(p.text)) {
            plain.append(p.text, from, a.at - from);
            flush();
            out.push_back(a.id);
            from = a.at + a.bytes;
        }
        plain.append(p.text, from);
    }
    flush();
}

}  // namespace ds
