// Chooses formats by measurement. A scratch file beside the output first gets every matrix in the better of
// f16 and bf16, with scales folded in. Then each matrix alone becomes int8 in memory, and the divergence from
// the original model is measured. Finally matrices become int8 in the order of divergence per byte saved, as
// many as the bounds require or allow; a binary search on the text's likelihood finds how many.
// Invariant: what is measured is what is written; both come from the scratch file.

#include "mixed.h"

#include "measure.h"
#include "smooth.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <unordered_set>

namespace ds {

namespace {

constexpr int64_t longest_window = 512, divergence_window = 128;
constexpr uint64_t divergence_floats = uint64_t(1) << 25;  // of the original model's logits: 128 MiB
constexpr double no_bound = std::numeric_limits<double>::infinity();

// ---- f16 or bf16

// The sum of squared rounding errors; infinite if an f16 overflows.
double rounding_error(const encode_job &e, format to) {
    const auto columns = static_cast<size_t>(e.ne.back());
    std::vector<float> x(columns), y(columns);
    std::vector<uint8_t> encoded(row_bytes(to, columns));
    double sum = 0;
    for (int64_t r = 0; r < e.ne[0]; ++r) {
        decode_job_row(e, r, x.data());
        encode_row(to, x.data(), encoded.data(), columns);
        decode_row(to, encoded.data(), y.data(), columns);
        for (size_t c = 0; c < columns; ++c)
            sum += (static_cast<double>(x[c]) - y[c]) * (static_cast<double>(x[c]) - y[c]);
    }
    return sum;
}

void take_better_half(std::vector<encode_job> &jobs, const std::unordered_set<std::string> &matrices,
                      const job &j) {
    parallel_ranges(static_cast<int64_t>(jobs.size()), j.threads, [&](int64_t first, int64_t last) {
        for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) {
            encode_job &e = jobs[i];
            if (!matrices.count(e.name)) continue;
            e.to =
                rounding_error(e, format::f16) < rounding_error(e, format::bf16) ? format::f16 : format::bf16;
            e.verbatim = e.from == e.to && e.factors.rows.empty() && e.factors.columns.empty();
        }
    });
}

// ---- A model some of whose matrices are int8

struct int8_matrix {
    std::vector<uint8_t> q;
    std::vector<float> scales;
    tensor weights, scale;

    int8_matrix(encode_job e, unsigned threads) {
        e.to = format::i8;
        e.verbatim = false;
        scales = encode_tensor(e, threads, [&](const void *data, size_t n) {
            const auto *const bytes = static_cast<const uint8_t *>(data);
            q.insert(q.end(), bytes, bytes + n);
        });
        weights = make_tensor(format::i8, e.ne);
        scale = make_tensor(format::f32, {e.ne[0]});
        weights.data = q.data();
        scale.data = scales.data();
        weights.scale = &scale;
    }
    int8_matrix(const int8_matrix &) = delete;
};

struct candidate {
    size_t job;  // index in search::jobs
    tensor_row row;
    double saved, divergence = 0;  // bytes; of the model with this matrix alone in int8
};

struct search {
    const mixed_options &options;
    const key_setter &set_keys;
    const job &j;
    model half;                              // every matrix in f16 or bf16
    std::vector<encode_job> jobs;            // of its file
    std::vector<candidate> candidates = {};  // once measured, in the order of becoming int8
    text_windows text = {}, short_text = {};
    double nll = 0;  // of the original model, and its logits of short_text
    std::vector<float> logits = {};
    uint64_t read = 0, total = 0;  // bytes of weights so far, and an estimate of all

