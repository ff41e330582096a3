// experts on the CPU: tokens are sorted by expert, so that an expert's weights are read once for all of its
// tokens, and not at all without tokens. A token is quantized once, whatever the number of its experts. Two
// rounds follow, each shared out over all threads: gate, up and their product, panel by panel of all experts;
// then down. Results are summed token by token.

#include "../products.h"

namespace ds {

namespace {

bool fits(const cpu &, const node &n) { return contiguous(*n.src[0]); }

int64_t pairs_of(const node &n) { return n.src[1]->ne[0] * n.src[1]->ne[2]; }  // of a token and an expert
size_t ffn_of(const node &n) { return static_cast<size_t>(n.src[2]->ne[1]); }

// The products. If up's format differs from gate's, it has rows of its own.
struct products {
    product gate, up, down;
    products(const cpu &c, const node &n) : gate(c, *n.src[2]), up(c, *n.src[3]), down(c, *n.src[4]) {}
    bool apart() const { return up.type != gate.type; }
    size_t group() const { return std::max({gate.group(), up.group(), down.group()}); }
};

// Some rows of an expert, counted from its first; their quantized rows are made by one thread.
struct piece {
    int32_t expert, begin, end;
};
constexpr int32_t piece_rows = most_group;

// Without memory it only counts the bytes. A pair's index is its position after the sort. An expert's
// quantized rows begin at a whole group: `row` of them.
struct scratch {
    char *memory;
    size_t bytes = 0, tile_bytes, panel_bytes;
    int32_t *index;     // [pairs], in the router's order
    int32_t *token;     // [pairs], by index
    int32_t *first;     // [experts + 1], each expert's first index
    int32_t *row;       // [experts], each expert's first quantized row
    int32_t *touched;   // [experts], those that have tokens
    piece *pieces;      // [pairs]
    char *tokens;       // [tokens] quantized rows for gate
    char *tokens_up;    // and for up
    char *x, *x_up;     // the experts' quantized rows
    float *hidden;      // [pairs][f]
    char *hidden_rows;  // the experts' rows of it, quantized for down
    float *y;           // [pairs][d]
    char *tiles;        // [threads][tile_bytes]: a tile, or a group while rows are quantized
    char *panels;       // [threads][panel_bytes]: up's part of a panel

