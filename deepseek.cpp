// The C boundary: handles, argument checks, the one guard that turns exceptions into statuses, and the list of backends. No maths.
// deepseek.h is the manual; what is checked here is what it promises.
#include "deepseek.h"

#include "ggml-cpu/cpu.h"
#include "ggml-cuda/host/cuda.h"
#include "llm/engine.h"
#include "tensor/utf8.h"

#include <algorithm>

using namespace ds;

struct ds_model {
    std::shared_ptr<const model> m;
    uint32_t device;                    // that it is on, from 1; 0: the host
    std::vector<std::string> keys;      // NUL-terminated, for ds_model_metadata_key
};

struct ds_decoder {
    std::shared_ptr<const model> m;
    bool special;
    utf8_stream stream;
    std::string text;
};

struct ds_engine {
    std::unique_ptr<engine> e;
    std::vector<ds_event> events;
    std::vector<const ds_event *> list;    // of them all
};

// ---- Where two lists must agree -----------------------------------------------------------------------------------------------------------------

static_assert(DS_OK == int(status::ok) && DS_ERR_ARGUMENT == int(status::argument) && DS_ERR_IO == int(status::io) && DS_ERR_FORMAT == int(status::format));
static_assert(DS_ERR_UNSUPPORTED == int(status::unsupported) && DS_ERR_MEMORY == int(status::memory) && DS_ERR_CANCELLED == int(status::cancelled));
static_assert(DS_ERR_BUFFER == int(status::buffer) && DS_ERR_TOO_LONG == int(status::too_long) && DS_ERR_NUMERIC == int(status::numeric));
static_assert(DS_ERR_STATE == int(status::state) && DS_ERR_BUSY == int(status::busy) && DS_ERR_DEVICE == int(status::device) && DS_ERR_INTERNAL == int(status::internal) && DS_ERR_NO_DEVICE == int(status::no_device));
static_assert(DS_LOG_DEBUG == int(log_level::debug) && DS_LOG_INFO == int(log_level::info) && DS_LOG_WARNING == int(log_level::warning) && DS_LOG_ERROR == int(log_level::error));
static_assert(DS_FINISH_NONE == int(finish::none) && DS_FINISH_STOP == int(finish::stop) && DS_FINISH_LENGTH == int(finish::length) && DS_FINISH_CONTEXT == int(finish::context));
static_assert(DS_FINISH_DEADLINE == int(finish::deadline) && DS_FINISH_CANCELLED == int(finish::cancelled) && DS_FINISH_ERROR == int(finish::error) && DS_FINISH_SCORED == int(finish::scored));
static_assert(DS_EVENT_TOKEN == int(event_type::token) && DS_EVENT_SCORE == int(event_type::score) && DS_EVENT_DONE == int(event_type::done) && DS_EVENT_TEXT == int(event_type::text));
static_assert(DS_STATE_QUEUED == int(request_state::queued) && DS_STATE_PROMPT == int(request_state::prompt) && DS_STATE_ANSWER == int(request_state::answer) && DS_STATE_DONE == int(request_state::done));
static_assert(sizeof(ds_token_logprob) == sizeof(token_logprob) && sizeof(ds_token) == sizeof(token_id));

// ---- The guard and the checks -------------------------------------------------------------------------------------------------------------------

// NUL-terminated, cut at a character; what is not UTF-8 becomes U+FFFD.
template <size_t room> static void copy_text(char (&to)[room], std::string_view from) noexcept {
    size_t n = 0;
    for (const char *p = from.data(), *const end = p + from.size(); p < end && *p;) {
        uint32_t part;
        const std::string_view piece = utf8_sequence(p, end, &part) ? std::string_view(p, part) : std::string_view("\uFFFD");
        if (n + piece.size() >= room) break;
        std::memcpy(to + n, piece.data(), piece.size());
        n += piece.size();
        p += part;
    }
    to[n] = 0;
}

static ds_status fail(ds_error *err, status code, const char *text) noexcept {
    if (err) {
        err->status = static_cast<ds_status>(code);
        copy_text(err->message, text);
    }
    return static_cast<ds_status>(code);
}

template <class F> static ds_status guard(ds_error *err, F &&body) noexcept {
    try {
        body();
        if (err) *err = {DS_OK, ""};
        return DS_OK;
    } catch (const error &e) {
        return fail(err, e.code, e.what());
    } catch (const std::bad_alloc &) {
        return fail(err, status::memory, "out of memory");
    } catch (const std::exception &e) {
        return fail(err, status::internal, e.what());
    } catch (...) {
        return fail(err, status::internal, "an exception of unknown type");
    }
}

static void require(bool ok, const char *text) {
    if (!ok) throw error(status::argument, text);
}
#define REQUIRE_POINTER(p) require((p) != nullptr, #p ": is NULL")

