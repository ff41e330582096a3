// The kernels of gradients, over v16: a part of float.inl.

// ---- Outer products, summed over their steps. Rows are repacked in groups of outer_rows and columns in
// panels of outer_vectors vectors, so that a tile of both reads adjacent floats; what lies beyond the last
// row or column is zero and is not stored. The steps are taken in chunks, between which the sums are in y.

constexpr size_t outer_width = 16 * outer_vectors;

// What operands are rounded to (numerics.h), sixteen at a time or one.
struct as_f32 {
    static DS_INLINE v16 of(v16 x) { return x; }
    static DS_INLINE float of(float x) { return x; }
};
struct as_bf16 {
    static DS_INLINE v16 of(v16 x) {
        float f[16];
        store(f, x);
        for (float &e : f) e = bf16_operand(e);
        return load(f);
    }
    static DS_INLINE float of(float x) { return bf16_operand(x); }
};
struct as_f16 {
    static DS_INLINE v16 of(v16 x) {
        half h[16];
        store_f16(&h[0].bits, x);
        return load(h);
    }
    static DS_INLINE float of(float x) { return f16_to_f32(f32_to_f16(x)); }
};

static void outer_tile(const float *a, const float *b, size_t steps, float *y, size_t y_stride, size_t rows,
                       size_t columns, bool add) {
    v16 sum[outer_rows][outer_vectors];
    const auto part = [&](int v) { return columns > 16u * v ? std::min<size_t>(16, columns - 16 * v) : 0; };
    DS_UNROLL for (int r = 0; r < outer_rows; ++r) {
        DS_UNROLL for (int v = 0; v < outer_vectors; ++v) sum[r][v] = v16(0.0f);
    }
    if (add) {
        DS_UNROLL for (int r = 0; r < outer_rows; ++r) {
            if (static_cast<size_t>(r) < rows) {
                DS_UNROLL for (int v = 0; v < outer_vectors; ++v) {
                    const float *const from = y + r * y_stride + 16 * v;
                    if (part(v) == 16) sum[r][v] = load(from);
                    else if (part(v)) sum[r][v] = load_n(from, part(v));
                }
            }
        }
    }
    for (size_t t = 0; t < steps; ++t) {
        v16 bt[outer_vectors];
        DS_UNROLL for (int v = 0; v < outer_vectors; ++v) bt[v] = load(b + t * outer_width + 16 * v);
        DS_UNROLL for (int r = 0; r < outer_rows; ++r) {
            const v16 at(a[t * outer_rows + r]);
            DS_UNROLL for (int v = 0; v < outer_vectors; ++v) sum[r][v] = fma_f32(at, bt[v], sum[r][v]);
        }
    }
    DS_UNROLL for (int r = 0; r < outer_rows; ++r) {
        if (static_cast<size_t>(r) < rows) {
            DS_UNROLL for (int v = 0; v < outer_vectors; ++v) {
                float *const to = y + r * y_stride + 16 * v;
                if (part(v) == 16) store(to, sum[r][v]);
                else if (part(v)) store_n(to, sum[r][v], part(v));
            }
        }
    }
}

// Groups of rows: to[group][step][row in it].
template <class R> static void pack_outer_rows(const outer_args &p, size_t t0, size_t steps, float *to) {
    for (size_t i0 = 0; i0 < p.rows; i0 += outer_rows, to += steps * outer_rows) {
        const size_t n = std::min<size_t>(outer_rows, p.rows - i0);
        const float *const from = p.a + i0 * p.a_row + t0 * p.a_step;
        if (n < outer_rows) std::fill_n(to, steps * outer_rows, 0.0f);
        if (p.a_row == 1) {
            for (size_t t = 0; t < steps; ++t)
                store_n(to + t * outer_rows, R::of(load_n(from + t * p.a_step, n)), n);
        } else {
            float part[16];
            for (size_t r = 0; r < n; ++r) {
                const float *const row = from + r * p.a_row;
                size_t t = 0;
                for (; p.a_step == 1 && t + 16 <= steps; t += 16) {
                    store(part, R::of(load(row + t)));
                    for (size_t k = 0; k < 16; ++k) to[(t + k) * outer_rows + r] = part[k];
                }
                for (; t < steps; ++t) to[t * outer_rows + r] = R::of(row[t * p.a_step]);
            }
        }
    }
}

