// The float kernels, written once over v16: included by each instruction set's file after its vec_*.inl,
// inside its namespace and target region.
// Invariant: the order of every sum is that of numerics.h. Tails are masked, not padded: adding a zero can
// change the sign of one.

#include "unary.inl"

// ---- Element by element

static void add(const float *a, const float *b, float *y, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, load(a + i) + load(b + i));
    if (i < n) store_n(y + i, load_n(a + i, n - i) + load_n(b + i, n - i), n - i);
}

static void gated(unary f, const float *gate, const float *up, float *y, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, unary_of(f, load(gate + i)) * load(up + i));
    if (i < n) store_n(y + i, unary_of(f, load_n(gate + i, n - i)) * load_n(up + i, n - i), n - i);
}

static void divide(const float *x, float divisor, float *y, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, load(x + i) / v16(divisor));
    if (i < n) store_n(y + i, load_n(x + i, n - i) / v16(divisor), n - i);
}

static void add_times(float factor, const float *x, float *y, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, fma_f32(v16(factor), load(x + i), load(y + i)));
    if (i < n) store_n(y + i, fma_f32(v16(factor), load_n(x + i, n - i), load_n(y + i, n - i)), n - i);
}

static void encode_f16(const float *x, uint16_t *y, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) store_f16(y + i, load(x + i));
    if (i < n) store_f16_n(y + i, load_n(x + i, n - i), n - i);
}

// ---- Norm: 128 lanes are eight v16

// The sum of a * b; a may be b.
static float product_sum(const float *a, const float *b, size_t n) {
    v16 lane[8];
    for (v16 &l : lane) l = v16(0.0f);
    size_t i = 0;
    for (; i + 128 <= n; i += 128) {
        DS_UNROLL for (int j = 0; j < 8; ++j) {
            lane[j] = fma_f32(load(a + i + 16 * j), load(b + i + 16 * j), lane[j]);
        }
    }
    for (int j = 0; i + 16 <= n; ++j, i += 16) lane[j] = fma_f32(load(a + i), load(b + i), lane[j]);
    if (const size_t rest = n - i) {
        v16 &last = lane[i % 128 / 16];
        last = keep_n(fma_f32(load_n(a + i, rest), load_n(b + i, rest), last), last, rest);
    }
    for (int s = 4; s > 0; s /= 2)
        for (int j = 0; j < s; ++j) lane[j] = lane[j] + lane[j + s];
    return fold(lane[0]);
}

static float norm_factor(const float *x, size_t n, float eps) {
    return rms_factor(product_sum(x, x, n), static_cast<int64_t>(n), eps);
}

static void rms_norm(const float *x, const float *w, float *y, size_t n, float eps) {
    const v16 factor(norm_factor(x, n, eps));
    size_t i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, (load(x + i) * factor) * load(w + i));
    if (i < n) store_n(y + i, (load_n(x + i, n - i) * factor) * load_n(w + i, n - i), n - i);
}

// ---- Rope

DS_INLINE v16 rope_first(v16 a, v16 b, v16 c, v16 s) { return fma_f32(a, c, -(b * s)); }
DS_INLINE v16 rope_second(v16 a, v16 b, v16 c, v16 s) { return fma_f32(a, s, b * c); }

static void rope_halves(const float *a, const float *b, const float *cosine, const float *sine, float *ya,
                        float *yb, size_t pairs, float direction) {
    const v16 turn(direction);
    size_t i = 0;
    for (; i + 16 <= pairs; i += 16) {
        const v16 u = load(a + i), v = load(b + i), c = load(cosine + i), s = load(sine + i) * turn;
        store(ya + i, rope_first(u, v, c, s));
        store(yb + i, rope_second(u, v, c, s));
    }
    if (const size_t n = pairs - i) {
        const v16 u = load_n(a + i, n), v = load_n(b + i, n), c = load_n(cosine + i, n),
                  s = load_n(sine + i, n) * turn;
        store_n(ya + i, rope_first(u, v, c, s), n);
        store_n(yb + i, rope_second(u, v, c, s), n);
    }
}

