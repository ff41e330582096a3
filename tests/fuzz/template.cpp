// Recognises chat templates from text, renders conversations with each built-in one, and splits an answer
// into thinking and text. Input, in parts: a template's text; options; then roles and contents alternating.
#include "fuzz.h"

#include "../../llm/engine/thinking.h"
#include "../../llm/model/model.h"
#include "../../llm/text/chat.h"
#include "../../llm/text/template_text.h"

#include <algorithm>

namespace ds::fuzz {

namespace {

const tokenizer &vocabulary() {
    static const std::string bytes = tiny_gguf("deepseek-r1", format::q8_0);
    static const gguf_file file(os::mapping::borrow(bytes.data(), bytes.size()), "tiny");
    static const tokenizer t(file);
    return t;
}

const std::vector<const chat_template *> &templates() {
    static const std::vector<const chat_template *> all = [] {
        std::vector<const chat_template *> out;
        std::string names = chat_templates_known() + ", ";
        for (size_t comma; (comma = names.find(", ")) != std::string::npos; names.erase(0, comma + 2)) {
            out.push_back(chat_template_by_name(names.substr(0, comma)));
            must(out.back() != nullptr, "a listed template exists");
        }
        return out;
    }();
    return all;
}

// A user's text never becomes a control token, however it is split.
void check_tokens(const std::vector<chat_part> &parts) {
    const tokenizer &t = vocabulary();
    std::vector<token_id> all, special;
    chat_encode(t, parts, all);
    for (const chat_part &p : parts)
        if (p.special) t.encode(p.text, {.parse_special = true}, special);
    const auto controls = [&](const std::vector<token_id> &list) {
        return std::count_if(list.begin(), list.end(),
                             [&](token_id id) { return t.kind(id) == token_kind::control; });
    };
    must(controls(all) <= controls(special), "a user's text makes no control token");
}

void cut_answer(const std::string &answer) {
    const tokenizer &t = vocabulary();
    std::vector<token_id> ids;
    t.encode(answer, {.parse_special = true}, ids);
    channel_cutter c(find_think_tags(t), think_state_after(t, ids));
    std::vector<text_piece> pieces;
    std::string whole, out;
    utf8_stream stream;
    for (const token_id id : ids) {
        std::string text;
        stream.push(t.bytes(id, false), text);
        c.push(id, std::min(text.size(), t.bytes(id, false).size()), text);
        c.cut(text, pieces);
        for (const text_piece &p : pieces) out += p.text;
        pieces.clear();
        whole += text;
    }
    std::string rest;
    stream.finish(rest);
    c.finish(rest);
    c.cut(rest, pieces);
    for (const text_piece &p : pieces) out += p.text;
    must(out == whole + rest, "all text comes out, in order");
}

}  // namespace

void run(std::string_view input) {
    const std::vector<std::string> parts = unpacked(input, 40);
    if (parts.size() < 2) return;
    must(template_fingerprint(parts[0]) == template_fingerprint(std::string(parts[0])),
         "a fingerprint depends on the text only");
    if (const chat_template *const known = chat_template_recognise(parts[0]))
        must(chat_template_name(*known)[0] != 0, "a recognised template has a name");
    const uint8_t options = parts[1].empty() ? 0 : static_cast<uint8_t>(parts[1][0]);
    chat_options o;
    o.add_generation_prompt = (options & 1) != 0;
    o.thinking = static_cast<decltype(o.thinking)>((options >> 1) % 3);
    std::vector<chat_message> messages;
    for (size_t i = 2; i + 1 < parts.size(); i += 2) messages.push_back({parts[i], parts[i + 1]});
    for (const std::string &p : parts) cut_answer(p);
    const chat_template *const t = templates()[(options >> 3) % templates().size()];
    const std::vector<chat_part> rendered = chat_render(*t, vocabulary(), messages, o);
    must(chat_text(rendered).size() >= (messages.empty() ? 0 : 1), "a prompt has text");
    check_tokens(rendered);
}

std::string mutated(std::string input, dice &d) {
    static const words roles = {"system", "user", "assistant", "tool", "developer", ""};
    static const words texts = {"<think>",
                                "</think>",
                                "<think>\n\n</think>\n\n",
                                "<|im_end|>",
                                "<|im_start|>",
                                "<\xef\xbd\x9cUser\xef\xbd\x9c>",
                                "<\xef\xbd\x9c"
                                "Assistant\xef\xbd\x9c>",
                                "<\xef\xbd\x9ctool\xe2\x96\x81"
                                "calls\xe2\x96\x81"
                                "begin\xef\xbd\x9c>",
                                "<\xef\xbd\x9ctool\xe2\x96\x81outputs\xe2\x96\x81"
                                "begin\xef\xbd\x9c>",
                                "<\xef\xbd\x9c"
                                "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
                                "<|eot_id|>",
                                "\n\n",
                                " ",
                                "\xe2\x96",
                                "Hello 12",
                                "<tool_response>",
                                "{{ bos_token }}",
                                "{%- if x -%}",
                                "{# #}",
                                "-%}",
                                "'\\n'",
                                "{{ '",
                                "' }}",
                                "{% for m in messages %}",
                                "{% endfor %}",
                                "messages",
                                "add_generation_prompt",
                                "\"",
                                "\\u0041"};
    std::vector<std::string> parts = unpacked(input, 40);
    if (parts.size() < 4)
        return packed(
            {parts.empty() ? "" : parts[0], std::string(1, static_cast<char>(d.next())), "user", "Hi"});
    const size_t i = d.below(parts.size());
    switch (d.below(6)) {
    case 0: parts[1] = std::string(1, static_cast<char>(d.next())); break;
    case 1: parts.push_back(d.of(roles)), parts.push_back(d.of(texts)); break;
    case 2: parts[i].insert(d.below(parts[i].size() + 1), d.of(texts)); break;
    case 3:
        if (i >= 2) parts[i & ~size_t(1)] = d.of(roles);
        break;
    case 4: parts[i].erase(d.below(parts[i].size() + 1), d.below(20)); break;
    default: parts[i] = changed_bytes(parts[i], d);
    }
    return packed(parts);
}

}  // namespace ds::fuzz