// Panels of columns: to[panel][step][column in it].
template <class R, class E> static void pack_outer_columns(const outer_args &p, size_t j0, size_t columns,
                                                           size_t t0, size_t steps, float *to) {
    for (size_t j = 0; j < columns; j += outer_width, to += steps * outer_width) {
        const E *const from = reinterpret_cast<const E *>(p.b) + t0 * p.b_stride + j0 + j;
        const size_t n = std::min(outer_width, columns - j);
        for (size_t t = 0; t < steps; ++t) {
            if (n < outer_width) std::fill_n(to + t * outer_width, outer_width, 0.0f);
            size_t i = 0;
            for (; i + 16 <= n; i += 16)
                store(to + t * outer_width + i, R::of(load(from + t * p.b_stride + i)));
            if (i < n)
                store_n(to + t * outer_width + i, R::of(load_n(from + t * p.b_stride + i, n - i)), n - i);
        }
    }
}

template <class R, class E> static void outer_of(const outer_args &p, float *scratch) {
    float *const columns = scratch, *const rows = scratch + outer_steps * outer_columns;
    for (size_t t0 = 0; t0 < p.steps; t0 += outer_steps) {
        const size_t steps = std::min(outer_steps, p.steps - t0);
        pack_outer_rows<R>(p, t0, steps, rows);
        for (size_t j0 = 0; j0 < p.columns; j0 += outer_columns) {
            const size_t width = std::min(outer_columns, p.columns - j0);
            pack_outer_columns<R, E>(p, j0, width, t0, steps, columns);
            for (size_t j = 0; j < width; j += outer_width)
                for (size_t i = 0; i < p.rows; i += outer_rows)
                    outer_tile(rows + i * steps, columns + j * steps, steps, p.y + i * p.y_stride + j0 + j,
                               p.y_stride, p.rows - i, width - j, p.add || t0 > 0);
        }
    }
}

static void outer(const outer_args &p, float *scratch) {
    const bool floats = p.b_type == format::f32;
    if (p.operands == format::bf16)
        return floats ? outer_of<as_bf16, float>(p, scratch) : outer_of<as_bf16, brain>(p, scratch);
    if (p.operands == format::f16)
        return floats ? outer_of<as_f16, float>(p, scratch) : outer_of<as_f16, half>(p, scratch);
    outer_of<as_f32, float>(p, scratch);
}

// ---- Formats of 16 bits

static void encode_bf16(const float *x, uint16_t *y, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
        y[i] = static_cast<uint16_t>((nan ? u | 0x400000u : u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
}
template <class E> static void decode(const uint16_t *x, float *y, size_t n) {
    const E *const from = reinterpret_cast<const E *>(x);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, load(from + i));
    if (i < n) store_n(y + i, load_n(from + i, n - i), n - i);
}

// ---- Element by element

// f(elements from i on, how many of them are used) of n, by sixteens.
template <class F> DS_INLINE void by_sixteens(size_t n, const F &f) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) f(i, size_t{16});
    if (i < n) f(i, n - i);
}
DS_INLINE v16 load_part(const float *p, size_t n) { return n == 16 ? load(p) : load_n(p, n); }
DS_INLINE void store_part(float *p, v16 x, size_t n) {
    if (n == 16) store(p, x);
    else store_n(p, x, n);
}
DS_INLINE v16 keep_part(v16 a, v16 b, size_t n) { return n == 16 ? a : keep_n(a, b, n); }

static void gated_back(unary f, const float *dy, const float *gate, const float *up, float *dgate, float *dup,
                       size_t n) {
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        const v16 d = load_part(dy + i, m), g = load_part(gate + i, m);
        store_part(dgate + i, (d * load_part(up + i, m)) * slope_of(f, g), m);
        store_part(dup + i, d * unary_of(f, g), m);
    });
}

// ---- Norm. dx holds t = dy * w meanwhile.

static void rms_norm_back(const float *dy, const float *x, const float *w, float *dx, size_t n, float eps) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) store(dx + i, load(dy + i) * load(w + i));
    if (i < n) store_n(dx + i, load_n(dy + i, n - i) * load_n(w + i, n - i), n - i);
    const float factor = norm_factor(x, n, eps);
    const v16 f(factor), scale(-rms_norm_back_scale(product_sum(dx, x, n), static_cast<int64_t>(n), factor));
    for (i = 0; i + 16 <= n; i += 16) store(dx + i, fma_f32(scale, load(x + i), load(dx + i) * f));
    if (i < n) store_n(dx + i, fma_f32(scale, load_n(x + i, n - i), load_n(dx + i, n - i) * f), n - i);
}

