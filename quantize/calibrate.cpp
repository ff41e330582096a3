// Calibration: runs the model over texts and records, for the input of each matrix product, every channel's
// largest magnitude and mean square, and some whole rows.
// Invariant: the rows sampled depend on the number of tokens alone, so the same model and texts give the same
// file with any number of threads.

#include "calibrate.h"

#include "forward.h"

#include "../tensor/op.h"

#include <algorithm>
#include <cmath>

namespace ds {

namespace {

constexpr uint32_t file_version = 1;
constexpr uint64_t sample_rows = 32;
constexpr const char *version_key = "deepseek.calibration.version", *model_key = "deepseek.calibration.model",
                     *fingerprint_key = "deepseek.calibration.fingerprint",
                     *tokens_key = "deepseek.calibration.tokens";

// ---- Measuring

struct measured_input {
    linear_input stats;
    std::vector<double> squares;
    size_t index;    // in the architecture's list, of the matrix that it is named after
    int layers = 1;  // that it was measured in
};

// Accumulates the statistics, in the order of the graph's products.
struct collector {
    std::unordered_map<const tensor *, size_t> index_of;  // of the model's tensors, in `rows`
    std::vector<tensor_row> rows;
    uint64_t total, seen = 0, samples;  // positions: in all, so far, to be sampled
    std::vector<measured_input> inputs = {};

    collector(const model &m, uint64_t tokens)
        : rows(m.architecture->tensors(m.h)), total(tokens), samples(std::min(sample_rows, tokens)) {
        model_weights w = m.weights;
        for (size_t i = 0; i < rows.size(); ++i)
            if (const tensor *const t = slot_of(w, rows[i])) index_of.emplace(t, i);
    }

    bool sampled(uint64_t row) const {
        return (row * samples + total / 2) / total != ((row + 1) * samples + total / 2) / total;
    }

    void add_row(measured_input &m, const float *x, uint64_t row) {
        linear_input &s = m.stats;
        for (size_t c = 0; c < s.channels(); ++c) {
            if (!finite_f32(x[c]))
                throw error(status::numeric, s.name + ": its input, channel " + std::to_string(c) +
                                                 ", is not a finite number");
            s.largest[c] = std::max(s.largest[c], std::fabs(x[c]));
            m.squares[c] += static_cast<double>(x[c]) * x[c];
        }
        if (sampled(row)) s.samples.insert(s.samples.end(), x, x + s.channels());
    }

    // The statistics of the graph's `next`th input, which the matrix `w` reads; created on first use. Which
    // of several products comes first in a graph is the compiler's choice (order of evaluation), so an input
    // is named after the matrix that comes first in the list.
    measured_input &input(size_t next, const tensor &x, const tensor *w) {
        const size_t index = index_of.at(w), channels = static_cast<size_t>(x.ne[1]);
        // Member by member: GCC 12 frees parts of a nested braced list twice when a later one throws.
        if (next == inputs.size()) {
            measured_input in{};
            in.stats.name = rows[index].name;
            in.stats.largest.resize(channels);
            in.squares.resize(channels);
            in.index = index;
            inputs.push_back(std::move(in));
        }
        if (index < inputs[next].index) inputs[next].stats.name = rows[inputs[next].index = index].name;
        return inputs[next];
    }

    void add(const graph &g, int64_t n_rows) {
        size_t next = 0;
        const tensor *last = nullptr, *last_norm = nullptr;
        for (const node &n : g.nodes()) {
            const products p = products_of(n);
            if (p.weights.empty()) continue;
            const bool known = last == p.x && last_norm == p.norm;
            next += last && !known;
            for (const tensor *const w : p.weights) input(next, *p.x, w);
            if (!known) add_rows(inputs[next], p, n_rows);
            last = p.x;
            last_norm = p.norm;
        }
        seen += static_cast<uint64_t>(n_rows);
    }

    void add_rows(measured_input &in, const products &p, int64_t n_rows) {
        std::vector<float> normed;
        tensor x = *p.x;
        if (p.norm) {
            normed.resize(static_cast<size_t>(elements(x)));
            tensor y = make_tensor(format::f32, {x.ne[0], x.ne[1]});
            y.data = normed.data();
            info(op::rms_norm).reference(norm_node(*p.x, *p.norm, p.eps, y));
            x = y;
        }
        for (int64_t r = 0; r < n_rows; ++r) add_row(in, f32_at(x, r), seen + static_cast<uint64_t>(r));
    }

    // A block that several layers run has an input of each of them: they count together.
    void merge_layers() {
        std::vector<measured_input> merged;
        for (measured_input &m : inputs) {
            const auto first = std::find_if(merged.begin(), merged.end(),
                                            [&](const measured_input &x) { return x.index == m.index; });
            if (first == merged.end()) {
                merged.push_back(std::move(m));
                continue;
            }
            linear_input &to = first->stats;
            for (size_t c = 0; c < to.channels(); ++c) {
                to.largest[c] = std::max(to.largest[c], m.stats.largest[c]);
                first->squares[c] += m.squares[c];
            }
            to.samples.insert(to.samples.end(), m.stats.samples.begin(), m.stats.samples.end());
            ++first->layers;
        }
        inputs = std::move(merged);
    }

