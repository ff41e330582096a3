// gated_projection on the CPU: x is normed and quantized once; then gate, up and their product, panel by
// panel: in one kernel where there is one, else gate's part in the result, up's in scratch.

#include "../products.h"

namespace ds {

namespace {

shared_input input_of(const node &n) { return {*n.src[0], n.src[1], n.as<gated_params>().eps, n.src + 2, 2}; }

bool fits(const cpu &, const node &n) { return n.src[0]->stride[1] == 1; }

// Scratch per thread: up's part of a panel, and a tile.
struct own_scratch {
    size_t panel, tile;
    own_scratch(const cpu &c, const node &n) {
        const product gate(c, *n.src[2]), up(c, *n.src[3]);
        panel = align64(static_cast<size_t>(n.src[0]->ne[0]) * std::max(most_panel, gate.tile_weights()) *
                        sizeof(float));
        tile = std::max(gate.tile_bytes(), up.tile_bytes());
    }
    size_t bytes() const { return panel + tile; }
};
size_t work_bytes(const cpu &c, const node &n) {
    return input_of(n).bytes(c) + c.pool.size() * own_scratch(c, n).bytes();
}

void run(cpu &c, const node &n, char *work) {
    const shared_input in = input_of(n);
    const tensor &x = in.x, &gate = *in.w[0], &up = *in.w[1], &y = n.out;
    const size_t weights = static_cast<size_t>(y.ne[1]), rows = in.rows(),
                 y_stride = static_cast<size_t>(y.stride[0]);
    const product by_gate(c, gate), by_up(c, up);
    const bool few_gate = by_gate.few(rows), few_up = by_up.few(rows),
               together = !few_gate && product::together(by_gate, by_up);
    const unary f = n.as<gated_params>().f;
    const cut s = make_cut(by_gate, few_gate, weights, rows, c.pool.size());
    const own_scratch own(c, n);
    const char *const gate_x = work + in.offset(c, 0), *const up_x = work + in.offset(c, 1);
    char *const scratch = work + in.bytes(c);
    in.quantize_rows(c, work);
    const auto task = [&](size_t t, unsigned worker) {
        const size_t w0 = t / s.groups * s.panel, x0 = t % s.groups * s.group,
                     wn = std::min(s.panel, weights - w0), xn = std::min(s.group, rows - x0);
        float *const to = f32_at(y, static_cast<int64_t>(x0), static_cast<int64_t>(w0)),
                     *const other = reinterpret_cast<float *>(scratch + worker * own.bytes());
        char *const tile = scratch + worker * own.bytes() + own.panel;
        const product::part gate_part = {
            w0, wn, gate_x + x0 * by_gate.row_bytes(), by_gate.row_bytes(), xn, to, y_stride};
        if (together) return by_gate.run_gated(gate, up, f, gate_part, tile);
        by_gate.run(gate, gate_part, tile, few_gate);
        by_up.run(up, {w0, wn, up_x + x0 * by_up.row_bytes(), by_up.row_bytes(), xn, other, wn}, tile,
                  few_up);
        for (size_t r = 0; r < xn; ++r)
            c.vec->floats->gated(f, to + r * y_stride, other + r * wn, to + r * y_stride, wn);
    };
    const size_t tasks = s.panels * s.groups;
    if (2 * y.ne[1] * x.ne[1] * (x.ne[0] + 5) / 200 >= worth_sharing) return c.pool.run(tasks, task);
    for (size_t t = 0; t < tasks; ++t) task(t, 0);
}

constexpr variant list[] = {{"shared", fits, work_bytes, run}, reference_variant};

}  // namespace

constexpr variants gated_projection_variants = list;

}  // namespace ds
