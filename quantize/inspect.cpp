// Lists a GGUF file. Nothing is decoded: sizes come from the table of formats, so that formats which this
// build cannot run are listed as well. The scales of an i8 tensor X are a tensor of their own, X_scale: they
// count as bytes of X, and the text lists them with X.

#include "inspect.h"

#include "output.h"
#include "progress.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace ds {

namespace {

struct total {
    uint64_t tensors = 0, elements = 0, bytes = 0;
};

uint64_t elements_of(const gguf_tensor &t) {
    uint64_t n = 1;
    for (int d = 0; d < t.rank; ++d) n *= static_cast<uint64_t>(t.ne[d]);
    return n;
}

double bits_per_weight(const total &t) {
    return t.elements > 0 ? 8.0 * static_cast<double>(t.bytes) / static_cast<double>(t.elements) : 0;
}

// The scales of an i8 tensor, or null.
const gguf_tensor *scales_of(const gguf_file &f, const gguf_tensor &t) {
    return t.type == format::i8 ? f.find_tensor(scale_name(t.name)) : nullptr;
}

uint64_t bytes_of(const gguf_file &f, const gguf_tensor &t) {
    const gguf_tensor *const s = scales_of(f, t);
    return t.bytes + (s ? s->bytes : 0);
}

// By format, in the order of formats.def; the last entry is the sum of all.
std::vector<std::pair<std::string, total>> totals_of(const gguf_file &f) {
    std::vector<total> by_format(static_cast<size_t>(format::count));
    total all;
    for (const gguf_tensor &t : f.tensors()) {
        if (is_scales(f, t.name)) continue;
        for (total *const sum : {&by_format[static_cast<size_t>(t.type)], &all}) {
            ++sum->tensors;
            sum->elements += elements_of(t);
            sum->bytes += bytes_of(f, t);
        }
    }
    std::vector<std::pair<std::string, total>> out;
    for (size_t i = 0; i < by_format.size(); ++i)
        if (by_format[i].tensors > 0) out.emplace_back(info(static_cast<format>(i)).text, by_format[i]);
    out.emplace_back("all", all);
    return out;
}

std::string type_text(const gguf_value &v) {
    return v.is_array
               ? format_text("%s[%llu]", gguf_type_text(v.type), static_cast<unsigned long long>(v.count))
               : gguf_type_text(v.type);
}

std::string shape_of(const gguf_tensor &t) {
    std::string out;
    for (int d = 0; d < t.rank; ++d) out += (d > 0 ? ", " : "") + std::to_string(t.ne[d]);
    return "[" + out + "]";
}

// Terminals obey control characters, and the file's author chose these.
std::string printable(const std::string &s) {
    std::string out;
    for (const char c : s) {
        if (c == '\n') out += "\\n";
        else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            out += format_text("\\x%02x", static_cast<unsigned char>(c));
        else out += c;
    }
    return out;
}

nlohmann::ordered_json total_json(const total &t) {
    return {{"tensors", t.tensors},
            {"elements", t.elements},
            {"bytes", t.bytes},
            {"bits_per_weight", bits_per_weight(t)}};
}

}  // namespace

std::string inspect_text(const gguf_file &f, const inspect_options &o) {
    const std::string parts = f.part_count() > 1 ? format_text(" in %zu files", f.part_count()) : "";
    std::string out = format_text(
        "%s: GGUF version %u, %s%s, alignment %llu, data from byte %llu\n", f.name().c_str(), f.version(),
        bytes_text(static_cast<double>(f.file_bytes())).c_str(), parts.c_str(),
        static_cast<unsigned long long>(f.alignment()), static_cast<unsigned long long>(f.data_offset()));
    size_t key_width = 0, name_width = 0;
    for (size_t i = 0; i < f.key_count(); ++i) key_width = std::max(key_width, f.key(i).size());
    for (const gguf_tensor &t : f.tensors()) name_width = std::max(name_width, t.name.size());

    out += format_text("\n%zu keys\n", f.key_count());
    for (size_t i = 0; i < f.key_count(); ++i)
        out += format_text("  %-*s  %-15s ", static_cast<int>(key_width),
                           printable(std::string(f.key(i))).c_str(), type_text(f.value(i)).c_str()) +
               printable(gguf_value_text(f.value(i), o.array_elements)) + "\n";

    if (o.tensors)
        out += format_text("\n%llu tensors (shape outermost first)\n",
                           static_cast<unsigned long long>(totals_of(f).back().second.tensors));
    for (const gguf_tensor &t : f.tensors())
        if (o.tensors && !is_scales(f, t.name))
            out += format_text("  %-*s  %-8s %-20s %s%s\n", static_cast<int>(name_width),
                               printable(std::string(t.name)).c_str(), info(t.type).text, shape_of(t).c_str(),
                               bytes_text(static_cast<double>(bytes_of(f, t))).c_str(),
                               scales_of(f, t) ? " with a scale a row" : "");

    out += "\ntype      tensors        elements           bytes  bits a weight\n";
    for (const auto &[name, t] : totals_of(f))
        out += format_text("%-8s %8llu %15llu %15llu  %13.3f\n", name.c_str(),
                           static_cast<unsigned long long>(t.tensors),
                           static_cast<unsigned long long>(t.elements),
                           static_cast<unsigned long long>(t.bytes), bits_per_weight(t));
    return out;
}

std::string inspect_json(const gguf_file &f, const inspect_options &o) {
    nlohmann::ordered_json root = {{"file", f.name()},
                                   {"version", f.version()},
                                   {"bytes", f.file_bytes()},
                                   {"alignment", f.alignment()},
                                   {"data_offset", f.data_offset()}};
    if (f.part_count() > 1)
        for (size_t i = 0; i < f.part_count(); ++i) root["parts"].push_back(f.part_name(i));
    root["metadata"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < f.key_count(); ++i) {
        const gguf_value &v = f.value(i);
        root["metadata"].push_back({{"key", f.key(i)},
                                    {"type", gguf_type_text(v.type)},
                                    {"array", v.is_array},
                                    {"count", v.count},
                                    {"value", gguf_value_text(v, o.array_elements)}});
    }
    if (o.tensors) root["tensors"] = nlohmann::ordered_json::array();
    for (const gguf_tensor &t : f.tensors()) {
        if (!o.tensors) continue;
        root["tensors"].push_back({{"name", t.name},
                                   {"type", info(t.type).text},
                                   {"shape", std::vector<int64_t>(t.ne, t.ne + t.rank)},
                                   {"bytes", t.bytes},
                                   {"offset", t.offset}});
        if (f.part_count() > 1) root["tensors"].back()["part"] = t.part;
    }
    for (const auto &[name, t] : totals_of(f)) root["totals"][name] = total_json(t);
    return root.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace ds
