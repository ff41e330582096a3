// Loads a file as an adapter of a tiny model, and lets an engine answer with it. Input: a byte that chooses
// the model, then a GGUF file whose missing weights are filled in.
#include "engine.h"

namespace ds::fuzz {

namespace {
constexpr size_t most_bytes = 1 << 18;
constexpr const char *names[] = {"llama", "qwen2", "deepseek-v2-lite", "r1"};

struct target {
    aligned_copy memory;
    ds_model *model = nullptr;
    ds_engine *engine = nullptr;
    size_t vocabulary = 0;

    explicit target(const std::string &bytes) : memory(bytes) {
        ds_error err{};
        if (ds_model_load_memory(memory.data, bytes.size(), nullptr, &model, &err) != DS_OK)
            broken(err.message);
        ds_engine_config c = small_engine();
        c.max_adapter_rank = 64;
        if (ds_engine_new(model, &c, &engine, &err) != DS_OK) broken(err.message);
        ds_model_info info{};
        info.struct_size = sizeof info;
        must(ds_model_get_info(model, &info, &err) == DS_OK, "model information is available");
        vocabulary = info.vocabulary;
    }
};

// They live as long as the process.
target &target_of(size_t i) {
    static auto *const all = [] {
        auto *const made = new std::vector<target *>();
        for (const char *const name : names) made->push_back(new target(tiny_gguf(name, format::q8_0)));
        return made;
    }();
    return *(*all)[i % std::size(names)];
}
}  // namespace

void run(std::string_view input) {
    if (input.empty()) return;
    const std::optional<std::string> bytes = filled_gguf(std::string(input.substr(1)), most_bytes);
    if (!bytes) return;
    target &t = target_of(static_cast<uint8_t>(input[0]));
    const std::string path = scratch() + "/adapter";
    write_file(path, *bytes);
    ds_error err{};
    ds_adapter *a = nullptr;
    const ds_status loaded = ds_adapter_load(t.model, path.c_str(), nullptr, &a, &err);
    allowed(loaded, err);
    if (loaded != DS_OK) return;
    ds_adapter_info info{};
    info.struct_size = sizeof info;
    must(ds_adapter_get_info(a, &info, &err) == DS_OK && info.rank >= 1 && info.matrices >= 1,
         "an adapter has a rank and matrices");
    const std::vector<ds_token> prompt = {3, 9, 4, 1};
    ds_request r{};
    r.struct_size = sizeof r;
    r.prompt = prompt.data();
    r.prompt_count = prompt.size();
    r.max_new_tokens = 2;
    r.adapter = a;
    ds_request_id id = 0;
    allowed(ds_engine_submit(t.engine, &r, &id, &err), err);
    ds_adapter_free(a);
    answer(t.engine, prompt, 2, t.vocabulary);  // beside it
}

std::string mutated(std::string input, dice &d) {
    if (input.empty()) return "";
    if (d.one_in(30)) input[0] = static_cast<char>(d.next());
    return input.substr(0, 1) + changed_gguf(input.substr(1), gguf_words, d);
}

}  // namespace ds::fuzz
