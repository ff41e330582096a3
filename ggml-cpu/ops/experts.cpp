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
};

// Without memory it only counts the bytes. A pair's index is its position after the sort.
struct scratch {
    char *memory;
    size_t bytes = 0, tile_bytes, panel_bytes;
    int32_t *index;     // [pairs], in the router's order
    int32_t *first;     // [experts + 1], each expert's first index
    int32_t *touched;   // [experts], those that have tokens
    char *x, *x_up;     // [pairs] quantized rows for gate, and for up
    float *hidden;      // [pairs][f]
    char *hidden_rows;  // [pairs] rows of it, quantized for down
    float *y;           // [pairs][d]
    char *tiles;        // [threads][tile_bytes]
    char *panels;       // [threads][panel_bytes]: up's part of a panel

    scratch(const cpu &c, const node &n, const products &p, char *work) : memory(work) {
        const int64_t tokens = n.src[0]->ne[0], d = n.src[0]->ne[1], pairs = pairs_of(n),
                      experts = n.src[2]->ne[0];
        const auto rows = static_cast<size_t>(pairs);
        index = take<int32_t>(pairs);
        first = take<int32_t>(experts + 1);
        touched = take<int32_t>(experts);
        x = take_bytes(rows * p.gate.row_bytes());
        x_up = p.apart() ? take_bytes(rows * p.up.row_bytes()) : x;
        hidden = take<float>(pairs * static_cast<int64_t>(ffn_of(n)));
        hidden_rows = take_bytes(rows * p.down.row_bytes());
        y = take<float>(pairs * d);
        tile_bytes = std::max({p.gate.tile_bytes(), p.up.tile_bytes(), p.down.tile_bytes()});
        panel_bytes = align64(static_cast<size_t>(tokens) * most_panel * sizeof(float));
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
};
size_t work_bytes(const cpu &c, const node &n) { return scratch(c, n, products(c, n), nullptr).bytes; }

int32_t expert_of(const node &n, int64_t pair) {
    const int64_t k = n.src[1]->ne[2];
    return static_cast<int32_t>(*f32_at(*n.src[1], pair / k, 0, pair % k));
}

// Sorts the pairs by expert; returns the number of experts that have any.
int64_t sort_pairs(const node &n, const scratch &s) {
    const int64_t experts = n.src[2]->ne[0], pairs = pairs_of(n);
    std::fill_n(s.first, experts + 1, 0);
    for (int64_t i = 0; i < pairs; ++i) ++s.first[expert_of(n, i) + 1];
    int64_t count = 0;
    for (int32_t e = 0; e < experts; ++e) {
        if (s.first[e + 1] > 0) s.touched[count++] = e;
        s.first[e + 1] += s.first[e];
    }
    for (int64_t i = 0; i < pairs; ++i) s.index[i] = s.first[expert_of(n, i)]++;
    // each start has advanced to the next one's
    std::copy_backward(s.first, s.first + experts, s.first + experts + 1);
    s.first[0] = 0;
    return count;
}

// Quantizes each token, once for each format, to the indices of all of its pairs.
void gather(cpu &c, const node &n, const products &p, const scratch &s) {
    const int64_t k = n.src[1]->ne[2], d = n.src[0]->ne[1];
    const auto quantize = [&](const product &to, char *rows, int64_t token) {
        const size_t bytes = to.row_bytes();
        char *const row = rows + static_cast<size_t>(s.index[token * k]) * bytes;
        to.quantize_rows(f32_at(*n.src[0], token), row);
        for (int64_t r = 1; r < k; ++r)
            std::memcpy(rows + static_cast<size_t>(s.index[token * k + r]) * bytes, row, bytes);
    };
    share_range(c, static_cast<size_t>(n.src[0]->ne[0]), n.src[0]->ne[0] * d * (k + 4) / 32,
                [&](size_t begin, size_t end, unsigned) {
                    for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
                        quantize(p.gate, s.x, i);
                        if (p.apart()) quantize(p.up, s.x_up, i);
                    }
                });
}

// f(expert, its first index, its pairs, first weight, weights, worker) for every panel of the touched
// experts' `weights` rows.
template <class F> void share_panels(cpu &c, const scratch &s, size_t touched, size_t weights, const F &f) {
    const size_t panel = product_panel(touched, weights, c.pool.size()), panels = ceil_div(weights, panel);
    c.pool.run(touched * panels, [&](size_t task, unsigned worker) {
        const int32_t e = s.touched[task / panels];
        const auto begin = static_cast<size_t>(s.first[e]),
                   rows = static_cast<size_t>(s.first[e + 1]) - begin;
        const size_t w0 = task % panels * panel;
        f(e, begin, rows, w0, std::min(panel, weights - w0), worker);
    });
}

void gate_and_up(cpu &c, const node &n, const products &p, const scratch &s, size_t touched) {
    const size_t f = ffn_of(n);
    share_panels(
        c, s, touched, f,
        [&](int32_t e, size_t first, size_t rows, size_t w0, size_t weights, unsigned worker) {
            float *const gate = s.hidden + first * f + w0;
            float *const up = reinterpret_cast<float *>(s.panels + worker * s.panel_bytes);
            char *const tile = s.tiles + worker * s.tile_bytes;
            tensor scale;
            p.gate.run(matrix_of(*n.src[2], e, scale),
                       {w0, weights, s.x + first * p.gate.row_bytes(), p.gate.row_bytes(), rows, gate, f},
                       tile);
            p.up.run(matrix_of(*n.src[3], e, scale),
                     {w0, weights, s.x_up + first * p.up.row_bytes(), p.up.row_bytes(), rows, up, weights},
                     tile);
            for (size_t r = 0; r < rows; ++r)
                c.vec->floats->gated(unary::silu, gate + r * f, up + r * weights, gate + r * f, weights);
        });
}

void down(cpu &c, const node &n, const products &p, const scratch &s, size_t touched) {
    const size_t f = ffn_of(n), d = static_cast<size_t>(n.src[0]->ne[1]), bytes = p.down.row_bytes();
    const auto pairs = static_cast<size_t>(pairs_of(n));
    share_range(c, pairs, static_cast<int64_t>(pairs * f / 8), [&](size_t begin, size_t end, unsigned) {
        for (size_t i = begin; i < end; ++i)
            p.down.quantize_rows(s.hidden + i * f, s.hidden_rows + i * bytes);
    });
    share_panels(c, s, touched, d,
                 [&](int32_t e, size_t first, size_t rows, size_t w0, size_t weights, unsigned worker) {
                     tensor scale;
                     p.down.run(
                         matrix_of(*n.src[4], e, scale),
                         {w0, weights, s.hidden_rows + first * bytes, bytes, rows, s.y + first * d + w0, d},
                         s.tiles + worker * s.tile_bytes);
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
    const auto touched = static_cast<size_t>(sort_pairs(n, s));
    gather(c, n, p, s);
    gate_and_up(c, n, p, s, touched);
    down(c, n, p, s, touched);
    combine(c, n, s);
}

constexpr variant list[] = {{"grouped", fits, work_bytes, run}, reference_variant};

}  // namespace

constexpr variants experts_variants = list;

}  // namespace ds
