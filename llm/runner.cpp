// The step's graph is built anew whenever its sizes change, in storage that is reserved once, and placed by the plan of the largest step: a result's
// size only shrinks with the step, so that plan fits every step.
#include "runner.h"

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
    return m.architecture->build({g, m.h, m.weights, in, layout.layer});
}

runner::bytes runner::measure(const model &m, const page_layout &layout, const step_sizes &s, const backend &b) {
    graph g(max_nodes(m.h));
    build(g, m, layout, s, s.rows, s.logits, nullptr, nullptr);
    const plan p = make_plan(g, b);
    return {p.arena_bytes, p.work_bytes, input_count(s) * sizeof(int32_t)};
}

runner::runner(const model &m, page_layout layout, const step_sizes &s, backend_ptr b, const ds::host &host, void *pages)
    : model_(m), layout_(std::move(layout)), sizes_(s), backend_(std::move(b)), graph_(max_nodes(m.h)),
      input_block_(host, input_count(s) * sizeof(int32_t)), inputs_(static_cast<int32_t *>(input_block_.data())), pages_(pages) {
    std::memset(inputs_, 0, input_block_.size());
    build(graph_, model_, layout_, sizes_, s.rows, s.logits, inputs_, pages_);
    plan_ = make_plan(graph_, *backend_);
    arena_ = block(host, plan_.arena_bytes);
    work_ = block(host, plan_.work_bytes);
}

const float *runner::run(int64_t rows, int64_t outputs, const std::atomic<bool> *stop) {
    if (outputs == 0) {    // the middle of a prompt: the graph still ends in one row of logits
        this->outputs()[0] = 0;
        outputs = 1;
    }
    if (rows != built_rows_ || outputs != built_outputs_) {
        built_rows_ = 0;
        logits_ = build(graph_, model_, layout_, sizes_, rows, outputs, inputs_, pages_);
        place(graph_, plan_, arena_.data());
        built_rows_ = rows;
        built_outputs_ = outputs;
    }
    return backend_->fn->run(backend_.get(), graph_, work_.data(), stop) ? static_cast<const float *>(logits_->data) : nullptr;
}

} // namespace ds
