// head_matmul on the CPU: rows are quantized once for all parts of a head's weights. Heads are shared out,
// and parts of their weights too if the heads are too few for the threads.

#include "../products.h"

namespace ds {

static bool always(const cpu &, const node &) { return true; }

static size_t head_bytes(const product &p, const node &n) {
    return p.floats() ? 0 : p.rows_bytes(static_cast<size_t>(n.src[0]->ne[0]));
}
static size_t quantized_bytes(const product &p, const node &n) {
    return static_cast<size_t>(n.src[0]->ne[1]) * head_bytes(p, n);
}

static size_t work_bytes(const cpu &c, const node &n) {
    const product p(c, *n.src[1]);
    return quantized_bytes(p, n) + c.pool.size() * p.scratch_bytes();
}

// Row i of head h to [h][i].
static void quantize_rows(cpu &c, const node &n, const product &p, char *to) {
    const tensor &x = *n.src[0];
    const size_t rows = static_cast<size_t>(x.ne[0]), together = p.group(p.few(rows));
    char *const scratch = to + quantized_bytes(p, n);
    share_range(c, ceil_div(rows, together), elements(x) / 8, [&](size_t begin, size_t end, unsigned worker) {
        for (int64_t h = 0; h < x.ne[1]; ++h)
            for (size_t i = begin * together; i < std::min(end * together, rows); ++i)
                p.put_row(f32_at(x, static_cast<int64_t>(i), h), i, rows,
                          to + static_cast<size_t>(h) * head_bytes(p, n), p.few(rows),
                          scratch + worker * p.scratch_bytes());
    });
}

static void run(cpu &c, const node &n, char *work) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    const product p(c, w);
    const size_t rows = static_cast<size_t>(x.ne[0]), heads = static_cast<size_t>(x.ne[1]),
                 weights = static_cast<size_t>(w.ne[1]);
    if (!p.floats()) quantize_rows(c, n, p, work);
    const size_t parts = std::clamp<size_t>(ceil_div(4 * c.pool.size(), heads), 1, ceil_div(weights, 32)),
                 panel = ceil_div(ceil_div(weights, parts), 16) * 16;
    const size_t tasks_a_head = ceil_div(weights, panel);
    const auto task = [&](size_t i, unsigned worker) {
        const size_t h = i / tasks_a_head, first = i % tasks_a_head * panel;
        const auto head = static_cast<int64_t>(h);
        tensor scale;
        product::part part = {.first = first,
                              .weights = std::min(panel, weights - first),
                              .x = work + h * head_bytes(p, n),
                              .x_stride = p.row_bytes(),
                              .rows = rows,
                              .y = f32_at(n.out, 0, head) + first,
                              .y_stride = static_cast<size_t>(n.out.stride[0])};
        if (p.floats())
            part.x = at(x, 0, head), part.x_stride = static_cast<size_t>(x.stride[0]) * sizeof(float);
        p.run(matrix_of(w, head, scale), part, work + quantized_bytes(p, n) + worker * p.scratch_bytes(),
              p.few(rows));
    };
    c.pool.run(heads * tasks_a_head, task);
}

static constexpr variant list[] = {{"products", always, work_bytes, run}, reference_variant};
constexpr variants head_matmul_variants = list;

}  // namespace ds
