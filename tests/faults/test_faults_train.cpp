// Fault injection into training: a status that fits, nothing lost, nothing half-written, and the same trainer
// goes on with the same bytes.
#include "../support/api.h"
#include "../support/files.h"
#include "sweep.h"

using namespace golden;
using namespace ds::test;

namespace {

struct trainer_free {
    void operator()(ds_trainer *t) const { ds_trainer_free(t); }
};
using trainer_ptr = std::unique_ptr<ds_trainer, trainer_free>;

constexpr int64_t most_trials = sanitized ? 12 : 25;

ds_trainer_config config() {
    ds_trainer_config c{};
    c.struct_size = sizeof c;
    c.threads = 2;
    c.learning_rate = 1e-3;
    c.run_tokens = 64;
    return c;
}
const ds_token tokens[2][9] = {{0, 9, 10, 11, 12, 13, 14, 15, 16}, {0, 20, 21, 22, 23, 24, 25, 26, 27}};
const ds_sequence sequences[2] = {{tokens[0], nullptr, 9}, {tokens[1], nullptr, 9}};

// After a failure the old file is there, or the new one, if only the directory could not be written out.
void check_file(const std::string &path, ds_status s, const std::string &old, const std::string &next) {
    const std::string is = file_bytes(path);
    CHECK((is == next || (s != DS_OK && is == old)));
}

std::string bytes_of(const trainer_ptr &t, const std::string &path) {
    MUST(ds_trainer_save(t.get(), path.c_str(), "own", 3, &err));
    return file_bytes(path);
}

}  // namespace

TEST_CASE("faults: trainers: new, steps and evaluation") {
    const model_ptr m = model("micro/r1", ds::format::f32);
    const temp_dir dir;
    const ds_trainer_config c = config();
    ds_trainer *made = nullptr;
    sweep("ds_trainer_new", {[&] {
                                 made = nullptr;
                                 return ds_trainer_new(m.get(), &c, &made, nullptr);
                             },
                             [&](ds_status s) {
                                 CHECK((made != nullptr) == (s == DS_OK));
                                 ds_trainer_free(std::exchange(made, nullptr));
                             },
                             DS_OK, true, most_trials});
    // not with blocks that layers share: where memory is lacking, runs are halved
    const model_ptr plain = model("micro/llama", ds::format::f32);
    trainer_ptr t;
    const auto anew = [&] {
        ds_trainer_config large = c;
        large.run_tokens = 256;
        MUST(ds_trainer_new(plain.get(), &large, &made, &err));
        t.reset(made);
    };
    const std::string now = dir / "now";
    anew();
    const std::string before = bytes_of(t, now);
    MUST(ds_trainer_step(t.get(), sequences, 2, nullptr, &err));
    const std::string after = bytes_of(t, now);
    anew();
    sweep("ds_trainer_step", {[&] { return ds_trainer_step(t.get(), sequences, 2, nullptr, nullptr); },
                              [&](ds_status s) {
                                  CHECK(bytes_of(t, now) == (s == DS_OK ? after : before));
                                  anew();
                              },
                              DS_OK, false, most_trials});
    sweep("ds_trainer_evaluate",
          {[&] { return ds_trainer_evaluate(t.get(), sequences, 2, nullptr, nullptr); },
           [&](ds_status) {
               CHECK(bytes_of(t, now) == before);
               anew();
           },
           DS_OK, false, most_trials});
}

TEST_CASE("faults: trainers: save, resume and export") {
    const model_ptr m = model("micro/llama", ds::format::f32);
    const temp_dir dir;
    ds_trainer_config c = config();
    c.format = DS_TRAIN_BF16;
    ds_trainer *made = nullptr;
    MUST(ds_trainer_new(m.get(), &c, &made, &err));
    const trainer_ptr t(made);
    const std::string first = dir / "first", second = dir / "second", at = dir / "at";
    const std::string old = bytes_of(t, first);
    MUST(ds_trainer_step(t.get(), sequences, 2, nullptr, &err));
    const std::string next = bytes_of(t, second);
    const auto files = [&] { return std::distance(fs::directory_iterator(dir.path), {}); };
    fs::copy_file(first, at);
    const auto held = files();
    sweep("ds_trainer_save", {[&] { return ds_trainer_save(t.get(), at.c_str(), "own", 3, nullptr); },
                              [&](ds_status s) {
                                  check_file(at, s, old, next);
                                  CHECK(files() == held);
                                  fs::copy_file(first, at, fs::copy_options::overwrite_existing);
                              },
                              DS_OK, true, most_trials});
    char own[8];
    size_t size = 0;
    sweep("ds_trainer_resume",
          {[&] { return ds_trainer_resume(t.get(), first.c_str(), own, sizeof own, &size, nullptr); },
           [&](ds_status s) {
               CHECK(bytes_of(t, at) == (s == DS_OK ? old : next));
               MUST(ds_trainer_resume(t.get(), second.c_str(), nullptr, 0, nullptr, &err));
           },
           DS_OK, true, most_trials});
    fs::remove(at);
    MUST(ds_trainer_export(t.get(), at.c_str(), "q8_0", &err));
    const std::string model_bytes = file_bytes(at);
    fs::copy_file(first, at, fs::copy_options::overwrite_existing);
    sweep("ds_trainer_export", {[&] { return ds_trainer_export(t.get(), at.c_str(), "q8_0", nullptr); },
                                [&](ds_status s) {
                                    check_file(at, s, old, model_bytes);
                                    CHECK(files() == held);
                                    fs::copy_file(first, at, fs::copy_options::overwrite_existing);
                                },
                                DS_OK, true, most_trials});
}

TEST_CASE("faults: models from nothing") {
    const temp_dir dir;
    const std::string path = dir / "v", at = dir / "at";
    ds_vocabulary_config c{};
    c.struct_size = sizeof c;
    c.kind = DS_VOCABULARY_BPE, c.size = 270;
    const char *const text = "what is what and this is that";
    const size_t size = std::strlen(text);
    MUST(ds_vocabulary_train(path.c_str(), &c, &text, &size, 1, &err));
    const std::string whole = file_bytes(path);
    const auto gone = [&](const std::string &wanted) {
        return [&, wanted](ds_status s) {
            CHECK((s != DS_OK || fs::exists(at)));
            if (fs::exists(at)) CHECK(file_bytes(at) == wanted);
            fs::remove(at);
            CHECK(std::distance(fs::directory_iterator(dir.path), {}) == 1);
        };
    };
    sweep("ds_vocabulary_train",
          {[&] { return ds_vocabulary_train(at.c_str(), &c, &text, &size, 1, nullptr); }, gone(whole), DS_OK,
           true, most_trials});
    ds_model_config mc{};
    mc.struct_size = sizeof mc;
    mc.flags = DS_LOAD_VOCAB_ONLY;
    ds_model *v = nullptr;
    MUST(ds_model_load(path.c_str(), &mc, &v, &err));
    const model_ptr vocabulary(v);
    ds_shape s{};
    s.struct_size = sizeof s;
    s.architecture = "llama";
    s.layers = 1, s.hidden_size = 8, s.heads = 1, s.feed_forward_size = 8, s.context_length = 16;
    MUST(ds_model_init(at.c_str(), v, &s, &err));
    const std::string made = file_bytes(at);
    fs::remove(at);
    sweep("ds_model_init",
          {[&] { return ds_model_init(at.c_str(), v, &s, nullptr); }, gone(made), DS_OK, true, most_trials});
}
