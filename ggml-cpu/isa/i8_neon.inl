// I8 products. A tile holds sixteen weights (or page rows) side by side; activations are taken six rows at a
// time, whose sums fill the registers. int32 sums are exact in any order.

using i8_x = int8_t;
// a tile is i8_columns rows of i8_chunk weights
constexpr size_t i8_columns = 16, i8_tile_x = 6, i8_chunk = 1024;
constexpr size_t i8_few_rows = 9, i8_dot_weights = 8, i8_dot_x = 3;
constexpr size_t i8_group_bytes(size_t depth) { return (depth + 15) / 16 * 16 * i8_columns; }
DS_INLINE int32_t i8_sum(const i8_x *, size_t) { return 0; }  // nothing starts from it
DS_INLINE int32_t i8_start(int32_t) { return 0; }

#include "i8.inl"

// ---- Tiles

static void i8_pack(const char *w, size_t stride, size_t rows, size_t depth, char *tile) {
    for (size_t g = 0; g < std::min(rows, i8_columns); g += 4) {
        const char *row[4];
        for (size_t r = 0; r < 4; ++r) row[r] = w + std::min(g + r, rows - 1) * stride;
        for (size_t k = 0; k < depth; k += 16) {
            int8x16_t v[4];
            if (k + 16 <= depth) {
                DS_UNROLL for (size_t r = 0; r < 4; ++r) v[r] = bytes16(row[r] + k);
            } else {
                for (size_t r = 0; r < 4; ++r) {
                    char rest[16] = {};
                    memcpy(rest, row[r] + k, depth - k);
                    v[r] = bytes16(rest);
                }
            }
            pack4(v, tile + k * i8_columns, g);
        }
    }
}

// Rows of activations are readable up to their padded ends, which are zero.
template <size_t rows>
DS_INLINE void i8_tile_product(const char *tile, const char *const *x, size_t depth, int32x4_t (*sum)[4]) {
    for (size_t k = 0; k < depth; k += 16) {
        int8x16_t xs[rows];
        DS_UNROLL for (size_t j = 0; j < rows; ++j) xs[j] = bytes16(x[j] + k);
        steps16<rows>(tile + k * i8_columns, xs, sum);
    }
}

// ---- A page's part in attention

template <size_t rows> static void page_product_of(const page_args &a) {
    const size_t plane = i8_plane_bytes(a.depth);
    const char *x[2 * rows], *tile = a.tile;
    for (size_t j = 0; j < 2 * rows; ++j)
        x[j] = a.x + j / 2 * i8_row_bytes(1, a.depth, 2) + i8_head_bytes + j % 2 * plane;
    for (size_t c = 0; c < a.columns; c += i8_columns, tile += i8_group_bytes(a.depth)) {
        int32x4_t sum[2 * rows][4];
        DS_UNROLL for (size_t j = 0; j < 2 * rows; ++j) {
            DS_UNROLL for (size_t v = 0; v < 4; ++v) { sum[j][v] = vdupq_n_s32(0); }
        }
        i8_tile_product<2 * rows>(tile, x, a.depth, sum);
        DS_UNROLL for (size_t j = 0; j < rows; ++j) {
            DS_UNROLL for (size_t v = 0; v < 4; ++v) {
                vst1q_s32(a.out + j * align64(a.columns) + c + 4 * v,
                          vaddq_s32(vshlq_n_s32(sum[2 * j][v], 7), sum[2 * j + 1][v]));
            }
        }
    }
}
struct i8_pages {
    static constexpr size_t rows = 3;
    static void pack(const int8_t *page, size_t stride, size_t columns, size_t depth, char *tile) {
        for (size_t c = 0; c < columns; c += i8_columns, tile += i8_group_bytes(depth))
            i8_pack(reinterpret_cast<const char *>(page) + c * stride, stride, columns - c, depth, tile);
    }
    static void product(const page_args &a) {
        if (a.rows == 1) page_product_of<1>(a);
        else if (a.rows == 2) page_product_of<2>(a);
        else page_product_of<3>(a);
    }
};

// ---- Many rows of activations

// Between two chunks of k, y holds the integer sums. No instruction may treat them as floats: some are the
// bits of a signalling NaN, which any arithmetic makes quiet, and compilers add -0.0 where the source adds
// nothing.
DS_INLINE void load_sums(const float *y, size_t n, int32x4_t *sum) {
    int32_t copy[i8_columns] = {};
    if (n == i8_columns) memcpy(copy, y, sizeof copy);
    else memcpy(copy, y, n * sizeof *copy);
    DS_UNROLL for (int i = 0; i < 4; ++i) sum[i] = vld1q_s32(copy + 4 * i);
}
DS_INLINE void store_sums(float *y, const int32x4_t *sum, size_t n) {
    int32_t copy[i8_columns];
    DS_UNROLL for (int i = 0; i < 4; ++i) vst1q_s32(copy + 4 * i, sum[i]);
    if (n == i8_columns) memcpy(y, copy, sizeof copy);
    else memcpy(y, copy, n * sizeof *copy);
}

