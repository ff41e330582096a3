// The tools' JSON reader, compared with nlohmann's, and safetensors' header. Input: JSON; or, after a byte
// 0xff, a safetensors file whose data is filled in.
#include "fuzz.h"

#include "../../quantize/json.h"
#include "../../quantize/safetensors.h"

#include <nlohmann/json.hpp>

namespace ds::fuzz {

static int depth_of(const json_node &n) {
    int most = 0;
    if (n.is_array()) n.each([&](size_t, const json_node &x) { most = std::max(most, depth_of(x)); });
    if (n.is_object())
        n.each([&](std::string_view, const json_node &x) { most = std::max(most, depth_of(x)); });
    return most + (n.is_array() || n.is_object());
}

static bool same(const json_node &n, const nlohmann::json &v) {
    bool good = n.is_array() == v.is_array() && n.is_object() == v.is_object() &&
                n.is_text() == v.is_string() && n.is_integer() == v.is_number_integer();
    if (v.is_structured()) good = good && n.size() == v.size();
    else if (v.is_string()) good = good && n.text() == v.get_ref<const std::string &>();
    else if (v.is_boolean()) good = good && n.flag() == v.get<bool>();
    else if (v.is_number_unsigned()) good = good && n.whole(UINT64_MAX) == v.get<uint64_t>();
    else if (v.is_number()) good = good && n.number() == v.get<double>();
    else good = good && n.shown() == "null";
    if (good && v.is_array()) n.each([&](size_t i, const json_node &x) { good = good && same(x, v[i]); });
    if (good && v.is_object())
        n.each([&](std::string_view name, const json_node &x) {
            good = good && v.contains(name) && same(x, v.find(name).value());
        });
    return good;
}

// Most typed reads throw, which is slow, so each node and member tries only one, in rotation.
static void walk(const json_node &n, uint64_t &round) {
    const auto typed = [&](auto read) {
        try {
            read();
        } catch (const error &e) {
            must(e.code == status::format, e.what());
        }
    };
    switch (round++ % 6) {
    case 0: typed([&] { n.whole(1000); }); break;
    case 1: typed([&] { n.number(); }); break;
    case 2: typed([&] { n.flag(); }); break;
    case 3: typed([&] { n.text(); }); break;
    case 4: n.shown(); break;
    default: n.is_integer();
    }
    if (n.is_array()) n.each([&](size_t, const json_node &x) { walk(x, round); });
    if (n.is_array() && n.size() > 0)
        must(n.at(n.size() - 1).field() == n.field() + "[" + std::to_string(n.size() - 1) + "]",
             "an element's field names its index");
    if (!n.is_object()) return;
    for (const std::string &name : n.names()) {
        switch (round++ % 16) {
        case 0: typed([&] { n.whole(name, 10, 1); }); break;
        case 1: typed([&] { n.number(name, 1); }); break;
        case 2: typed([&] { n.flag(name, true); }); break;
        case 3: typed([&] { n.text(name, ""); }); break;
        default: break;
        }
        if (n.has(name)) walk(n.at(name), round);
    }
}

static void read_text(std::string_view text) {
    const nlohmann::json reference = text.size() > 65536 ? nlohmann::json(nlohmann::json::value_t::discarded)
                                                         : nlohmann::json::parse(text, nullptr, false);
    try {
        const json_tree tree = parse_json(text, "input");
        if (text.size() <= 65536)
            must(!reference.is_discarded() && same(json_node(tree), reference), "the tree equals nlohmann's");
        must(depth_of(json_node(tree)) <= json_max_depth + 1, "depth is bounded");
        uint64_t round = text.size();
        walk(json_node(tree), round);
    } catch (const error &e) {
        must(e.code == status::format, e.what());
        const std::string &t = e.text;
        must(reference.is_discarded() || t.find("given twice") != std::string::npos ||
                 t.find("nested deeper") != std::string::npos || t.find("out of range") != std::string::npos,
             e.what());
    }
}

void run(std::string_view input) {
    if (input.empty() || input[0] != '\xff') return read_text(input);
    const std::optional<std::string> bytes = filled_safetensors(std::string(input.substr(1)), 1 << 16);
    if (!bytes) return;
    const std::vector<uint8_t> block(bytes->begin(), bytes->end());
    const safetensors_file f(os::mapping::borrow(block.data(), block.size()), "input");
    uint64_t sum = 0;
    for (const safetensor &t : f.tensors()) {
        for (uint64_t i = 0; i < t.bytes; ++i) sum += t.data[i];
        f.forget(t);
    }
    must(sum < UINT64_MAX, "");
}

std::string mutated(std::string input, dice &d) {
    if (!input.empty() && input[0] == '\xff') return "\xff" + changed_safetensors(input.substr(1), d);
    return changed_json(input, d.one_in(2) ? config_words : tokenizer_words, d);
}

}  // namespace ds::fuzz
