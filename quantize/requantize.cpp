// Requantizing: the source's tensors in the source's order, each decoded and encoded by encode_tensor, or copied. No information comes back: from a
// smaller format to a larger one is allowed, with a remark.

#include "requantize.h"

#include "encode.h"

namespace ds {

namespace {

struct step { const gguf_tensor *source; format to; };

// Metadata that describes the old file's layout is not carried over; the writer lays the new one out itself.
void copy_keys(const gguf_file &f, gguf_writer &w) {
    for (size_t i = 0; i < f.key_count(); ++i)
        if (f.key(i) != "general.alignment") w.set_raw(f.key(i), f.value(i));
}

std::vector<step> plan_steps(const gguf_file &f, format type) {
    const std::string name(f.get_string("general.architecture"));
    const arch *const a = arch_by_name(name);
    if (!a) throw error(status::unsupported, f.name() + ": general.architecture: " + ds::quoted(name) + " is not known; known: " + architectures_known());
    std::unordered_map<std::string, tensor_row> rows;
    for (const tensor_row &row : a->tensors(a->read(f))) rows.emplace(row.name, row);
    std::vector<step> out;
    for (const gguf_tensor &t : f.tensors()) {
        const auto row = rows.find(std::string(t.name));
        if (row != rows.end() && row->second.ne != std::vector<int64_t>(t.ne, t.ne + t.rank)) f.fail(t.name, "its shape is not what the metadata asks for");
        if (row != rows.end() && !info(t.type).runs)
            throw error(status::unsupported, f.name() + ": " + ds::quoted(std::string(t.name)) + ": " + info(t.type).text + " is not read; known: f32, f16, bf16, q8_0");
        out.push_back({&t, row == rows.end() ? t.type : target_format(row->second, type)});
    }
    return out;
}

void remark_growth(const gguf_file &f, const std::vector<step> &steps, const job &j) {
    uint64_t before = 0, after = 0;
    for (const step &s : steps) {
        const uint64_t elements = static_cast<uint64_t>(s.source->ne[0]) * s.source->ne[1] * s.source->ne[2] * s.source->ne[3];
        before += s.source->bytes;
        after += elements / info(s.to).block * info(s.to).bytes;
    }
    if (after > before) j.remark(f.name() + ": the file grows, and what an earlier rounding took away does not come back");
}

} // namespace

void requantize(const std::string &in, const std::string &out, format type, const job &j) {
    const gguf_file f(os::mapping::map_file(in), in);
    const std::vector<step> steps = plan_steps(f, type);
    gguf_writer w;
    copy_keys(f, w);
    if (!steps.empty()) w.set_u32("general.file_type", gguf_file_type(type));
    for (const step &s : steps) w.add_tensor(std::string(s.source->name), s.to, std::span(s.source->ne, static_cast<size_t>(s.source->rank)));
    remark_growth(f, steps, j);
    write_gguf(out, w, j, [&](size_t i, const byte_sink &sink) {
        const gguf_tensor &t = *steps[i].source;
        if (steps[i].to == t.type) sink(t.data, t.bytes);
        else encode_tensor({in + ": " + std::string(t.name), t.data, t.type, steps[i].to, std::vector<int64_t>(t.ne, t.ne + t.rank)}, j.threads, sink);
        f.forget(t);
    });
}

} // namespace ds
