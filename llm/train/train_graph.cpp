// The graph is built anew for every batch of other sizes, in storage reserved once, over memory that was
// planned for the largest: results only shrink.
#include "train_graph.h"

#include "../model/blocks.h"

#include <algorithm>
#include <unordered_map>

namespace ds {

// Of a block: some 30 nodes forward and twice as many views; three times that with gradients and what is
// computed again.
static size_t max_nodes(const hparams &h, const adaptation *adapters) {
    return static_cast<size_t>(64 + (adapters ? 512 : 256) * h.layers);
}

static int64_t pages_of(int64_t positions) { return (positions + page_positions - 1) / page_positions; }
// Pages of a batch: its rows fill them but for the last one of each sequence.
static int64_t pool_pages(const train_sizes &s) {
    return std::min(s.sequences * pages_of(s.context), s.rows / page_positions + s.sequences);
}

namespace {
// The graph's inputs, one after another: i32 but for the gradients.
struct offsets {
    size_t ids, positions, sequence, slots, rows, targets, tables, gradients, balance, bytes;
    explicit offsets(const train_sizes &s) {
        size_t at = 0;
        const auto take = [&](int64_t n) { return std::exchange(at, at + static_cast<size_t>(n) * 4); };
        ids = take(s.rows), positions = take(s.rows), sequence = take(s.rows), slots = take(s.rows);
        rows = take(s.targets), targets = take(s.targets);
        tables = take(s.sequences * pages_of(s.context));
        gradients = take(3 * s.targets);
        balance = take(1);
        bytes = at;
    }
};

struct build_arguments {
    const arch &a;
    const hparams &h;
    const model_weights &w;
    std::span<const gradient_sum> sums;
    const train_sizes &s;
    train_graph::again policy;
    const page_layout &layout;
    format stored;
    const std::vector<bool> *narrow;  // see graph::narrow, or null
    const adaptation *adapters;
};
}  // namespace

// Which nodes of the forward part are computed again: the cheap ones; those and the products that gates are
// made of; or all between the starts of blocks.
static std::vector<bool> nodes_again(const graph &g, train_graph::again policy) {
    std::vector<bool> again(g.nodes().size());
    const bool gates = policy == train_graph::again::gates;
    std::unordered_map<const tensor *, size_t> node_of;
    for (size_t i = 0; (gates || policy == train_graph::again::cheap) && i < again.size(); ++i) {
        const node &n = g.nodes()[i];
        again[i] = is_cheap(n.kind);
        node_of[&n.out] = i;
        for (int s = 0; gates && n.kind == op::gated && s < 2; ++s)
            if (const auto made = node_of.find(n.src[s]->base ? n.src[s]->base : n.src[s]);
                made != node_of.end())
                again[made->second] = true;
    }
    if (policy != train_graph::again::blocks || g.blocks().empty()) return again;
    for (size_t i = g.blocks().front().nodes; i < g.blocks().back().nodes; ++i) again[i] = true;
    for (const graph::block_start &b : g.blocks())
        for (size_t i = 0; i < again.size(); ++i)
            if (b.t == &g.nodes()[i].out) again[i] = false;
    return again;
}

// Where whole blocks are computed again, their keys and values are, too: one layer's pages serve all layers.
static page_layout layout_of(const arch &a, const hparams &h, const train_formats &f,
                             train_graph::again policy) {
    page_layout p = make_page_layout(a, h, f.pages);
    if (policy != train_graph::again::blocks) return p;
    p.page_bytes = p.layer[0].k_bytes() + p.layer[0].v_bytes();
    for (kv_layout &l : p.layer) l = p.layer[0];
    return p;
}

namespace {
struct results {
    const tensor *targets;  // cross_entropy's
    std::vector<const tensor *> balances;
    const tensor *embedding = nullptr;  // gradients of its rows; null if none are asked for
    std::vector<bool> needed;           // backward's
};
}  // namespace

static results build(graph &g, const build_arguments &b, int64_t rows, int64_t targets, char *inputs,
                     void *pages) {
    g.reset();
    g.expand(ops_to_expand());
    if (b.narrow) g.narrow(*b.narrow, b.stored);
    const offsets at(b.s);
    const auto list = [&](size_t offset, int64_t n, const char *name) {
        return g.input(format::i32, {n}, inputs ? inputs + offset : nullptr, name);
    };
    step_inputs in;
    in.ids = list(at.ids, rows, "ids");
    in.positions = list(at.positions, rows, "positions");
    in.sequence = list(at.sequence, rows, "sequence");
    in.slots = list(at.slots, rows, "slots");
    in.outputs = list(at.rows, targets, "rows");
    in.tables = g.input(format::i32, {b.s.sequences, pages_of(b.s.context)},
                        inputs ? inputs + at.tables : nullptr, "tables");
    in.pages =
        g.input(format::i8, {pool_pages(b.s), static_cast<int64_t>(b.layout.page_bytes)}, pages, "pages");
    const tensor *const hidden = b.a.build({.g = g,
                                            .h = b.h,
                                            .w = b.w,
                                            .in = in,
                                            .kv = b.layout.layer,
                                            .form = 0,
                                            .rows_only = true,
                                            .adapters = b.adapters});
    const tensor *const y =
        cross_entropy(g, hidden, output_matrix(b.w), list(at.targets, targets, "targets"), false);
    g.keep(y);
    results r{y, {}, nullptr, {}};
    const size_t nodes = g.nodes().size();
    for (size_t i = 0; b.s.balance > 0 && i < nodes; ++i)
        if (const node &n = g.nodes()[i]; n.kind == op::head_router) {
            r.balances.push_back(
                balance(g, n.src[0], &n.out, n.src[1] ? static_cast<int32_t>(n.src[1]->ne[1]) : 0));
            g.keep(r.balances.back());
        }
    backward back(g, b.sums, nodes_again(g, b.policy), b.stored);
    back.give(y, g.input(format::f32, {targets, 3}, inputs ? inputs + at.gradients : nullptr, "gradients"));
    for (const tensor *const loss : r.balances)
        back.give(loss, g.input(format::f32, {1}, inputs ? inputs + at.balance : nullptr, "balance"));
    // every architecture begins with the embedding's rows
    r.embedding = back.run(&g.nodes()[0].out);
    if (r.embedding) g.keep(r.embedding);
    r.needed = back.needed();
    return r;
}

// Builds the graph for the largest batch, and a second time if results are narrowed; returns which.
static std::vector<bool> build_largest(graph &g, const build_arguments &b) {
    results r = build(g, b, b.s.rows, b.s.targets, nullptr, nullptr);
    // what whole blocks are computed from stays in f32
    if (b.stored == format::f32 || b.sums.empty() || b.policy == train_graph::again::blocks) return {};
    build_arguments again = {b.a, b.h, b.w, b.sums, b.s, b.policy, b.layout, b.stored, &r.needed, b.adapters};
    build(g, again, b.s.rows, b.s.targets, nullptr, nullptr);
    return r.needed;
}

train_graph::bytes train_graph::measure(const arch &a, const hparams &h, const model_weights &w,
                                        std::span<const gradient_sum> sums, const train_sizes &s,
                                        again policy, const train_formats &f, const backend &b,
                                        const adaptation *adapters) {
    graph g(max_nodes(h, adapters));
    const page_layout layout = layout_of(a, h, f, policy);
    build_largest(g, {a, h, w, sums, s, policy, layout, f.stored, nullptr, adapters});
    const plan p = make_plan(g, b);
    return {p.arena_bytes, p.work_bytes, layout.page_bytes * static_cast<size_t>(pool_pages(s)),
            offsets(s).bytes};
}

train_graph::train_graph(const arch &a, const hparams &h, const model_weights &w,
                         std::span<const gradient_sum> sums, const train_sizes &s, again policy,
                         const train_formats &f, std::shared_ptr<backend> b, const ds::host &host,
                         const adaptation *adapters)
    : arch_(a), h_(h), weights_(w), sums_(sums.begin(), sums.end()), sizes_(s), policy_(policy),
      stored_(f.stored), adapters_(adapters), backend_(std::move(b)), layout_(layout_of(a, h, f, policy)),
      graph_(max_nodes(h, adapters)), inputs_(host, offsets(s).bytes) {
    narrow_ = build_largest(
        graph_, {arch_, h_, weights_, sums_, sizes_, policy_, layout_, stored_, nullptr, adapters_});
    for (const node &n : graph_.nodes())
        if (!backend_->fn->variant(backend_.get(), n))
            throw error(status::unsupported,
                        format_text("%s cannot compute %s", backend_->fn->name, info(n.kind).name));
    plan_ = make_plan(graph_, *backend_);
    pages_ = backend_memory(backend_, layout_.page_bytes * static_cast<size_t>(pool_pages(s)));
    arena_ = backend_memory(backend_, plan_.arena_bytes);
    work_ = backend_memory(backend_, plan_.work_bytes);
    log_probabilities_.resize(static_cast<size_t>(s.targets));
}

// The caller's contract (train_batch): what a user passes is checked by the trainer.
[[maybe_unused]] static bool fits(const train_batch &b, const train_sizes &s, int64_t vocab) {
    const auto is_token = [&](int32_t t) { return t >= 0 && t < vocab; };
    const auto rows = static_cast<int64_t>(b.ids.size()), targets = static_cast<int64_t>(b.rows.size());
    int64_t total = 0;
    bool ok = rows <= s.rows && targets >= 1 && targets <= s.targets &&
              static_cast<int64_t>(b.lengths.size()) <= s.sequences && b.targets.size() == b.rows.size() &&
              b.weights.size() == b.rows.size() && std::all_of(b.ids.begin(), b.ids.end(), is_token) &&
              std::all_of(b.targets.begin(), b.targets.end(), is_token);
    for (const int32_t n : b.lengths) ok &= n >= 1 && n <= s.context, total += n;
    for (size_t i = 0; i < b.rows.size(); ++i)
        ok &= b.rows[i] >= (i ? b.rows[i - 1] + 1 : 0) && b.rows[i] < rows;
    return ok && total == rows;
}

void train_graph::fill(const train_batch &batch, float scale) {
    assert(fits(batch, sizes_, h_.vocab));
    const offsets at(sizes_);
    char *const inputs = static_cast<char *>(inputs_.data());
    const auto ints = [&](size_t offset) { return reinterpret_cast<int32_t *>(inputs + offset); };
    std::copy(batch.ids.begin(), batch.ids.end(), ints(at.ids));
    std::copy(batch.rows.begin(), batch.rows.end(), ints(at.rows));
    std::copy(batch.targets.begin(), batch.targets.end(), ints(at.targets));
    float *const gradients = reinterpret_cast<float *>(inputs + at.gradients);
    std::fill_n(gradients, 3 * batch.rows.size(), 0.0f);
    for (size_t i = 0; i < batch.weights.size(); ++i) gradients[3 * i] = -batch.weights[i] * scale;
    // by layers, which are all alike
    *reinterpret_cast<float *>(inputs + at.balance) = sizes_.balance / static_cast<float>(h_.layers) * scale;
    int64_t row = 0;
    int32_t page = 0;
    const int64_t table = pages_of(sizes_.context);
    for (size_t s = 0; s < batch.lengths.size(); ++s) {
        const int32_t length = batch.lengths[s];
        for (int32_t p = 0; p < length; ++p, ++row) {
            if (p % page_positions == 0)
                ints(at.tables)[static_cast<int64_t>(s) * table + p / page_positions] = page++;
            ints(at.positions)[row] = p;
            ints(at.sequence)[row] = static_cast<int32_t>(s);
            ints(at.slots)[row] = static_cast<int32_t>((page - 1) * page_positions + p % page_positions);
        }
    }
}

bool train_graph::run(const train_batch &batch, float scale, const std::atomic<bool> *stop) {
    fill(batch, scale);
    const auto rows = static_cast<int64_t>(batch.ids.size()),
               targets = static_cast<int64_t>(batch.rows.size());
    const results r =
        build(graph_, {arch_, h_, weights_, sums_, sizes_, policy_, layout_, stored_, &narrow_, adapters_},
              rows, targets, static_cast<char *>(inputs_.data()), pages_.data());
    place(graph_, plan_, arena_.data());
    if (!backend_->fn->run(backend_.get(), graph_, work_.data(), stop)) return false;
    if (r.embedding) {
        const float *const rows_of = f32_at(*r.embedding, 0);
        embedding_rows_.insert(embedding_rows_.end(), rows_of, rows_of + elements(*r.embedding));
        embedding_ids_.insert(embedding_ids_.end(), batch.ids.begin(), batch.ids.end());
    }
    targets_ = static_cast<size_t>(targets);
    for (int64_t i = 0; i < targets; ++i)
        log_probabilities_[static_cast<size_t>(i)] = *f32_at(*r.targets, i, 0);
    balances_.clear();
    for (const tensor *const b : r.balances) balances_.push_back(*f32_at(*b, 0));
    return true;
}

void train_graph::finish() {
    const auto sum = std::find_if(sums_.begin(), sums_.end(),
                                  [&](const gradient_sum &s) { return s.weight == weights_.embedding; });
    const auto rows = static_cast<int64_t>(embedding_ids_.size());
    if (sum != sums_.end() && rows > 0) {
        graph g(4);
        const get_rows_back_params p{h_.vocab};
        const tensor *const dy = g.input(format::f32, {rows, h_.hidden}, embedding_rows_.data(), "rows");
        tensor *const y = g.add(
            op::get_rows_back, {dy, g.input(format::i32, {rows}, embedding_ids_.data(), "ids"), sum->sum}, p);
        y->data = sum->sum->data;
        backend_->fn->run(backend_.get(), g, nullptr, nullptr);
    }
    forget();
}

void train_graph::forget() {
    embedding_rows_.clear();
    embedding_ids_.clear();
}

}  // namespace ds