    std::vector<linear_input> result() {
        merge_layers();
        std::vector<linear_input> out;
        for (measured_input &m : inputs) {
            const double count = static_cast<double>(seen) * m.layers;
            for (const double s : m.squares) m.stats.mean_square.push_back(static_cast<float>(s / count));
            out.push_back(std::move(m.stats));
        }
        return out;
    }
};

// ---- The file

// The tensors of an input in the file. Samples have rank 2 and either sign.
struct part {
    const char *suffix;
    std::vector<float> linear_input::*values;
    int rank;
};
constexpr part parts[] = {{".largest", &linear_input::largest, 1},
                          {".mean_square", &linear_input::mean_square, 1},
                          {".samples", &linear_input::samples, 2}};

std::vector<float> read_part(const gguf_file &f, const std::string &name, int rank, int64_t channels) {
    const gguf_tensor *const t = f.find_tensor(name);
    if (!t) f.fail(name, "is missing");
    if (t->type != format::f32 || t->rank != rank || t->ne[rank - 1] != channels)
        f.fail(name, "is not f32 with " + std::to_string(channels) + " channels");
    std::vector<float> out(t->bytes / sizeof(float));
    decode_row(format::f32, t->data, out.data(), out.size());
    for (const float x : out)
        if (!finite_f32(x) || (rank == 1 && x < 0)) f.fail(name, "holds " + shortest(x));
    return out;
}

}  // namespace

std::string fingerprint_of(const gguf_file &f) {
    const arch &a = *arch_of(f);
    uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
    std::vector<float> values;
    for (const tensor_row &row : a.tensors(a.read(f))) {
        const gguf_tensor *const t = row.stays_f32() ? f.find_tensor(row.name) : nullptr;
        if (!t || !info(t->type).runs || t->rank != 1) continue;
        values.resize(static_cast<size_t>(t->ne[0]));
        decode_row(t->type, t->data, values.data(), values.size());
        for (const float x : values) hash = (hash ^ bits_of(x)) * 0x100000001b3u;
    }
    return format_text("%016llx", static_cast<unsigned long long>(hash));
}

calibration calibrate(const std::string &path, const std::vector<std::string> &texts,
                      const calibrate_options &o, const job &j) {
    const model m(gguf_file::open(path), {});
    const int64_t window = o.window ? o.window : std::min<int64_t>(512, m.h.context);
    text_windows text = read_windows(m, texts, window, j);
    text.keep(o.tokens);
    forward pass(m, m.weights, {.window = window, .threads = j.threads, .keep_inputs = true});
    collector c(m, text.tokens);
    uint64_t read = 0, total = 0;  // bytes of weights; each step reads all of them
    for (const std::vector<token_id> &w : text.list) total += forward::steps(w.size()) * m.weight_bytes;
    for (const std::vector<token_id> &w : text.list)
        pass.run(w, [&](const graph &g, const tensor &logits, int64_t) {
            c.add(g, logits.ne[0]);
            read += m.weight_bytes;
            if (j.progress && !j.progress(read, total))
                throw error(status::cancelled, "calibration was stopped");
        });
    return {{}, std::string(m.name), fingerprint_of(m.file), text.tokens, c.result()};
}

const linear_input &calibration::input_of(const std::string &matrix, int64_t channels) const {
    for (const linear_input &in : inputs) {
        if (in.name != matrix) continue;
        if (in.channels() == static_cast<size_t>(channels)) return in;
        throw error(status::format, path + ": " + matrix + ": has " + std::to_string(in.channels()) +
                                        " channels, the model's has " + std::to_string(channels));
    }
    throw error(status::format, path + ": " + matrix + ": was not measured");
}

void save(const calibration &c, const std::string &path) {
    gguf_writer w;
    w.set_string("general.type", "calibration");
    w.set_u32(version_key, file_version);
    w.set_string(model_key, c.model_name);
    w.set_string(fingerprint_key, c.fingerprint);
    w.set_u64(tokens_key, c.tokens);
    std::vector<const std::vector<float> *> data;
    for (const linear_input &in : c.inputs)
        for (const part &p : parts) {
            const int64_t ne[] = {static_cast<int64_t>(in.rows()), static_cast<int64_t>(in.channels())};
            w.add_tensor(in.name + p.suffix, format::f32, std::span(ne).last(static_cast<size_t>(p.rank)));
            data.push_back(&(in.*p.values));
        }
    write_gguf(path, w, {}, [&](size_t i, const byte_sink &sink) {
        sink(data[i]->data(), data[i]->size() * sizeof(float));
    });
}

calibration load_calibration(const std::string &path) {
    return parse_calibration(os::mapping::map_file(path), path);
}

calibration parse_calibration(os::mapping bytes, const std::string &path) {
    const gguf_file f(std::move(bytes), path);
    if (!f.has(version_key)) throw error(status::format, path + ": is not a file of calibration statistics");
    const uint64_t version = f.get_uint(version_key, UINT32_MAX);
    if (version != file_version)
        throw error(status::unsupported, path + ": " + version_key + ": is " + std::to_string(version) +
                                             ", known is " + std::to_string(file_version));
    calibration c{path,
                  std::string(f.get_string(model_key)),
                  std::string(f.get_string(fingerprint_key)),
                  f.get_uint(tokens_key, UINT64_MAX),
                  {}};
    for (const gguf_tensor &t : f.tensors()) {
        const std::string_view suffix = parts[0].suffix;
        if (!t.name.ends_with(suffix)) continue;
        linear_input in{std::string(t.name.substr(0, t.name.size() - suffix.size())), {}, {}, {}};
        for (const part &p : parts) in.*p.values = read_part(f, in.name + p.suffix, p.rank, t.ne[0]);
        c.inputs.push_back(std::move(in));
    }
    if (c.inputs.empty() || c.tokens == 0) throw error(status::format, path + ": holds no statistics");
    return c;
}

void check_fits(const calibration &c, const gguf_file &f) {
    if (c.fingerprint != fingerprint_of(f))
        throw error(status::argument, c.path + ": was measured on another model, " +
                                          ds::quoted(c.model_name) +
                                          ": its norms and biases are not those of " + f.name());
}

}  // namespace ds
