// The plan, the weights' copy, and steps. A batch is checked as a whole before anything changes; a step that
// ends early has changed sums only.
#include "trainer.h"

#include "../model/fingerprint.h"

#include "../../tensor/op.h"

#include <algorithm>
#include <cmath>

namespace ds {

static constexpr size_t align64(size_t n) { return (n + 63) / 64 * 64; }

// Weights that are trained: of layers that are run, but for constants.
static bool is_trained(const tensor_row &row, const hparams &h) {
    return row.layer < h.blocks() && row.what != role::rope_divisors &&
           row.slot != &layer_weights::router_bias;
}
static format format_of(const tensor_row &row, const trainer_options &o) {
    return row.stays_f32() ? format::f32 : o.weights;
}

static train_formats formats_of(const trainer_options &o) { return {operand_format(o.weights), o.pages}; }

// Bytes of a weight: of its tensors, each in memory of its own.
static size_t weight_bytes(format type, const tensor &shape) {
    const auto n = static_cast<size_t>(elements(shape));
    tensor t = make_tensor(type, {shape.ne, static_cast<size_t>(shape.rank)});
    size_t bytes = align64(tensor_bytes(t));
    if (type == format::bf16) bytes += align64(2 * n);
    if (type == format::f16 || type == format::i8) bytes += align64(4 * n);
    if (type == format::i8) bytes += align64(4 * n / static_cast<size_t>(shape.ne[shape.rank - 1]));
    return bytes;
}

static int64_t context_of(const model &m, const trainer_options &o) {
    return o.context ? o.context : m.h.context;
}

static train_sizes sizes_of(const model &m, const trainer_options &o, int64_t rows) {
    // Sequences shorter than half a page are rare, and waste most of one.
    return {rows, rows, std::max<int64_t>(1, rows / (page_positions / 2)), std::min(rows, context_of(m, o)),
            o.balance};
}

// ---- The plan

static train_plan plan_for(const model &m, const model_weights &w, std::span<const gradient_sum> sums,
                           const trainer_options &o, int64_t rows, const backend &b, train_plan p,
                           const adaptation *adapters) {
    const train_graph::bytes g = train_graph::measure(*m.architecture, m.h, w, sums, sizes_of(m, o, rows),
                                                      o.again, formats_of(o), b, adapters);
    p.activations = g.activations, p.work = g.work, p.pages = g.pages, p.inputs = g.inputs;
    p.rows = rows;
    return p;
}

train_plan trainer::plan(const model &m, const trainer_options &o, const backend &b) {
    if (!m.architecture)
        throw error(status::argument, m.file.name() + ": was loaded for its vocabulary only");
    if (m.device && !m.device->fn->host_memory)
        throw error(status::unsupported,
                    m.file.name() + ": its weights are on a device, training is the host's");
    if (!is_float(o.weights) && o.weights != format::i8)
        throw error(status::unsupported,
                    std::string("training in ") + info(o.weights).text + ", known are f32, bf16, f16, int8");
    train_plan p{};
    std::deque<tensor> tensors;
    std::vector<gradient_sum> sums;
    model_weights w = m.weights;
    for (const tensor_row &row : m.architecture->tensors(m.h)) {
        const tensor *const from = slot_of(m.weights, row);
        if (!from || !is_trained(row, m.h) || o.lora_rank) continue;
        const format type = format_of(row, o);
        if (type == format::i8 && row.ne.back() > i8_most_columns)
            throw error(status::unsupported, m.file.name() + ": " + row.name + ": has rows of " +
                                                 std::to_string(row.ne.back()) +
                                                 " elements, int8 can have 132104");
        tensor &t = tensors.emplace_back(make_tensor(type, row.ne)),
               &sum = tensors.emplace_back(make_tensor(format::f32, row.ne));
        sums.push_back({&t, &sum});
        slot_of(w, row) = &t;
        if (type == format::i8)
            t.scale = &tensors.emplace_back(make_tensor(format::f32, {row.ne.data(), row.ne.size() - 1}));
        p.weights += weight_bytes(type, t);
        p.gradients += align64(tensor_bytes(sum));
        p.states += optimizer::state_bytes(elements(t), o.adamw.byte_states);
    }
    adaptation adapters;
    if (o.lora_rank) {
        if (o.weights != format::f32)
            throw error(status::unsupported, std::string("lora_rank: adapters are trained in f32, not in ") +
                                                 info(o.weights).text);
        std::vector<const tensor *> trained;
        for (const tensor_row &row : lora_rows(m, o.lora_rank)) {
            const tensor &t = tensors.emplace_back(make_tensor(format::f32, row.ne)),
                         &sum = tensors.emplace_back(t);
            trained.push_back(&t);
            sums.push_back({&t, &sum});
            p.weights += align64(tensor_bytes(t)), p.gradients += align64(tensor_bytes(t));
            p.states += optimizer::state_bytes(elements(t), o.adamw.byte_states);
        }
        adapters = lora_adaptation(m, w, trained, 1);
    }
    constexpr int64_t least = 32, most = int64_t{1} << 16;
    const auto of = [&](int64_t rows) {
        return plan_for(m, w, sums, o, rows, b, p, o.lora_rank ? &adapters : nullptr);
    };
    if (!o.memory) return of(o.rows ? o.rows : 2048);
    train_plan best = of(o.rows ? o.rows : least);
    if (best.total() > o.memory)
        throw error(status::memory,
                    format_text("training needs %llu bytes for runs of %lld tokens, allowed are %llu",
                                static_cast<unsigned long long>(best.total()),
                                static_cast<long long>(best.rows),
                                static_cast<unsigned long long>(o.memory)));
    for (int64_t rows = 2 * least; !o.rows && rows <= most; rows *= 2) {
        const train_plan next = of(rows);
        if (next.total() > o.memory) break;
        best = next;
    }
    return best;
}

// ---- Construction

static std::shared_ptr<model> copy_of(const model &m, const host &h) {
    model_options o;
    o.host = h;
    auto copy = std::make_shared<model>(m.file.again(h), o);
    copy->h = m.h;
    copy->chat = m.chat;
    return copy;
}

trainer::trainer(std::shared_ptr<const model> m, const trainer_options &o, std::shared_ptr<backend> b)
    : base_(std::move(m)), options_(o), backend_(std::move(b)), plan_(plan(*base_, o, *backend_)),
      copies_(base_->architecture->tensors(base_->h).size()) {
    trained_ = copy_of(*base_, o.host);
    memory_ = backend_memory(backend_, plan_.weights + plan_.gradients);
    std::memset(memory_.data(), 0, memory_.size());
    char *at = static_cast<char *>(memory_.data());
    const auto take = [&](tensor &t) {
        t.data = at;
        at += align64(tensor_bytes(t));
    };
    std::vector<trained_weight> list;
    for (const tensor_row &row : base_->architecture->tensors(base_->h)) {
        const tensor *const from = slot_of(base_->weights, row);
        if (!from || !is_trained(row, base_->h) || o.lora_rank) continue;
        weight &x = weights_.emplace_back();
        x.row = row;
        x.w = make_tensor(format_of(row, o), row.ne);
        x.sum = make_tensor(format::f32, row.ne);
        take(x.w), take(x.sum);
        if (x.w.type == format::bf16) {
            x.low = make_tensor(format::i8, {2 * elements(x.w)});
            take(x.low);
        }
        if (x.w.type == format::f16 || x.w.type == format::i8) {
            x.master = make_tensor(format::f32, row.ne);
            take(x.master);
        }
        if (x.w.type == format::i8) {
            x.scale = make_tensor(format::f32, {row.ne.data(), row.ne.size() - 1});
            take(x.scale);
            x.w.scale = &x.scale;
        }
        x.w.name = x.sum.name = x.master.name = x.row.name.c_str();
        put(x, *from);
        slot_of(trained_->weights, row) = &x.w;
        sums_.push_back({&x.w, &x.sum});
        list.push_back({&x.exact(), x.low.data ? &x.low : nullptr, &x.sum,
                        row.what != role::norm && row.what != role::bias});
    }
    if (o.lora_rank) add_adapter(at, list);
    for (const weight &x : weights_)
        if (x.master.data)
            copies_.add(op::narrow, {&x.master, x.w.scale}, narrow_params{x.w.type})->data = x.w.data;
    make_copies();
    if (o.weights == format::f16) loss_scale_ = first_scale;
    optimizer_ = std::make_unique<optimizer>(list, o.adamw, backend_);
    rows_ = plan_.rows;
    if (o.rows) graph();
    else halving(1, [&] { graph(); });
}

void trainer::put(weight &x, const tensor &from) {
    tensor &to = x.master.data ? x.master : x.w;
    const int64_t width = to.ne[to.rank - 1], rows = elements(to) / width;
    std::vector<float> values(static_cast<size_t>(width));
    for (int64_t r = 0; r < rows; ++r) {
        const bool matrices = to.rank == 3;
        const int64_t i0 = matrices ? r / to.ne[1] : r, i1 = matrices ? r % to.ne[1] : 0;
        decode_row(from.type, to.rank == 1 ? static_cast<const char *>(from.data) : ds::at(from, i0, i1),
                   values.data(), values.size());
        const float scale = from.scale ? *f32_at(*from.scale, i0, i1) : 1.0f;
        for (int64_t k = 0; k < width; ++k) {
            const float v = values[static_cast<size_t>(k)] * scale;
            const int64_t e = r * width + k;
            if (!finite_f32(v))
                throw error(status::numeric, base_->file.name() + ": " + x.row.name + ": element " +
                                                 std::to_string(e) + " is not finite");
            if (to.type == format::f32) static_cast<float *>(to.data)[e] = v;
            else {
                const split_float s = split(v);
                static_cast<uint16_t *>(to.data)[e] = s.high;
                static_cast<uint16_t *>(x.low.data)[e] = s.low;
            }
        }
    }
}

bool trainer::is_loss_scale(float scale) const {
    const bool power = (bits_of(scale) & 0x7fffffu) == 0;
    return scale == 1 || (options_.weights == format::f16 && power && scale > 1 && scale <= most_scale);
}

void trainer::make_copies() { backend_->fn->run(backend_.get(), copies_, nullptr, nullptr); }

float trainer::lora_alpha() const {
    return options_.lora_alpha == 0 ? static_cast<float>(options_.lora_rank) : options_.lora_alpha;
}

void trainer::add_adapter(char *&at, std::vector<trained_weight> &list) {
    std::vector<const tensor *> trained;
    for (tensor_row &row : lora_rows(*base_, options_.lora_rank)) {
        weight &x = weights_.emplace_back();
        x.row = std::move(row);
        x.w = x.sum = make_tensor(format::f32, x.row.ne);
        x.w.name = x.sum.name = x.row.name.c_str();
        for (tensor *const t : {&x.w, &x.sum}) t->data = std::exchange(at, at + align64(tensor_bytes(*t)));
        lora_start(x.w, trained.size());
        trained.push_back(&x.w);
        sums_.push_back({&x.w, &x.sum});
        list.push_back({&x.w, nullptr, &x.sum, true});
    }
    adaptation_ =
        lora_adaptation(*base_, trained_->weights, trained, lora_scale(lora_alpha(), options_.lora_rank));
}

std::vector<lora_matrix> trainer::lora_matrices() const {
    std::vector<lora_matrix> out;
    for (size_t i = 0; i < weights_.size(); i += 2)
        out.push_back({static_cast<const float *>(weights_[i].w.data),
                       static_cast<const float *>(weights_[i + 1].w.data), options_.lora_rank,
                       lora_scale(lora_alpha(), options_.lora_rank), 0});
    return out;
}

std::shared_ptr<const adapter> trainer::adapter() const {
    return std::make_shared<const ds::adapter>(base_, lora_alpha(), lora_matrices(), options_.host);
}

// ---- Steps

static float weight_at(const train_sequence &s, size_t i) { return s.weights.empty() ? 1.0f : s.weights[i]; }

void trainer::check(std::span<const train_sequence> batch) const {
    const int64_t most = std::min(plan_.rows, context_of(*base_, options_));
    for (size_t i = 0; i < batch.size(); ++i) {
        const train_sequence &s = batch[i];
        const std::string name = "sequence " + std::to_string(i);
        const auto length = static_cast<int64_t>(s.tokens.size());
        if (length < 2 || length > most)
            throw error(length > most ? status::too_long : status::argument,
                        name + ": has " + std::to_string(length) + " tokens, must have from 2 to " +
                            std::to_string(most));
        if (!s.weights.empty() && s.weights.size() != s.tokens.size())
            throw error(status::argument, name + ": has " + std::to_string(s.weights.size()) +
                                              " weights for " + std::to_string(length) + " tokens");
        bool any = false;
        for (size_t t = 0; t < s.tokens.size(); ++t) {
            if (s.tokens[t] < 0 || s.tokens[t] >= base_->h.vocab)
                throw error(status::argument, name + ": token " + std::to_string(t) + " is " +
                                                  std::to_string(s.tokens[t]) + ", must be from 0 to " +
                                                  std::to_string(base_->h.vocab - 1));
            const float w = weight_at(s, t);
            if (!(w >= 0) || !finite_f32(w))
                throw error(status::argument,
                            name + ": weight " + std::to_string(t) + " is negative or not finite");
            any |= t > 0 && w > 0;
        }
        if (!any) throw error(status::argument, name + ": no token after the first has a weight");
    }
    if (batch.empty()) throw error(status::argument, "batch: has no sequences");
}

// Runs a batch in parts of whole sequences, in order, as many as a run holds.
bool trainer::run(train_graph &g, std::span<const train_sequence> batch, float scale, train_report &r,
                  const std::atomic<bool> *stop) {
    double whole = 0;
    for (const train_sequence &s : batch)
        for (size_t t = 1; t < s.tokens.size(); ++t) whole += static_cast<double>(weight_at(s, t));
    const train_sizes sizes = sizes_of(*base_, options_, rows_);
    std::vector<int32_t> ids, lengths, rows, targets;
    std::vector<float> weights;
    const auto flush = [&] {
        if (lengths.empty()) return true;
        if (!g.run({ids, lengths, rows, targets, weights}, scale, stop)) return false;
        const std::span<const float> log_p = g.log_probabilities();
        for (size_t i = 0; i < weights.size(); ++i)
            r.loss -= static_cast<double>(weights[i]) * static_cast<double>(log_p[i]);
        double balance = 0;
        for (const float b : g.balances()) balance += static_cast<double>(b);
        if (!g.balances().empty())
            r.loss += static_cast<double>(sizes.balance) * balance /
                      static_cast<double>(g.balances().size()) * static_cast<double>(ids.size()) /
                      static_cast<double>(r.tokens);
        ++r.runs;
        ids.clear(), lengths.clear(), rows.clear(), targets.clear(), weights.clear();
        return true;
    };
    for (const train_sequence &s : batch) r.tokens += static_cast<int64_t>(s.tokens.size());
    for (const train_sequence &s : batch) {
        if (static_cast<int64_t>(ids.size() + s.tokens.size()) > sizes.rows ||
            static_cast<int64_t>(lengths.size()) == sizes.sequences)
            if (!flush()) return false;
        const auto first = static_cast<int32_t>(ids.size());
        ids.insert(ids.end(), s.tokens.begin(), s.tokens.end());
        lengths.push_back(static_cast<int32_t>(s.tokens.size()));
        for (size_t t = 1; t < s.tokens.size(); ++t) {
            const float w = weight_at(s, t);
            if (w == 0) continue;
            rows.push_back(first + static_cast<int32_t>(t) - 1);
            targets.push_back(s.tokens[t]);
            weights.push_back(static_cast<float>(static_cast<double>(w) / whole));
            ++r.targets;
        }
    }
    return flush();
}

[[noreturn]] static void stopped() { throw error(status::cancelled, "training was stopped"); }

train_graph &trainer::graph() {
    if (!graph_)
        graph_ = std::make_unique<train_graph>(*base_->architecture, trained_->h, trained_->weights, sums_,
                                               sizes_of(*base_, options_, rows_), options_.again,
                                               formats_of(options_), backend_, options_.host,
                                               trains_adapter() ? &adaptation_ : nullptr);
    return *graph_;
}

train_graph &trainer::forward() {
    if (forward_) return *forward_;
    train_sizes s = sizes_of(*base_, options_, rows_);
    s.balance = 0;
    forward_ = std::make_unique<train_graph>(*base_->architecture, trained_->h, trained_->weights,
                                             std::span<const gradient_sum>(), s, train_graph::again::none,
                                             formats_of(options_), backend_, options_.host,
                                             trains_adapter() ? &adaptation_ : nullptr);
    return *forward_;
}

// `f` begins anew with runs of half the tokens where memory is lacking.
void trainer::halving(int64_t least, const std::function<void()> &f) {
    const auto resize = [&](int64_t rows) {
        graph_.reset(), forward_.reset();
        rows_ = rows;
    };
    if (least > rows_) resize(plan_.rows);  // a longer sequence than any since it was halved
    for (least = std::max<int64_t>(least, 32);;) {
        try {
            return f();
        } catch (const std::bad_alloc &) {
            if (rows_ / 2 < least) throw;
        } catch (const error &e) {
            if (e.code != status::memory || rows_ / 2 < least) throw;
        }
        resize(rows_ / 2);
    }
}

static int64_t longest_of(std::span<const train_sequence> batch) {
    size_t n = 0;
    for (const train_sequence &s : batch) n = std::max(n, s.tokens.size());
    return static_cast<int64_t>(n);
}

train_report trainer::step(std::span<const train_sequence> batch, const std::atomic<bool> *stop) {
    check(batch);
    train_report r;
    halving(longest_of(batch), [&] {
        r = {};
        optimizer_->clear_sums();
        graph().forget();  // of a step that did not end
        if (!run(graph(), batch, loss_scale_, r, stop)) stopped();
        graph().finish();
    });
    r.rows = rows_;
    r.scale = static_cast<double>(loss_scale_);
    r.norm = optimizer_->norm() / r.scale;
    r.rate = options_.rate.at(steps_ + 1);
    r.skipped = !std::isfinite(r.norm) || !std::isfinite(r.loss);
    if (r.skipped && loss_scale_ > 1) {
        // the next one is smaller
    } else if (r.skipped) {
        if (++skips_ >= options_.skips_in_row)
            throw error(status::numeric, "after step " + std::to_string(steps_) + ": the gradients of " +
                                             std::to_string(skips_) + " batches in a row are not finite");
    } else {
        skips_ = 0;
        trained_->generation.fetch_or(1);
        optimizer_->step(++updates_, r.rate, r.norm, r.scale);
        make_copies();
    }
    if (options_.weights == format::f16) {
        if (r.skipped) loss_scale_ = std::max(loss_scale_ / 2, 1.0f), scaled_steps_ = 0;
        else if (++scaled_steps_ == scale_steps)
            loss_scale_ = std::min(loss_scale_ * 2, most_scale), scaled_steps_ = 0;
    }
    r.step = ++steps_;
    return r;
}

train_report trainer::evaluate(std::span<const train_sequence> batch, const std::atomic<bool> *stop) {
    check(batch);
    train_report r;
    halving(longest_of(batch), [&] {
        r = {};
        if (!run(forward(), batch, 1, r, stop)) stopped();
    });
    r.rows = rows_;
    r.step = steps_;
    return r;
}

void trainer::publish() {
    const uint64_t g = trained_->generation;
    trained_->generation = (g | 1) + 1;
    trained_->fingerprint = base_->fingerprint ^ checksum(&steps_, sizeof steps_, identity());
}

}  // namespace ds
