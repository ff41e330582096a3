// I8 around its products, written once over v16: quantizing, and attention over pages of i8 (numerics.h).
// The including file defines i8_x, the element that products take; i8_sum, the sum of n of them, whole
// lines; and i8_start, what sums of products with a row of that sum start from.
// i8_scores_by and i8_values_by take the multiplication of a page as a class `pages`:
//   static constexpr size_t rows;  // of queries that share a pass over a page
//   void pack(const int8_t *page, size_t stride, size_t columns, size_t depth, char *tile);
//   void product(const page_args &a);

// The head of a quantized row.
struct i8_head {
    float scale;  // of activations; of a query row, its factor
    int32_t start;
};
constexpr size_t i8_head_bytes = 64;
DS_INLINE i8_head i8_head_of(const char *row) {
    i8_head h;
    memcpy(&h, row, sizeof h);
    return h;
}
constexpr size_t i8_plane_bytes(size_t n) { return align64(n * sizeof(i8_x)); }

// ---- Quantizing

static row_scale i8_scale(const float *x, size_t n, float levels) {
    v16 most(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) most = larger_magnitude(most, load(x + i));
    if (i < n) most = larger_magnitude(most, load_n(x + i, n - i));
    float lane[16];
    store(lane, most);
    return row_scale_of(largest_bits(lane, 16), levels);
}

// Sixteen elements to be rounded, or `n` followed by zeros. Where s.inverse is zero, all are.
DS_INLINE v16 i8_scaled(const float *x, size_t n, row_scale s) {
    return (n < 16 ? load_n(x, n) : load(x)) * v16(s.inverse);
}

static void i8_quantize(const float *x, char *y, size_t k) {
    const row_scale s = i8_scale(x, k, i8_levels);
    i8_x *to = reinterpret_cast<i8_x *>(y + i8_head_bytes);
    const size_t some = s.inverse == 0.0f ? 0 : k / 16 * 16;
    memset(to + some, 0, i8_plane_bytes(k) - some * sizeof(i8_x));
    for (size_t i = 0; s.inverse != 0.0f && i < k; i += 16) store_rounded(to + i, i8_scaled(x + i, k - i, s));
    const i8_head h = {s.scale, i8_start(i8_sum(to, i8_plane_bytes(k) / sizeof(i8_x)))};
    memcpy(y, &h, sizeof h);
}

static float i8_put(const float *x, int8_t *to, size_t step, size_t n) {
    const row_scale s = i8_scale(x, n, i8_levels);
    for (size_t i = 0; i < n; i += 16) {
        int8_t q[16] = {};
        if (s.inverse != 0.0f) store_rounded(q, i8_scaled(x + i, n - i, s));
        if (step == 1 && i + 16 <= n) {
            memcpy(to + i, q, sizeof q);
            continue;
        }
        for (size_t j = 0; j < std::min<size_t>(16, n - i); ++j) to[(i + j) * step] = q[j];
    }
    return s.scale;
}

// Each pass takes adjacent pairs and stores their sums before their differences, so that the next stride's
// pairs become adjacent; after the last pass every element is in its own position again (M. C. Pease, J. ACM
// 15, 1968).
static void i8_hadamard(float *x, size_t head_size) {
    constexpr size_t largest_block = 1024;
    const size_t block = static_cast<size_t>(hadamard_block(static_cast<int32_t>(head_size)));
    if (block < 32 || block > largest_block) return hadamard(x, static_cast<int32_t>(head_size));
    float other[largest_block];
    for (const float *end = x + head_size; x < end; x += block) {
        float *from = x, *to = other;
        for (size_t stride = 1; stride < block; stride *= 2, std::swap(from, to))
            for (size_t i = 0; i < block / 2; i += 16) {
                v16 a, b;
                split_pairs(load(from + 2 * i), load(from + 2 * i + 16), a, b);
                store(to + i, a + b);
                store(to + block / 2 + i, a - b);
            }
        if (from != x) memcpy(x, from, block * sizeof *x);
    }
}

// What sums of products with two planes of n elements start from.
DS_INLINE int32_t i8_planes_start(const i8_x *high, const i8_x *low, size_t n) {
    return i8_start(static_cast<int32_t>(128u * static_cast<uint32_t>(i8_sum(high, n)) +
                                         static_cast<uint32_t>(i8_sum(low, n))));
}

static void i8_query(const float *q, float scale, char *y, size_t head_size) {
    const row_scale s = i8_scale(q, head_size, q15_levels);
    const size_t plane = i8_plane_bytes(head_size) / sizeof(i8_x);
    i8_x *const high = reinterpret_cast<i8_x *>(y + i8_head_bytes), *const low = high + plane;
    memset(high, 0, 2 * i8_plane_bytes(head_size));
    for (size_t i = 0; s.inverse != 0.0f && i < head_size; i += 16)
        store_planes(high + i, low + i, i8_scaled(q + i, head_size - i, s));
    const i8_head h = {i8_query_factor(s.scale, scale, static_cast<int32_t>(head_size)),
                       i8_planes_start(high, low, plane)};
    memcpy(y, &h, sizeof h);
}

// ---- A page of keys: scores, and how large they and the values' scales are

// x where visible (of a page `seen` positions are visible, and these 16 start at t), else `other`.
DS_INLINE v16 i8_seen(v16 x, float other, size_t t, size_t seen) {
    return seen >= t + 16 ? x : seen <= t ? v16(other) : keep_n(x, v16(other), seen - t);
}