// Every structure that begins with struct_size has had whole words at all times.
static void check_struct_size(size_t size, const char *name) {
    if (size < sizeof size || size > 65536 || size % 8) throw error(status::argument, format_text("%s.struct_size: is %zu, which no version of the structure can have", name, size));
}

// The caller's configuration: what a shorter one of an earlier version lacks is zero; a longer one of a later version is fine as long as what we do not know is zero.
template <class T> static T read_config(const T *c, const char *name) {
    T out{};
    if (!c) return out;
    size_t size;
    std::memcpy(&size, c, sizeof size);
    check_struct_size(size, name);
    const char *bytes = reinterpret_cast<const char *>(c);
    for (size_t i = sizeof(T); i < size; ++i)
        if (bytes[i]) throw error(status::argument, format_text("%s: byte %zu is set, which this version of the library does not know", name, i));
    std::memcpy(&out, c, std::min(size, sizeof out));
    return out;
}
static void check_reserved(uint32_t v, const char *name) { if (v) throw error(status::argument, std::string(name) + ".reserved: must be 0"); }

// For structures that we fill, as far as the caller's version has them; what ours lacks is zero.
template <class T> static void write_info(T *to, T from, const char *name) {
    size_t size;
    std::memcpy(&size, to, sizeof size);
    check_struct_size(size, name);
    from.struct_size = size;
    std::memcpy(static_cast<void *>(to), &from, std::min(size, sizeof from));
    if (size > sizeof from) std::memset(reinterpret_cast<char *>(to) + sizeof from, 0, size - sizeof from);
}

// A C program may put any number into an enumeration, which C++ must not look at before it is known to be good.
template <class E> static int number_of(const E &e) {
    int v;
    static_assert(sizeof e == sizeof v);
    std::memcpy(&v, &e, sizeof v);
    return v;
}
template <class E> static void check_enum(const char *field, const E &e, E last) {
    const int v = number_of(e);
    if (v < 0 || v > last) throw error(status::argument, format_text("%s: is %d, must be from 0 to %d", field, v, static_cast<int>(last)));
}

static void check_flags(uint32_t flags, uint32_t known, const char *name) {
    if (flags & ~known) throw error(status::argument, format_text("%s: has unknown bits, 0x%x", name, flags & ~known));
}

template <class T> static void hand_out(std::span<const T> from, T *to, size_t capacity, size_t *size, const char *what) {
    *size = from.size();
    if (from.size() > capacity) throw error(status::buffer, format_text("%s: needs room for %zu, has %zu", what, from.size(), capacity));
    if (!from.empty()) std::memcpy(to, from.data(), from.size_bytes());
}
static void hand_out_text(const std::string &from, char *to, size_t capacity, size_t *size) {
    hand_out(std::span<const char>(from.data(), from.size()), to, capacity, size, "buffer");
}

static ds::host host_of(const ds_host *lent) {
    const ds_host h = read_config(lent, "host");
    require(!h.alloc == !h.free, "host: alloc and free must both be set, or neither");
    ds::host out;
    out.alloc_fn = h.alloc;
    out.free_fn = h.free;
    out.alloc_user = h.alloc_user;
    out.log_fn = reinterpret_cast<void (*)()>(h.log);
    out.log_user = h.log_user;
    out.log_call = [](void (*fn)(), void *user, log_level level, const char *line) { reinterpret_cast<ds_log_fn>(fn)(user, static_cast<ds_log_level>(level), line); };
    return out;
}

// ---- Version and status -------------------------------------------------------------------------------------------------------------------------

const char *ds_version(void) { return DS_VERSION; }
uint32_t ds_abi_version(void) { return DS_ABI_VERSION; }

const char *ds_status_name(ds_status s) {
    static const char *const names[] = {"DS_OK", "DS_ERR_ARGUMENT", "DS_ERR_IO", "DS_ERR_FORMAT", "DS_ERR_UNSUPPORTED", "DS_ERR_MEMORY", "DS_ERR_CANCELLED",
                                        "DS_ERR_BUFFER", "DS_ERR_TOO_LONG", "DS_ERR_NUMERIC", "DS_ERR_STATE", "DS_ERR_BUSY", "DS_ERR_DEVICE", "DS_ERR_INTERNAL", "DS_ERR_NO_DEVICE"};
    const auto i = static_cast<size_t>(number_of(s));
    return i < std::size(names) ? names[i] : "unknown";
}

// ---- Devices ------------------------------------------------------------------------------------------------------------------------------------

static int32_t device_number(uint32_t device) {
    require(device >= 1 && device <= 1u << 16, "device: must be from 1 to the number of devices");
    return static_cast<int32_t>(device - 1);
}

static backend_ptr open_device(uint32_t device) {
    cuda_options o;
    o.device = device_number(device);
    return cuda_backend(o);
}