static void rope_adjacent(const float *a, const float *cosine, const float *sine, float *y, size_t pairs,
                          float direction) {
    const v16 turn(direction);
    size_t i = 0;
    for (; i + 16 <= pairs; i += 16) {
        const v16 c = load(cosine + i), s = load(sine + i) * turn;
        v16 u, v, lo, hi;
        split_pairs(load(a + 2 * i), load(a + 2 * i + 16), u, v);
        join_pairs(rope_first(u, v, c, s), rope_second(u, v, c, s), lo, hi);
        store(y + 2 * i, lo);
        store(y + 2 * i + 16, hi);
    }
    for (; i < pairs; ++i) {
        const float u = a[2 * i], v = a[2 * i + 1], s = sine[i] * direction;
        y[2 * i] = ds::rope_first(u, v, cosine[i], s);
        y[2 * i + 1] = ds::rope_second(u, v, cosine[i], s);
    }
}

// ---- Products of float matrices: tiles of dot_weights weight rows by up to dot_rows activation rows, one
// v16 of lanes for each pair

constexpr size_t dot_panel = 32, dot_chunk = 1024;

// A tile's lanes between one chunk of k and the next.
struct dot_lanes_store {
    alignas(64) float lane[dot_panel / dot_weights][dot_weights * dot_rows][16];
};

template <size_t count> DS_INLINE void fold_each(const v16 *x, float *y) {
    constexpr size_t fours = count / 4 * 4;
    DS_UNROLL for (size_t i = 0; i < fours; i += 4) fold4(x + i, y + i);
    DS_UNROLL for (size_t i = fours; i < count; ++i) y[i] = fold(x[i]);
}

template <int rows, class E>
static void dot_tile(const dot_args &a, size_t w0, size_t x0, size_t begin, size_t end, float (*saved)[16]) {
    const E *w[dot_weights];
    const float *x[rows];
    // A tile that reaches past the last row repeats that row and drops the result.
    for (size_t i = 0; i < dot_weights; ++i)
        w[i] = reinterpret_cast<const E *>(a.w + std::min(w0 + i, a.weights - 1) * a.w_stride);
    for (int j = 0; j < rows; ++j) x[j] = a.x + (x0 + j) * a.x_stride;
    v16 lane[rows][dot_weights];
    DS_UNROLL for (int j = 0; j < rows; ++j) {
        DS_UNROLL for (size_t i = 0; i < dot_weights; ++i) {
            lane[j][i] = begin == 0 ? v16(0.0f) : load(saved[j * dot_weights + i]);
        }
    }
    size_t k = begin;
    for (; k + 16 <= end; k += 16) {
        v16 wk[dot_weights];
        DS_UNROLL for (size_t i = 0; i < dot_weights; ++i) {
            wk[i] = load(w[i] + k);
            if (rows < dot_rows)
                __builtin_prefetch(reinterpret_cast<const char *>(w[i] + k) + dot_weights * a.w_stride, 0, 2);
        }
        DS_UNROLL for (int j = 0; j < rows; ++j) {
            const v16 xk = load(x[j] + k);
            DS_UNROLL for (size_t i = 0; i < dot_weights; ++i) lane[j][i] = fma_f32(xk, wk[i], lane[j][i]);
        }
    }
    if (const size_t n = end - k) {
        DS_UNROLL for (int j = 0; j < rows; ++j) {
            const v16 xk = load_n(x[j] + k, n);
            DS_UNROLL for (size_t i = 0; i < dot_weights; ++i) {
                lane[j][i] = keep_n(fma_f32(xk, load_n(w[i] + k, n), lane[j][i]), lane[j][i], n);
            }
        }
    }
    if (end < a.k) {
        DS_UNROLL for (int j = 0; j < rows; ++j) {
            DS_UNROLL for (size_t i = 0; i < dot_weights; ++i) {
                store(saved[j * dot_weights + i], lane[j][i]);
            }
        }
        return;
    }
    float sum[rows * dot_weights];
    fold_each<rows * dot_weights>(lane[0], sum);
    const size_t valid = std::min(dot_weights, a.weights - w0);
    for (int j = 0; j < rows; ++j) {
        float *y = a.y + (x0 + j) * a.y_stride + w0;
        for (size_t i = 0; i < valid; ++i)
            y[i] = a.bias ? sum[j * dot_weights + i] + a.bias[w0 + i] : sum[j * dot_weights + i];
    }
}

