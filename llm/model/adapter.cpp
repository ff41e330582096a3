// Reading: every tensor of the file is the a or b of a matrix that the model has and that may be adapted, and
// has its partner. Sizes are bounded by the model's and by the file's before anything is allocated.
#include "adapter.h"

#include "../../tensor/numerics.h"

#include <bit>
#include <map>

namespace ds {

std::vector<tensor_row> adaptable_rows(const model &m) {
    std::vector<tensor_row> rows;
    for (tensor_row &row : m.architecture->tensors(m.h))
        if (row.adapts(m.h) && slot_of(m.weights, row)) rows.push_back(std::move(row));
    return rows;
}

static constexpr std::string_view suffix_a = ".lora_a", suffix_b = ".lora_b";

static void check_keys(const gguf_file &f, const model &m) {
    const std::pair<const char *, std::string_view> wanted[] = {
        {"general.type", "adapter"},
        {"adapter.type", "lora"},
        {"general.architecture", m.architecture->name}};
    for (const auto &[key, value] : wanted) {
        const std::string_view is = f.get_string(key);
        if (is != value)
            f.fail(key, "is " + quoted(is.data(), is.size()) + ", must be " +
                            quoted(value.data(), value.size()) +
                            (key == wanted[2].first ? ", the model's" : ""));
    }
}

// Activated adapters change only what follows certain tokens.
static void refuse_activated(const gguf_file &f) {
    const char *const key = "adapter.alora.invocation_tokens";
    if (f.has(key))
        throw error(status::unsupported, f.name() + ": " + key + ": activated adapters are not supported");
}

static float read_alpha(const gguf_file &f) {
    const double alpha = f.get_float("adapter.lora.alpha", 0.0);
    if (!(alpha >= -static_cast<double>(lora_most_alpha) && alpha <= static_cast<double>(lora_most_alpha)))
        f.fail("adapter.lora.alpha", "is " + shortest(alpha) + ", must be from " +
                                         shortest(-lora_most_alpha) + " to " + shortest(lora_most_alpha));
    return static_cast<float>(alpha);
}

// The matrix that a tensor of the file belongs to: its index by name.
using row_index = std::map<std::string_view, size_t>;
static size_t row_of(const gguf_file &f, const gguf_tensor &t, const model &m, const row_index &rows) {
    const std::string where = f.name_of(t) + ": " + quoted(t.name.data(), t.name.size()) + ": ";
    if (!t.name.ends_with(suffix_a) && !t.name.ends_with(suffix_b))
        throw error(status::format, where + "the name does not end in .lora_a or .lora_b");
    const std::string_view name = t.name.substr(0, t.name.size() - suffix_a.size());
    if (const auto found = rows.find(name); found != rows.end()) return found->second;
    const std::string of = quoted(name.data(), name.size());
    if (!m.file.find_tensor(name)) throw error(status::format, where + "the model has no tensor " + of);
    std::string known;
    for (const auto &[row, index] : rows)
        if (row.starts_with("blk.0.")) known += (known.empty() ? "" : ", ") + std::string(row);
    throw error(status::unsupported, where + of + " is not adapted in " + m.architecture->name +
                                         "; in the first block are: " + known);
}

static std::string shape_of(const gguf_tensor &t) {
    return shape_text(make_tensor(t.type, {t.ne, static_cast<size_t>(t.rank)}));
}

static void check_shape(const gguf_file &f, const gguf_tensor &t, const tensor_row &row, bool is_a) {
    if (t.type != format::f32 && t.type != format::f16 && t.type != format::bf16)
        throw error(status::unsupported, f.name_of(t) + ": " + std::string(t.name) + ": number format " +
                                             info(t.type).text + " is not read; known are f32, f16, bf16");
    const int64_t side = is_a ? row.ne[1] : row.ne[0];
    if (t.rank != 2 || t.ne[is_a ? 1 : 0] != side)
        f.fail(t.name,
               "has the shape " + shape_of(t) + ", must have " +
                   (is_a ? "[rank, " + std::to_string(side) + "]" : "[" + std::to_string(side) + ", rank]"));
    const int64_t rank = t.ne[is_a ? 0 : 1];
    if (rank > lora_most_rank)
        f.fail(t.name, "has rank " + std::to_string(rank) + ", must have from 1 to " +
                           std::to_string(lora_most_rank));
}

adapter::adapter(std::shared_ptr<const ds::model> m, const gguf_file &f, const ds::host &h)
    : model_(std::move(m)) {
    check_keys(f, *model_);
    refuse_activated(f);
    alpha_ = read_alpha(f);
    const std::vector<tensor_row> rows = adaptable_rows(*model_);
    struct found {
        const gguf_tensor *a = nullptr, *b = nullptr;
    };
    std::vector<found> pairs(rows.size());
    row_index by_name;
    for (size_t i = 0; i < rows.size(); ++i) by_name.emplace(rows[i].name, i);
    size_t floats = 0;
    for (const gguf_tensor &t : f.tensors()) {
        const size_t i = row_of(f, t, *model_, by_name);
        const bool is_a = t.name.ends_with(suffix_a);
        check_shape(f, t, rows[i], is_a);
        (is_a ? pairs[i].a : pairs[i].b) = &t;
        floats += static_cast<size_t>(t.ne[0] * t.ne[1]);
    }
    if (f.tensors().empty()) f.fail("tensors", "there are none: an adapter has at least two");
    for (size_t i = 0; i < rows.size(); ++i) {
        const auto &[a, b] = pairs[i];
        if (!a != !b)
            f.fail((a ? a : b)->name,
                   "has no partner: tensor " + rows[i].name + (a ? ".lora_b" : ".lora_a") + " is missing");
        if (a && a->ne[0] != b->ne[1])
            f.fail(b->name, "has rank " + std::to_string(b->ne[1]) + ", but " + std::string(a->name) +
                                " has " + std::to_string(a->ne[0]));
    }
    memory_ = block(h, floats * sizeof(float));
    auto *to = static_cast<float *>(memory_.data());
    const auto decoded = [&](const gguf_tensor &t) {
        const auto n = static_cast<size_t>(t.ne[0] * t.ne[1]);
        float *const values = std::exchange(to, to + n);
        decode_row(t.type, t.data, values, n);
        for (size_t i = 0; i < n; ++i)
            if (!finite_f32(values[i]))
                f.fail(t.name,
                       "element " + std::to_string(i) + " is " + shortest(values[i]) + ", must be finite");
        return values;
    };
    matrices_.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
        const auto &[a, b] = pairs[i];
        if (!a) continue;
        matrices_[i].a = decoded(*a), matrices_[i].b = decoded(*b);
        matrices_[i].rank = a->ne[0];
    }
    finish();
}