static void i8_score_row(const i8_attend_args &a, size_t r, const int32_t *product, float factor) {
    const size_t seen = static_cast<size_t>(a.seen[r]);
    v16 most(-std::numeric_limits<float>::infinity()), scales(0.0f);
    bool nan = false, nan_scale = false;
    for (size_t t = 0; t < seen; t += 16) {
        const v16 s = (load_i32(product + t) * load(a.k_scale + t)) * v16(factor),
                  scale = i8_seen(load(a.v_scale + t), 0.0f, t, seen);
        store(a.scores + r * a.score_stride + t, s);
        const v16 score = i8_seen(s, -std::numeric_limits<float>::infinity(), t, seen);
        nan |= any_nan(score);
        nan_scale |= any_nan(scale);
        most = larger(most, score);
        scales = larger(scales, scale);
    }
    constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
    a.max[r] = attention_max(a.max[r], nan ? not_a_number : largest(most));
    a.largest[r] = attention_max(a.largest[r], nan_scale ? not_a_number : largest(scales));
}

// While some rows use this page, they prefetch their share of what comes next.
DS_INLINE void i8_fetch(const i8_attend_args &a, size_t r, size_t first, size_t together) {
    if (!a.next) return;
    const size_t bytes = a.head_size * page_positions, rows = a.rows - first,
                 begin = (r - first) * bytes / rows,
                 end = std::min(r - first + together, rows) * bytes / rows;
    for (size_t i = begin / 64 * 64; i < end; i += 64) __builtin_prefetch(a.next + i, 0, 2);
}
DS_INLINE size_t i8_first_row(const i8_attend_args &a) {
    size_t r = 0;
    while (r < a.rows && a.seen[r] == 0) ++r;
    return r;
}

template <class pages> static void i8_scores_by(const i8_attend_args &a) {
    const size_t row_bytes = i8_row_bytes(sizeof(i8_x), a.head_size, 2), first = i8_first_row(a);
    if (first == a.rows) return;
    pages p;
    p.pack(a.k, a.head_size, page_positions, a.head_size, a.scratch);
    alignas(64) int32_t product[pages::rows * page_positions];
    for (size_t r = first; r < a.rows; r += pages::rows) {
        const size_t rows = std::min<size_t>(pages::rows, a.rows - r);
        i8_fetch(a, r, first, pages::rows);
        p.product({a.scratch, page_positions, a.head_size, a.q + r * row_bytes, rows, product});
        for (size_t i = 0; i < rows; ++i)
            i8_score_row(a, r + i, product + i * page_positions, i8_head_of(a.q + (r + i) * row_bytes).scale);
    }
}

// ---- A page of values

// Writes a row's weights of the page's positions as two planes; returns the shift of their sums.
static int32_t i8_weights(const i8_attend_args &a, size_t r, char *planes) {
    const size_t seen = static_cast<size_t>(a.seen[r]);
    const float *scores = a.scores + r * a.score_stride;
    i8_x *high = reinterpret_cast<i8_x *>(planes + i8_head_bytes),
         *low = reinterpret_cast<i8_x *>(planes + i8_head_bytes + i8_plane_bytes(page_positions));
    memset(planes, 0, i8_row_bytes(sizeof(i8_x), page_positions, 2));
    if (a.exponent[r] == i8_nan) return 0;
    v16 w[page_positions / 16], most(0.0f);
    int64_t shares[16] = {};
    for (size_t t = 0; t < seen; t += 16) {
        const v16 p = i8_seen(exp2_f32(load(scores + t) - v16(a.max[r])), 0.0f, t, seen);
        int32_t share[16];
        store_rounded(share, p * v16(1073741824.0f));
        add_totals(shares, share, 20);
        w[t / 16] = i8_seen(p * load(a.v_scale + t), 0.0f, t, seen);
        most = larger(most, w[t / 16]);
    }
    for (int64_t s : shares) a.denominator[r] += s;
    const float heaviest = largest(most);
    if (heaviest == 0.0f) return 0;
    const int32_t e = page_exponent(heaviest);
    // what would round to 16384 is made smaller before
    for (size_t t = 0; t < seen; t += 16)
        store_planes(high + t, low + t, smaller(w[t / 16] * v16(ds::power_of_two(14 - e)), v16(16383.0f)));
    const i8_head h = {0.0f, i8_planes_start(high, low, page_positions)};
    memcpy(planes, &h, sizeof h);
    return a.exponent[r] - e;
}

template <class pages> static void i8_values_by(const i8_attend_args &a) {
    const size_t first = i8_first_row(a), d = align64(a.head_size),
                 row_bytes = i8_row_bytes(sizeof(i8_x), page_positions, 2);
    if (first == a.rows) return;
    char *planes = a.scratch + d * page_positions * sizeof(i8_x);
    int32_t *product = reinterpret_cast<int32_t *>(planes + pages::rows * row_bytes);
    pages p;
    p.pack(a.v, page_positions, a.head_size, page_positions, a.scratch);
    for (size_t r = first; r < a.rows; r += pages::rows) {
        const size_t rows = std::min<size_t>(pages::rows, a.rows - r);
        int32_t shift[pages::rows];
        i8_fetch(a, r, first, pages::rows);
        for (size_t i = 0; i < rows; ++i) shift[i] = i8_weights(a, r + i, planes + i * row_bytes);
        p.product({a.scratch, a.head_size, page_positions, planes, rows, product});
        for (size_t i = 0; i < rows; ++i)
            for (size_t e = 0; e < a.head_size; e += 16)
                add_totals(a.total + (r + i) * d + e, product + i * d + e, shift[i]);
    }
}
