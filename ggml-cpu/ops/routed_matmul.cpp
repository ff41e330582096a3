// routed_matmul on the CPU: pairs of a row and a rank are sorted by matrix (routed_rows). Rows are quantized
// once; then the panels of the matrices that have pairs are shared out. A pair's results go to its place.

#include "../routed.h"

namespace ds {

namespace {

bool always(const cpu &, const node &) { return true; }

struct scratch {
    work_memory memory;
    routed_rows sorted;
    size_t tile_bytes, panel_bytes;
    char *rows;    // quantized, in the order of x
    char *x;       // the matrices' quantized rows
    char *tiles;   // [threads][tile_bytes]
    char *panels;  // [threads][panel_bytes]: results before they go to their places

    scratch(const cpu &c, const node &n, const product &p, char *work)
        : memory{work}, sorted(*n.src[2], n.src[1]->ne[0], p.group(), memory) {
        const tensor &x_ = *n.src[0];
        rows =
            memory.take_bytes(static_cast<size_t>(x_.rank == 2 ? x_.ne[0] : sorted.pairs()) * p.row_bytes());
        x = memory.take_bytes(sorted.padded_rows() * p.row_bytes());
        tile_bytes = p.tile_bytes();
        panel_bytes = align64(static_cast<size_t>(x_.ne[0]) * most_panel * sizeof(float));
        tiles = memory.take_bytes(c.pool.size() * tile_bytes);
        panels = memory.take_bytes(c.pool.size() * panel_bytes);
    }
};
size_t work_bytes(const cpu &c, const node &n) {
    return scratch(c, n, product(c, *n.src[1]), nullptr).memory.bytes;
}

// Quantizes x's rows, then lays them out by matrix.
void gather(cpu &c, const node &n, const product &p, const scratch &s) {
    const tensor &x = *n.src[0];
    const int64_t ranks = s.sorted.ranks(), per = x.rank == 2 ? ranks : 1, rows = s.sorted.pairs() / per;
    share_range(c, static_cast<size_t>(rows), elements(x) / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t i = begin; i < end; ++i) {
            const auto row = static_cast<int64_t>(i);
            p.quantize_row(x.rank == 2 ? f32_at(x, row) : f32_at(x, row / ranks, row % ranks),
                           s.rows + i * p.row_bytes());
        }
    });
    s.sorted.share_pieces(
        c, s.sorted.pairs() * x.ne[x.rank - 1] / 32,
        [&](const routed_rows::piece &b, unsigned) { s.sorted.lay_out(b, p, s.rows, per, s.x); });
}

void run(cpu &c, const node &n, char *work) {
    const tensor &w = *n.src[1];
    const product p(c, w);
    scratch s(c, n, p, work);
    s.sorted.sort();
    gather(c, n, p, s);
    const int64_t ranks = s.sorted.ranks();
    s.sorted.share_panels(
        c, static_cast<size_t>(w.ne[1]), p.k, [&](int32_t e, size_t w0, size_t weights, unsigned worker) {
            const size_t rows = s.sorted.rows_of(e), first = s.sorted.first_of(e);
            const auto place = [&](size_t r) {
                const int64_t pair = s.sorted.pair_at(first + r);
                return f32_at(n.out, pair / ranks, pair % ranks) + w0;
            };
            float *const panel =
                rows == 1 ? place(0) : reinterpret_cast<float *>(s.panels + worker * s.panel_bytes);
            tensor scale;
            p.run(matrix_of(w, e, scale),
                  {w0, weights, s.sorted.rows_at(s.x, e, p), p.row_bytes(), rows, panel, weights},
                  s.tiles + worker * s.tile_bytes, p.few(rows));
            if (rows == 1) return;
            for (size_t r = 0; r < rows; ++r)
                std::memcpy(place(r), panel + r * weights, weights * sizeof(float));
        });
}

constexpr variant list[] = {{"grouped", always, work_bytes, run}, reference_variant};

}  // namespace

constexpr variants routed_matmul_variants = list;

}  // namespace ds