template <int rows, class E> DS_INLINE void dot_tile_of(const dot_args &a, size_t count, size_t w0, size_t x0,
                                                        size_t begin, size_t end, float (*saved)[16]) {
    if constexpr (rows > 1) {
        if (count < rows) return dot_tile_of<rows - 1, E>(a, count, w0, x0, begin, end, saved);
    }
    dot_tile<rows, E>(a, w0, x0, begin, end, saved);
}

// Rows of activations are taken in tiles, chunk by chunk of k, so that a tile's chunk stays in the
// first-level cache while the weights stream past.
template <class E> static void dot(const dot_args &a) {
    dot_lanes_store saved;
    const size_t chunk = a.rows > dot_rows ? dot_chunk : a.k;
    for (size_t p0 = 0; p0 < a.weights; p0 += dot_panel) {
        const size_t p1 = std::min(p0 + dot_panel, a.weights);
        for (size_t x0 = 0; x0 < a.rows; x0 += dot_rows)
            for (size_t begin = 0; begin < a.k; begin += chunk)
                for (size_t w0 = p0; w0 < p1; w0 += dot_weights)
                    dot_tile_of<dot_rows, E>(a, a.rows - x0, w0, x0, begin, std::min(begin + chunk, a.k),
                                             saved.lane[(w0 - p0) / dot_weights]);
    }
}

// ---- Attention: a page's part, for up to attend_rows query rows at a time

// Pages are scattered and read once, in pieces too short for the hardware prefetcher: while keys are read,
// their values are prefetched, and while values are read, the next page's keys. `ahead` points to what is
// prefetched, or is null.
DS_INLINE void fetch(const char *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// weights[r][t] = (q_r . k_t) * scale for `vectors` times 16 positions from t on.
template <int rows, int vectors, class E>
static void attend_scores(const attend_args &a, size_t r0, size_t t, const char *ahead) {
    const E *k = reinterpret_cast<const E *>(a.k) + t;
    const float *q = a.q + r0 * a.key_size;
    v16 sum[rows][vectors];
    DS_UNROLL for (int r = 0; r < rows; ++r) {
        DS_UNROLL for (int v = 0; v < vectors; ++v) { sum[r][v] = v16(0.0f); }
    }
    for (size_t d = 0; d < a.key_size; ++d) {
        v16 kd[vectors];
        if (ahead) fetch(ahead + d * page_positions * sizeof(E), page_positions * sizeof(E));
        DS_UNROLL for (int v = 0; v < vectors; ++v) kd[v] = load(k + d * page_positions + 16 * v);
        DS_UNROLL for (int r = 0; r < rows; ++r) {
            const v16 qd(q[r * a.key_size + d]);
            DS_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] = fma_f32(qd, kd[v], sum[r][v]);
        }
    }
    DS_UNROLL for (int r = 0; r < rows; ++r) {
        DS_UNROLL for (int v = 0; v < vectors; ++v) {
            store(a.weights + (r0 + r) * page_positions + t + 16 * v, sum[r][v] * v16(a.scale));
        }
    }
}

