// Models from nothing: vocabularies made from texts, and random weights.
#include "boundary.h"

#include "../llm/model/init.h"
#include "../llm/text/vocabulary.h"
#include "../tensor/os.h"

using namespace ds;

ds_status ds_vocabulary_train(const char *path, const ds_vocabulary_config *config, const char *const *texts,
                              const size_t *sizes, size_t count, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(path);
        REQUIRE_POINTER(config);
        REQUIRE_POINTER(texts);
        REQUIRE_POINTER(sizes);
        require(count > 0, "count: is 0");
        const ds_vocabulary_config c = read_config(config, "config");
        check_enum("kind", c.kind, DS_VOCABULARY_BYTES);
        const bool bpe = c.kind == DS_VOCABULARY_BPE;
        if (bpe && (c.size < fewest_bpe_tokens || c.size > (1u << 22)))
            throw error(status::argument,
                        format_text("size: is %u, must be from %zu to 2^22", c.size, fewest_bpe_tokens));
        require(bpe || !c.size, "size: is for DS_VOCABULARY_BPE");
        std::vector<std::string_view> list;
        for (size_t i = 0; i < count; ++i) {
            if (!texts[i]) throw error(status::argument, "text " + std::to_string(i) + ": is NULL");
            list.emplace_back(texts[i], sizes[i]);
        }
        gguf_writer w;
        set_vocabulary_keys(bpe ? train_bpe(list, c.size) : byte_vocabulary(list), w);
        const std::string bytes = w.header();
        os::output_file file(path);
        file.write(bytes.data(), bytes.size());
        file.commit();
    });
}

ds_status ds_model_init(const char *path, const ds_model *vocabulary, const ds_shape *shape, ds_error *err) {
    return guard(err, [&] {
        REQUIRE_POINTER(path);
        REQUIRE_POINTER(vocabulary);
        REQUIRE_POINTER(shape);
        const os::default_float_mode float_mode;
        const ds_shape c = read_config(shape, "shape");
        require(c.architecture, "architecture: is NULL");
        check_enum("rope_scaling", c.rope_scaling, DS_ROPE_YARN);
        check_reserved(c.reserved, "shape");
        require(c.tied <= 1, "tied: must be 0 or 1");
        require(c.deviation >= 0 && c.deviation <= 10, "deviation: must be from 0 to 10");
        model_shape s;
        s.architecture = c.architecture;
        if (c.name) s.name = c.name;
        s.layers = c.layers, s.hidden = c.hidden_size, s.heads = c.heads, s.ffn = c.feed_forward_size;
        s.context = c.context_length, s.kv_heads = c.kv_heads, s.head_size = c.head_size;
        s.tied = c.tied;
        s.rope_base = c.rope_base;
        s.scaling = c.rope_scaling == DS_ROPE_LINEAR ? rope_scaling::linear
                    : c.rope_scaling == DS_ROPE_YARN ? rope_scaling::yarn
                                                     : rope_scaling::none;
        s.rope_factor = c.rope_factor, s.original_context = c.rope_original_context;
        s.kv_rank = c.kv_lora_rank, s.q_rank = c.q_lora_rank;
        s.rotated = c.rotated_size, s.value_size = c.value_size;
        s.heads_used = c.heads_used, s.heads_shared = c.heads_shared, s.blocks = c.blocks;
        s.experts = c.experts, s.experts_used = c.experts_used, s.experts_shared = c.experts_shared;
        s.expert_ffn = c.expert_size, s.dense_layers = c.dense_layers;
        s.deviation = c.deviation, s.seed = c.seed;
        write_random_model(path, vocabulary->m->file, s);
    });
}