adapter::adapter(std::shared_ptr<const ds::model> m, float alpha, std::span<const lora_matrix> matrices,
                 const ds::host &h)
    : model_(std::move(m)), matrices_(matrices.begin(), matrices.end()), alpha_(alpha) {
    const std::vector<tensor_row> rows = adaptable_rows(*model_);
    assert(rows.size() == matrices_.size());
    const auto floats = [&](size_t i, int side) {
        return static_cast<size_t>(matrices_[i].rank * rows[i].ne[static_cast<size_t>(side)]);
    };
    size_t all = 0;
    for (size_t i = 0; i < rows.size(); ++i) all += floats(i, 0) + floats(i, 1);
    memory_ = block(h, all * sizeof(float));
    auto *to = static_cast<float *>(memory_.data());
    for (size_t i = 0; i < rows.size(); ++i) {
        lora_matrix &x = matrices_[i];
        if (!x.a) continue;
        x.a = std::exchange(to, std::copy_n(x.a, floats(i, 1), to));
        x.b = std::exchange(to, std::copy_n(x.b, floats(i, 0), to));
    }
    finish();
}

// Scales, sums and the number, from the matrices.
void adapter::finish() {
    for (size_t i = 0; i < matrices_.size(); ++i) {
        lora_matrix &x = matrices_[i];
        if (!x.a) continue;
        x.scale = lora_scale(alpha_, x.rank);
        rank_ = std::max(rank_, x.rank);
        ++count_;
        const struct {
            uint64_t matrix, rank;
            float scale, unused;
        } of = {i, static_cast<uint64_t>(x.rank), x.scale, 0};
        sum_ = checksum(&of, sizeof of, sum_);
    }
    sum_ = checksum(memory_.data(), memory_.size(), sum_);
    number_ = ++model_->adapters;
}

uint64_t adapter::key(float scale) const {
    return static_cast<uint64_t>(number_) << 32 | std::bit_cast<uint32_t>(scale);
}

uint64_t adapter::fingerprint(float scale) const { return checksum(&scale, sizeof scale, sum_); }

void write_adapter(const std::string &path, std::string_view architecture, int64_t rank, float alpha,
                   std::span<const lora_pair> pairs) {
    gguf_writer w;
    w.set_string("general.architecture", architecture);
    w.set_string("general.type", "adapter");
    w.set_string("adapter.type", "lora");
    w.set_f32("adapter.lora.alpha", alpha);
    for (const lora_pair &p : pairs) {
        w.add_tensor(p.row->name + std::string(suffix_a), format::f32, {{rank, p.row->ne[1]}});
        w.add_tensor(p.row->name + std::string(suffix_b), format::f32, {{p.row->ne[0], rank}});
    }
    os::output_file file(path);
    const std::string header = w.header();
    file.write(header.data(), header.size());
    for (size_t i = 0; i < w.tensor_count(); ++i) {
        const lora_pair &p = pairs[i / 2];
        file.write(i % 2 ? p.b : p.a, w.tensor_bytes(i));
        const std::string zeros(w.padding(i), '\0');
        file.write(zeros.data(), zeros.size());
    }
    file.commit();
}

void add_lora_row(const lora_matrix &m, float scale, int64_t r, float *w, size_t n) {
    const auto rank = static_cast<size_t>(m.rank);
    const float *const b = m.b + static_cast<size_t>(r) * rank;
    const double factor = static_cast<double>(scale * m.scale);
    for (size_t k = 0; k < n; ++k) {
        double sum = 0;
        for (size_t j = 0; j < rank; ++j)
            sum += static_cast<double>(b[j]) * static_cast<double>(m.a[j * n + k]);
        w[k] = static_cast<float>(static_cast<double>(w[k]) + factor * sum);
    }
}

}  // namespace ds
