// projections on the CPU: x is normed and quantized once, then the matrices' panels are shared out as if they
// were one matrix. Small weights run on one thread, as matmul's do.

#include "../products.h"

namespace ds {

namespace {

shared_input input_of(const node &n) {
    size_t count = 0;
    while (count < most_projections && n.src[2 + count]) ++count;
    return {*n.src[0], n.src[1], n.as<rms_norm_params>().eps, n.src + 2, count};
}

bool fits(const cpu &, const node &n) { return n.src[0]->stride[1] == 1; }

size_t tile_bytes(const cpu &c, const shared_input &in) {
    size_t most = 0;
    for (size_t i = 0; i < in.count; ++i) most = std::max(most, product(c, *in.w[i]).tile_bytes());
    return most;
}
size_t work_bytes(const cpu &c, const node &n) {
    const shared_input in = input_of(n);
    return in.bytes(c) + c.pool.size() * tile_bytes(c, in);
}

void run(cpu &c, const node &n, char *work) {
    const shared_input in = input_of(n);
    const size_t rows = in.rows();
    const product first(c, *in.w[0]);
    const cut s = make_cut(first, first.few(rows), static_cast<size_t>(n.out.ne[1]), rows, c.pool.size());
    char *const tiles = work + in.bytes(c);
    const size_t tile = tile_bytes(c, in);
    in.quantize_rows(c, work);
    size_t end[most_projections] = {};  // of each matrix's tasks
    for (size_t i = 0; i < in.count; ++i)
        end[i] = (i ? end[i - 1] : 0) + ceil_div(static_cast<size_t>(in.w[i]->ne[0]), s.panel) * s.groups;
    const auto task = [&](size_t t, unsigned worker) {
        size_t i = 0, column = 0;
        for (; t >= end[i]; ++i) column += static_cast<size_t>(in.w[i]->ne[0]);
        const tensor &w = *in.w[i], *bias = n.src[2 + most_projections + i];
        const product p(c, w);
        t -= i ? end[i - 1] : 0;
        const size_t w0 = t / s.groups * s.panel, x0 = t % s.groups * s.group;
        p.run(w,
              {.first = w0,
               .weights = std::min(s.panel, static_cast<size_t>(w.ne[0]) - w0),
               .x = work + in.offset(c, i) + x0 * p.row_bytes(),
               .x_stride = p.row_bytes(),
               .rows = std::min(s.group, rows - x0),
               .y = f32_at(n.out, static_cast<int64_t>(x0), static_cast<int64_t>(column + w0)),
               .y_stride = static_cast<size_t>(n.out.stride[0]),
               .bias = bias ? f32_at(*bias, static_cast<int64_t>(w0)) : nullptr},
              tiles + worker * tile, p.few(rows));
    };
    const size_t tasks = end[in.count - 1];
    if (n.out.ne[1] * in.x.ne[1] * (in.x.ne[0] + 5) / 200 >= worth_sharing) return c.pool.run(tasks, task);
    for (size_t t = 0; t < tasks; ++t) task(t, 0);
}

constexpr variant list[] = {{"shared", fits, work_bytes, run}, reference_variant};

}  // namespace

constexpr variants projections_variants = list;

}  // namespace ds
