// I8 products on 256 and 512 bits, with packed_x86.inl and what it requires: w16i, tile_step, sum_of_each. A
// tile holds weights (or page rows) side by side in its lanes, four bytes of each per step; activations are
// broadcast. int32 sums are exact modulo 2^32, in any order.
// The including file also defines: widened, which reads i8_piece weights; transpose16; load_sums and
// store_sums, of n integers stored where results will be; i8_vectors, a tile's width in registers; i8_dot_x
// and i8_streams, the rows of activations and of weights in a product that reads weights as stored;
// i8_few_rows.

using i8_x = std::conditional_t<packed_unsigned, int8_t, int16_t>;
// a tile is i8_columns rows of i8_chunk weights
constexpr size_t i8_columns = 16 * i8_vectors, i8_tile_x = 6, i8_chunk = 1024;
// elements per register, or per 16 steps of a tile
constexpr size_t i8_piece = 64 / sizeof(i8_x);
constexpr size_t i8_group_bytes(size_t depth) {
    return (depth + i8_piece - 1) / i8_piece * 16 * 64 * i8_vectors;
}

DS_INLINE int32_t i8_start(int32_t sum) {
    return packed_unsigned ? static_cast<int32_t>(-128u * static_cast<uint32_t>(sum)) : 0;
}

static int32_t i8_sum(const i8_x *x, size_t n) {
    if constexpr (!packed_unsigned) return 0;  // nothing starts from it
    const w16i ones(0x01010101);
    w16i sum(0);
    for (size_t i = 0; i < n; i += i8_piece)
        sum = tile_step(sum, ones, w16i(reinterpret_cast<const char *>(x + i)));
    int32_t lane[16];
    store_ints(lane, sum);
    uint32_t all = 0;
    for (int32_t l : lane) all += static_cast<uint32_t>(l);
    return static_cast<int32_t>(all);
}

#include "i8.inl"

// ---- Tiles

// Transposes sixteen rows, widened by `widen`, into the lanes of a register of a tile of `vectors`; depth is
// padded with widened zeros.
template <w16i (*widen)(const char *), size_t vectors>
static void i8_pack_rows(const char *const *row, size_t depth, char *to) {
    for (size_t k = 0; k < depth; k += i8_piece, to += 16 * 64 * vectors) {
        w16i v[16];
        if (k + i8_piece <= depth) {
            DS_UNROLL for (int r = 0; r < 16; ++r) v[r] = widen(row[r] + k);
        } else {
            for (int r = 0; r < 16; ++r) {
                char rest[i8_piece] = {};
                memcpy(rest, row[r] + k, depth - k);
                v[r] = widen(rest);
            }
        }
        transpose16(v);
        DS_UNROLL for (int i = 0; i < 16; ++i) {
            store_ints(reinterpret_cast<int32_t *>(to + i * 64 * vectors), v[i]);
        }
    }
}
// A tile; where rows are missing, the last one stands in for them.
template <w16i (*widen)(const char *), size_t vectors>
static void i8_pack(const char *w, size_t stride, size_t rows, size_t depth, char *tile) {
    for (size_t g = 0; g < std::min(rows, 16 * vectors); g += 16) {
        const char *row[16];
        for (size_t r = 0; r < 16; ++r) row[r] = w + std::min(g + r, rows - 1) * stride;
        i8_pack_rows<widen, vectors>(row, depth, tile + 4 * g);
    }
}

template <size_t rows> DS_INLINE void i8_tile_product(const char *tile, const char *const *x, size_t steps,
                                                      w16i (*sum)[i8_vectors]) {
    for (size_t s = 0; s < steps; ++s, tile += 64 * i8_vectors) {
        w16i w[i8_vectors];
        DS_UNROLL for (size_t v = 0; v < i8_vectors; ++v) w[v] = w16i(tile + 64 * v);
        DS_UNROLL for (size_t j = 0; j < rows; ++j) {
            const w16i xs(read<int32_t>(x[j] + 4 * s));
            DS_UNROLL for (size_t v = 0; v < i8_vectors; ++v) sum[j][v] = tile_step(sum[j][v], w[v], xs);
        }
    }
}
constexpr size_t i8_steps(size_t depth) { return (depth * sizeof(i8_x) + 3) / 4; }

// ---- A page's part in attention

