// The converter: metadata from the JSON files, then the architecture's tensors, one by one, from the
// checkpoint.
// Invariant: the library parses the metadata before a tensor is read, so that whatever the library refuses is
// refused here, with the same message.

#include "convert.h"

#include "config.h"
#include "requantize.h"
#include "safetensors.h"
#include "vocabulary.h"

#include <filesystem>
#include <unordered_set>

namespace ds {

namespace {

std::string directory_name(const std::string &directory) {
    const std::filesystem::path p = std::filesystem::weakly_canonical(directory);
    return p.filename().string();
}

struct config_file {
    json_tree tree;
    std::optional<json_node> node;  // none: the directory has no config.json
};

void read_config(const std::string &directory, bool needed, const job &j, config_file &out) {
    const std::string path = directory + "/config.json";
    if (!needed && !file_exists(path)) return;
    out.tree = read_json(path, [&] { return j.stopped(); });
    out.node.emplace(out.tree);
}

void set_metadata(const std::string &directory, const convert_options &o, const config_file &config,
                  const job &j, gguf_writer &w) {
    // A vocabulary needs no architecture, but readers require the key.
    if (config.node) set_architecture_keys(*config.node, w, j);
    else w.set_string("general.architecture", "llama");
    w.set_string("general.type", "model");
    w.set_string("general.name", o.name.empty() ? directory_name(directory) : o.name);
    set_vocabulary_keys(read_vocabulary(directory, config.node ? &*config.node : nullptr, j), w);
}

// ---- Tensors

struct planned {
    tensor_row row;
    std::vector<const safetensor *> sources;  // none: computed
    std::vector<float> values;                // when computed
    std::vector<e4m3_scales> e4m3 = {};       // of each source, if FP8
};

// Buffers in checkpoints that the forward pass computes itself.
bool ignorable(const std::string &name) { return name.ends_with(".rotary_emb.inv_freq"); }

std::string shape(const std::vector<int64_t> &ne) {
    std::string out;
    for (const int64_t n : ne) out += (out.empty() ? "" : ", ") + std::to_string(n);
    return "[" + out + "]";
}

constexpr const char *fp8_dtype = "F8_E4M3";
std::string e4m3_scale_name(const std::string &weight) { return weight + "_scale_inv"; }

void check_source(const checkpoint &c, const safetensor &s, const tensor_row &row, const hparams &h) {
    const std::string where = c.file_name(s) + ": " + ds::quoted(s.name) + ": ";
    if (!s.type && s.dtype != fp8_dtype)
        throw error(status::unsupported,
                    where + "element type " + s.dtype + " is not read; known: F32, F16, BF16, " + fp8_dtype);
    const bool part = row.order == reorder::key_part || row.order == reorder::value_part,
               one_of_many = row.checkpoint.find('*') != std::string::npos;
    std::vector<int64_t> ne = row.ne;
    if (part) ne = {h.heads * (h.nope_size + h.value_size), h.kv_rank};
    if (one_of_many) ne.erase(ne.begin());
    if (s.ne != ne)
        throw error(status::format,
                    where + "shape " + shape(s.ne) + ", but config.json asks for " + shape(ne));
}

// The names of a row's tensors in the checkpoint.
std::vector<std::string> source_names(const tensor_row &row) {
    const size_t star = row.checkpoint.find('*');
    if (star == std::string::npos) return {row.checkpoint};
    std::vector<std::string> names;
    for (int64_t i = 0; i < row.ne[0]; ++i)
        names.push_back(row.checkpoint.substr(0, star) + std::to_string(i) + row.checkpoint.substr(star + 1));
    return names;
}

// The scales of an FP8 matrix of the right shape: a tensor of their own, possibly in another shard.
e4m3_scales find_scales(const checkpoint &c, const safetensor &s, const json_node &config) {
    const std::string where = c.file_name(s) + ": " + ds::quoted(s.name) + ": ",
                      name = e4m3_scale_name(s.name);
    const std::optional<fp8_blocks> b = read_fp8_blocks(config);
    if (!b)
        throw error(status::format,
                    where + s.dtype +
                        ", but config.json has no quantization_config with the size of its blocks");
    if (s.ne.size() != 2)
        throw error(status::unsupported,
                    where + s.dtype + " of shape " + shape(s.ne) + ": only matrices are read");
    const safetensor *const scales = c.find(name);
    if (!scales)
        throw error(status::format, where + s.dtype + ", but the checkpoint lacks " + ds::quoted(name));
    const std::string at = c.file_name(*scales) + ": " + ds::quoted(name) + ": ";
    const std::vector<int64_t> wanted = {(s.ne[0] + b->rows - 1) / b->rows,
                                         (s.ne[1] + b->columns - 1) / b->columns};
    if (!scales->type)
        throw error(status::unsupported,
                    at + "scales of element type " + scales->dtype + " are not read; known: F32, F16, BF16");
    if (scales->ne != wanted)
        throw error(status::format, at + "shape " + shape(scales->ne) + ", but blocks of " +
                                        shape({b->rows, b->columns}) + " of a weight of " + shape(s.ne) +
                                        " ask for " + shape(wanted));
    return {scales->data, *scales->type, wanted[1], b->rows, b->columns, c.file_name(*scales) + ": " + name};
}

void refuse_leftovers(const checkpoint &c, const std::unordered_set<std::string> &used, bool tied) {
    std::string names;
    size_t n = 0;
    for (const safetensor &t : c.tensors()) {
        if (used.count(t.name) || ignorable(t.name) || (tied && t.name == "lm_head.weight")) continue;
        if (++n <= 8) names += (n > 1 ? ", " : "") + ds::quoted(t.name);
    }
    if (n > 8) names += format_text(" and %zu more", n - 8);
    if (n > 0)
        throw error(status::unsupported,
                    c.file_name(c.tensors()[0]) + ": the architecture has no place for " + names);
}

std::vector<planned> plan_tensors(const arch &a, const hparams &h, const checkpoint &c,
                                  const json_node &config) {
    std::vector<planned> out;
    std::unordered_set<std::string> used;
    const bool tied = ties_embeddings(config);
    bool divisors = false;
    for (tensor_row &row : a.tensors(h)) {
        if (row.what == role::output && tied) continue;
        if (row.what == role::rope_divisors) {
            if (!has_llama3_scaling(config)) continue;
            divisors = true;
            out.push_back({row, {}, llama3_divisors(read_llama3_scaling(config), h.rope_base, h.rotated)});
            continue;
        }
        const std::vector<std::string> names = source_names(row);
        if (!c.find(names[0]) && row.optional && (row.what != role::output || row.layer >= 0)) continue;
        out.push_back({row, {}, {}});
        for (const std::string &name : names) {
            const safetensor *const s = c.find(name);
            if (!s) throw error(status::format, config.file() + ": the checkpoint lacks " + ds::quoted(name));
            check_source(c, *s, row, h);
            if (s->dtype != c.find(names[0])->dtype)
                throw error(status::format, c.file_name(*s) + ": " + ds::quoted(name) + ": element type " +
                                                s->dtype + " differs from that of the first of its kind");
            used.insert(s->name);
            out.back().sources.push_back(s);
            if (s->type) continue;
            out.back().e4m3.push_back(find_scales(c, *s, config));
            used.insert(e4m3_scale_name(s->name));
        }
    }
    if (has_llama3_scaling(config) && !divisors)
        config.fail(status::unsupported, std::string("rope scaling llama3 is not known for ") + a.name);
    refuse_leftovers(c, used, tied);
    return out;
}

encode_job job_of(const planned &p, const checkpoint &c, format to) {
    if (p.sources.empty())
        return {p.row.name,  p.row.name, reinterpret_cast<const uint8_t *>(p.values.data()),
                format::f32, to,         p.row.ne};
    const safetensor &s = *p.sources[0];
    encode_job e{p.row.name,  c.file_name(s) + ": " + p.row.checkpoint,
                 s.data,      s.type.value_or(format::f32),
                 to,          p.row.ne,
                 p.row.order, p.row.heads};
    e.whole_rows = s.ne[0];
    if (p.sources.size() > 1)
        for (const safetensor *part : p.sources) e.parts.push_back(part->data);
    e.e4m3 = p.e4m3;
    return e;
}

void convert_tensors(const std::string &directory, const std::string &out, const convert_options &o,
                     const json_node &config, gguf_writer &w, const gguf_file &metadata, const job &j) {
    const arch &a = checkpoint_arch(config);
    const checkpoint c(directory, [&] { return j.stopped(); });
    const std::vector<planned> plan = plan_tensors(a, a.read(metadata), c, config);
    if (o.type == format::i8) j.remark(uncalibrated_remark);
    set_type_keys(w, o.type);
    std::vector<encode_job> tensors;
    format_policy policy(o.type, a.read(metadata), ties_embeddings(config));
    for (const planned &p : plan) tensors.push_back(job_of(p, c, policy(p.row)));
    policy.remark(j);
    write_tensors(out, w, tensors, j, [&](size_t i) {
        for (const safetensor *s : plan[i].sources) c.forget(*s);
    });
}

}  // namespace

format lossless_type(const std::string &directory) {
    const checkpoint c(directory);
    std::optional<format> type;
    for (const safetensor &t : c.tensors()) {
        // a code times a scale needs more bits than f16 and bf16 have
        if (t.dtype == fp8_dtype) return format::f32;
        // norms and biases stay f32; convert() refuses what cannot be read
        if (!t.type || t.ne.size() < 2) continue;
        if (type && type != t.type) return format::f32;
        type = t.type;
    }
    return type.value_or(format::f32);
}

std::string convert_metadata(const std::string &directory, const convert_options &o, const job &j) {
    config_file config;
    gguf_writer w;
    read_config(directory, false, j, config);
    set_metadata(directory, o, config, j, w);
    return w.header();
}

void convert(const std::string &directory, const std::string &out, const convert_options &o, const job &j) {
    config_file config;
    gguf_writer w;
    read_config(directory, !o.vocab_only, j, config);
    set_metadata(directory, o, config, j, w);
    const std::string header = w.header();
    const gguf_file metadata(os::mapping::borrow(header.data(), header.size()), directory);
    const tokenizer refuses_bad_vocabularies(metadata);
    if (!o.vocab_only) return convert_tensors(directory, out, o, *config.node, w, metadata, j);
    write_gguf(out, w, j, [](size_t, const byte_sink &) {});
}

}  // namespace ds