// Turns scores into weights, 0 where unseen, and updates the row's maximum and sum. Returns the factor for
// the sums so far. The maximum need not be NaN where a score is: that score's weight is NaN in any case, so
// the sum is, and everything divided by it.
static float attend_softmax(const attend_args &a, size_t r) {
    float *w = a.weights + r * page_positions;
    const size_t seen = static_cast<size_t>(a.seen[r]), full = seen / 16, rest = seen % 16,
                 vectors = full + (rest != 0);
    v16 s[4], most(-std::numeric_limits<float>::infinity()), lane(0.0f);
    for (size_t v = 0; v < vectors; ++v) {
        s[v] = load(w + 16 * v);
        if (v == full) s[v] = keep_n(s[v], v16(-std::numeric_limits<float>::infinity()), rest);
        most = larger(most, s[v]);
    }
    const float max = attention_max(a.max[r], largest(most));
    for (size_t v = 0; v < vectors; ++v) {
        v16 e = exp2_f32(s[v] - v16(max));
        if (v == full) e = keep_n(e, v16(0.0f), rest);
        store(w + 16 * v, e);
        lane = lane + e;
    }
    const float keep = a.first ? 0.0f : ds::exp2_f32(a.max[r] - max);
    a.sum[r] = ds::fma_f32(a.sum[r], keep, fold(lane));
    a.max[r] = max;
    return keep;
}

// out[r][d] = out * keep + sum over t of weights[r][t] * v[t][d], for `vectors` times 16 elements from d on,
// or `n` < 16 of them.
template <int rows, int vectors, class E> DS_INLINE void
attend_values(const attend_args &a, size_t r0, size_t d, size_t n, const float *keep, const char *ahead) {
    const E *v = reinterpret_cast<const E *>(a.v) + d;
    const size_t stride = a.value_stride;
    const float *w = a.weights + r0 * page_positions;
    const int32_t *seen = a.seen + r0;
    v16 sum[rows][vectors], vt[vectors];
    DS_UNROLL for (int r = 0; r < rows; ++r) {
        DS_UNROLL for (int i = 0; i < vectors; ++i) { sum[r][i] = v16(0.0f); }
    }
    int32_t t = 0;
    for (; t < seen[0]; ++t) {
        if (ahead) fetch(ahead + t * stride * sizeof(E), stride * sizeof(E));
        DS_UNROLL for (int i = 0; i < vectors; ++i) {
            vt[i] = n ? load_n(v + t * stride + 16 * i, n) : load(v + t * stride + 16 * i);
        }
        DS_UNROLL for (int r = 0; r < rows; ++r) {
            const v16 wt(w[r * page_positions + t]);
            DS_UNROLL for (int i = 0; i < vectors; ++i) sum[r][i] = fma_f32(wt, vt[i], sum[r][i]);
        }
    }
    for (; t < seen[rows - 1]; ++t) {  // only the later rows see these positions
        DS_UNROLL for (int i = 0; i < vectors; ++i) {
            vt[i] = n ? load_n(v + t * stride + 16 * i, n) : load(v + t * stride + 16 * i);
        }
        DS_UNROLL for (int r = 1; r < rows; ++r) {
            if (t >= seen[r]) continue;
            const v16 wt(w[r * page_positions + t]);
            DS_UNROLL for (int i = 0; i < vectors; ++i) sum[r][i] = fma_f32(wt, vt[i], sum[r][i]);
        }
    }
    DS_UNROLL for (int r = 0; r < rows; ++r) {
        DS_UNROLL for (int i = 0; i < vectors; ++i) {
            float *o = a.out + (r0 + r) * a.head_size + d + 16 * i;
            if (n) store_n(o, fma_f32(load_n(o, n), v16(keep[r]), sum[r][i]), n);
            else store(o, fma_f32(load(o), v16(keep[r]), sum[r][i]));
        }
    }
}
template <int rows, int vectors, class E> static void
attend_values_full(const attend_args &a, size_t r0, size_t d, const float *keep, const char *ahead) {
    attend_values<rows, vectors, E>(a, r0, d, 0, keep, ahead);
}
template <int rows, class E>
static void attend_values_part(const attend_args &a, size_t r0, size_t d, const float *keep) {
    attend_values<rows, 1, E>(a, r0, d, a.head_size - d, keep, nullptr);
}