ds_status ds_device_count(uint32_t *count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(count);
        *count = 0;
        *count = static_cast<uint32_t>(cuda_device_count());
    });
}

ds_status ds_device_get_info(uint32_t device, ds_device_info *info_out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(info_out);
        const cuda_device d = describe_cuda_device(device_number(device));
        ds_device_info i{};
        copy_text(i.name, d.name);
        i.memory_total = d.memory_total;
        i.memory_free = d.memory_free;
        i.capability_major = static_cast<uint32_t>(d.major);
        i.capability_minor = static_cast<uint32_t>(d.minor);
        i.processors = static_cast<uint32_t>(d.processors);
        write_info(info_out, i, "info");
    });
}

// ---- Models -------------------------------------------------------------------------------------------------------------------------------------

static model_options model_options_of(const ds_model_config &c) {
    check_flags(c.flags, DS_LOAD_READ | DS_LOAD_VOCAB_ONLY, "flags");
    check_reserved(c.reserved, "config");
    require(c.context_length <= (1u << 30), "context_length: must be at most 2^30");
    check_enum("rope_scaling", c.rope_scaling, DS_ROPE_YARN);
    model_options o;
    o.vocab_only = c.flags & DS_LOAD_VOCAB_ONLY;
    o.context = c.context_length;
    o.override_rope = c.rope_scaling != DS_ROPE_FROM_FILE;
    o.scaling = c.rope_scaling == DS_ROPE_LINEAR ? rope_scaling::linear : c.rope_scaling == DS_ROPE_YARN ? rope_scaling::yarn : rope_scaling::none;
    o.rope_factor = o.scaling == rope_scaling::none ? 1.0 : c.rope_factor;
    require(o.rope_factor >= 1 && o.rope_factor <= 1e6, "rope_factor: must be from 1 to 10^6");
    require(c.rope_original_context <= (1u << 30), "rope_original_context: must be at most 2^30");
    o.rope_original_context = c.rope_original_context;
    if (c.chat_template) o.chat_template = c.chat_template;
    o.host = host_of(c.host);
    if (c.progress)
        o.progress = [fn = c.progress, user = c.progress_user](uint64_t done, uint64_t total) { return fn(user, done, total) == 0; };
    return o;
}

// A path as messages and log lines show it: well-formed, on one line.
static std::string shown(const char *path) {
    std::string out;
    utf8_stream text;
    text.push(path, out);
    text.finish(out);
    for (char &c : out)
        if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    return out;
}

// `open` gets the bytes: mapped or read, from a path, a descriptor or memory.
template <class Open> static ds_status load(const ds_model_config *config, ds_model **out, ds_error *err, Open &&open) {
    return guard(err, [&] {
        REQUIRE_POINTER(out);
        const os::default_float_mode float_mode;
        const ds_model_config c = read_config(config, "config");
        model_options o = model_options_of(c);
        if (c.device && !o.vocab_only) o.place = open_device(c.device);
        auto handle = std::make_unique<ds_model>();
        handle->device = o.vocab_only ? 0 : c.device;
        handle->m = std::make_shared<const model>(open(c, o), o);
        for (size_t i = 0; i < handle->m->file.key_count(); ++i) handle->keys.emplace_back(handle->m->file.key(i));
        *out = handle.release();
    });
}

ds_status ds_model_load(const char *path, const ds_model_config *config, ds_model **out, ds_error *err) {
    return load(config, out, err, [&](const ds_model_config &c, const model_options &o) {
        REQUIRE_POINTER(path);
        return gguf_file::open(path, [&](const std::string &part) {
            return gguf_source{c.flags & DS_LOAD_READ ? os::mapping::read_file(part, o.host, o.progress) : os::mapping::map_file(part), shown(part.c_str())};
        }, o.host);
    });
}

ds_status ds_model_load_fd(int fd, const ds_model_config *config, ds_model **out, ds_error *err) {
    return load(config, out, err, [&](const ds_model_config &c, const model_options &o) {
        const std::string name = "descriptor " + std::to_string(fd);
        return gguf_file(c.flags & DS_LOAD_READ ? os::mapping::read_fd(fd, name, o.host, o.progress) : os::mapping::map_fd(fd, name), name, o.host);
    });
}

ds_status ds_model_load_memory(const void *data, size_t size, const ds_model_config *config, ds_model **out, ds_error *err) {
    return load(config, out, err, [&](const ds_model_config &, const model_options &o) {
        REQUIRE_POINTER(data);
        require(reinterpret_cast<uintptr_t>(data) % 32 == 0, "data: must lie at a multiple of 32");
        return gguf_file(os::mapping::borrow(data, size), "memory", o.host);
    });
}

void ds_model_free(ds_model *m) { delete m; }

