// experts on the CPU: tokens are sorted by expert (routed_rows). A token is quantized once, whatever the
// number of its experts. Two rounds follow, each shared out over all threads: gate, up and their product,
// panel by panel of all experts; then down. Results are summed token by token.

#include "../routed.h"

namespace ds {

namespace {

bool fits(const cpu &, const node &n) { return contiguous(*n.src[0]); }

size_t ffn_of(const node &n) { return static_cast<size_t>(n.src[2]->ne[1]); }

// The products. If up's format differs from gate's, it has rows of its own.
struct products {
    product gate, up, down;
    products(const cpu &c, const node &n) : gate(c, *n.src[2]), up(c, *n.src[3]), down(c, *n.src[4]) {}
    bool apart() const { return up.type != gate.type; }
    size_t group() const { return std::max({gate.group(), up.group(), down.group()}); }
};

struct scratch {
    work_memory memory;
    routed_rows sorted;
    size_t tile_bytes, panel_bytes;
    char *tokens;       // [tokens] quantized rows for gate
    char *tokens_up;    // and for up
    char *x, *x_up;     // the experts' quantized rows
    float *hidden;      // [pairs][f]
    char *hidden_rows;  // the experts' rows of it, quantized for down
    float *y;           // [pairs][d]
    char *tiles;        // [threads][tile_bytes]: a tile, or a group while rows are quantized
    char *panels;       // [threads][panel_bytes]: up's part of a panel

    scratch(const cpu &c, const node &n, const products &p, char *work)
        : memory{work}, sorted(*n.src[1], n.src[2]->ne[0], p.group(), memory) {
        const int64_t count = n.src[0]->ne[0], d = n.src[0]->ne[1], pairs = sorted.pairs();
        const size_t rows = sorted.padded_rows();
        tokens = memory.take_bytes(static_cast<size_t>(count) * p.gate.row_bytes());
        tokens_up = p.apart() ? memory.take_bytes(static_cast<size_t>(count) * p.up.row_bytes()) : tokens;
        x = memory.take_bytes(rows * p.gate.row_bytes());
        x_up = p.apart() ? memory.take_bytes(rows * p.up.row_bytes()) : x;
        hidden = memory.take<float>(pairs * static_cast<int64_t>(ffn_of(n)));
        hidden_rows = memory.take_bytes(rows * p.down.row_bytes());
        y = memory.take<float>(pairs * d);
        tile_bytes =
            std::max({p.gate.tile_bytes(), p.up.tile_bytes(), p.down.tile_bytes(), p.down.group_bytes()});
        panel_bytes = align64(static_cast<size_t>(count) * most_panel * sizeof(float));
        tiles = memory.take_bytes(c.pool.size() * tile_bytes);
        panels = memory.take_bytes(c.pool.size() * panel_bytes);
    }
};
size_t work_bytes(const cpu &c, const node &n) { return scratch(c, n, products(c, n), nullptr).memory.bytes; }

// Quantizes each token, once for each format, then lays the tokens' rows out by expert.
void gather(cpu &c, const node &n, const products &p, const scratch &s) {
    const tensor &x = *n.src[0];
    share_range(c, static_cast<size_t>(x.ne[0]), elements(x) / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t i = begin; i < end; ++i) {
            const float *const token = f32_at(x, static_cast<int64_t>(i));
            p.gate.quantize_row(token, s.tokens + i * p.gate.row_bytes());
            if (p.apart()) p.up.quantize_row(token, s.tokens_up + i * p.up.row_bytes());
        }
    });
    s.sorted.share_pieces(c, s.sorted.pairs() * x.ne[1] / 32, [&](const routed_rows::piece &b, unsigned) {
        s.sorted.lay_out(b, p.gate, s.tokens, s.sorted.ranks(), s.x);
        if (p.apart()) s.sorted.lay_out(b, p.up, s.tokens_up, s.sorted.ranks(), s.x_up);
    });
}

