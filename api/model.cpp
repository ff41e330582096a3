// Models: loading from a path, a descriptor or memory; information and metadata.
#include "boundary.h"

using namespace ds;

static model_options model_options_of(const ds_model_config &c) {
    check_flags(c.flags, DS_LOAD_READ | DS_LOAD_VOCAB_ONLY, "flags");
    check_reserved(c.reserved, "config");
    require(c.context_length <= (1u << 30), "context_length: must be at most 2^30");
    check_enum("rope_scaling", c.rope_scaling, DS_ROPE_YARN);
    model_options o;
    o.vocab_only = c.flags & DS_LOAD_VOCAB_ONLY;
    o.context = c.context_length;
    o.override_rope = c.rope_scaling != DS_ROPE_FROM_FILE;
    o.scaling = c.rope_scaling == DS_ROPE_LINEAR ? rope_scaling::linear
                : c.rope_scaling == DS_ROPE_YARN ? rope_scaling::yarn
                                                 : rope_scaling::none;
    o.rope_factor = o.scaling == rope_scaling::none ? 1.0 : c.rope_factor;
    require(o.rope_factor >= 1 && o.rope_factor <= 1e6, "rope_factor: must be from 1 to 10^6");
    require(c.rope_original_context <= (1u << 30), "rope_original_context: must be at most 2^30");
    o.rope_original_context = c.rope_original_context;
    if (c.chat_template) o.chat_template = c.chat_template;
    o.host = host_of(c.host);
    if (c.progress)
        o.progress = [fn = c.progress, user = c.progress_user](uint64_t done, uint64_t total) {
            return fn(user, done, total) == 0;
        };
    return o;
}

// A path for messages and log lines: well-formed UTF-8 on one line.
static std::string shown(const char *path) {
    std::string out;
    utf8_stream text;
    text.push(path, out);
    text.finish(out);
    for (char &c : out)
        if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    return out;
}

// `open` maps or reads the file, from a path, a descriptor or memory.
template <class Open>
static ds_status load(const ds_model_config *config, ds_model **out, ds_error *err, Open &&open) {
    return guard(err, [&] {
        REQUIRE_POINTER(out);
        const os::default_float_mode float_mode;
        const ds_model_config c = read_config(config, "config");
        model_options o = model_options_of(c);
        if (c.device && !o.vocab_only) o.device = open_device(c.device);
        auto handle = std::make_unique<ds_model>();
        handle->device = o.vocab_only ? 0 : c.device;
        handle->m = std::make_shared<const model>(open(c, o), o);
        for (size_t i = 0; i < handle->m->file.key_count(); ++i)
            handle->keys.emplace_back(handle->m->file.key(i));
        *out = handle.release();
    });
}

ds_status ds_model_load(const char *path, const ds_model_config *config, ds_model **out, ds_error *err) {
    return load(config, out, err, [&](const ds_model_config &c, const model_options &o) {
        REQUIRE_POINTER(path);
        return gguf_file::open(
            path,
            [&](const std::string &part) {
                return gguf_source{c.flags & DS_LOAD_READ ? os::mapping::read_file(part, o.host, o.progress)
                                                          : os::mapping::map_file(part),
                                   shown(part.c_str())};
            },
            o.host);
    });
}

ds_status ds_model_load_fd(int fd, const ds_model_config *config, ds_model **out, ds_error *err) {
    return load(config, out, err, [&](const ds_model_config &c, const model_options &o) {
        const std::string name = "descriptor " + std::to_string(fd);
        return gguf_file(c.flags & DS_LOAD_READ ? os::mapping::read_fd(fd, name, o.host, o.progress)
                                                : os::mapping::map_fd(fd, name),
                         name, o.host);
    });
}

ds_status ds_model_load_memory(const void *data, size_t size, const ds_model_config *config, ds_model **out,
                               ds_error *err) {
    return load(config, out, err, [&](const ds_model_config &, const model_options &o) {
        REQUIRE_POINTER(data);
        require(reinterpret_cast<uintptr_t>(data) % 32 == 0, "data: must be at a multiple of 32");
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
const char *ds_model_metadata_key(const ds_model *model, size_t index) {
    return model && index < model->keys.size() ? model->keys[index].c_str() : nullptr;
}

ds_status ds_model_metadata(const ds_model *model, const char *key, char *buffer, size_t capacity,
                            size_t *size, ds_error *err) {
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