ds_status ds_model_get_info(const ds_model *model, ds_model_info *info_out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(info_out);
        const struct model &m = *model->m;
        ds_model_info i{};
        copy_text(i.architecture, m.architecture_name);
        copy_text(i.name, m.name);
        copy_text(i.chat_template, m.chat ? chat_template_name(*m.chat) : "");
        copy_text(i.weights, m.file.tensors().empty() ? "" : info(m.main_format).text);
        i.vocabulary = static_cast<uint32_t>(m.vocabulary.size());
        i.context_length = static_cast<uint32_t>(m.h.context);
        i.layers = static_cast<uint32_t>(m.h.layers);
        i.hidden_size = static_cast<uint32_t>(m.h.hidden);
        i.heads = static_cast<uint32_t>(m.h.heads);
        i.kv_heads = static_cast<uint32_t>(m.h.kv_heads);
        i.head_size = static_cast<uint32_t>(m.h.head_size);
        i.feed_forward_size = static_cast<uint32_t>(m.h.ffn);
        i.parameters = m.parameters;
        i.weight_bytes = m.weight_bytes;
        i.file_bytes = m.file.file_bytes();
        write_info(info_out, i, "info");
    });
}

size_t ds_model_metadata_count(const ds_model *model) { return model ? model->keys.size() : 0; }
const char *ds_model_metadata_key(const ds_model *model, size_t index) { return model && index < model->keys.size() ? model->keys[index].c_str() : nullptr; }

ds_status ds_model_metadata(const ds_model *model, const char *key, char *buffer, size_t capacity, size_t *size, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(key);
        REQUIRE_POINTER(size);
        require(buffer || !capacity, "buffer: is NULL");
        const gguf_value *v = model->m->file.find(key);
        if (!v) throw error(status::argument, model->m->file.name() + ": has no key " + quoted(key));
        hand_out_text(gguf_value_text(*v, 64), buffer, capacity, size);
    });
}

// ---- Tokens -------------------------------------------------------------------------------------------------------------------------------------

static void check_tokens(const model &m, const ds_token *tokens, size_t count) {
    for (size_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= m.vocabulary.size())
            throw error(status::argument, format_text("token %zu: is %d, must be from 0 to %zu", i, tokens[i], m.vocabulary.size() - 1));
}

ds_status ds_tokenize(const ds_model *model, const char *text, size_t size, uint32_t flags, ds_token *tokens, size_t capacity, size_t *count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(count);
        require(text || !size, "text: is NULL");
        require(tokens || !capacity, "tokens: is NULL");
        check_flags(flags, DS_TOKENIZE_BOS | DS_TOKENIZE_SPECIAL, "flags");
        std::vector<token_id> ids;
        model->m->vocabulary.encode({text, size}, {(flags & DS_TOKENIZE_BOS) != 0, (flags & DS_TOKENIZE_SPECIAL) != 0}, ids);
        hand_out(std::span<const ds_token>(ids), tokens, capacity, count, "tokens");
    });
}

ds_status ds_detokenize(const ds_model *model, const ds_token *tokens, size_t count, uint32_t flags, char *text, size_t capacity, size_t *size, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(size);
        require(tokens || !count, "tokens: is NULL");
        require(text || !capacity, "text: is NULL");
        check_flags(flags, DS_DETOKENIZE_SPECIAL, "flags");
        check_tokens(*model->m, tokens, count);
        std::string out;
        utf8_stream stream;
        for (size_t i = 0; i < count; ++i) stream.push(model->m->vocabulary.bytes(tokens[i], flags & DS_DETOKENIZE_SPECIAL), out);
        stream.finish(out);
        hand_out_text(out, text, capacity, size);
    });
}