static void add_norm_products(const float *dy, const float *x, float factor, float *sum, size_t n) {
    const v16 f(factor);
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        store_part(sum + i, fma_f32(load_part(dy + i, m), load_part(x + i, m) * f, load_part(sum + i, m)), m);
    });
}

static void times(float factor, const float *x, float *y, size_t n) {
    by_sixteens(n, [&](size_t i, size_t m)
                       DS_LAMBDA { store_part(y + i, v16(factor) * load_part(x + i, m), m); });
}

// ---- Attention

static void attend_back(float *scores, float *products, size_t n, float scale) {
    const v16 to_log2(attention_scale(scale));
    v16 most(-std::numeric_limits<float>::infinity()), sum(0.0f), mean(0.0f);
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        const v16 s = load_part(scores + i, m) * to_log2;
        store_part(scores + i, s, m);
        most = keep_part(larger(most, s), most, m);
    });
    const v16 max(largest(most));
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        const v16 w = exp2_f32(load_part(scores + i, m) - max);
        store_part(scores + i, w, m);
        sum = keep_part(sum + w, sum, m);
    });
    const v16 whole(fold(sum));
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        const v16 w = load_part(scores + i, m) / whole;
        store_part(scores + i, w, m);
        mean = keep_part(fma_f32(w, load_part(products + i, m), mean), mean, m);
    });
    const v16 middle(fold(mean)), factor(scale);
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        const v16 w = load_part(scores + i, m);
        store_part(products + i, (w * (load_part(products + i, m) - middle)) * factor, m);
    });
}

// ---- Cross entropy

static float largest_finite(const float *x, size_t n) {
    v16 most(-std::numeric_limits<float>::infinity()), zero(0.0f);
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        const v16 v = load_part(x + i, m);
        most = keep_part(larger(most, v), most, m);
        zero = keep_part(zero + (v - v), zero, m);  // infinity - infinity is NaN
    });
    return any_nan(zero) ? std::numeric_limits<float>::quiet_NaN() : largest(most);
}

static int64_t sampling_sum(const float *logits, float largest, size_t n) {
    const v16 max(largest), whole(sampling_one);
    int64_t sum = 0;
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        float w[16];
        store(w, exp_f32(load_part(logits + i, m) - max) * whole);
        for (size_t j = 0; j < m; ++j) sum += static_cast<int64_t>(__builtin_rintf(w[j]));
    });
    return sum;
}

static float entropy(const float *logits, float log_sum, size_t n) {
    const v16 whole(log_sum);
    v16 lane(0.0f);
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        const v16 d = load_part(logits + i, m) - whole;
        lane = keep_part(lane + exp_f32(d) * -d, lane, m);
    });
    return fold(lane);
}

static void cross_entropy_slopes(float *logits, float log_sum, float entropy, float by_log_probability,
                                 float by_entropy, size_t n) {
    const v16 whole(log_sum), h(entropy), by(by_log_probability), by_h(by_entropy);
    by_sixteens(n, [&](size_t i, size_t m) DS_LAMBDA {
        const v16 d = load_part(logits + i, m) - whole;
        store_part(logits + i, -(exp_f32(d) * fma_f32(by_h, d + h, by)), m);
    });
}

// ---- The optimizer

static void adamw(const adamw_params &p, const float *g, float *w, float *m, float *v, size_t n) {
    const v16 clip(p.clip), beta1(p.beta1), beta2(p.beta2), rest1(p.rest1), rest2(p.rest2), bias1(p.bias1),
        bias2(p.bias2), decay(-p.decay), rate(p.rate), epsilon(p.epsilon);
    by_sixteens(n, [&](size_t i, size_t part) DS_LAMBDA {
        const v16 gi = load_part(g + i, part) * clip, mi = fma_f32(beta1, load_part(m + i, part), rest1 * gi),
                  vi = fma_f32(beta2, load_part(v + i, part), (rest2 * gi) * gi), wi = load_part(w + i, part);
        store_part(m + i, mi, part);
        store_part(v + i, vi, part);
        store_part(w + i, fma_f32(decay, wi, wi) - rate * ((mi * bias1) / (root(vi * bias2) + epsilon)),
                   part);
    });
}