template <size_t rows> static void page_product_of(const page_args &a) {
    const size_t plane = i8_plane_bytes(a.depth);
    const char *x[2 * rows], *tile = a.tile;
    for (size_t j = 0; j < 2 * rows; ++j)
        x[j] = a.x + j / 2 * i8_row_bytes(sizeof(i8_x), a.depth, 2) + i8_head_bytes + j % 2 * plane;
    for (size_t c = 0; c < a.columns; c += i8_columns, tile += i8_group_bytes(a.depth)) {
        w16i sum[2 * rows][i8_vectors];
        DS_UNROLL for (size_t j = 0; j < 2 * rows; ++j) {
            DS_UNROLL for (size_t v = 0; v < i8_vectors; ++v) {
                sum[j][v] = w16i(j % 2 ? i8_head_of(x[j - 1] - i8_head_bytes).start : 0);
            }
        }
        i8_tile_product<2 * rows>(tile, x, i8_steps(a.depth), sum);
        DS_UNROLL for (size_t j = 0; j < rows; ++j) {
            DS_UNROLL for (size_t v = 0; v < i8_vectors; ++v) {
                store_ints(a.out + j * align64(a.columns) + c + 16 * v,
                           planes_joined(sum[2 * j][v], sum[2 * j + 1][v]));
            }
        }
    }
}

struct i8_pages {
    static constexpr size_t rows = 3;
    static void pack(const int8_t *page, size_t stride, size_t columns, size_t depth, char *tile) {
        for (size_t c = 0; c < columns; c += i8_columns, tile += i8_group_bytes(depth))
            i8_pack<widened, i8_vectors>(reinterpret_cast<const char *>(page) + c * stride, stride,
                                         columns - c, depth, tile);
    }
    static void product(const page_args &a) {
        if (a.rows == 1) page_product_of<1>(a);
        else if (a.rows == 2) page_product_of<2>(a);
        else page_product_of<3>(a);
    }
};

// ---- Many rows of activations

DS_INLINE size_t i8_valid(const i8_args &a, size_t v) {
    return a.weights > 16 * v ? std::min<size_t>(16, a.weights - 16 * v) : 0;
}
DS_INLINE v16 i8_load(const float *p, size_t n) {
    return n == 0 ? v16(0.0f) : n < 16 ? load_n(p, n) : load(p);
}

// Between two chunks of k, y holds the integer sums. No instruction may treat them as floats: some are the
// bits of a signalling NaN, which any arithmetic makes quiet, and compilers add -0.0 where the source adds
// nothing.
template <size_t rows>
static void i8_tile_rows(const i8_args &a, const char *tile, size_t begin, size_t end, size_t x0) {
    const char *x[rows];
    i8_head head[rows];
    w16i sum[rows][i8_vectors];
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        const char *row = a.x + (x0 + j) * a.x_stride;
        head[j] = i8_head_of(row);
        x[j] = row + i8_head_bytes + begin * sizeof(i8_x);
        DS_UNROLL for (size_t v = 0; v < i8_vectors; ++v) {
            sum[j][v] = begin == 0 ? w16i(head[j].start)
                                   : load_sums(a.y + (x0 + j) * a.y_stride + 16 * v, i8_valid(a, v));
        }
    }
    i8_tile_product<rows>(tile, x, i8_steps(end - begin), sum);
    DS_UNROLL for (size_t v = 0; v < i8_vectors; ++v) {
        const size_t n = i8_valid(a, v);
        if (n == 0) break;
        if (end < a.k) {
            DS_UNROLL for (size_t j = 0; j < rows; ++j) {
                store_sums(a.y + (x0 + j) * a.y_stride + 16 * v, sum[j][v], n);
            }
            continue;
        }
        const v16 scale = i8_load(a.w_scale + 16 * v, n),
                  bias = a.bias ? i8_load(a.bias + 16 * v, n) : v16(0.0f);
        DS_UNROLL for (size_t j = 0; j < rows; ++j) {
            float *y = a.y + (x0 + j) * a.y_stride + 16 * v;
            v16 out = (to_float(sum[j][v]) * scale) * v16(head[j].scale);
            if (a.bias) out = out + bias;
            if (n < 16) store_n(y, out, n);
            else store(y, out);
        }
    }
}

template <size_t rows> DS_INLINE void i8_tile_rows_of(const i8_args &a, const char *tile, size_t begin,
                                                      size_t end, size_t count, size_t x0) {
    if constexpr (rows > 1) {
        if (count < rows) return i8_tile_rows_of<rows - 1>(a, tile, begin, end, count, x0);
    }
    i8_tile_rows<rows>(a, tile, begin, end, x0);
}