ds_status ds_token_bytes(const ds_model *model, ds_token token, uint32_t flags, const char **bytes, size_t *size, ds_error *err) {
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

// What the decoder's `text` holds, to the caller.
static void hand_out_piece(const ds_decoder &d, const char **text, size_t *size) {
    *text = d.text.data();
    *size = d.text.size();
}

ds_status ds_decoder_push(ds_decoder *decoder, ds_token token, const char **text, size_t *size, ds_error *err) {
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

// ---- Chat prompts -------------------------------------------------------------------------------------------------------------------------------

const char *ds_chat_templates(void) {
    const char *text = "";
    guard(nullptr, [&] {
        static const std::string names = chat_templates_known();
        text = names.c_str();
    });
    return text;
}

static std::vector<chat_part> render(const model &m, const ds_message *messages, size_t count, const ds_chat_config &c) {
    require(messages && count, "messages: must be at least one");
    check_flags(c.flags, DS_CHAT_NO_GENERATION_PROMPT, "flags");
    check_enum("thinking", c.thinking, DS_THINKING_OFF);
    const chat_template *t = c.chat_template ? chat_template_by_name(c.chat_template) : m.chat;
    if (!t)
        throw error(status::unsupported, m.file.name() + (c.chat_template ? ": chat_template: is " + quoted(c.chat_template) : std::string(": tokenizer.chat_template: is missing or not one that is built in")) +
                                             "; choose one of " + chat_templates_known());
    std::vector<chat_message> list;
    for (size_t i = 0; i < count; ++i) {
        require(messages[i].role && messages[i].content, "messages: a role or content is NULL");
        for (const void *p : messages[i].reserved) require(!p, "messages: a reserved field is not NULL");
        list.push_back({messages[i].role, messages[i].content});
    }
    using think = chat_options::think;
    const think thinking = c.thinking == DS_THINKING_ON ? think::on : c.thinking == DS_THINKING_OFF ? think::off : think::by_template;
    return chat_render(*t, m.vocabulary, list, {!(c.flags & DS_CHAT_NO_GENERATION_PROMPT), thinking});
}

ds_status ds_chat_render(const ds_model *model, const ds_message *messages, size_t count, const ds_chat_config *config,
                         char *text, size_t capacity, size_t *size, ds_error *err) {
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

ds_status ds_chat_tokenize(const ds_model *model, const ds_message *messages, size_t count, const ds_chat_config *config,
                           ds_token *tokens, size_t capacity, size_t *token_count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(token_count);
        require(tokens || !capacity, "tokens: is NULL");
        std::vector<token_id> ids;
        chat_encode(model->m->vocabulary, render(*model->m, messages, count, read_config(config, "config")), ids);
        hand_out(std::span<const ds_token>(ids), tokens, capacity, token_count, "tokens");
    });
}

// ---- Engines ------------------------------------------------------------------------------------------------------------------------------------

static ds_step_trace trace_of(const step_trace &t) {
    ds_step_trace out{};
    out.struct_size = sizeof out;
    out.step = t.step;
    out.rows = t.rows, out.prompt_rows = t.prompt_rows, out.answer_rows = t.answer_rows;
    out.started = t.started, out.preempted = t.preempted, out.ended = t.ended;
    out.cached_tokens = t.found_positions;
    out.copied_pages = t.copied_pages;
    out.running = t.running, out.queued = t.queued;
    out.pages_used = t.pages_held, out.pages_cached = t.pages_kept, out.pages_unused = t.pages_free;
    out.seconds = t.seconds, out.compute_seconds = t.compute_seconds;
    return out;
}

static engine_options engine_options_of(const model &m, const ds_engine_config &c) {
    check_enum("kv_type", c.kv_type, DS_KV_INT8);
    check_enum("mla_form", c.mla_form, DS_MLA_ABSORBED);
    require(c.threads <= 1024, "threads: must be at most 1024");
    require(c.kv_tokens <= (uint64_t{1} << 31), "kv_tokens: must be at most 2^31");
    engine_options o;
    if (c.max_requests) o.max_requests = c.max_requests;
    if (c.max_queue) o.max_queue = c.max_queue;
    o.context = c.context_length;
    o.step_rows = c.step_tokens;
    o.logit_rows = c.logit_rows;
    o.kv_positions = static_cast<int64_t>(c.kv_tokens);
    o.kv_type = c.kv_type == DS_KV_F32 ? format::f32 : c.kv_type == DS_KV_F16 ? format::f16 : format::i8;
    if (c.kv_type == DS_KV_DEFAULT && m.main_format != format::i8) o.kv_type = format::f16;
    if (c.mla_form == DS_MLA_ABSORBED) o.mla = mla_form::absorbed;
    o.host = host_of(c.host);
    if (c.trace)
        o.trace = [fn = c.trace, user = c.trace_user](const step_trace &t) {
            const ds_step_trace out = trace_of(t);
            fn(user, &out);
        };
    return engine::resolve(m, o);
}

static backend_ptr make_backend(const ds_model &m, const ds_engine_config &c, const engine_options &o, bool only_asked = false) {
    if (m.device) return open_device(m.device);
    cpu_options cpu;
    cpu.threads = c.threads;
    cpu.isa = c.isa;
    cpu.host = o.host;
    cpu.only_asked = only_asked;
    return cpu_backend(cpu);
}

ds_status ds_engine_plan(const ds_model *model, const ds_engine_config *config, ds_memory_plan *plan_out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(plan_out);
        const ds_engine_config c = read_config(config, "config");
        const engine_options o = engine_options_of(*model->m, c);
        const std::shared_ptr<backend> &place = model->m->place;      // of a device: no other is opened only to ask it
        const memory_plan p = engine::measure(*model->m, o, place ? *place : *make_backend(*model, c, o, true));
        ds_memory_plan out{};
        out.weights = p.weights;
        out.pages = p.pages;
        out.page_bytes = p.page_bytes;
        out.activations = p.activations;
        out.work = p.work;
        out.tables = p.tables;
        out.total = p.weights + p.pages + p.activations + p.work + p.tables;
        write_info(plan_out, out, "plan");
    });
}