void gate_and_up(cpu &c, const node &n, const products &p, const scratch &s) {
    const size_t f = ffn_of(n);
    s.sorted.share_panels(
        c, f, static_cast<size_t>(n.src[0]->ne[1]),
        [&](int32_t e, size_t w0, size_t weights, unsigned worker) {
            const size_t rows = s.sorted.rows_of(e);
            float *const gate = s.hidden + s.sorted.first_of(e) * f + w0;
            float *const up = reinterpret_cast<float *>(s.panels + worker * s.panel_bytes);
            char *const tile = s.tiles + worker * s.tile_bytes;
            tensor gate_scale, up_scale;
            const tensor gate_w = matrix_of(*n.src[2], e, gate_scale),
                         up_w = matrix_of(*n.src[3], e, up_scale);
            const product::part gate_part = {
                w0, weights, s.sorted.rows_at(s.x, e, p.gate), p.gate.row_bytes(), rows, gate, f};
            if (!p.gate.few(rows) && product::together(p.gate, p.up))
                return p.gate.run_gated(gate_w, up_w, unary::silu, gate_part, tile);
            p.gate.run(gate_w, gate_part, tile, p.gate.few(rows));
            p.up.run(up_w,
                     {w0, weights, s.sorted.rows_at(s.x_up, e, p.up), p.up.row_bytes(), rows, up, weights},
                     tile, p.up.few(rows));
            for (size_t r = 0; r < rows; ++r)
                c.vec->floats->gated(unary::silu, gate + r * f, up + r * weights, gate + r * f, weights);
        });
}

void down(cpu &c, const node &n, const products &p, const scratch &s) {
    const size_t f = ffn_of(n), d = static_cast<size_t>(n.src[0]->ne[1]);
    const auto quantize = [&](const routed_rows::piece &b, unsigned worker) {
        const size_t rows = s.sorted.rows_of(b.matrix);
        const float *const hidden = s.hidden + s.sorted.first_of(b.matrix) * f;
        char *const to = s.sorted.rows_at(s.hidden_rows, b.matrix, p.down);
        for (auto r = static_cast<size_t>(b.begin); r < static_cast<size_t>(b.end); ++r)
            p.down.put_row(hidden + r * f, r, rows, to, p.down.few(rows), s.tiles + worker * s.tile_bytes);
    };
    s.sorted.share_pieces(c, s.sorted.pairs() * static_cast<int64_t>(f) / 8, quantize);
    s.sorted.share_panels(c, d, f, [&](int32_t e, size_t w0, size_t weights, unsigned worker) {
        const size_t rows = s.sorted.rows_of(e);
        tensor scale;
        p.down.run(matrix_of(*n.src[4], e, scale),
                   {w0, weights, s.sorted.rows_at(s.hidden_rows, e, p.down), p.down.row_bytes(), rows,
                    s.y + s.sorted.first_of(e) * d + w0, d},
                   s.tiles + worker * s.tile_bytes, p.down.few(rows));
    });
}

void combine(cpu &c, const node &n, const scratch &s) {
    const int64_t k = s.sorted.ranks(), d = n.src[0]->ne[1];
    share_range(c, static_cast<size_t>(n.out.ne[0]), s.sorted.pairs() * d / 8,
                [&](size_t begin, size_t end, unsigned) {
                    for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
                        float *y = f32_at(n.out, i);
                        if (n.src[5])
                            std::memcpy(y, f32_at(*n.src[5], i), static_cast<size_t>(d) * sizeof(float));
                        else std::fill_n(y, d, 0.0f);
                        for (int64_t r = 0; r < k; ++r)
                            c.vec->floats->add_times(*f32_at(*n.src[1], i, 1, r),
                                                     s.y + s.sorted.index_of(i * k + r) * d, y,
                                                     static_cast<size_t>(d));
                    }
                });
}

void run(cpu &c, const node &n, char *work) {
    const products p(c, n);
    scratch s(c, n, p, work);
    s.sorted.sort();
    gather(c, n, p, s);
    gate_and_up(c, n, p, s);
    down(c, n, p, s);
    combine(c, n, s);
}

constexpr variant list[] = {{"grouped", fits, work_bytes, run}, reference_variant};

}  // namespace

constexpr variants experts_variants = list;

}  // namespace ds