// What is prefetched while products are computed: rows [first, last) from `rows` on, a line of each at a
// time.
struct i8_fetch_rows {
    const char *rows;
    size_t stride, first, last;
};
DS_INLINE void i8_fetch(const i8_fetch_rows &f, size_t at) {
    for (size_t r = f.first; r < f.last; ++r) __builtin_prefetch(f.rows + r * f.stride + at, 0, 2);
}

// Before pass p of `passes` over a chunk, prefetches its share of the chunk that will be packed next.
DS_INLINE void i8_fetch_weights(const i8_args &a, size_t chunk, size_t end, size_t p, size_t passes) {
    const char *next = a.w + (end < a.k ? end : i8_columns * a.w_stride);
    const size_t bytes = std::min(chunk, end < a.k ? a.k - end : a.k);
    for (size_t r = p * i8_columns / passes; r < (p + 1) * i8_columns / passes; ++r)
        for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + r * a.w_stride + i, 0, 2);
}

static void i8_tile(const i8_args &a, char *tile) {
    const size_t passes = (a.rows + i8_tile_x - 1) / i8_tile_x;
    for (size_t begin = 0; begin < a.k; begin += i8_chunk) {
        const size_t end = std::min(begin + i8_chunk, a.k);
        i8_pack<widened, i8_vectors>(a.w + begin, a.w_stride, a.weights, end - begin, tile);
        for (size_t p = 0, x0 = 0; p < passes; ++p, x0 += i8_tile_x) {
            i8_fetch_weights(a, i8_chunk, end, p, passes);
            i8_tile_rows_of<i8_tile_x>(a, tile, begin, end, a.rows - x0, x0);
        }
    }
}

// ---- Few rows of activations, with weights as stored. Hardware prefetchers stop at every memory page, and
// idle while weights are reused, so what comes next is prefetched by hand, evenly.

constexpr size_t i8_group = 4;  // rows of weights whose results are computed together
// with so few rows of activations memory is the limit
constexpr size_t i8_thin_x = i8_dot_x / 2;
constexpr size_t i8_ahead = 1024;  // bytes

template <size_t rows, size_t streams> DS_INLINE void
i8_dot_step(const char *const *w, size_t k, const char *x, size_t x_stride, w16i (*sum)[streams]) {
    w16i wide[streams];
    DS_UNROLL for (size_t s = 0; s < streams; ++s) wide[s] = widened(w[s] + k);
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        const w16i xs(x + j * x_stride);
        DS_UNROLL for (size_t s = 0; s < streams; ++s) sum[j][s] = tile_step(sum[j][s], wide[s], xs);
    }
}

// Sums of some rows of weights, for each row of activations: of row s into out[j * row_step + s *
// stream_step].
template <size_t rows, size_t streams> static void i8_dot(const i8_args &a, const char *const *w,
                                                          const char *x, const i8_fetch_rows &f, __m256i *out,
                                                          size_t row_step, size_t stream_step) {
    w16i sum[rows][streams];
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        DS_UNROLL for (size_t s = 0; s < streams; ++s) { sum[j][s] = w16i(0); }
    }
    size_t k = 0;
    for (; k + i8_piece <= a.k; k += i8_piece, x += 64) {
        i8_fetch(f, k);
        i8_dot_step<rows, streams>(w, k, x, a.x_stride, sum);
    }
    if (k < a.k) {
        char rest[streams][i8_piece] = {};
        const char *at[streams];
        for (size_t s = 0; s < streams; ++s)
            at[s] = static_cast<const char *>(memcpy(rest[s], w[s] + k, a.k - k));
        i8_dot_step<rows, streams>(at, 0, x, a.x_stride, sum);
    }
    DS_UNROLL for (size_t j = 0; j < rows; ++j) {
        DS_UNROLL for (size_t s = 0; s < streams; ++s) {
            out[j * row_step + s * stream_step] = halved(sum[j][s]);
        }
    }
}

// Lane r of the result is the sum of p[r]'s lanes.
DS_INLINE __m128i sum_of_four(const __m256i *p) {
    const __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(p[0], p[1]), _mm256_unpackhi_epi32(p[0], p[1]));
    const __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(p[2], p[3]), _mm256_unpackhi_epi32(p[2], p[3]));
    const __m256i c = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    return _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
}

DS_INLINE __m128 i8_load_group(const float *p, size_t n) {
    if (n == i8_group) return _mm_loadu_ps(p);
    float some[i8_group] = {};
    memcpy(some, p, n * sizeof *p);
    return _mm_loadu_ps(some);
}

