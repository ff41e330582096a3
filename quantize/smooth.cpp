// SmoothQuant's scales: s = max|x|^alpha / max|w|^(1 - alpha) for each channel. Each site gets the alpha with
// the least squared error of its products with int8 weights and activations, on the calibration's sampled
// rows and some of the matrices' rows; or no scales, if none is better. Only the columns' factors matter
// there: a row's factor changes that row's own scale and nothing else.

#include "smooth.h"

#include "../tensor/numerics.h"

#include <algorithm>
#include <cmath>

namespace ds {

namespace {

constexpr float alphas_tried[] = {0.5f, 0.4f, 0.6f, 0.3f, 0.7f, 0.8f, 0.9f};
constexpr int64_t rows_tried = 128;  // of each matrix, spread evenly
// bounds of s, whose geometric mean is 1: a channel that the texts hardly use must not drown out others
constexpr double smallest = 1e-3, largest = 1e3;

// Where scales fold in: the matrices whose columns are multiplied by s, and the producers of their input,
// whose rows (of a vector: elements) are multiplied by 1 / s.
struct site {
    std::vector<const encode_job *> matrices, producers;
    // attention: query heads for each key head, and a head's size; such a group has one s for each row of v
    int64_t group = 1, head = 0;
};

// The data of a site's trial products: the sampled inputs and some rows of its matrices.
struct trial {
    const linear_input &in;
    std::vector<std::vector<float>> weights;  // [rows, channels] a matrix
    std::vector<std::vector<double>> wanted;  // [samples, rows] a matrix
    std::vector<float> largest_weight;        // by channel, over all rows of all matrices
};

int64_t rows_of(const encode_job &e) { return e.ne.size() > 1 ? e.ne[0] : 1; }

// ---- The error of a product in int8

// Rows as int8 and their scales, after the channels' factors.
struct quantized {
    std::vector<int8_t> q;
    std::vector<float> scale;
};

quantized quantize_rows(const std::vector<float> &x, const std::vector<float> &factor, bool divide) {
    const size_t channels = factor.size(), rows = x.size() / channels;
    quantized out{std::vector<int8_t>(x.size()), std::vector<float>(rows)};
    std::vector<float> row(channels);
    for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < channels; ++c)
            row[c] = divide ? x[r * channels + c] / factor[c] : x[r * channels + c] * factor[c];
        out.scale[r] = encode_row_i8(row.data(), out.q.data() + r * channels, channels);
    }
    return out;
}

int32_t dot(const int8_t *a, const int8_t *b, size_t n) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// The squared error of all outputs, relative to the outputs' squares, summed over the matrices.
double error_of(const trial &t, const std::vector<float> &s) {
    const size_t channels = s.size();
    const quantized x = quantize_rows(t.in.samples, s, true);
    double sum = 0;
    for (size_t m = 0; m < t.weights.size(); ++m) {
        const quantized w = quantize_rows(t.weights[m], s, false);
        double off = 0, all = 1e-300;
        for (size_t i = 0, at = 0; i < x.scale.size(); ++i)
            for (size_t k = 0; k < w.scale.size(); ++k, ++at) {
                const double y =
                    static_cast<double>(dot(x.q.data() + i * channels, w.q.data() + k * channels, channels)) *
                    w.scale[k] * x.scale[i];
                off += (y - t.wanted[m][at]) * (y - t.wanted[m][at]);
                all += t.wanted[m][at] * t.wanted[m][at];
            }
        sum += off / all;
    }
    return sum;
}

trial make_trial(const site &p, const linear_input &in) {
    trial t{in, {}, {}, std::vector<float>(in.channels())};
    std::vector<float> row(in.channels());
    for (const encode_job *const e : p.matrices) {
        check_i8_columns(e->where, e->ne.back());
        const int64_t rows = rows_of(*e), taken = std::min(rows, rows_tried);
        std::vector<float> &weights = t.weights.emplace_back();
        for (int64_t r = 0; r < rows; ++r) {
            decode_job_row(*e, r, row.data());
            for (size_t c = 0; c < row.size(); ++c) {
                if (!finite_f32(row[c]))
                    throw error(status::numeric, e->where + ": holds a value that is not finite");
                t.largest_weight[c] = std::max(t.largest_weight[c], std::fabs(row[c]));
            }
            if (r * taken / rows != (r + 1) * taken / rows)
                weights.insert(weights.end(), row.begin(), row.end());
        }
        std::vector<double> &wanted = t.wanted.emplace_back();
        for (size_t i = 0; i < in.rows(); ++i)
            for (size_t k = 0; k < weights.size() / row.size(); ++k)
                wanted.push_back(dot_in_lanes<dot_lanes>(in.samples.data() + i * row.size(),
                                                         weights.data() + k * row.size(), row.size()));
    }
    return t;
}