    int64_t window() const { return std::min(longest_window, half.h.context); }
    int64_t short_window() const { return std::min(divergence_window, half.h.context); }
    step_fn stepped() {
        return [this] {
            read += half.weight_bytes;
            total = std::max(read, total);
            if (j.progress && !j.progress(read, total))
                throw error(status::cancelled, "measuring was stopped");
        };
    }
};

void find_candidates(search &s) {
    for (const tensor_row &row : s.half.architecture->tensors(s.half.h)) {
        const auto found = std::find_if(s.jobs.begin(), s.jobs.end(),
                                        [&](const encode_job &e) { return e.name == row.name; });
        if (found == s.jobs.end() || row.stays_f32()) continue;
        const auto rows = static_cast<double>(row.ne[0]), columns = static_cast<double>(row.ne.back());
        s.candidates.push_back({static_cast<size_t>(found - s.jobs.begin()), row,
                                std::max(1.0, rows * columns - rows * sizeof(float))});
    }
}

void read_texts(search &s) {
    s.text = read_windows(s.half, s.options.texts, s.window(), s.j);
    s.text.keep(s.options.tokens);
    s.short_text = read_windows(s.half, s.options.texts, s.short_window(), {});
    s.short_text.keep(std::min(s.options.tokens, divergence_floats / static_cast<uint64_t>(s.half.h.vocab)));
    uint64_t steps = 0, short_steps = 0;
    for (const auto &w : s.text.list) steps += forward::steps(w.size());
    for (const auto &w : s.short_text.list) short_steps += forward::steps(w.size());
    const uint64_t trials = s.options.max_nll_loss < no_bound ? 2 + std::bit_width(s.candidates.size()) : 2;
    s.total = (steps * trials + short_steps * (s.candidates.size() + 1)) * s.half.weight_bytes;
}

void measure_original(search &s, const std::string &path) {
    const model m(gguf_file::open(path), {});
    forward pass(m, m.weights, {.window = s.window(), .threads = s.j.threads});
    s.nll = mean_nll(pass, s.text, s.stepped());
    s.logits = logits_of(pass, s.short_text, s.stepped());
}

// Measures the candidates, and sorts them: the least divergence per byte saved first.
void measure_candidates(search &s) {
    for (candidate &c : s.candidates) {
        const int8_matrix m(s.jobs[c.job], s.j.threads);
        model_weights w = s.half.weights;
        slot_of(w, c.row) = &m.weights;
        forward pass(s.half, w, {.window = s.short_window(), .threads = s.j.threads});
        c.divergence = mean_divergence(pass, s.short_text, s.logits, s.stepped());
    }
    std::stable_sort(s.candidates.begin(), s.candidates.end(), [](const candidate &a, const candidate &b) {
        return a.divergence / a.saved < b.divergence / b.saved;
    });
}

std::vector<encode_job> jobs_with(const search &s, size_t n) {
    std::vector<encode_job> out = s.jobs;
    for (size_t i = 0; i < n; ++i) {
        encode_job &e = out[s.candidates[i].job];
        e.to = format::i8;
        e.verbatim = false;
    }
    return out;
}

uint64_t size_with(const search &s, size_t n) {
    return size_of_jobs(s.half.file, jobs_with(s, n), s.set_keys);
}

// An engine's default format of keys and values for such a file: i8 if i8 has the most bytes of weights.
format pages_with(const search &s, size_t n) {
    double bytes[static_cast<size_t>(format::count)] = {};
    for (const encode_job &e : jobs_with(s, n)) {
        double size = info(e.to).bytes;
        for (const int64_t d : e.ne) size *= static_cast<double>(d);
        bytes[static_cast<size_t>(e.to)] += size / info(e.to).block;
    }
    return *std::max_element(std::begin(bytes), std::end(bytes)) == bytes[static_cast<size_t>(format::i8)]
               ? format::i8
               : format::f16;
}

// The relative increase of the text's mean negative log-likelihood with the first n in int8.
double loss_with(search &s, size_t n) {
    std::vector<std::unique_ptr<int8_matrix>> matrices;
    model_weights w = s.half.weights;
    for (size_t i = 0; i < n; ++i) {
        matrices.push_back(std::make_unique<int8_matrix>(s.jobs[s.candidates[i].job], s.j.threads));
        slot_of(w, s.candidates[i].row) = &matrices.back()->weights;
    }
    forward pass(s.half, w, {.window = s.window(), .threads = s.j.threads, .kv = pages_with(s, n)});
    return mean_nll(pass, s.text, s.stepped()) / s.nll - 1;
}

// ---- The choice

std::string percent(double x) { return format_text("%.3f %%", 100 * x); }

size_t fewest_that_fit(const search &s) {
    size_t n = s.candidates.size();
    const uint64_t least = size_with(s, n);
    if (least > s.options.max_bytes)
        throw error(status::argument, "max-bytes: " + std::to_string(s.options.max_bytes) +
                                          " are too few: with every matrix in int8 the file has " +
                                          std::to_string(least));
    while (n > 0 && size_with(s, n - 1) <= s.options.max_bytes) --n;
    return n;
}

struct choice {
    size_t n;
    double loss;
};

// Assumes that the loss grows with the number of int8 matrices. Noise of a short text may break that, but the
// loss of the result is measured in any case.
choice choose(search &s) {
    const size_t least = fewest_that_fit(s);
    choice good{least, loss_with(s, least)};
    if (s.options.max_nll_loss == no_bound) return good;
    if (!(good.loss <= s.options.max_nll_loss))
        throw error(status::argument,
                    format_text("max-nll-loss: cannot be kept: with %zu of %zu matrices in int8", least,
                                s.candidates.size()) +
                        (least > 0 ? ", which max-bytes asks for," : "") + " the likelihood's loss is " +
                        percent(good.loss));
    size_t bad = s.candidates.size() + 1;
    while (bad - good.n > 1) {
        const size_t n = good.n + (bad - good.n) / 2;
        const double loss = loss_with(s, n);
        if (loss <= s.options.max_nll_loss) good = {n, loss};
        else bad = n;
    }
    return good;
}

// Writes the scratch file, on which everything is measured. Returns the scales that were folded in.
std::optional<smoothing> write_half(const gguf_file &f, const std::optional<calibration> &c,
                                    const std::string &path, const job &j) {
    std::optional<smoothing> scales;
    std::unordered_set<std::string> matrices;
    std::vector<encode_job> jobs =
        jobs_of(f, [&](const tensor_row &row, format) { return matrices.insert(row.name), format::f16; });
    if (c) {
        scales = smooth(f, jobs, *c, j);
        fold_into(jobs, *scales);
    }
    take_better_half(jobs, matrices, j);
    write_jobs(f, jobs, path, [](gguf_writer &) {}, {.threads = j.threads});
    return scales;
}

}  // namespace

