// The trainers that files are resumed into, and a file that each of them saves.
#pragma once

#include "engine.h"

namespace ds::fuzz {

struct train_target {
    ds_trainer *trainer;
    std::string saved;
};

inline ds_status step(ds_trainer *t, ds_error *err) {
    const ds_token tokens[] = {0, 6, 7, 8, 6, 1};
    const ds_sequence s = {tokens, nullptr, 6};
    return ds_trainer_step(t, &s, 1, nullptr, err);
}

// Of the smallest models, for each format of weights and states. They live as long as the process.
inline const std::vector<train_target> &train_targets() {
    static const auto *const all = [] {
        // never freed; the static pointer keeps the leak sanitizer silent
        auto *const made = new std::vector<train_target>();
        ds_error err{};
        const auto check = [&](ds_status s) {
            if (s != DS_OK) broken(err.message);
        };
        const std::string path = scratch() + "/begin";
        ds_vocabulary_config v{};
        v.struct_size = sizeof v;
        v.kind = DS_VOCABULARY_BYTES;
        const char *const text = "a";
        const size_t size = 1;
        check(ds_vocabulary_train(path.c_str(), &v, &text, &size, 1, &err));
        ds_model_config c{};
        c.struct_size = sizeof c;
        c.flags = DS_LOAD_VOCAB_ONLY | DS_LOAD_READ;
        ds_model *vocabulary = nullptr;
        check(ds_model_load(path.c_str(), &c, &vocabulary, &err));
        for (const char *const name : {"llama", "r1"}) {
            ds_shape s{};
            s.struct_size = sizeof s;
            s.architecture = name;
            s.layers = 1, s.hidden_size = 8, s.heads = 2, s.head_size = 8, s.feed_forward_size = 8;
            s.context_length = 16, s.tied = 1;
            if (name[1] == '1') s.kv_lora_rank = 4, s.heads_used = 1;
            check(ds_model_init(path.c_str(), vocabulary, &s, &err));
            c.flags = DS_LOAD_READ;
            ds_model *m = nullptr;
            check(ds_model_load(path.c_str(), &c, &m, &err));
            for (const bool small : {false, true}) {
                ds_trainer_config t{};
                t.struct_size = sizeof t;
                t.threads = 1, t.run_tokens = 16;
                t.format = small ? DS_TRAIN_BF16 : DS_TRAIN_F32;
                t.states = small ? DS_STATES_INT8 : DS_STATES_F32;
                train_target target{};
                check(ds_trainer_new(m, &t, &target.trainer, &err));
                check(step(target.trainer, &err));
                check(ds_trainer_save(target.trainer, path.c_str(), "place", 5, &err));
                target.saved = read_file(path);
                made->push_back(std::move(target));
            }
            ds_model_free(m);
        }
        ds_model_free(vocabulary);
        return made;
    }();
    return *all;
}

}  // namespace ds::fuzz