// ---- Scales

// Channels of query heads that share a key head come from the same rows of v: they share the largest value.
void share_in_groups(const site &p, std::vector<float> &v) {
    if (p.group == 1) return;
    const auto head = static_cast<size_t>(p.head), group = static_cast<size_t>(p.group);
    for (size_t first = 0; first < v.size(); first += group * head)
        for (size_t d = 0; d < head; ++d) {
            float most = 0;
            for (size_t h = 0; h < group; ++h) most = std::max(most, v[first + h * head + d]);
            for (size_t h = 0; h < group; ++h) v[first + h * head + d] = most;
        }
}

// A channel that is never used, or that no weight reads, keeps s = 1.
std::vector<float> scales_for(float alpha, const std::vector<float> &x, const std::vector<float> &w) {
    const auto used = [&](size_t c) { return x[c] > 0 && w[c] > 0; };
    const auto log_scale = [&](size_t c) {
        return alpha * std::log(static_cast<double>(x[c])) -
               (1.0 - alpha) * std::log(static_cast<double>(w[c]));
    };
    double sum = 0, n = 0;
    for (size_t c = 0; c < x.size(); ++c)
        if (used(c)) sum += log_scale(c), ++n;
    std::vector<float> s(x.size(), 1.0f);
    for (size_t c = 0; c < x.size(); ++c)
        if (used(c))
            s[c] = static_cast<float>(std::clamp(std::exp(log_scale(c) - sum / n), smallest, largest));
    return s;
}

struct choice {
    float alpha;
    std::vector<float> s;
};
choice choose(const site &p, const linear_input &in) {
    trial t = make_trial(p, in);
    std::vector<float> x = in.largest;
    share_in_groups(p, x);
    share_in_groups(p, t.largest_weight);
    choice best{0, std::vector<float>(in.channels(), 1.0f)};
    double least = error_of(t, best.s);
    for (const float alpha : alphas_tried) {
        std::vector<float> s = scales_for(alpha, x, t.largest_weight);
        const double e = error_of(t, s);
        if (e < least) {
            least = e;
            best = {alpha, std::move(s)};
        }
    }
    return best;
}

// s for the producers' rows. A row of v has one, which a group of query heads shares.
std::vector<float> of_producer(const site &p, const std::vector<float> &s) {
    if (p.group == 1) return s;
    std::vector<float> out;
    const auto head = static_cast<size_t>(p.head), step = head * static_cast<size_t>(p.group);
    for (size_t first = 0; first < s.size(); first += step) {
        const auto from = s.begin() + static_cast<std::ptrdiff_t>(first);
        out.insert(out.end(), from, from + static_cast<std::ptrdiff_t>(head));
    }
    return out;
}

void fold(const site &p, const std::vector<float> &s, smoothing &out) {
    for (const encode_job *const e : p.matrices) out.factors[e->name].columns = s;
    std::vector<float> inverse = of_producer(p, s);
    for (float &x : inverse) x = 1.0f / x;
    for (const encode_job *const e : p.producers)
        (e->ne.size() > 1 ? out.factors[e->name].rows : out.factors[e->name].columns) = inverse;
}

// ---- Sites

using slot = const tensor *layer_weights::*;