ds_status ds_engine_new(const ds_model *model, const ds_engine_config *config, ds_engine **out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(model);
        REQUIRE_POINTER(out);
        const os::default_float_mode float_mode;
        const ds_engine_config c = read_config(config, "config");
        const engine_options o = engine_options_of(*model->m, c);
        auto handle = std::make_unique<ds_engine>();
        handle->e = std::make_unique<engine>(model->m, o, make_backend(*model, c, o));
        handle->events.reserve(handle->e->most_events());
        handle->list.reserve(handle->e->most_events());
        *out = handle.release();
    });
}

void ds_engine_free(ds_engine *engine) { delete engine; }

// ---- Requests -----------------------------------------------------------------------------------------------------------------------------------

static void check_float(const char *field, float v, float min, float max) {
    if (!(v >= min && v <= max)) throw error(status::argument, std::string(field) + ": is " + shortest(v) + ", must be from " + shortest(min) + " to " + shortest(max));
}

static sampling sampling_of(const ds_sampling &r, size_t vocab) {
    check_float("sampling.temperature", r.temperature, 0, 100);
    check_float("sampling.top_p", r.top_p, 0, 1);
    check_float("sampling.min_p", r.min_p, 0, 1);
    check_float("sampling.repetition_penalty", r.repetition_penalty, 0, 1000);
    check_float("sampling.presence_penalty", r.presence_penalty, -1000, 1000);
    check_float("sampling.frequency_penalty", r.frequency_penalty, -1000, 1000);
    check_reserved(r.reserved, "sampling");
    require(r.logit_bias || !r.logit_bias_count, "sampling.logit_bias: is NULL");
    require(r.logit_bias_count <= vocab, "sampling.logit_bias_count: must be at most the vocabulary");
    sampling s{r.temperature, r.top_k, r.top_p, r.min_p, r.repetition_penalty, r.presence_penalty, r.frequency_penalty, r.seed, {}};
    for (size_t i = 0; i < r.logit_bias_count; ++i) s.bias.emplace_back(r.logit_bias[i].token, r.logit_bias[i].bias);
    return s;
}

static std::string short_text(const char *field, const char *text) {
    const std::string_view s(text, strnlen(text, 1025));
    if (s.size() > 1024) throw error(status::argument, std::string(field) + ": a text is longer than 1024 bytes");
    for (const char *p = s.data(), *const end = p + s.size(); p < end;) {
        const uint32_t n = utf8_sequence(p, end);
        if (n == 0) throw error(status::argument, std::string(field) + ": a text is not UTF-8");
        p += n;
    }
    return std::string(s);
}

// Pieces of text are cut before what may begin a stop text, which must not be inside a character.
static std::string stop_text(const char *text) {
    require(text && text[0], "stop: a text is NULL or empty");
    return short_text("stop", text);
}

static ds_thinking thinking_of(const ds_request &r) {
    const ds_thinking t = read_config(r.thinking, "thinking");
    check_enum("thinking.mode", t.mode, DS_THINKING_OFF);
    check_flags(t.flags, DS_THINKING_BUDGET, "thinking.flags");
    check_reserved(t.reserved, "thinking");
    return t;
}

// All of a request but its prompt.
static request_options request_options_of(const ds_request &r, const model &m) {
    check_flags(r.flags, DS_REQUEST_SCORE | DS_REQUEST_LOGITS | DS_REQUEST_LOGPROBS | DS_REQUEST_IGNORE_END | DS_REQUEST_SPECIAL | DS_REQUEST_NO_CACHE, "flags");
    require(r.top_logprobs <= max_top_logprobs, "top_logprobs: must be at most 64");
    require(r.stop || !r.stop_count, "stop: is NULL");
    require(r.stop_count <= 64, "stop_count: must be at most 64");
    if (!(r.timeout_seconds >= 0 && r.timeout_seconds <= 1e9)) throw error(status::argument, "timeout_seconds: is " + shortest(r.timeout_seconds) + ", must be from 0 to 10^9");
    const ds_thinking thinking = thinking_of(r);
    request_options o;
    o.score = r.flags & DS_REQUEST_SCORE;
    o.logits = r.flags & DS_REQUEST_LOGITS;
    o.logprobs = r.flags & DS_REQUEST_LOGPROBS;
    o.ignore_end = r.flags & DS_REQUEST_IGNORE_END;
    o.special = r.flags & DS_REQUEST_SPECIAL;
    o.max_new = r.max_new_tokens;
    o.top_logprobs = r.top_logprobs;
    o.sampling = sampling_of(read_config(r.sampling, "sampling"), m.vocabulary.size());
    for (size_t i = 0; i < r.stop_count; ++i) o.stop.push_back(stop_text(r.stop[i]));
    const std::string ending = thinking.end_text ? short_text("thinking.end_text", thinking.end_text) : "";
    if (thinking.max_tokens || thinking.flags & DS_THINKING_BUDGET) {
        o.think_budget = thinking.max_tokens;
        o.think_ending = think_ending(m.vocabulary, ending);
    }
    o.user = r.user;
    o.use_cache = !(r.flags & DS_REQUEST_NO_CACHE);
    o.tag = r.client_id;
    o.priority = r.priority;
    o.timeout = r.timeout_seconds;
    return o;
}