    scratch(const cpu &c, const node &n, const products &p, char *work) : memory(work) {
        const int64_t count = n.src[0]->ne[0], d = n.src[0]->ne[1], pairs = pairs_of(n),
                      experts = n.src[2]->ne[0];
        const size_t rows =
            static_cast<size_t>(pairs) + (p.group() - 1) * static_cast<size_t>(std::min(experts, pairs));
        index = take<int32_t>(pairs);
        token = take<int32_t>(pairs);
        first = take<int32_t>(experts + 1);
        row = take<int32_t>(experts);
        touched = take<int32_t>(experts);
        pieces = take<piece>(pairs);
        tokens = take_bytes(static_cast<size_t>(count) * p.gate.row_bytes());
        tokens_up = p.apart() ? take_bytes(static_cast<size_t>(count) * p.up.row_bytes()) : tokens;
        x = take_bytes(rows * p.gate.row_bytes());
        x_up = p.apart() ? take_bytes(rows * p.up.row_bytes()) : x;
        hidden = take<float>(pairs * static_cast<int64_t>(ffn_of(n)));
        hidden_rows = take_bytes(rows * p.down.row_bytes());
        y = take<float>(pairs * d);
        tile_bytes =
            std::max({p.gate.tile_bytes(), p.up.tile_bytes(), p.down.tile_bytes(), p.down.group_bytes()});
        panel_bytes = align64(static_cast<size_t>(count) * most_panel * sizeof(float));
        tiles = take_bytes(c.pool.size() * tile_bytes);
        panels = take_bytes(c.pool.size() * panel_bytes);
    }
    char *take_bytes(size_t n) {
        char *const p = memory ? memory + bytes : nullptr;
        bytes += align64(n);
        return p;
    }
    template <class T> T *take(int64_t count) {
        return reinterpret_cast<T *>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
    }
    size_t first_of(int32_t e) const { return static_cast<size_t>(first[e]); }
    size_t rows_of(int32_t e) const { return static_cast<size_t>(first[e + 1] - first[e]); }
    // The expert's first row among such rows.
    char *rows_at(char *rows, int32_t e, const product &p) const {
        return rows + static_cast<size_t>(row[e]) * p.row_bytes();
    }
};
size_t work_bytes(const cpu &c, const node &n) { return scratch(c, n, products(c, n), nullptr).bytes; }

int32_t expert_of(const node &n, int64_t pair) {
    const int64_t k = n.src[1]->ne[2];
    return static_cast<int32_t>(*f32_at(*n.src[1], pair / k, 0, pair % k));
}

// Sorts the pairs by expert; returns the number of experts that have any, and of pieces.
struct sorted {
    size_t touched, pieces;
};
sorted sort_pairs(const node &n, const products &p, const scratch &s) {
    const int64_t experts = n.src[2]->ne[0], pairs = pairs_of(n);
    const auto group = static_cast<int32_t>(p.group());
    std::fill_n(s.first, experts + 1, 0);
    for (int64_t i = 0; i < pairs; ++i) ++s.first[expert_of(n, i) + 1];
    sorted count = {};
    int32_t row = 0;
    for (int32_t e = 0; e < experts; ++e) {
        const int32_t rows = s.first[e + 1];
        if (rows > 0) s.touched[count.touched++] = e;
        s.row[e] = row;
        row += (rows + group - 1) / group * group;
        for (int32_t r = 0; r < rows; r += piece_rows)
            s.pieces[count.pieces++] = {e, r, std::min(r + piece_rows, rows)};
        s.first[e + 1] += s.first[e];
    }
    for (int64_t i = 0; i < pairs; ++i) {
        s.index[i] = s.first[expert_of(n, i)]++;
        s.token[s.index[i]] = static_cast<int32_t>(i / n.src[1]->ne[2]);
    }
    // each start has advanced to the next one's
    std::copy_backward(s.first, s.first + experts, s.first + experts + 1);
    s.first[0] = 0;
    return count;
}

// Quantizes each token, once for each format, then lays the tokens' rows out by expert.
void gather(cpu &c, const node &n, const products &p, const scratch &s, const sorted &count) {
    const tensor &x = *n.src[0];
    share_range(c, static_cast<size_t>(x.ne[0]), elements(x) / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t i = begin; i < end; ++i) {
            const float *const token = f32_at(x, static_cast<int64_t>(i));
            p.gate.quantize_row(token, s.tokens + i * p.gate.row_bytes());
            if (p.apart()) p.up.quantize_row(token, s.tokens_up + i * p.up.row_bytes());
        }
    });
    const auto lay_out = [&](const piece &b, const product &to, const char *tokens, char *rows) {
        const int32_t *const token = s.token + s.first[b.expert];
        const size_t bytes = to.row_bytes();
        const char *row[piece_rows];
        for (int32_t r = b.begin; r < b.end; ++r)
            row[r - b.begin] = tokens + static_cast<size_t>(token[r]) * bytes;
        const auto count_rows = static_cast<size_t>(b.end - b.begin);
        char *const at = s.rows_at(rows, b.expert, to) + static_cast<size_t>(b.begin) * bytes;
        if (to.group(to.few(s.rows_of(b.expert))) > 1) return to.pack(row, count_rows, at);
        for (size_t r = 0; r < count_rows; ++r) std::memcpy(at + r * bytes, row[r], bytes);
    };
    share_range(c, count.pieces, pairs_of(n) * x.ne[1] / 32, [&](size_t begin, size_t end, unsigned) {
        for (size_t i = begin; i < end; ++i) {
            lay_out(s.pieces[i], p.gate, s.tokens, s.x);
            if (p.apart()) lay_out(s.pieces[i], p.up, s.tokens_up, s.x_up);
        }
    });
}

// f(expert, first weight, weights, worker) for every panel of the touched experts' `weights` rows.
template <class F> void share_panels(cpu &c, const scratch &s, size_t touched, size_t weights, const F &f) {
    const size_t panel = product_panel(touched, weights, c.pool.size()), panels = ceil_div(weights, panel);
    c.pool.run(touched * panels, [&](size_t task, unsigned worker) {
        const size_t w0 = task % panels * panel;
        f(s.touched[task / panels], w0, std::min(panel, weights - w0), worker);
    });
}

