// Converts a checkpoint's directory; the library must load the result. Input, in parts: choices; then the
// files of checkpoint_files, an empty part meaning an absent file. Weights that model.safetensors lacks are
// filled in.
#include "convert_files.h"

#include "../../llm/model/model.h"
#include "../../quantize/convert.h"
#include "../../quantize/requantize.h"

#include <filesystem>

namespace ds::fuzz {

void run(std::string_view input) {
    std::vector<std::string> parts = unpacked(input, 1 + checkpoint_files.size());
    if (parts.empty() || parts[0].empty()) return;
    parts.resize(1 + checkpoint_files.size());
    const auto choices = static_cast<uint8_t>(parts[0][0]);
    static const std::string dir = scratch() + "/checkpoint", out = scratch() + "/out.gguf",
                             again = scratch() + "/again.gguf";
    std::filesystem::create_directories(dir + "/additional_chat_templates");
    for (size_t i = 0; i < checkpoint_files.size(); ++i) {
        const std::string path = dir + "/" + checkpoint_files[i], &bytes = parts[1 + i];
        if (bytes.empty()) {
            remove(path.c_str());
            continue;
        }
        const bool weights = path.ends_with(".safetensors");
        const std::optional<std::string> whole = weights ? filled_safetensors(bytes, 1 << 20) : bytes;
        if (!whole) return;
        write_file(path, *whole);
    }
    static const format types[] = {format::f32,  format::f16, format::bf16, format::q8_0,
                                   format::q4_k, format::i8,  format::q5_0, format::iq4_nl};
    const convert_options o{
        .type = types[choices & 7], .vocab_only = (choices & 56) == 56, .name = choices & 64 ? "" : "a name"};
    job j;
    size_t remarks = 0;
    j.note = [&](const std::string &text) { remarks += text.size(); };
    remove(out.c_str());
    try {
        convert(dir, out, o, j);
    } catch (const error &) {
        must(!std::filesystem::exists(out), "a failed conversion leaves no file");
        throw;
    }
    try {
        const model m(gguf_file::open(out), {.vocab_only = o.vocab_only});
        must(m.vocabulary.size() > 0, "a model has a vocabulary");
    } catch (const error &e) {
        broken("what was converted is not loaded: " + e.text);
    }
    if (!o.vocab_only && (choices & 24) == 24) requantize(out, again, types[(choices >> 5) & 7], j);
}

std::string mutated(std::string input, dice &d) {
    std::vector<std::string> parts = unpacked(input, 1 + checkpoint_files.size());
    parts.resize(1 + checkpoint_files.size());
    if (d.one_in(10)) parts[0] = std::string(1, static_cast<char>(d.next()));
    static const size_t often[] = {0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9};
    const size_t i = d.of(often);
    std::string &bytes = parts[1 + i];
    if (bytes.empty()) {
        if (checkpoint_files[i].ends_with(".json") && d.one_in(2)) bytes = "{}";
        else if (d.one_in(3)) bytes = d.of(parts);
        return packed(parts);
    }
    if (checkpoint_files[i].ends_with(".safetensors")) bytes = changed_safetensors(bytes, d);
    else if (checkpoint_files[i].ends_with(".json"))
        bytes = changed_json(bytes, i == 0 || i == 6 ? config_words : tokenizer_words, d);
    else bytes = changed_bytes(bytes, d);
    if (d.one_in(60)) bytes.clear();
    return packed(parts);
}

}  // namespace ds::fuzz