// Results of n <= i8_group rows of weights from i, for `rows` rows of activations from x0; part[step * row]
// holds the sums' lanes.
template <size_t rows>
DS_INLINE void i8_outputs(const i8_args &a, size_t i, size_t n, size_t x0, const __m256i *part, size_t step) {
    const __m128 scale = i8_load_group(a.w_scale + i, n),
                 bias = a.bias ? i8_load_group(a.bias + i, n) : _mm_setzero_ps();
    for (size_t j = 0; j < rows; ++j) {
        const i8_head head = i8_head_of(a.x + (x0 + j) * a.x_stride);
        __m128 out = _mm_cvtepi32_ps(_mm_add_epi32(sum_of_four(part + step * j), _mm_set1_epi32(head.start)));
        out = _mm_mul_ps(_mm_mul_ps(out, scale), _mm_set1_ps(head.scale));
        if (a.bias) out = _mm_add_ps(out, bias);
        float *y = a.y + (x0 + j) * a.y_stride + i;
        if (n == i8_group) _mm_storeu_ps(y, out);
        else memcpy(y, &out, n * sizeof *y);
    }
}

// Up to i8_thin_x rows of activations: two sequential streams of weights, one through each half of the panel.
template <size_t rows> static void i8_thin_rows(const i8_args &a) {
    const size_t half = (a.weights + 1) / 2;
    __m256i part[rows * 2 * i8_group];
    for (size_t i = 0; i < half; i += i8_group) {
        for (size_t r = 0; r < i8_group; ++r) {
            const size_t row = std::min(i + r, half - 1);
            const char *const w[] = {a.w + row * a.w_stride,
                                     a.w + std::min(half + row, a.weights - 1) * a.w_stride};
            i8_dot<rows, 2>(a, w, a.x + i8_head_bytes, {w[0] + i8_ahead, half * a.w_stride, 0, 2}, part + r,
                            2 * i8_group, i8_group);
        }
        i8_outputs<rows>(a, i, std::min(i8_group, half - i), 0, part, 2 * i8_group);
        if (half + i < a.weights)
            i8_outputs<rows>(a, half + i, std::min(i8_group, a.weights - half - i), 0, part + i8_group,
                             2 * i8_group);
    }
}

// Weight rows i to i + 3 by `rows` rows of activations, pass p of `passes` over these weights: the sums fill
// the registers. What is prefetched is needed two groups later; earlier passes prefetch more of it than later
// ones.
template <size_t rows>
static void i8_group_rows(const i8_args &a, size_t i, size_t x0, size_t p, size_t passes) {
    const size_t n = std::min(i8_group, a.weights - i);
    const char *const first = a.w + i * a.w_stride;
    __m256i part[rows * i8_group];
    for (size_t s = 0; s < i8_group; s += i8_streams, ++p) {
        const char *w[i8_streams];
        for (size_t r = 0; r < i8_streams; ++r) w[r] = first + std::min(s + r, n - 1) * a.w_stride;
        const i8_fetch_rows next = {first + 2 * i8_group * a.w_stride, a.w_stride,
                                    (p * i8_group + passes - 1) / passes,
                                    ((p + 1) * i8_group + passes - 1) / passes};
        i8_dot<rows, i8_streams>(a, w, a.x + x0 * a.x_stride + i8_head_bytes, next, part + s, i8_group, 1);
    }
    i8_outputs<rows>(a, i, n, x0, part, i8_group);
}

template <size_t rows> static void i8_thin_rows_of(const i8_args &a) {
    if constexpr (rows > 1) {
        if (a.rows < rows) return i8_thin_rows_of<rows - 1>(a);
    }
    i8_thin_rows<rows>(a);
}
template <size_t rows>
static void i8_group_rows_of(const i8_args &a, size_t i, size_t x0, size_t p, size_t passes) {
    if constexpr (rows > 1) {
        if (a.rows - x0 < rows) return i8_group_rows_of<rows - 1>(a, i, x0, p, passes);
    }
    i8_group_rows<rows>(a, i, x0, p, passes);
}

static void i8_rows(const i8_args &a) {
    if (a.rows <= i8_thin_x) return i8_thin_rows_of<i8_thin_x>(a);
    constexpr size_t steps = i8_group / i8_streams;
    const size_t passes = (a.rows + i8_dot_x - 1) / i8_dot_x * steps;
    for (size_t i = 0; i < a.weights; i += i8_group)
        for (size_t x0 = 0, p = 0; x0 < a.rows; x0 += i8_dot_x, p += steps)
            i8_group_rows_of<i8_dot_x>(a, i, x0, p, passes);
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
