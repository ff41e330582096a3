// The step's graph is built anew whenever its sizes change, in storage that is reserved once, and placed by the plan of the largest step: a result's
// size only shrinks with the step, so that plan fits every step.
#include "runner.h"

#include <algorithm>

namespace ds {

static size_t max_nodes(const hparams &h) { return static_cast<size_t>(16 + 24 * h.layers); }

static size_t input_count(const step_sizes &s) { return static_cast<size_t>(4 * s.rows + s.logits + s.sequences * s.sequence_pages); }

// The inputs as tensors over one array of int32: ids, positions, sequence, slots, outputs, tables.
static const tensor *build(graph &g, const model &m, const page_layout &layout, const step_sizes &s, int64_t rows, int64_t outputs, int32_t *inputs, void *pages) {
    g.reset();
    const auto of = [&](int64_t place) { return inputs ? inputs + place : nullptr; };
    step_inputs in;
    in.ids = g.input(format::i32, {rows}, of(0), "ids");
    in.positions = g.input(format::i32, {rows}, of(s.rows), "positions");
    in.sequence = g.input(format::i32, {rows}, of(2 * s.rows), "sequence");
    in.slots = g.input(format::i32, {rows}, of(3 * s.rows), "slots");
    in.outputs = g.input(format::i32, {outputs}, of(4 * s.rows), "outputs");
    in.tables = g.input(format::i32, {s.sequences, s.sequence_pages}, of(4 * s.rows + s.logits), "tables");
    in.pages = g.input(format::i8, {s.pool_pages, static_cast<int64_t>(layout.page_bytes)}, pages, "pages");
    return m.architecture->build({g, m.h, m.weights, in, layout.layer, s.mla});
}

// The first that the backend cannot run, or null.
static const node *unsupported(const graph &g, const backend &b) {
    for (const node &n : g.nodes())
        if (!b.fn->variant(&b, n)) return &n;
    return nullptr;
}

// The graph of the largest step. A backend that cannot choose between MLA's forms gets the one that is made of other operations; what it cannot run
// then is refused before anything is taken for it.
static void build_largest(graph &g, const model &m, const page_layout &layout, step_sizes &s, const backend &b, int32_t *inputs, void *pages) {
    build(g, m, layout, s, s.rows, s.logits, inputs, pages);
    const node *n = unsupported(g, b);
    if (n && s.mla == mla_form::automatic) {
        s.mla = mla_form::absorbed;
        build(g, m, layout, s, s.rows, s.logits, inputs, pages);
        n = unsupported(g, b);
    }
    if (!n) return;
    std::string sources;
    for (const tensor *t : n->src)
        if (t) sources += (sources.empty() ? "" : ", ") + shape_text(*t);
    throw error(status::unsupported, format_text("%s cannot compute %s of ", b.fn->name, info(n->kind).name) + sources);
}

static size_t near_logits_bytes(const model &m, const step_sizes &s, const backend &b) {
    return b.fn->host_memory ? 0 : static_cast<size_t>(s.logits * m.h.vocab) * sizeof(float);
}

runner::bytes runner::measure(const model &m, const page_layout &layout, step_sizes s, const backend &b) {
    graph g(max_nodes(m.h));
    build_largest(g, m, layout, s, b, nullptr, nullptr);
    const plan p = make_plan(g, b);
    return {p.arena_bytes, p.work_bytes, input_count(s) * sizeof(int32_t) * (b.fn->host_memory ? 1 : 2) + near_logits_bytes(m, s, b)};
}

runner::runner(const model &m, page_layout layout, const step_sizes &s, std::shared_ptr<backend> b, const ds::host &host, void *pages)
    : model_(m), layout_(std::move(layout)), sizes_(s), backend_(std::move(b)), graph_(max_nodes(m.h)),
      input_block_(host, input_count(s) * sizeof(int32_t)), inputs_(static_cast<int32_t *>(input_block_.data())), read_inputs_(inputs_), pages_(pages) {
    std::memset(inputs_, 0, input_block_.size());
    if (!backend_->fn->host_memory) {
        far_inputs_ = backend_memory(backend_, input_block_.size());
        near_logits_ = backend_memory(backend_, near_logits_bytes(m, s, *backend_), backend_memory::for_copies);
        read_inputs_ = static_cast<int32_t *>(far_inputs_.data());
    }
    build_largest(graph_, model_, layout_, sizes_, *backend_, read_inputs_, pages_);
    plan_ = make_plan(graph_, *backend_);
    arena_ = backend_memory(backend_, plan_.arena_bytes);
    work_ = backend_memory(backend_, plan_.work_bytes);
}

const float *runner::run(int64_t rows, int64_t outputs, const std::atomic<bool> *stop) {
    if (outputs == 0) {    // the middle of a prompt: the graph still ends in one row of logits
        this->outputs()[0] = 0;
        outputs = 1;
    }
    if (rows != built_rows_ || outputs != built_outputs_) {
        built_rows_ = 0;
        logits_ = build(graph_, model_, layout_, sizes_, rows, outputs, read_inputs_, pages_);
        place(graph_, plan_, arena_.data());
        graph_.identity = static_cast<uint64_t>(rows) << 32 | static_cast<uint64_t>(outputs);
        built_rows_ = rows;
        built_outputs_ = outputs;
    }
    const backend_fns &fn = *backend_->fn;
    if (fn.host_memory) return fn.run(backend_.get(), graph_, work_.data(), stop) ? static_cast<const float *>(logits_->data) : nullptr;
    // As far as the tables of this step's sequences.
    const int64_t last = *std::max_element(sequence().begin(), sequence().begin() + rows), used = 4 * sizes_.rows + sizes_.logits + (last + 1) * sizes_.sequence_pages;
    fn.upload(backend_.get(), read_inputs_, inputs_, static_cast<size_t>(used) * sizeof(int32_t));
    if (!fn.run(backend_.get(), graph_, work_.data(), stop)) return nullptr;
    fn.download(backend_.get(), near_logits_.data(), logits_->data, tensor_bytes(*logits_));
    return static_cast<const float *>(near_logits_.data());
}

} // namespace ds