ds_status ds_engine_submit(ds_engine *engine, const ds_request *request, ds_request_id *id, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(request);
        REQUIRE_POINTER(id);
        const ds_request r = read_config(request, "request");
        require(r.prompt || !r.prompt_count, "prompt: is NULL");
        request_options o = request_options_of(r, engine->e->loaded());
        engine->e->check_length(r.prompt_count, o.score);    // before anything of that size is copied
        o.prompt.assign(r.prompt, r.prompt + r.prompt_count);
        *id = engine->e->submit(std::move(o));
    });
}

ds_status ds_engine_fork(ds_engine *engine, ds_request_id id, const ds_request *parameters, ds_request_id *fork, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(fork);
        request_options o = request_options_of(read_config(parameters, "parameters"), engine->e->loaded());
        o.score = false;
        *fork = engine->e->fork(id, std::move(o));
    });
}

ds_status ds_engine_cancel(ds_engine *engine, ds_request_id id, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        engine->e->cancel(id);
    });
}

ds_status ds_engine_request_status(ds_engine *engine, ds_request_id id, ds_request_status *status_out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(status_out);
        const request_progress p = engine->e->progress(id);
        ds_request_status s{};
        s.state = static_cast<ds_request_state>(p.state);
        s.prompt_tokens = p.prompt_tokens;
        s.prompt_tokens_done = p.prompt_done;
        s.new_tokens = p.produced;
        write_info(status_out, s, "status");
    });
}

static ds_event event_of(const event &e) {
    ds_event out{};
    out.struct_size = sizeof out;
    out.request = e.request;
    out.user = e.user;
    out.type = static_cast<ds_event_type>(e.type);
    out.channel = e.thinking ? DS_CHANNEL_THINKING : DS_CHANNEL_ANSWER;
    out.token = e.token;
    out.logprob = e.logprob;
    out.position = e.position;
    out.text = e.text.data() ? e.text.data() : "";
    out.text_size = e.text.size();
    out.top = reinterpret_cast<const ds_token_logprob *>(e.top.data());
    out.top_count = e.top.size();
    out.logits = e.logits;
    out.finish = static_cast<ds_finish>(e.finish);
    out.status = static_cast<ds_status>(e.status);
    out.prompt_tokens = e.prompt_tokens;
    out.thinking_tokens = e.thinking_tokens;
    out.answer_tokens = e.answer_tokens;
    out.queue_seconds = e.queue_seconds;
    out.prompt_seconds = e.prompt_seconds;
    out.answer_seconds = e.answer_seconds;
    out.injected = e.injected;
    out.injected_tokens = e.injected_tokens;
    out.cached_tokens = e.cached_tokens;
    out.preemptions = e.preemptions;
    return out;
}

ds_status ds_engine_step(ds_engine *engine, const ds_event *const **events, size_t *count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(events);
        REQUIRE_POINTER(count);
        const ds::engine::turn turn(*engine->e);
        const std::span<const event> list = engine->e->step(turn);
        engine->events.clear();
        engine->list.clear();
        for (const event &e : list) engine->list.push_back(&engine->events.emplace_back(event_of(e)));    // there is room for all
        *events = engine->list.data();
        *count = engine->list.size();
    });
}

ds_status ds_engine_wait(ds_engine *engine, double timeout_seconds, int *work, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(work);
        if (!(timeout_seconds >= 0)) throw error(status::argument, "timeout_seconds: is " + shortest(timeout_seconds) + ", must be at least 0");
        *work = engine->e->wait(timeout_seconds);
    });
}

ds_status ds_engine_wake(ds_engine *engine, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        engine->e->wake();
    });
}

