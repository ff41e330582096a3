// Tokenizing, detokenizing, decoders, and chat prompts.
#include "boundary.h"

using namespace ds;

static void check_tokens(const model &m, const ds_token *tokens, size_t count) {
    for (size_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= m.vocabulary.size())
            throw error(status::argument, format_text("token %zu: is %d, must be from 0 to %zu", i, tokens[i],
                                                      m.vocabulary.size() - 1));
}

ds_status ds_tokenize(const ds_model *model, const char *text, size_t size, uint32_t flags, ds_token *tokens,
                      size_t capacity, size_t *count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(count);
        require(text || !size, "text: is NULL");
        require(tokens || !capacity, "tokens: is NULL");
        check_flags(flags, DS_TOKENIZE_BOS | DS_TOKENIZE_SPECIAL, "flags");
        std::vector<token_id> ids;
        model->m->vocabulary.encode(
            {text, size}, {(flags & DS_TOKENIZE_BOS) != 0, (flags & DS_TOKENIZE_SPECIAL) != 0}, ids);
        hand_out(std::span<const ds_token>(ids), tokens, capacity, count, "tokens");
    });
}

ds_status ds_detokenize(const ds_model *model, const ds_token *tokens, size_t count, uint32_t flags,
                        char *text, size_t capacity, size_t *size, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(size);
        require(tokens || !count, "tokens: is NULL");
        require(text || !capacity, "text: is NULL");
        check_flags(flags, DS_DETOKENIZE_SPECIAL, "flags");
        check_tokens(*model->m, tokens, count);
        std::string out;
        utf8_stream stream;
        for (size_t i = 0; i < count; ++i)
            stream.push(model->m->vocabulary.bytes(tokens[i], flags & DS_DETOKENIZE_SPECIAL), out);
        stream.finish(out);
        hand_out_text(out, text, capacity, size);
    });
}

ds_status ds_token_bytes(const ds_model *model, ds_token token, uint32_t flags, const char **bytes,
                         size_t *size, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(bytes);
        REQUIRE_POINTER(size);
        check_flags(flags, DS_DETOKENIZE_SPECIAL, "flags");
        check_tokens(*model->m, &token, 1);
        const std::string_view text = model->m->vocabulary.bytes(token, flags & DS_DETOKENIZE_SPECIAL);
        *bytes = text.empty() ? "" : text.data();
        *size = text.size();
    });
}

ds_token ds_token_special(const ds_model *model, ds_special which) {
    if (!model) return -1;
    const tokenizer &v = model->m->vocabulary;
    switch (number_of(which)) {
    case DS_SPECIAL_BOS: return v.bos();
    case DS_SPECIAL_EOS: return v.eos();
    case DS_SPECIAL_PAD: return v.pad();
    case DS_SPECIAL_UNKNOWN: return v.unknown();
    }
    return -1;
}

int ds_token_is_end(const ds_model *model, ds_token token) {
    if (!model) return 0;
    const std::vector<token_id> &ends = model->m->vocabulary.end_tokens();
    return std::binary_search(ends.begin(), ends.end(), token);
}

ds_status ds_decoder_new(const ds_model *model, uint32_t flags, ds_decoder **out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(out);
        check_flags(flags, DS_DETOKENIZE_SPECIAL, "flags");
        *out = new ds_decoder{model->m, (flags & DS_DETOKENIZE_SPECIAL) != 0, {}, {}};
    });
}

// Returns the decoder's `text` to the caller.
static void hand_out_piece(const ds_decoder &d, const char **text, size_t *size) {
    *text = d.text.data();
    *size = d.text.size();
}

ds_status ds_decoder_push(ds_decoder *decoder, ds_token token, const char **text, size_t *size,
                          ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(decoder);
        REQUIRE_POINTER(text);
        REQUIRE_POINTER(size);
        check_tokens(*decoder->m, &token, 1);
        decoder->text.clear();
        decoder->stream.push(decoder->m->vocabulary.bytes(token, decoder->special), decoder->text);
        hand_out_piece(*decoder, text, size);
    });
}

ds_status ds_decoder_finish(ds_decoder *decoder, const char **text, size_t *size, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(decoder);
        REQUIRE_POINTER(text);
        REQUIRE_POINTER(size);
        decoder->text.clear();
        decoder->stream.finish(decoder->text);
        hand_out_piece(*decoder, text, size);
    });
}

void ds_decoder_free(ds_decoder *decoder) { delete decoder; }

// ---- Chat prompts

const char *ds_chat_templates(void) {
    const char *text = "";
    guard(nullptr, [&] {
        static const std::string names = chat_templates_known();
        text = names.c_str();
    });
    return text;
}

std::vector<chat_part> ds::render(const model &m, const ds_message *messages, size_t count,
                                  const ds_chat_config &c) {
    require(messages && count, "messages: must be at least one");
    check_flags(c.flags, DS_CHAT_NO_GENERATION_PROMPT, "flags");
    check_enum("thinking", c.thinking, DS_THINKING_OFF);
    const chat_template *t = c.chat_template ? chat_template_by_name(c.chat_template) : m.chat;
    if (!t)
        throw error(
            status::unsupported,
            m.file.name() +
                (c.chat_template
                     ? ": chat_template: is " + quoted(c.chat_template)
                     : std::string(": tokenizer.chat_template: is missing or not one that is built in")) +
                "; choose one of " + chat_templates_known());
    std::vector<chat_message> list;
    for (size_t i = 0; i < count; ++i) {
        require(messages[i].role && messages[i].content, "messages: a role or content is NULL");
        for (const void *p : messages[i].reserved) require(!p, "messages: a reserved field is not NULL");
        list.push_back({messages[i].role, messages[i].content});
    }
    using think = chat_options::think;
    const think thinking = c.thinking == DS_THINKING_ON    ? think::on
                           : c.thinking == DS_THINKING_OFF ? think::off
                                                           : think::by_template;
    return chat_render(*t, m.vocabulary, list, {!(c.flags & DS_CHAT_NO_GENERATION_PROMPT), thinking});
}

ds_status ds_chat_render(const ds_model *model, const ds_message *messages, size_t count,
                         const ds_chat_config *config, char *text, size_t capacity, size_t *size,
                         ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(size);
        require(text || !capacity, "text: is NULL");
        std::string out;
        utf8_stream stream;
        stream.push(chat_text(render(*model->m, messages, count, read_config(config, "config"))), out);
        stream.finish(out);
        hand_out_text(out, text, capacity, size);
    });
}

ds_status ds_chat_tokenize(const ds_model *model, const ds_message *messages, size_t count,
                           const ds_chat_config *config, ds_token *tokens, size_t capacity,
                           size_t *token_count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(token_count);
        require(tokens || !capacity, "tokens: is NULL");
        std::vector<token_id> ids;
        chat_encode(model->m->vocabulary, render(*model->m, messages, count, read_config(config, "config")),
                    ids);
        hand_out(std::span<const ds_token>(ids), tokens, capacity, token_count, "tokens");
    });
}
