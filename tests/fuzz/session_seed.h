// The engines that sessions are restored into, and a session that each of them saves.
#pragma once

#include "engine.h"

namespace ds::fuzz {

struct session_engine {
    ds_engine *engine;
    size_t vocabulary;
    std::string saved;
};

// For a model with plain attention, one with latents and one with routed heads, and each type of pages. They
// live as long as the process.
inline const std::vector<session_engine> &session_engines() {
    static const auto *const all = [] {
        // never freed; the static pointer keeps the leak sanitizer silent
        auto *const made = new std::vector<session_engine>();
        std::vector<session_engine> &out = *made;
        for (const char *const name : {"qwen2", "deepseek-v2-lite", "r1"}) {
            static std::vector<aligned_copy> *const memory = new std::vector<aligned_copy>();
            memory->reserve(3);
            const std::string bytes = tiny_gguf(name, format::q8_0);
            memory->emplace_back(bytes);
            static std::vector<ds_model *> *const models = new std::vector<ds_model *>();
            ds_model *m = nullptr;
            ds_error err{};
            if (ds_model_load_memory(memory->back().data, bytes.size(), nullptr, &m, &err) != DS_OK)
                broken(err.message);
            models->push_back(m);
            ds_model_info info{};
            info.struct_size = sizeof info;
            must(ds_model_get_info(m, &info, &err) == DS_OK, "model information is available");
            for (const ds_kv_type kv : {DS_KV_F32, DS_KV_F16, DS_KV_INT8}) {
                ds_engine_config c = small_engine();
                c.kv_type = kv;
                session_engine e{nullptr, info.vocabulary, ""};
                if (ds_engine_new(m, &c, &e.engine, &err) != DS_OK) broken(err.message);
                std::vector<ds_token> prompt;
                for (ds_token i = 0; i < 70; ++i) prompt.push_back(i * 7 % 250);
                must(answer(e.engine, prompt, 1, info.vocabulary).has_value(), "a prompt is answered");
                const std::string path = scratch() + "/seed";
                size_t positions = 0;
                if (ds_engine_save_session(e.engine, prompt.data(), prompt.size(), 0, path.c_str(),
                                           &positions, &err) != DS_OK)
                    broken(err.message);
                must(positions == 64, "one page is saved");
                e.saved = read_file(path);
                must(ds_engine_trim(e.engine, 0, &err) == DS_OK, "an engine trims its cache");
                out.push_back(std::move(e));
            }
        }
        return made;
    }();
    return *all;
}

}  // namespace ds::fuzz