void requantize_mixed(const std::string &in, const std::string &out, const mixed_options &o, const job &j) {
    if (!(o.max_nll_loss >= 0)) throw error(status::argument, "max-nll-loss: must be at least 0");
    std::optional<calibration> c;
    if (!o.calibration.empty()) c = load_calibration(o.calibration);
    const scratch_file half(out);
    const std::optional<smoothing> scales = write_half(gguf_file::open(in), c, half.path(), j);
    double loss = 0;
    const key_setter set_keys = [&](gguf_writer &w) {
        set_type_keys(w, format::i8);
        w.set_f32("deepseek.quant.nll_loss", static_cast<float>(loss));
        if (scales) set_smoothing_keys(w, *c, *scales);
    };
    search s{o, set_keys, j, model(gguf_file(os::mapping::map_file(half.path()), in), {}), {}};
    s.jobs = jobs_of(s.half.file, [](const tensor_row &, format from) { return from; });
    find_candidates(s);
    read_texts(s);
    measure_original(s, in);
    measure_candidates(s);
    const choice chosen = choose(s);
    loss = chosen.loss;
    j.remark(format_text("%zu of %zu matrices in int8; the text's likelihood loses ", chosen.n,
                         s.candidates.size()) +
             percent(loss));
    write_jobs(s.half.file, jobs_with(s, chosen.n), out, set_keys, j);
}

}  // namespace ds
