// The step's graph is rebuilt whenever its sizes change, in storage reserved once, and its results are placed
// by the plan of the largest step: a smaller step's results are never larger, so that plan fits every step.
// On a device the graph continues to the leading logits, which are few and mostly suffice.
#include "runner.h"

#include "../model/adapter.h"

#include <algorithm>

namespace ds {

static size_t max_nodes(const hparams &h, const step_sizes &s) {
    return static_cast<size_t>(16 + (s.adapter_rank ? 48 : 24) * h.layers);
}

static size_t input_count(const step_sizes &s) {
    return static_cast<size_t>(4 * s.rows + 2 * s.logits + s.sequences * s.sequence_pages);
}

// Enough for most choices: R1 at its recommended temperature and top_p needs a fraction of them.
static constexpr int32_t leading_count = 128;

struct results {
    const tensor *logits, *leading;
};

// Every matrix that an adapter may change, over the caller's slots.
static adaptation adaptation_of(const model &m, const step_sizes &s, const tensor &slots) {
    adaptation a;
    if (!s.adapter_rank) return a;
    for (const tensor_row &row : adaptable_rows(m))
        a.weights.emplace(slot_of(m.weights, row),
                          adaptation::of_weight{static_cast<int32_t>(a.weights.size()), nullptr, nullptr, 0});
    a.slots = &slots;
    a.rank = s.adapter_rank;
    return a;
}
static tensor slots_of(const step_sizes &s, lora_slot *data) {
    tensor t = make_tensor(format::i8, {s.sequences, static_cast<int64_t>(sizeof(lora_slot))});
    t.data = data;
    return t;
}

// The inputs are tensors over one array of int32: ids, positions, sequence, slots, outputs, factors (as f32),
// tables.
static results build(graph &g, const backend &b, const model &m, const graph_changes &changes,
                     const page_layout &layout, const step_sizes &s, int64_t rows, int64_t outputs,
                     int32_t *inputs, void *pages, const adaptation *adapters) {
    g.reset();
    g.expand(s.expanded);
    const auto of = [&](int64_t offset) { return inputs ? inputs + offset : nullptr; };
    step_inputs in;
    in.ids = g.input(format::i32, {rows}, of(0), "ids");
    in.positions = g.input(format::i32, {rows}, of(s.rows), "positions");
    in.sequence = g.input(format::i32, {rows}, of(2 * s.rows), "sequence");
    in.slots = g.input(format::i32, {rows}, of(3 * s.rows), "slots");
    in.outputs = g.input(format::i32, {outputs}, of(4 * s.rows), "outputs");
    in.tables =
        g.input(format::i32, {s.sequences, s.sequence_pages}, of(4 * s.rows + 2 * s.logits), "tables");
    in.pages = g.input(format::i8, {s.pool_pages, static_cast<int64_t>(layout.page_bytes)}, pages, "pages");
    const model_weights &weights = changes.weights ? *changes.weights : m.weights;
    const tensor *const logits = m.architecture->build(
        {.g = g, .h = m.h, .w = weights, .in = in, .kv = layout.layer, .form = s.form, .adapters = adapters});
    if (changes.keep) changes.keep(g);
    if (b.fn->host_memory) return {logits, nullptr};
    g.keep(logits);
    return {logits,
            candidates(g, logits, g.input(format::f32, {outputs}, of(4 * s.rows + s.logits), "factors"),
                       leading_count)};
}

// The first node that the backend cannot run, or null.
static const node *unsupported(const graph &g, const backend &b) {
    for (const node &n : g.nodes())
        if (!b.fn->variant(&b, n)) return &n;
    return nullptr;
}

// Builds the graph of the largest step. A fused operation that the backend lacks is built as the primitives
// that it equals. An operation that it cannot run even then is refused before any memory is allocated.
static void build_largest(graph &g, const model &m, const graph_changes &changes, const page_layout &layout,
                          step_sizes &s, const backend &b, int32_t *inputs, void *pages,
                          const adaptation *adapters = nullptr) {
    build(g, b, m, changes, layout, s, s.rows, s.logits, inputs, pages, adapters);
    const node *n = unsupported(g, b);
    while (n && info(n->kind).expand && !s.expanded[static_cast<size_t>(n->kind)]) {
        s.expanded.set(static_cast<size_t>(n->kind));
        build(g, b, m, changes, layout, s, s.rows, s.logits, inputs, pages, adapters);
        n = unsupported(g, b);
    }
    if (!n) return;
    std::string sources;
    for (const tensor *t : n->src)
        if (t) sources += (sources.empty() ? "" : ", ") + shape_text(*t);
    throw error(status::unsupported,
                format_text("%s cannot compute %s of ", b.fn->name, info(n->kind).name) + sources);
}

static size_t host_logits_bytes(const model &m, const step_sizes &s) {
    return static_cast<size_t>(s.logits * m.h.vocab) * sizeof(float);
}
static size_t host_leading_bytes(const step_sizes &s) {
    return static_cast<size_t>(s.logits * (candidates_head_ints + 2 * leading_count)) * sizeof(int32_t);
}

static void take_larger(plan &p, const plan &other) {
    p.arena_bytes = std::max(p.arena_bytes, other.arena_bytes);
    p.work_bytes = std::max(p.work_bytes, other.work_bytes);
}

runner::bytes runner::measure(const model &m, const page_layout &layout, step_sizes s, const backend &b) {
    graph g(max_nodes(m.h, s));
    build_largest(g, m, {}, layout, s, b, nullptr, nullptr);
    plan p = make_plan(g, b);
    if (s.adapter_rank) {
        const tensor slots = slots_of(s, nullptr);
        const adaptation adapters = adaptation_of(m, s, slots);
        build_largest(g, m, {}, layout, s, b, nullptr, nullptr, &adapters);
        take_larger(p, make_plan(g, b));
    }
    const size_t inputs = input_count(s) * sizeof(int32_t);
    return {p.arena_bytes, p.work_bytes,
            b.fn->host_memory ? inputs : 2 * inputs + host_logits_bytes(m, s) + host_leading_bytes(s)};
}

runner::runner(const model &m, page_layout layout, const step_sizes &s, std::shared_ptr<backend> b,
               const ds::host &host, void *pages, const graph_changes &changes)
    : model_(m), layout_(std::move(layout)), sizes_(s), changes_(changes), backend_(std::move(b)),
      graph_(max_nodes(m.h, s)), slots_(static_cast<size_t>(s.adapter_rank ? s.sequences : 0)),
      slots_bytes_(slots_of(s, slots_.data())), adaptation_(adaptation_of(m, s, slots_bytes_)),
      input_block_(host, input_count(s) * sizeof(int32_t)),
      inputs_(static_cast<int32_t *>(input_block_.data())), read_inputs_(inputs_), pages_(pages) {
    std::memset(inputs_, 0, input_block_.size());
    if (!backend_->fn->host_memory) {
        device_inputs_ = backend_memory(backend_, input_block_.size());
        host_logits_ = backend_memory(backend_, host_logits_bytes(m, s), backend_memory::for_copies);
        host_leading_ = backend_memory(backend_, host_leading_bytes(s), backend_memory::for_copies);
        read_inputs_ = static_cast<int32_t *>(device_inputs_.data());
    }
    build_largest(graph_, model_, changes_, layout_, sizes_, *backend_, read_inputs_, pages_);
    plan_ = make_plan(graph_, *backend_);
    if (s.adapter_rank) {
        build_largest(graph_, model_, changes_, layout_, sizes_, *backend_, read_inputs_, pages_,
                      &adaptation_);
        adapted_plan_ = make_plan(graph_, *backend_);
        take_larger(plan_, adapted_plan_);
    }
    arena_ = backend_memory(backend_, plan_.arena_bytes);
    work_ = backend_memory(backend_, plan_.work_bytes);
}

bool runner::run(int64_t rows, int64_t outputs, const std::atomic<bool> *stop, bool adapted) {
    assert(!adapted || sizes_.adapter_rank);
    if (outputs == 0) {  // the middle of a prompt: the graph still ends in one row of logits
        this->outputs()[0] = 0;
        factors()[0] = 0;
        outputs = 1;
    }
    if (rows != built_rows_ || outputs != built_outputs_ || adapted != built_adapted_) {
        built_rows_ = 0;
        const results r = build(graph_, *backend_, model_, changes_, layout_, sizes_, rows, outputs,
                                read_inputs_, pages_, adapted ? &adaptation_ : nullptr);
        logits_ = r.logits, leading_ = r.leading;
        place(graph_, adapted ? adapted_plan_ : plan_, arena_.data());
        graph_.identity = static_cast<uint64_t>(rows) << 32 | static_cast<uint64_t>(outputs);
        built_rows_ = rows;
        built_outputs_ = outputs;
        built_adapted_ = adapted;
    }
    const backend_fns &fn = *backend_->fn;
    if (fn.host_memory) return fn.run(backend_.get(), graph_, work_.data(), stop);
    // Upload only as far as the tables of this step's sequences.
    const int64_t last = *std::max_element(sequence().begin(), sequence().begin() + rows),
                  used = 4 * sizes_.rows + 2 * sizes_.logits + (last + 1) * sizes_.sequence_pages;
    fn.upload(backend_.get(), read_inputs_, inputs_, static_cast<size_t>(used) * sizeof(int32_t));
    if (!fn.run(backend_.get(), graph_, work_.data(), stop)) return false;
    fn.download(backend_.get(), host_leading_.data(), leading_->data, tensor_bytes(*leading_));
    return true;
}

const float *runner::logits(int64_t first, int64_t outputs) {
    const size_t row = static_cast<size_t>(model_.h.vocab) * sizeof(float),
                 at = static_cast<size_t>(first) * row;
    if (!leads()) return f32_at(*logits_, first);
    char *const to = static_cast<char *>(host_logits_.data()) + at;
    backend_->fn->download(backend_.get(), to, static_cast<const char *>(logits_->data) + at,
                           static_cast<size_t>(outputs) * row);
    return reinterpret_cast<const float *>(to);
}

leading_logits runner::leading(int64_t output) const {
    const int32_t *const row = static_cast<const int32_t *>(host_leading_.data()) + output * leading_->ne[1];
    candidates_head head;
    std::memcpy(&head, row, sizeof head);
    const auto vocab = static_cast<size_t>(model_.h.vocab);
    const size_t count = std::min<size_t>(vocab, leading_count);
    return {head.finite != 0,
            {reinterpret_cast<const float *>(row + candidates_head_ints + leading_count), count},
            {row + candidates_head_ints, count},
            vocab,
            head.total};
}

}  // namespace ds
