// Sixteen floats without vectors. The other vec_*.inl define the same names.
// Invariant: `n` in load_n, store_n and keep_n is below 16; lanes from n on are neither read nor written.

struct v16 {
    float f[16];
    v16() = default;
    DS_INLINE v16(float x) {
        for (float &y : f) y = x;
    }
};

constexpr int attend_rows = 2, dot_rows = 2;
constexpr int attend_vectors(int) { return 1; }
constexpr size_t dot_weights = 4;
constexpr int outer_rows = 2, outer_vectors = 1;

template <class F> DS_INLINE v16 map(v16 a, v16 b, const F &f) {
    v16 y;
    for (int i = 0; i < 16; ++i) y.f[i] = f(a.f[i], b.f[i]);
    return y;
}
DS_INLINE float decoded(float x) { return x; }
DS_INLINE float decoded(half x) { return f16_to_f32(x.bits); }
DS_INLINE float decoded(brain x) { return bf16_to_f32(x.bits); }
template <class E> DS_INLINE v16 load_n(const E *p, size_t n) {
    v16 y(0.0f);
    for (size_t i = 0; i < n; ++i) y.f[i] = decoded(p[i]);
    return y;
}
template <class E> DS_INLINE v16 load(const E *p) { return load_n(p, 16); }
DS_INLINE void store_n(float *p, v16 x, size_t n) { memcpy(p, x.f, n * sizeof(float)); }
DS_INLINE void store(float *p, v16 x) { store_n(p, x, 16); }
DS_INLINE void store_f16_n(uint16_t *p, v16 x, size_t n) {
    for (size_t i = 0; i < n; ++i) p[i] = f32_to_f16(x.f[i]);
}
DS_INLINE void store_f16(uint16_t *p, v16 x) { store_f16_n(p, x, 16); }

DS_INLINE v16 operator+(v16 a, v16 b) {
    return map(a, b, [](float x, float y) { return x + y; });
}
DS_INLINE v16 operator-(v16 a, v16 b) {
    return map(a, b, [](float x, float y) { return x - y; });
}
DS_INLINE v16 operator*(v16 a, v16 b) {
    return map(a, b, [](float x, float y) { return x * y; });
}
DS_INLINE v16 operator/(v16 a, v16 b) {
    return map(a, b, [](float x, float y) { return x / y; });
}
DS_INLINE v16 operator-(v16 a) {
    return map(a, a, [](float x, float) { return -x; });
}
DS_INLINE v16 root(v16 a) {
    return map(a, a, [](float x, float) { return __builtin_sqrtf(x); });
}
DS_INLINE v16 fma_f32(v16 a, v16 b, v16 c) {
    for (int i = 0; i < 16; ++i) c.f[i] = ds::fma_f32(a.f[i], b.f[i], c.f[i]);
    return c;
}
// The first n lanes of a, the rest of b.
DS_INLINE v16 keep_n(v16 a, v16 b, size_t n) {
    memcpy(b.f, a.f, n * sizeof(float));
    return b;
}
DS_INLINE v16 exp2_f32(v16 x) {
    return map(x, x, [](float a, float) { return ds::exp2_f32(a); });
}
DS_INLINE v16 exp_f32(v16 x) {
    return map(x, x, [](float a, float) { return ds::exp_f32(a); });
}

// not for NaN: see any_nan
DS_INLINE v16 larger(v16 a, v16 b) {
    return map(a, b, [](float x, float y) { return x > y ? x : y; });
}
DS_INLINE v16 smaller(v16 a, v16 b) {
    return map(a, b, [](float x, float y) { return x < y ? x : y; });
}
DS_INLINE bool any_nan(v16 x) {
    bool nan = false;
    for (float a : x.f) nan |= a != a;
    return nan;
}
DS_INLINE float largest(v16 x) {
    float m = x.f[0];
    for (float a : x.f) m = a > m ? a : m;
    return m;
}
DS_INLINE float fold(v16 x) { return fold_lanes<16>(x.f); }
DS_INLINE void fold4(const v16 *x, float *y) {
    for (int i = 0; i < 4; ++i) y[i] = fold(x[i]);
}

// lo and hi hold adjacent pairs; `even` gets the first of each pair.
DS_INLINE void split_pairs(v16 lo, v16 hi, v16 &even, v16 &odd) {
    for (int i = 0; i < 16; ++i) {
        const float *pair = i < 8 ? lo.f + 2 * i : hi.f + (2 * i - 16);
        even.f[i] = pair[0];
        odd.f[i] = pair[1];
    }
}
DS_INLINE void join_pairs(v16 even, v16 odd, v16 &lo, v16 &hi) {
    for (int i = 0; i < 16; ++i) {
        float *pair = i < 8 ? lo.f + 2 * i : hi.f + (2 * i - 16);
        pair[0] = even.f[i];
        pair[1] = odd.f[i];
    }
}

// Sixteen integers to floats and back, rounding halves to even.
DS_INLINE v16 load_i32(const int32_t *p) {
    v16 y;
    for (int i = 0; i < 16; ++i) y.f[i] = static_cast<float>(p[i]);
    return y;
}
template <class E> DS_INLINE void store_rounded(E *p, v16 x) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<E>(static_cast<int32_t>(__builtin_rintf(x.f[i])));
}
// The planes of rounded x: plane_high, plane_low.
template <class E> DS_INLINE void store_planes(E *high, E *low, v16 x) {
    int32_t q[16];
    store_rounded(q, x);
    for (int i = 0; i < 16; ++i)
        high[i] = static_cast<E>(plane_high(q[i])), low[i] = static_cast<E>(plane_low(q[i]));
}
// The larger bits, signs cleared: a NaN is larger than any other value.
DS_INLINE v16 larger_magnitude(v16 a, v16 b) {
    return map(a, b, [](float x, float y) {
        const float pair[2] = {x, y};
        return float_of(largest_bits(pair, 2));
    });
}
// total[i] += page_total(acc[i], shift)
DS_INLINE void add_totals(int64_t *total, const int32_t *acc, int32_t shift) {
    for (int i = 0; i < 16; ++i) total[i] += page_total(acc[i], shift);
}