template <size_t rows>
static void i8_tile_rows(const i8_args &a, const char *tile, size_t begin, size_t end, size_t x0) {
    const size_t n = std::min(a.weights, i8_columns);
    const char *x[rows];
    float *y = a.y + x0 * a.y_stride;
    int32x4_t sum[rows][4];
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        x[j] = a.x + (x0 + j) * a.x_stride + i8_head_bytes + begin;
        DS_UNROLL for (int i = 0; i < 4; ++i) sum[j][i] = vdupq_n_s32(0);
        if (begin > 0) load_sums(y + j * a.y_stride, n, sum[j]);
    }
    i8_tile_product<rows>(tile, x, end - begin, sum);
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        const int32x4_t *s = sum[j];
        if (end < a.k) {
            store_sums(y + j * a.y_stride, s, n);
            continue;
        }
        v16 out =
            (to_float(s) * load_columns(a.w_scale, n)) * v16(i8_head_of(x[j] - begin - i8_head_bytes).scale);
        if (a.bias) out = out + load_columns(a.bias, n);
        store_columns(y + j * a.y_stride, out, n);
    }
}

template <size_t rows> DS_INLINE void i8_tile_rows_of(const i8_args &a, const char *tile, size_t begin,
                                                      size_t end, size_t count, size_t x0) {
    if constexpr (rows > 1) {
        if (count < rows) return i8_tile_rows_of<rows - 1>(a, tile, begin, end, count, x0);
    }
    i8_tile_rows<rows>(a, tile, begin, end, x0);
}

static void i8_tile(const i8_args &a, char *tile) {
    for (size_t begin = 0; begin < a.k; begin += i8_chunk) {
        const size_t end = std::min(begin + i8_chunk, a.k);
        i8_pack(a.w + begin, a.w_stride, a.weights, end - begin, tile);
        for (size_t x0 = 0; x0 < a.rows; x0 += i8_tile_x)
            i8_tile_rows_of<i8_tile_x>(a, tile, begin, end, a.rows - x0, x0);
    }
}

// ---- Few rows of activations: eight rows of weights at a time, as stored

template <size_t rows> DS_INLINE void i8_dot_step(const char *const *w, size_t k, const char *x,
                                                  size_t x_stride, int32x4_t (*sum)[i8_dot_weights]) {
    int8x16_t xs[rows];
    DS_UNROLL for (size_t j = 0; j < rows; ++j) xs[j] = bytes16(x + j * x_stride);
    DS_UNROLL for (size_t r = 0; r < i8_dot_weights; ++r) {
        const int8x16_t wr = bytes16(w[r] + k);
        DS_UNROLL for (size_t j = 0; j < rows; ++j) sum[j][r] = dot_bytes(sum[j][r], wr, xs[j]);
    }
}

template <size_t rows> static void i8_rows8(const i8_args &a, size_t w0, size_t x0) {
    const size_t valid = std::min(i8_dot_weights, a.weights - w0);
    const char *w[i8_dot_weights], *x = a.x + x0 * a.x_stride;
    for (size_t r = 0; r < i8_dot_weights; ++r) w[r] = a.w + (w0 + std::min(r, valid - 1)) * a.w_stride;
    int32x4_t sum[rows][i8_dot_weights];
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        DS_UNROLL for (size_t r = 0; r < i8_dot_weights; ++r) { sum[j][r] = vdupq_n_s32(0); }
    }
    size_t k = 0;
    for (; k + 16 <= a.k; k += 16) {
        if (k % 64 == 0)
            for (const char *row : w) __builtin_prefetch(row + k + i8_dot_weights * a.w_stride, 0, 2);
        i8_dot_step<rows>(w, k, x + i8_head_bytes + k, a.x_stride, sum);
    }
    if (k < a.k) {
        char rest[i8_dot_weights][16] = {};
        for (size_t r = 0; r < i8_dot_weights; ++r) {
            memcpy(rest[r], w[r] + k, a.k - k);
            w[r] = rest[r];
        }
        i8_dot_step<rows>(w, 0, x + i8_head_bytes + k, a.x_stride, sum);
    }
    for (size_t j = 0; j < rows; ++j, x += a.x_stride) {
        int32_t product[i8_dot_weights];
        for (size_t r = 0; r < i8_dot_weights; r += 4) vst1q_s32(product + r, sum_of_each(sum[j] + r));
        const float scale = i8_head_of(x).scale;
        float *y = a.y + (x0 + j) * a.y_stride + w0;
        for (size_t r = 0; r < valid; ++r) {
            const float out = i8_output(product[r], a.w_scale[w0 + r], scale);
            y[r] = a.bias ? out + a.bias[w0 + r] : out;
        }
    }
}

template <size_t rows> DS_INLINE void i8_rows8_of(const i8_args &a, size_t count, size_t w0, size_t x0) {
    if constexpr (rows > 1) {
        if (count < rows) return i8_rows8_of<rows - 1>(a, count, w0, x0);
    }
    i8_rows8<rows>(a, w0, x0);
}

static void i8_rows(const i8_args &a) {
    for (size_t w0 = 0; w0 < a.weights; w0 += i8_dot_weights)
        for (size_t x0 = 0; x0 < a.rows; x0 += i8_dot_x) i8_rows8_of<i8_dot_x>(a, a.rows - x0, w0, x0);
}

static constexpr i8_kernels i8 = {.element = sizeof(i8_x),
                                  .few_rows = i8_few_rows,
                                  .tile_weights = i8_columns,
                                  .tile_bytes = i8_group_bytes(i8_chunk),
                                  .attend_rows = i8_pages::rows,
                                  .group_rows = 1,
                                  .quantize = i8_quantize,
                                  .rows = i8_rows,
                                  .tile = i8_tile,
                                  .hadamard = i8_hadamard,
                                  .put = i8_put,
                                  .query = i8_query,
                                  .scores = i8_scores_by<i8_pages>,
                                  .values = i8_values_by<i8_pages>};
