// Loads a file as a model and lets an engine answer. Input: a byte of choices, then a GGUF file whose missing
// weights are filled in.
#include "engine.h"

#include "../../llm/model/model.h"
#include "../cuda/fake_device.h"

namespace ds::fuzz {

namespace {

// A limit on single blocks: sizes come from a file of a few kilobytes.
constexpr size_t most_bytes = 1 << 20, most_memory = 64u << 20;
void *take(void *, size_t bytes, size_t alignment) {
    return bytes > most_memory ? nullptr
                               : aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
void give(void *, void *p, size_t, size_t) { free(p); }

void look_at(const ds_model *m, ds_model_info &info) {
    ds_error err{};
    info.struct_size = sizeof info;
    must(ds_model_get_info(m, &info, &err) == DS_OK, "model information is available");
    char text[256];
    size_t n = 0;
    for (size_t i = 0; i < ds_model_metadata_count(m); ++i)
        allowed(ds_model_metadata(m, ds_model_metadata_key(m, i), text, sizeof text, &n, &err), err);
    const ds_message ask = {"user", "Hi <think> 12"};
    ds_token ids[64];
    allowed(ds_chat_tokenize(m, &ask, 1, nullptr, ids, 64, &n, &err), err);
    allowed(ds_tokenize(m, "Hello", 5, DS_TOKENIZE_BOS, ids, 64, &n, &err), err);
    for (const ds_special s : {DS_SPECIAL_BOS, DS_SPECIAL_EOS, DS_SPECIAL_PAD, DS_SPECIAL_UNKNOWN})
        ds_token_special(m, s);
}

std::optional<std::vector<ds_token>> ask(const ds_model *m, ds_engine_config c, size_t vocabulary) {
    ds_error err{};
    ds_engine *e = nullptr;
    ds_memory_plan plan{};
    plan.struct_size = sizeof plan;
    allowed(ds_engine_plan(m, &c, &plan, &err), err);
    const ds_status s = ds_engine_new(m, &c, &e, &err);
    allowed(s, err);
    if (s != DS_OK) return std::nullopt;
    std::vector<ds_token> prompt;
    for (size_t i = 0; i < 18; ++i) prompt.push_back(static_cast<ds_token>((i * 29 + 7) % vocabulary));
    auto out = answer(e, prompt, 2, vocabulary);
    ds_engine_free(e);
    return out;
}

}  // namespace

void run(std::string_view input) {
    if (input.empty()) return;
    const auto choices = static_cast<uint8_t>(input[0]);
    const std::optional<std::string> bytes = filled_gguf(std::string(input.substr(1)), most_bytes);
    if (!bytes) return;
    const aligned_copy memory(*bytes);
    if ((choices & 56) == 32) {  // loads onto a fake device in host memory
        model_options o;
        uint64_t last = 0;
        o.progress = [&](uint64_t done, uint64_t all) { return (last = done) <= all; };
        o.device = test::fake_device({.threads = 1});
        const model placed(gguf_file(os::mapping::borrow(memory.data, bytes->size()), "input"), o);
        return must(placed.device_bytes > 0 && last > 0, "weights are on the device");
    }
    ds_model_config mc{};
    mc.struct_size = sizeof mc;
    ds_host host{};
    host.struct_size = sizeof host;
    host.alloc = take;
    host.free = give;
    mc.host = &host;
    if ((choices & 7) == 7) mc.flags = DS_LOAD_VOCAB_ONLY;
    if ((choices & 56) == 8) mc.rope_scaling = DS_ROPE_YARN, mc.rope_factor = 4;
    if ((choices & 56) == 16) mc.rope_scaling = DS_ROPE_LINEAR, mc.rope_factor = 2;
    if ((choices & 56) == 24) mc.context_length = 100;
    ds_model *m = nullptr;
    ds_error err{};
    const ds_status s = ds_model_load_memory(memory.data, bytes->size(), &mc, &m, &err);
    allowed(s, err);
    if (s != DS_OK) return;
    ds_model_info info{};
    look_at(m, info);
    ds_engine_config c = small_engine();
    c.host = &host;
    c.context_length = std::min(c.context_length, info.context_length);
    c.kv_type = static_cast<ds_kv_type>(choices >> 6);
    c.mla_form = choices & 4 ? DS_MLA_ABSORBED : DS_MLA_AUTO;
    const auto got = info.context_length ? ask(m, c, info.vocabulary) : std::nullopt;
    // Another number of rows a step must give the same tokens.
    if (got && (choices & 3) == 3) {
        c.step_tokens = 5;
        c.mla_form = DS_MLA_ABSORBED;
        const auto other = ask(m, c, info.vocabulary);
        must((choices & 4) == 0 || (other && *other == *got),
             "the same tokens with any chunks of the prompt");
    }
    ds_model_free(m);
}

std::string mutated(std::string input, dice &d) {
    if (input.empty()) return "";
    if (d.one_in(8)) input[0] = static_cast<char>(d.next());
    return input.substr(0, 1) + changed_gguf(input.substr(1), gguf_words, d);
}

}  // namespace ds::fuzz
