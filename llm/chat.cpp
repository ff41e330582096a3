// The prompt templates of the families that this library runs, as rows of text around the messages. A file's own Jinja template is searched for the
// marks of a family and never executed. Sources: tokenizer_config.json of the models named at each row.
// A template that would render differently from its row must not be taken for it, so rows also name what may not occur.
#include "chat.h"
#include "unicode.h"

#include <algorithm>

namespace ds {

struct chat_template {
    std::string_view name;
    // Recognition: all of `has` and none of `has_not` occur in the Jinja source.
    std::string_view has[3] = {}, has_not[2] = {};

    // Written by the template; "{bos}" and "{eos}" stand for the texts of the vocabulary's tokens.
    std::string_view begin = {};
    std::string_view default_system = {};                // where no message is a system message
    std::string_view system_open = {}, system_close = {};
    std::string_view user_open = {}, user_close = {};
    std::string_view assistant_open = {}, assistant_close = {};
    std::string_view generation = {};
    bool system_first = false;                           // all system messages come first, an empty line between them
    bool last_system = false;                            // with system_first: only the last of them
    bool trims = false;                                  // messages lose white space at both ends
    bool thinks = false;                                 // history leaves out what stands before </think>
    bool generation_thinks = false;                      // the prompt opens the thought
    bool tools = false;                                  // there is a role "tool", written as DeepSeek-V3's template does
};

namespace {

constexpr std::string_view one_system = "set ns.system_prompt = message['content']";        // those that join them add to ns.system_prompt
constexpr std::string_view outputs_open = "<｜tool▁outputs▁begin｜>", outputs_close = "<｜tool▁outputs▁end｜>";
constexpr std::string_view output_open = "<｜tool▁output▁begin｜>", output_close = "<｜tool▁output▁end｜>";

constexpr chat_template templates[] = {
    // The distillations of DeepSeek-R1, and R1 itself, as of January 2025: of several system messages the last counts. First the model had to begin its thought
    // itself, then the prompt did it.
    {.name = "deepseek-r1-distill", .has = {one_system, "<｜User｜>", "<｜Assistant｜><think>"}, .has_not = {"<｜Assistant｜></think>", "<think></think>"},
     .begin = "{bos}", .user_open = "<｜User｜>", .assistant_open = "<｜Assistant｜>", .assistant_close = "<｜end▁of▁sentence｜>",
     .generation = "<｜Assistant｜>", .system_first = true, .last_system = true, .thinks = true, .generation_thinks = true, .tools = true},
    {.name = "deepseek-r1-first", .has = {one_system, "<｜Assistant｜>", ".split('</think>')[-1]"}, .has_not = {"<｜Assistant｜></think>", "<｜Assistant｜><think>"},
     .begin = "{bos}", .user_open = "<｜User｜>", .assistant_open = "<｜Assistant｜>", .assistant_close = "<｜end▁of▁sentence｜>",
     .generation = "<｜Assistant｜>", .system_first = true, .last_system = true, .thinks = true, .tools = true},
    // DeepSeek-R1 since February 2025; tiny-r1
    {.name = "deepseek-r1", .has = {"<｜User｜>", "<｜Assistant｜><think>"}, .has_not = {"<｜Assistant｜></think>", "<think></think>"},
     .begin = "{bos}", .user_open = "<｜User｜>", .assistant_open = "<｜Assistant｜>", .assistant_close = "<｜end▁of▁sentence｜>",
     .generation = "<｜Assistant｜>", .system_first = true, .thinks = true, .generation_thinks = true, .tools = true},
    // R1-0528, whose template writes the generation prompt behind every user message: the model itself begins its thought
    {.name = "deepseek-r1-0528", .has = {"<｜User｜>", "<｜Assistant｜>", ".split('</think>')[-1]"}, .has_not = {"<｜Assistant｜></think>", "<｜Assistant｜><think>"},
     .begin = "{bos}", .user_open = "<｜User｜>", .assistant_open = "<｜Assistant｜>", .assistant_close = "<｜end▁of▁sentence｜>",
     .generation = "<｜Assistant｜>", .system_first = true, .thinks = true},
    {.name = "deepseek-v3", .has = {"<｜User｜>", "<｜Assistant｜>"}, .has_not = {"think>", one_system},
     .begin = "{bos}", .user_open = "<｜User｜>", .assistant_open = "<｜Assistant｜>", .assistant_close = "<｜end▁of▁sentence｜>",
     .generation = "<｜Assistant｜>", .system_first = true, .tools = true},
    // DeepSeek-V2.5 and V3 as first published
    {.name = "deepseek-v3-first", .has = {one_system, "<｜User｜>", "<｜Assistant｜>"}, .has_not = {"think>"},
     .begin = "{bos}", .user_open = "<｜User｜>", .assistant_open = "<｜Assistant｜>", .assistant_close = "<｜end▁of▁sentence｜>",
     .generation = "<｜Assistant｜>", .system_first = true, .last_system = true, .tools = true},
    // deepseek-llm chat, DeepSeek-V2 chat
    {.name = "deepseek-llm", .has = {"'User: ' + message['content'] + '", "'Assistant: ' + message['content'] + eos_token", "'Assistant:'"},
     .begin = "{bos}", .system_close = "\n\n", .user_open = "User: ", .user_close = "\n\n", .assistant_open = "Assistant: ", .assistant_close = "{eos}",
     .generation = "Assistant:"},
    {.name = "deepseek-coder", .has = {"### Instruction:", "### Response:", "<|EOT|>"},
     .begin = "{bos}",
     .default_system = "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you only answer questions "
                       "related to computer science. For politically sensitive questions, security and privacy issues, and other non-computer science questions, "
                       "you will refuse to answer\n",
     .user_open = "### Instruction:\n", .user_close = "\n", .assistant_open = "### Response:\n", .assistant_close = "\n<|EOT|>\n",
     .generation = "### Response:\n"},
    // Llama 3; 3.1 and later write dates and tools into the system message
    {.name = "llama3", .has = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, .has_not = {"Cutting Knowledge Date", "tools"},
     .begin = "{bos}", .system_open = "<|start_header_id|>system<|end_header_id|>\n\n", .system_close = "<|eot_id|>",
     .user_open = "<|start_header_id|>user<|end_header_id|>\n\n", .user_close = "<|eot_id|>",
     .assistant_open = "<|start_header_id|>assistant<|end_header_id|>\n\n", .assistant_close = "<|eot_id|>",
     .generation = "<|start_header_id|>assistant<|end_header_id|>\n\n", .trims = true},
    {.name = "qwen2.5", .has = {"<|im_start|>", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."}, .has_not = {"think>"},
     .default_system = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n",
     .system_open = "<|im_start|>system\n", .system_close = "<|im_end|>\n", .user_open = "<|im_start|>user\n", .user_close = "<|im_end|>\n",
     .assistant_open = "<|im_start|>assistant\n", .assistant_close = "<|im_end|>\n", .generation = "<|im_start|>assistant\n"},
    {.name = "chatml", .has = {"<|im_start|>", "<|im_end|>"}, .has_not = {"<|im_start|>system", "think>"},
     .system_open = "<|im_start|>system\n", .system_close = "<|im_end|>\n", .user_open = "<|im_start|>user\n", .user_close = "<|im_end|>\n",
     .assistant_open = "<|im_start|>assistant\n", .assistant_close = "<|im_end|>\n", .generation = "<|im_start|>assistant\n"},
};

std::string_view trimmed(std::string_view s) {
    const char *const end = s.data() + s.size();
    const char *first = nullptr, *last = s.data();
    for (const char *p = s.data(); p < end;) {
        unicode::code_point const c = unicode::decode(p, end);
        bool const space = unicode::class_of(c.value) & unicode::space;
        if (!space && !first) first = p;
        p += c.bytes;
        if (!space) last = p;
    }
    return first ? std::string_view(first, size_t(last - first)) : std::string_view();
}

// The parts, adjacent ones of a kind joined.
struct writer {
    const tokenizer &tok;
    std::vector<chat_part> parts;
    bool in_outputs = false, had_outputs = false;       // of tools: the list is open; there was one

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
    // What the model said: its calls of tools are tokens again.
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
    // The list of outputs is opened once in a conversation: later ones go without, as the published templates have it.
    void output(std::string_view content) {
        own(had_outputs ? "\n" : outputs_open);
        message(output_open, content, output_close);
        in_outputs = had_outputs = true;
    }
};

void check(const chat_template &t, std::span<const chat_message> messages) {
    if (messages.empty()) throw error(status::argument, "there are no messages");
    for (const chat_message &m : messages) {
        if (m.role == "system" || m.role == "user" || m.role == "assistant" || (t.tools && m.role == "tool")) continue;
        throw error(status::argument, "role " + quoted(std::string(m.role)) + " is unknown; known are 'system', 'user'" + (t.tools ? ", 'assistant' and 'tool'" : " and 'assistant'"));
    }
}

void put_systems_first(const chat_template &t, std::span<const chat_message> messages, writer &out) {
    bool first = true;
    const chat_message *last = nullptr;
    for (const chat_message &m : messages)
        if (m.role == "system") last = &m;
    for (const chat_message &m : messages) {
        if (m.role != "system" || (t.last_system && &m != last)) continue;
        if (!first) out.own("\n\n");
        out.message(t.system_open, m.content, t.system_close);
        first = false;
    }
}

void put_message(const chat_template &t, const chat_message &m, writer &out) {
    std::string_view content = t.trims ? trimmed(m.content) : m.content;
    if (m.role == "system") {
        if (!t.system_first) out.message(t.system_open, content, t.system_close);
    } else if (m.role == "user") {
        out.message(t.user_open, content, t.user_close);
        out.in_outputs = false;
    } else if (m.role == "tool") {
        out.output(content);
    } else if (out.in_outputs) {
        out.answer(outputs_close, content, t.assistant_close);
        out.in_outputs = false;
    } else {
        size_t const thought = t.thinks ? content.rfind(think_close) : std::string_view::npos;
        if (thought != std::string_view::npos) content.remove_prefix(thought + think_close.size());
        out.answer(t.assistant_open, content, t.assistant_close);
    }
}

void put_generation(const chat_template &t, chat_options::think thinking, writer &out) {
    out.own(t.generation);
    if (!t.thinks) return;
    bool const opens = t.generation_thinks || thinking != chat_options::think::by_template;
    if (opens) out.own(std::string(think_open) + "\n");
    if (thinking == chat_options::think::off) out.own("\n" + std::string(think_close).append(think_after));
}

} // namespace

const chat_template *chat_template_by_name(std::string_view name) {
    auto const t = std::find_if(std::begin(templates), std::end(templates), [&](const chat_template &x) { return x.name == name; });
    return t == std::end(templates) ? nullptr : t;
}

const chat_template *chat_template_recognise(std::string_view jinja) {
    auto const occurs = [&](std::string_view mark) { return jinja.find(mark) != std::string_view::npos; };
    auto const fits = [&](const chat_template &t) {
        return std::all_of(std::begin(t.has), std::end(t.has), occurs) &&
               std::none_of(std::begin(t.has_not), std::end(t.has_not), [&](std::string_view mark) { return !mark.empty() && occurs(mark); });
    };
    auto const t = std::find_if(std::begin(templates), std::end(templates), fits);
    return t == std::end(templates) ? nullptr : t;
}

const char *chat_template_name(const chat_template &t) { return t.name.data(); }

std::string chat_templates_known() {
    std::string out;
    for (const chat_template &t : templates) out += (out.empty() ? "" : ", ") + std::string(t.name);
    return out;
}

std::vector<chat_part> chat_render(const chat_template &t, const tokenizer &tok, std::span<const chat_message> messages, const chat_options &o) {
    check(t, messages);
    writer out{tok, {}};
    out.own(t.begin);
    bool const has_system = std::any_of(messages.begin(), messages.end(), [](const chat_message &m) { return m.role == "system"; });
    if (!has_system) out.own(t.default_system);
    if (t.system_first) put_systems_first(t, messages, out);
    for (const chat_message &m : messages) put_message(t, m, out);
    if (out.in_outputs) out.own(outputs_close);          // the answer follows at once
    else if (o.add_generation_prompt) put_generation(t, o.thinking, out);
    return std::move(out.parts);
}

std::string chat_text(std::span<const chat_part> parts) {
    std::string out;
    for (const chat_part &p : parts) out += p.text;
    return out;
}

// Between two control tokens the text is encoded as one, whoever wrote it: tokens may span the border of a part ("User:" + " Hello").
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
        for (size_t at = 0; at < p.text.size();) {
            token_id id = -1;
            size_t const n = tok.added_at(std::string_view(p.text).substr(at), &id);
            if (n == 0) {
                plain += p.text[at++];
                continue;
            }
            flush();
            out.push_back(id);
            at += n;
        }
    }
    flush();
}

} // namespace ds