// Routed experts are left out: their norm also feeds the router and the shared experts; so is the norm before
// routed heads. So are MLA's latents, which are Hadamard-transformed before they are quantized.
std::vector<site> sites_of(const gguf_file &f, const std::vector<encode_job> &jobs) {
    const arch &a = *arch_of(f);
    const hparams h = a.read(f);
    const std::vector<tensor_row> rows = a.tensors(h);
    const auto job_of = [&](const tensor_row &row) -> const encode_job * {
        const auto found =
            std::find_if(jobs.begin(), jobs.end(), [&](const encode_job &e) { return e.name == row.name; });
        return found == jobs.end() ? nullptr : &*found;
    };
    const auto pick = [&](int64_t layer, std::initializer_list<slot> wanted) {
        std::vector<const encode_job *> out;
        for (const tensor_row &row : rows)
            if (row.layer == layer && std::find(wanted.begin(), wanted.end(), row.slot) != wanted.end())
                if (const encode_job *const e = job_of(row)) out.push_back(e);
        return out;
    };
    using lw = layer_weights;
    std::vector<site> out;
    for (int64_t i = 0; i < h.blocks(); ++i) {
        if (!h.heads_used)
            out.push_back(
                {pick(i, {&lw::q, &lw::k, &lw::v, &lw::q_a, &lw::kv_a}), pick(i, {&lw::attn_norm})});
        out.push_back({pick(i, {&lw::q_b}), pick(i, {&lw::q_a_norm})});
        out.push_back(
            {pick(i, {&lw::attn_output}), pick(i, {&lw::v, &lw::v_bias}), h.heads / h.kv_heads, h.head_size});
        out.push_back({pick(i, {&lw::gate, &lw::up}), pick(i, {&lw::ffn_norm})});
        out.push_back({pick(i, {&lw::down}), pick(i, {&lw::up})});
    }
    site top;
    for (const tensor_row &row : rows) {
        if (row.top == &model_weights::output && job_of(row)) top.matrices.push_back(job_of(row));
        if (row.top == &model_weights::output_norm && job_of(row)) top.producers.push_back(job_of(row));
    }
    // layers that predict one more token also read output_norm's result
    if (!top.matrices.empty() && h.nextn_layers == 0) out.push_back(top);
    std::erase_if(out, [](const site &p) { return p.matrices.empty() || p.producers.empty(); });
    return out;
}

}  // namespace

float smoothing::mean_alpha() const {
    double sum = 0, n = 0;
    for (const float a : alphas) sum += a, n += a != 0;
    return n > 0 ? static_cast<float>(sum / n) : 0;
}

smoothing smooth(const gguf_file &f, const std::vector<encode_job> &jobs, const calibration &c,
                 const job &j) {
    check_fits(c, f);
    const std::vector<site> sites = sites_of(f, jobs);
    std::vector<choice> chosen(sites.size());
    parallel_ranges(static_cast<int64_t>(sites.size()), j.threads, [&](int64_t first, int64_t last) {
        for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) {
            const encode_job &e = *sites[i].matrices[0];
            chosen[i] = choose(sites[i], c.input_of(e.name, e.ne.back()));
        }
    });
    smoothing out;
    for (size_t i = 0; i < sites.size(); ++i) {
        out.alphas.push_back(chosen[i].alpha);
        if (chosen[i].alpha != 0) fold(sites[i], chosen[i].s, out);
    }
    return out;
}

void fold_into(std::vector<encode_job> &jobs, const smoothing &s) {
    for (encode_job &e : jobs) {
        const auto found = s.factors.find(e.name);
        if (found == s.factors.end()) continue;
        e.factors = found->second;
        e.verbatim = false;
    }
}

void set_smoothing_keys(gguf_writer &w, const calibration &c, const smoothing &s) {
    w.set_u32("deepseek.quant.calibration_tokens",
              static_cast<uint32_t>(std::min<uint64_t>(c.tokens, UINT32_MAX)));
    w.set_f32("deepseek.quant.smooth_alpha", s.mean_alpha());
    w.set_f32s("deepseek.quant.smooth_alphas", s.alphas);
}

void requantize_smoothed(const std::string &in, const std::string &out, format type, const std::string &stats,
                         const job &j) {
    const gguf_file f = gguf_file::open(in);
    const calibration c = load_calibration(stats);
    std::vector<encode_job> jobs =
        jobs_of(f, [&](const tensor_row &row, format) { return target_format(row, type); });
    const smoothing s = smooth(f, jobs, c, j);
    fold_into(jobs, s);
    const auto set_keys = [&](gguf_writer &w) {
        set_type_keys(w, type);
        set_smoothing_keys(w, c, s);
    };
    write_jobs(f, jobs, out, set_keys, j);
}

}  // namespace ds