// Scores of latents: products of float rows, then scaled like other pages' scores.
template <class E> static void attend_latent_scores(const attend_args &a, size_t r0) {
    const size_t seen = static_cast<size_t>(a.seen[a.rows - 1]);
    dot<E>({.w = a.k,
            .w_stride = a.key_size * sizeof(E),
            .x = a.q + r0 * a.key_size,
            .x_stride = a.key_size,
            .y = a.weights + r0 * page_positions,
            .y_stride = page_positions,
            .bias = nullptr,
            .k = a.key_size,
            .weights = seen,
            .rows = a.rows - r0});
    for (size_t r = r0; r < a.rows; ++r)
        for (size_t t = 0; t < seen; t += 16)
            store(a.weights + r * page_positions + t,
                  load(a.weights + r * page_positions + t) * v16(a.scale));
}

template <int rows, bool latents, class E>
static void attend_tile(const attend_args &a, size_t r0, bool first) {
    constexpr int vectors = attend_vectors(rows);
    constexpr size_t wide = 16 * vectors;
    const size_t seen = static_cast<size_t>(a.seen[r0 + rows - 1]);
    const char *v = first ? a.v : nullptr, *k = first ? a.next_k : nullptr;
    size_t t = 0, d = 0;
    if constexpr (!latents) {
        for (; t + wide <= seen; t += wide, v = nullptr) attend_scores<rows, vectors, E>(a, r0, t, v);
        for (; t < seen; t += 16, v = nullptr) attend_scores<rows, 1, E>(a, r0, t, v);
    }
    float keep[rows];
    for (int r = 0; r < rows; ++r) keep[r] = attend_softmax(a, r0 + r);
    for (; d + wide <= a.head_size; d += wide, k = nullptr)
        attend_values_full<rows, vectors, E>(a, r0, d, keep, k);
    for (; d + 16 <= a.head_size; d += 16, k = nullptr) attend_values_full<rows, 1, E>(a, r0, d, keep, k);
    if (d < a.head_size) attend_values_part<rows, E>(a, r0, d, keep);
}

template <int rows, bool latents, class E>
DS_INLINE void attend_tile_of(const attend_args &a, size_t count, size_t r0, bool first) {
    if constexpr (rows > 1) {
        if (count < rows) return attend_tile_of<rows - 1, latents, E>(a, count, r0, first);
    }
    attend_tile<rows, latents, E>(a, r0, first);
}

template <class E, bool latents = false> static void attend(const attend_args &a) {
    size_t r = 0;
    while (r < a.rows && a.seen[r] == 0) ++r;
    if (latents && r < a.rows) attend_latent_scores<E>(a, r);
    const size_t start = r;
    // Tiles of similar height: 7 rows are 4 and 3, not 6 and 1.
    for (size_t tiles = (a.rows - r + attend_rows - 1) / attend_rows; tiles > 0; --tiles) {
        const size_t count = (a.rows - r + tiles - 1) / tiles;
        attend_tile_of<attend_rows, latents, E>(a, count, r, r == start);
        r += count;
    }
}

#include "gradients.inl"

static constexpr float_kernels floats = {.add = add,
                                         .gated = gated,
                                         .divide = divide,
                                         .add_times = add_times,
                                         .encode_f16 = encode_f16,
                                         .encode_bf16 = encode_bf16,
                                         .decode_f16 = decode<half>,
                                         .decode_bf16 = decode<brain>,
                                         .rms_norm = rms_norm,
                                         .rope_halves = rope_halves,
                                         .rope_adjacent = rope_adjacent,
                                         .dot_f32 = dot<float>,
                                         .dot_f16 = dot<half>,
                                         .dot_bf16 = dot<brain>,
                                         .attend_f32 = attend<float>,
                                         .attend_f16 = attend<half>,
                                         .attend_latents_f32 = attend<float, true>,
                                         .attend_latents_f16 = attend<half, true>,
                                         .outer = outer,
                                         .gated_back = gated_back,
                                         .product_sum = product_sum,
                                         .times = times,
                                         .norm_factor = norm_factor,
                                         .rms_norm_back = rms_norm_back,
                                         .add_norm_products = add_norm_products,
                                         .attend_back = attend_back,
                                         .adamw = adamw,
                                         .largest_finite = largest_finite,
                                         .sampling_sum = sampling_sum,
                                         .entropy = entropy,
                                         .cross_entropy_slopes = cross_entropy_slopes};
