// The built-in prompt templates of the R1 family. A file's Jinja template is recognised by its contents and
// never executed.
#pragma once

#include "think_tags.h"

namespace ds {

struct chat_message {
    // "system", "user", "assistant" or, in some families, "tool". Others are status::argument; the message
    // lists the known roles.
    std::string_view role;
    std::string_view content;  // UTF-8
};

struct chat_options {
    bool add_generation_prompt = true;  // end with the tokens that make the model answer
    // on: the prompt opens a thought. off: it closes an empty one. Both only in families that think.
    enum class think { by_template, on, off } thinking = think::by_template;
};

// A rendered prompt is a list of parts. `special` parts are the template's own text, in which spellings of
// control tokens become those tokens. The others are the messages' text, in which they never do: a user who
// types <|end|> ends nothing. An assistant's marks around tool calls are special, because they were tokens
// when the model wrote them.
struct chat_part {
    std::string text;
    bool special;
};

struct chat_template;                                                  // a row of the table in chat.cpp
const chat_template *chat_template_by_name(std::string_view name);     // null if unknown
const chat_template *chat_template_recognise(std::string_view jinja);  // null if unknown
const char *chat_template_name(const chat_template &t);
std::string chat_templates_known();  // names for messages

// Throws status::argument for a role that the family does not have, and if there are no messages.
std::vector<chat_part> chat_render(const chat_template &t, const tokenizer &tok,
                                   std::span<const chat_message> messages, const chat_options &o);
std::string chat_text(std::span<const chat_part> parts);
// The tokens of the joined text, with control tokens recognised in special parts only. The template itself
// writes BOS.
void chat_encode(const tokenizer &tok, std::span<const chat_part> parts, std::vector<token_id> &out);

}  // namespace ds