void gate_and_up(cpu &c, const node &n, const products &p, const scratch &s, size_t touched) {
    const size_t f = ffn_of(n);
    share_panels(c, s, touched, f, [&](int32_t e, size_t w0, size_t weights, unsigned worker) {
        const size_t rows = s.rows_of(e);
        float *const gate = s.hidden + s.first_of(e) * f + w0;
        float *const up = reinterpret_cast<float *>(s.panels + worker * s.panel_bytes);
        char *const tile = s.tiles + worker * s.tile_bytes;
        tensor gate_scale, up_scale;
        const tensor gate_w = matrix_of(*n.src[2], e, gate_scale), up_w = matrix_of(*n.src[3], e, up_scale);
        const product::part gate_part = {w0,   weights, s.rows_at(s.x, e, p.gate), p.gate.row_bytes(), rows,
                                         gate, f};
        if (!p.gate.few(rows) && product::together(p.gate, p.up))
            return p.gate.run_gated(gate_w, up_w, unary::silu, gate_part, tile);
        p.gate.run(gate_w, gate_part, tile, p.gate.few(rows));
        p.up.run(up_w, {w0, weights, s.rows_at(s.x_up, e, p.up), p.up.row_bytes(), rows, up, weights}, tile,
                 p.up.few(rows));
        for (size_t r = 0; r < rows; ++r)
            c.vec->floats->gated(unary::silu, gate + r * f, up + r * weights, gate + r * f, weights);
    });
}

void down(cpu &c, const node &n, const products &p, const scratch &s, const sorted &count) {
    const size_t f = ffn_of(n), d = static_cast<size_t>(n.src[0]->ne[1]);
    const auto quantize = [&](const piece &b, unsigned worker) {
        const size_t rows = s.rows_of(b.expert);
        const float *const hidden = s.hidden + s.first_of(b.expert) * f;
        char *const to = s.rows_at(s.hidden_rows, b.expert, p.down);
        for (auto r = static_cast<size_t>(b.begin); r < static_cast<size_t>(b.end); ++r)
            p.down.put_row(hidden + r * f, r, rows, to, p.down.few(rows), s.tiles + worker * s.tile_bytes);
    };
    share_range(c, count.pieces, pairs_of(n) * static_cast<int64_t>(f) / 8,
                [&](size_t begin, size_t end, unsigned worker) {
                    for (size_t i = begin; i < end; ++i) quantize(s.pieces[i], worker);
                });
    share_panels(c, s, count.touched, d, [&](int32_t e, size_t w0, size_t weights, unsigned worker) {
        const size_t rows = s.rows_of(e);
        tensor scale;
        p.down.run(matrix_of(*n.src[4], e, scale),
                   {w0, weights, s.rows_at(s.hidden_rows, e, p.down), p.down.row_bytes(), rows,
                    s.y + s.first_of(e) * d + w0, d},
                   s.tiles + worker * s.tile_bytes, p.down.few(rows));
    });
}

void combine(cpu &c, const node &n, const scratch &s) {
    const int64_t k = n.src[1]->ne[2], d = n.src[0]->ne[1];
    share_range(c, static_cast<size_t>(n.out.ne[0]), pairs_of(n) * d / 8,
                [&](size_t begin, size_t end, unsigned) {
                    for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
                        float *y = f32_at(n.out, i);
                        if (n.src[5])
                            std::memcpy(y, f32_at(*n.src[5], i), static_cast<size_t>(d) * sizeof(float));
                        else std::fill_n(y, d, 0.0f);
                        for (int64_t r = 0; r < k; ++r)
                            c.vec->floats->add_times(*f32_at(*n.src[1], i, 1, r),
                                                     s.y + s.index[i * k + r] * d, y, static_cast<size_t>(d));
                    }
                });
}

void run(cpu &c, const node &n, char *work) {
    const products p(c, n);
    const scratch s(c, n, p, work);
    const sorted count = sort_pairs(n, p, s);
    gather(c, n, p, s, count);
    gate_and_up(c, n, p, s, count.touched);
    down(c, n, p, s, count);
    combine(c, n, s);
}

constexpr variant list[] = {{"grouped", fits, work_bytes, run}, reference_variant};

}  // namespace

constexpr variants experts_variants = list;

}  // namespace ds
