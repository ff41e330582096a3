// spread_matmul on the CPU. Few rows read the columns of their own active heads alone: panel by panel these
// are copied from w to scratch side by side, in the order of heads, and multiplied by the row without the
// gaps. Sums keep their order, and what is left out would have added zeros, so that the bits are those of the
// whole row wherever a head is a whole number of blocks or of a float sum's lanes. Many rows, which need
// nearly all heads between them, run as the two operations that this one stands for.

#include "../routed.h"

#include "../../tensor/spread.h"

#include <numeric>

namespace ds {

namespace {

constexpr int64_t panel_weights = 32;

int64_t active_of(const node &n) { return n.src[0]->ne[1]; }
int64_t width_of(const node &n) { return active_of(n) * n.src[0]->ne[2]; }  // of a row without the gaps

// Elements between which a sum may be cut.
int64_t step_of(format type) {
    return type == format::i8 ? 1 : is_packed(type) ? info(type).block : dot_lanes;
}

bool whole_steps(const node &n) { return n.src[0]->ne[2] % step_of(n.src[2]->type) == 0; }
// The rows' own columns together are no more than w.
bool fits(const cpu &, const node &n) {
    return n.src[0]->stride[2] == 1 && whole_steps(n) && n.src[0]->ne[0] * width_of(n) <= n.src[2]->ne[1];
}

// A panel's columns without the gaps, as a matrix.
tensor narrow(const node &n) { return make_tensor(n.src[2]->type, {panel_weights, width_of(n)}); }

struct scratch {
    work_memory memory;
    size_t row_bytes, columns_bytes, tile_bytes;
    int32_t *order;  // [rows][active]: ranks, by head
    float *packed;   // [rows][width]: weighted results, by head
    char *rows;      // [rows][row_bytes] of them, quantized
    char *columns;   // [threads][columns_bytes]: a panel of w without the gaps
    char *tiles;     // [threads][tile_bytes]

    scratch(const cpu &c, const node &n, char *work) : memory{work} {
        const tensor w = narrow(n);
        const product p(c, w);
        const int64_t count = n.src[0]->ne[0];
        order = memory.take<int32_t>(count * active_of(n));
        packed = memory.take<float>(count * width_of(n));
        row_bytes = p.rows_bytes(1);
        rows = memory.take_bytes(static_cast<size_t>(count) * row_bytes);
        columns_bytes = align64(tensor_bytes(w));
        columns = memory.take_bytes(c.pool.size() * columns_bytes);
        tile_bytes = p.scratch_bytes();
        tiles = memory.take_bytes(c.pool.size() * tile_bytes);
    }
};

size_t gathered_bytes(const cpu &c, const node &n) {
    return whole_steps(n) ? scratch(c, n, nullptr).memory.bytes : 0;
}

void gather_row(const node &n, const product &p, const scratch &s, int64_t i) {
    const tensor &x = *n.src[0], &route = *n.src[1];
    const int64_t active = active_of(n), d = x.ne[2];
    int32_t *const order = s.order + i * active;
    float *const packed = s.packed + i * width_of(n);
    std::iota(order, order + active, 0);
    std::sort(order, order + active,
              [&](int32_t a, int32_t b) { return routed_to(route, i, a) < routed_to(route, i, b); });
    for (int64_t r = 0; r < active; ++r) {
        const float weight = *f32_at(route, i, 1, order[r]), *const from = f32_at(x, i, order[r]);
        for (int64_t j = 0; j < d; ++j) packed[r * d + j] = weight * from[j];
    }
    p.put_row(packed, 0, 1, s.rows + static_cast<size_t>(i) * s.row_bytes, p.few(1), s.tiles);
}

// Row i's columns of w's rows [w0, w0 + count).
void gather_columns(const node &n, const scratch &s, int64_t i, int64_t w0, int64_t count, const tensor &to) {
    const tensor &w = *n.src[2];
    const size_t head = row_bytes(w.type, static_cast<uint64_t>(n.src[0]->ne[2]));
    const int32_t *const order = s.order + i * active_of(n);
    for (int64_t k = 0; k < count; ++k)
        for (int64_t r = 0; r < active_of(n); ++r)
            std::memcpy(at(to, k) + static_cast<size_t>(r) * head,
                        at(w, w0 + k) + static_cast<size_t>(routed_to(*n.src[1], i, order[r])) * head, head);
}

void run_panel(cpu &c, const node &n, const scratch &s, int64_t i, int64_t w0, unsigned worker) {
    const tensor &w = *n.src[2];
    const int64_t count = std::min(panel_weights, w.ne[0] - w0);
    tensor columns = narrow(n), scale;
    columns.data = s.columns + worker * s.columns_bytes;
    gather_columns(n, s, i, w0, count, columns);
    if (w.scale) {
        scale = *w.scale;
        scale.data = f32_at(*w.scale, w0);
        columns.scale = &scale;
    }
    const product p(c, columns);
    float *const y = f32_at(n.out, i, w0);
    p.run(columns,
          {.first = 0,
           .weights = static_cast<size_t>(count),
           .x = s.rows + static_cast<size_t>(i) * s.row_bytes,
           .x_stride = p.row_bytes(),
           .rows = 1,
           .y = y,
           .y_stride = static_cast<size_t>(n.out.stride[0])},
          s.tiles + worker * s.tile_bytes, p.few(1));
    if (n.src[3]) c.vec->floats->add(f32_at(*n.src[3], i, w0), y, y, static_cast<size_t>(count));
}

void run_gathered(cpu &c, const node &n, char *work) {
    const scratch s(c, n, work);
    const int64_t rows = n.out.ne[0], weights = n.out.ne[1];
    for (int64_t i = 0; i < rows; ++i) gather_row(n, product(c, narrow(n)), s, i);
    const size_t panels = ceil_div(static_cast<size_t>(weights), panel_weights);
    share_range(c, static_cast<size_t>(rows) * panels, rows * weights * width_of(n) / 64,
                [&](size_t begin, size_t end, unsigned worker) {
                    for (size_t t = begin; t < end; ++t)
                        run_panel(c, n, s, static_cast<int64_t>(t / panels),
                                  static_cast<int64_t>(t % panels) * panel_weights, worker);
                });
}

// ---- Many rows

bool always(const cpu &, const node &) { return true; }

size_t whole_bytes(const cpu &c, const node &n) {
    const spread_product s(n, nullptr);
    size_t most = 0;
    for (const node &o : s.ops) most = std::max(most, most_work_bytes(c, o));
    return align64(spread_product::bytes(n)) + most;
}

void run_whole(cpu &c, const node &n, char *work) {
    const spread_product s(n, work);
    for (const node &o : s.ops) choose_variant(c, o).run(c, o, work + align64(spread_product::bytes(n)));
}

constexpr variant list[] = {
    {"gathered", fits, gathered_bytes, run_gathered},
    {"whole", always, whole_bytes, run_whole},
    reference_variant,
};

}  // namespace

constexpr variants spread_matmul_variants = list;

}  // namespace ds
