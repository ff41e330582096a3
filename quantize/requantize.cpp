// Requantizing: the source's tensors in the source's order, each decoded and encoded by encode_tensor, or
// copied. A larger format than the source's is allowed, with a remark, since it regains nothing. The scales
// of an I8 tensor are a tensor of their own in a file, and part of its job here.

#include "requantize.h"

#include "calibrate.h"
#include "imatrix.h"

#include <algorithm>

namespace ds {

namespace {

// Keys on how a file's matrices were quantized.
bool describes_quantization(std::string_view key) {
    return key.starts_with("deepseek.quant.") || key.starts_with("quantize.imatrix.");
}

// Keys on the old file's layout are not copied: the writer sets its own. Keys on its quantization are dropped
// if a matrix changes.
gguf_writer keys_for(const gguf_file &f, const std::vector<encode_job> &jobs, const key_setter &set_keys) {
    const bool changed =
        std::any_of(jobs.begin(), jobs.end(), [](const encode_job &e) { return !e.verbatim; });
    gguf_writer w;
    for (size_t i = 0; i < f.key_count(); ++i)
        if (f.key(i) != "general.alignment" && !is_split_key(f.key(i)) &&
            !(changed && describes_quantization(f.key(i))))
            w.set_raw(f.key(i), f.value(i));
    set_keys(w);
    return w;
}

std::unordered_map<std::string, tensor_row> rows_by_name(const gguf_file &f) {
    const std::string name(f.get_string("general.architecture"));
    const arch *const a = arch_by_name(name);
    if (!a)
        throw error(status::unsupported, f.name() + ": general.architecture: " + ds::quoted(name) +
                                             " is not known; known: " + architectures_known());
    std::unordered_map<std::string, tensor_row> rows;
    for (const tensor_row &row : a->tensors(a->read(f))) rows.emplace(row.name, row);
    return rows;
}

const float *scales_of(const gguf_file &f, const gguf_tensor &t) {
    const std::string name = scale_name(t.name);
    const gguf_tensor *const s = f.find_tensor(name);
    if (!s) f.fail(name, "tensor is missing, " + std::string(t.name) + " is i8 and needs it");
    if (s->type != format::f32 || s->rank != t.rank - 1 || !std::equal(s->ne, s->ne + s->rank, t.ne))
        f.fail(name, "is not f32 with one number a row of " + std::string(t.name));
    return reinterpret_cast<const float *>(s->data);
}

encode_job job_of(const gguf_file &f, const gguf_tensor &t) {
    const std::string name(t.name);
    encode_job e{
        name, f.name_of(t) + ": " + name, t.data, t.type, t.type, std::vector<int64_t>(t.ne, t.ne + t.rank)};
    e.verbatim = true;
    return e;
}

void remark_growth(const gguf_file &f, const std::vector<encode_job> &jobs, const job &j) {
    uint64_t before = 0, after = 0;
    for (const encode_job &e : jobs) {
        uint64_t elements = 1;
        for (const int64_t n : e.ne) elements *= static_cast<uint64_t>(n);
        before += row_bytes(e.from, elements);
        after += row_bytes(e.to, elements);
    }
    if (after > before) j.remark(f.name() + ": the file grows, and regains no precision that it lost before");
}

}  // namespace

// The cost of outliers: LLM.int8() (arXiv 2208.07339), table 1, rows of activations with one scale.
const char *const uncalibrated_remark = "int8 without --calibration: a token's activations share one scale, "
                                        "so a channel with outliers makes it too "
                                        "coarse for all others, and models of some billion weights have such "
                                        "channels. `quantize calibrate` measures "
                                        "the channels, and --calibration moves the outliers into the weights";

std::vector<encode_job> jobs_of(const gguf_file &f,
                                const std::function<format(const tensor_row &row, format from)> &to) {
    const std::unordered_map<std::string, tensor_row> rows = rows_by_name(f);
    std::vector<encode_job> out;
    for (const gguf_tensor &t : f.tensors()) {
        const std::string name(t.name);
        if (is_scales(f, name)) continue;
        const auto row = rows.find(name);
        out.push_back(job_of(f, t));
        if (row == rows.end()) continue;
        encode_job &e = out.back();
        if (row->second.ne != e.ne) f.fail(name, "its shape is not what the metadata asks for");
        if (!info(t.type).runs || (t.type == format::i8 && row->second.stays_f32()))
            throw error(status::unsupported, f.name_of(t) + ": " + ds::quoted(name) + ": " +
                                                 info(t.type).text +
                                                 " is not read; known: " + formats_that_run());
        if (t.type == format::i8) e.scales = scales_of(f, t);
        e.to = row->second.stays_f32() ? format::f32 : to(row->second, t.type);
        e.verbatim = e.to == e.from;
    }
    return out;
}

uint64_t size_of_jobs(const gguf_file &f, const std::vector<encode_job> &jobs, const key_setter &set_keys) {
    gguf_writer w = keys_for(f, jobs, set_keys);
    add_tensors(w, jobs);
    return w.file_bytes();
}

void write_jobs(const gguf_file &f, const std::vector<encode_job> &jobs, const std::string &out,
                const key_setter &set_keys, const job &j) {
    gguf_writer w = keys_for(f, jobs, set_keys);
    remark_growth(f, jobs, j);
    write_tensors(out, w, jobs, j, [&](size_t i) { f.forget(*f.find_tensor(jobs[i].name)); });
}

void requantize(const std::string &in, const std::string &out, format type, const job &j) {
    const gguf_file f = gguf_file::open(in);
    format_policy policy(type, f);
    const std::vector<encode_job> jobs =
        jobs_of(f, [&](const tensor_row &row, format) { return policy(row); });
    policy.remark(j);
    const bool made_int8 = std::any_of(jobs.begin(), jobs.end(),
                                       [](const encode_job &e) { return e.to == format::i8 && !e.verbatim; });
    if (made_int8) j.remark(uncalibrated_remark);
    write_jobs(
        f, jobs, out,
        [&](gguf_writer &w) {
            if (!jobs.empty()) set_type_keys(w, type);
        },
        j);
}

// For each matrix, the one that the statistics of its input are named after: of those with the same input,
// the first in the architecture's list.
static std::unordered_map<std::string, std::string> inputs_of(const gguf_file &f) {
    const arch &a = *arch_of(f);
    const std::vector<tensor_row> rows = a.tensors(a.read(f));
    const auto shares = [](const tensor_row &x) {
        return x.what == role::key || x.what == role::value ? role::query
               : x.what == role::up                         ? role::gate
                                                            : x.what;
    };
    std::unordered_map<std::string, std::string> out;
    for (const tensor_row &row : rows) {
        if (row.stays_f32()) continue;
        const auto first = std::find_if(rows.begin(), rows.end(), [&](const tensor_row &x) {
            return x.layer == row.layer && shares(x) == shares(row);
        });
        out.emplace(row.name, first->name);
    }
    return out;
}

// `weigh` sets the importance of a matrix's job.
static void weighted(const gguf_file &f, const std::string &out, format type,
                     const std::function<void(encode_job &)> &weigh, const key_setter &set_keys,
                     const job &j) {
    format_policy policy(type, f);
    std::vector<encode_job> jobs = jobs_of(f, [&](const tensor_row &row, format) { return policy(row); });
    policy.remark(j);
    for (encode_job &e : jobs) {
        const bool only_looked_up = e.name == "token_embd.weight" && f.find_tensor("output.weight");
        if (e.ne.size() > 1 && !e.verbatim && !only_looked_up) weigh(e);
    }
    write_jobs(
        f, jobs, out, [&](gguf_writer &w) { set_type_keys(w, type), set_keys(w); }, j);
}

void requantize_weighted(const std::string &in, const std::string &out, format type, const std::string &stats,
                         const job &j) {
    const gguf_file f = gguf_file::open(in);
    const calibration c = load_calibration(stats);
    check_fits(c, f);
    const std::unordered_map<std::string, std::string> inputs = inputs_of(f);
    const auto weigh = [&](encode_job &e) {
        if (inputs.count(e.name))
            e.importance = c.input_of(inputs.at(e.name), e.ne.back()).mean_square.data();
    };
    weighted(
        f, out, type, weigh,
        [&](gguf_writer &w) {
            w.set_u32("deepseek.quant.calibration_tokens",
                      static_cast<uint32_t>(std::min<uint64_t>(c.tokens, UINT32_MAX)));
        },
        j);
}

// For messages: the number of names, and the first few.
static std::string some_of(const std::vector<std::string> &names) {
    std::string out = std::to_string(names.size()) + " (";
    for (size_t i = 0; i < std::min<size_t>(names.size(), 3); ++i) out += (i ? ", " : "") + quoted(names[i]);
    return out + (names.size() > 3 ? ", …)" : ")");
}

void requantize_by_imatrix(const std::string &in, const std::string &out, format type,
                           const std::string &path, const job &j) {
    const gguf_file f = gguf_file::open(in);
    const imatrix m = load_imatrix(path);
    std::vector<std::string> missing, unused;
    std::map<std::string_view, bool> used;
    const auto weigh = [&](encode_job &e) {
        const auto entry = m.entries.find(e.name);
        if (!is_weighted(e.to)) return;
        if (entry == m.entries.end()) return missing.push_back(e.name);
        const int64_t matrices = e.ne.size() > 2 ? e.ne[0] : 1, columns = e.ne.back();
        if (entry->second.size() != static_cast<uint64_t>(matrices * columns))
            throw error(status::format, path + ": " + quoted(e.name) + ": has " +
                                            std::to_string(entry->second.size()) +
                                            " values, the model's has " + std::to_string(matrices) + " x " +
                                            std::to_string(columns) + " columns");
        e.importance = entry->second.data();
        e.importances = matrices;
        used[entry->first] = true;
    };
    const auto remark = [&] {
        for (const auto &[name, values] : m.entries)
            if (!used.count(name)) unused.push_back(name);
        if (used.empty())
            throw error(status::argument, path + ": no entry is of a matrix that " + info(type).text +
                                              " weighs; it has " + some_of(unused));
        if (!missing.empty())
            j.remark(path + ": lacks matrices, whose columns count alike: " + some_of(missing));
        if (!unused.empty()) j.remark(path + ": entries that are not used: " + some_of(unused));
        if (!m.unread.empty()) j.remark(path + ": tensors that are not read: " + some_of(m.unread));
    };
    // The keys are those of llama.cpp's quantize.
    weighted(
        f, out, type, weigh,
        [&](gguf_writer &w) {
            remark();
            w.set_string("quantize.imatrix.file", path);
            if (!m.datasets.empty()) w.set_string("quantize.imatrix.dataset", m.datasets[0]);
            w.set_u32("quantize.imatrix.entries_count", static_cast<uint32_t>(m.entries.size()));
            if (m.chunks) w.set_u32("quantize.imatrix.chunks_count", static_cast<uint32_t>(m.chunks));
        },
        j);
}

void apply_adapter(const std::string &in, const std::string &adapter_path, float scale,
                   const std::optional<format> &type, const std::string &out, const job &j) {
    const gguf_file f = gguf_file::open(in);
    const auto m = std::make_shared<const model>(f.again(), model_options{});
    const adapter a(m, gguf_file::open(adapter_path), {});
    const std::vector<tensor_row> rows = adaptable_rows(*m);
    std::optional<format_policy> policy;
    if (type) policy.emplace(*type, f);
    std::vector<encode_job> jobs =
        jobs_of(f, [&](const tensor_row &row, format from) { return policy ? (*policy)(row) : from; });
    if (policy) policy->remark(j);
    for (encode_job &e : jobs)
        for (size_t i = 0; i < rows.size(); ++i) {
            if (rows[i].name != e.name || !a.matrices()[i].a) continue;
            if (!info(e.to).writes)
                throw error(status::unsupported, e.where + ": " + info(e.to).text +
                                                     " cannot be written: choose another with --type");
            e.adapter = a.matrices()[i];
            e.adapter.scale *= scale;
            e.verbatim = false;
        }
    write_jobs(
        f, jobs, out,
        [&](gguf_writer &w) {
            for (size_t i = 0; i < f.key_count() && !type; ++i)
                if (describes_quantization(f.key(i))) w.set_raw(f.key(i), f.value(i));
            if (type) set_type_keys(w, *type);
        },
        j);
}

void copy_gguf(const std::string &in, const std::string &out, const job &j) {
    const gguf_file f = gguf_file::open(in);
    std::vector<encode_job> jobs;
    for (const gguf_tensor &t : f.tensors()) jobs.push_back(job_of(f, t));
    write_jobs(
        f, jobs, out, [](gguf_writer &) {}, j);
}

}  // namespace ds