ds_status ds_engine_get_stats(ds_engine *engine, ds_engine_stats *stats_out, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(stats_out);
        const engine_stats e = engine->e->stats();
        ds_engine_stats s{};
        s.running = e.running;
        s.queued = e.queued;
        s.pages_total = e.pages_total;
        s.pages_free = e.pages_free;
        s.pages_committed = e.pages_committed;
        s.steps = e.steps;
        s.prompt_tokens = e.prompt_tokens;
        s.new_tokens = e.new_tokens;
        const backend &b = engine->e->device();
        s.threads = is_cuda(b) ? 1 : cpu_threads(b);
        copy_text(s.isa, is_cuda(b) ? format_text("sm_%d%d", cuda_device_of(b).major, cuda_device_of(b).minor) : cpu_isa(b));
        s.pages_cached = e.pages_kept;
        s.preemptions = e.preemptions;
        s.lookup_tokens = e.looked_up;
        s.cached_tokens = e.found;
        s.prompt_tokens_per_second = e.prompt_rate;
        s.new_tokens_per_second = e.new_rate;
        write_info(stats_out, s, "stats");
    });
}

ds_status ds_engine_trim(ds_engine *engine, uint64_t keep_tokens, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        const ds::engine::turn turn(*engine->e);
        engine->e->trim(turn, static_cast<int64_t>(std::min<uint64_t>(keep_tokens, uint64_t{1} << 31)) / page_positions);
    });
}

// ---- Sessions -----------------------------------------------------------------------------------------------------------------------------------

static std::span<const token_id> session_tokens(const ds_token *tokens, size_t count) {
    require(tokens || !count, "tokens: is NULL");
    require(count <= size_t{1} << 30, "count: must be at most 2^30");
    return {tokens, count};
}

ds_status ds_engine_save_session(ds_engine *engine, const ds_token *tokens, size_t count, uint64_t client_id, const char *path, size_t *positions, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(path);
        const ds::engine::turn turn(*engine->e);
        const int64_t saved = engine->e->save_session(turn, client_id, session_tokens(tokens, count), path);
        if (positions) *positions = static_cast<size_t>(saved);
    });
}

ds_status ds_engine_restore_session(ds_engine *engine, const char *path, uint64_t client_id, ds_token *tokens, size_t capacity, size_t *count, size_t *positions, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(path);
        REQUIRE_POINTER(count);
        require(tokens || !capacity, "tokens: is NULL");
        const ds::engine::turn turn(*engine->e);
        const int64_t restored = engine->e->restore_session(turn, client_id, path, {tokens, capacity}, *count);
        if (positions) *positions = static_cast<size_t>(restored);
    });
}

ds_status ds_engine_forget_session(ds_engine *engine, const ds_token *tokens, size_t count, uint64_t client_id, size_t *pages, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        const ds::engine::turn turn(*engine->e);
        const int64_t freed = engine->e->forget_session(turn, client_id, session_tokens(tokens, count));
        if (pages) *pages = static_cast<size_t>(freed);
    });
}

// ---- The short way ------------------------------------------------------------------------------------------------------------------------------

static ds_chat_result chat_result_of(const event &e) {
    ds_chat_result r{};
    r.finish = static_cast<ds_finish>(e.finish);
    r.prompt_tokens = e.prompt_tokens;
    r.thinking_tokens = e.thinking_tokens;
    r.answer_tokens = e.answer_tokens;
    r.injected_tokens = e.injected_tokens;
    r.cached_tokens = e.cached_tokens;
    r.preemptions = e.preemptions;
    r.queue_seconds = e.queue_seconds;
    r.prompt_seconds = e.prompt_seconds;
    r.answer_seconds = e.answer_seconds;
    return r;
}

ds_status ds_engine_chat(ds_engine *engine, const ds_message *messages, size_t count, const ds_request *parameters, ds_text_fn text, void *user, ds_chat_result *result, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(engine);
        REQUIRE_POINTER(text);
        if (result) check_struct_size(result->struct_size, "result");
        const model &m = engine->e->loaded();
        ds::engine::claim chat(*engine->e);
        const ds_request r = read_config(parameters, "parameters");
        request_options o = request_options_of(r, m);
        o.score = false;
        ds_chat_config c{};
        c.thinking = thinking_of(r).mode;
        chat_encode(m.vocabulary, render(m, messages, count, c), o.prompt);
        std::string opening = opened_thought(m.vocabulary, o.prompt);    // is said with the first piece
        const uint64_t id = chat.submit(std::move(o));
        bool stopped = false;
        const auto say = [&](std::string_view piece) {
            if (stopped || text(user, piece.data(), piece.size()) == 0) return;
            stopped = true;
            if (engine->e->progress(id).state != request_state::done) engine->e->cancel(id);
        };
        for (bool ended = false; !ended;)
            for (const event &e : engine->e->step(chat.turn())) {
                if (e.request != id) continue;
                ended = e.type == event_type::done;
                if (e.status != status::ok) throw error(e.status, "the model's logits are not finite");
                if (!e.text.empty() && !opening.empty()) say(std::exchange(opening, {}));
                if (!e.text.empty()) say(e.text);
                if (ended && result) write_info(result, chat_result_of(e), "result");
            }
    });
}
