// Products with packed formats on 256 and 512 bits: what those with blocks of 32 and of 256 share. The
// including file defines: w16i (16 int32 lanes); packed_unsigned (products take weights as unsigned bytes,
// else both sides as int16); packed_vectors and packed_tile_x (a tile's width in registers, and how many rows
// of activations pass through it together); and the products tile_step (four bytes or two words per lane),
// plane_step (two words per lane) and multiply_add (lane by lane).
// Invariant: integer sums are exact, and the order of float sums is that of block_step (tensor/blocks.h).

// The kernels' few_rows: packing tiles of 256-element blocks takes long. Where products take words, a tile is
// twice as large, and few_rows is the same for all.
constexpr size_t few_rows32 = packed_unsigned ? 3 : 6, few_rows256 = packed_unsigned ? 8 : 6;

constexpr size_t packed_element = packed_unsigned ? 1 : 2, packed_columns = 16 * packed_vectors;
// bytes of a tile that are multiplied by 4 bytes of x: 4 or 2 elements of each column
constexpr size_t packed_step = 64 * packed_vectors;

template <class T> DS_INLINE T read(const void *p) {
    T v;
    memcpy(&v, p, sizeof v);
    return v;
}
DS_INLINE __m256 negated(__m256 x) { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f)); }
DS_INLINE __m128i bytes16(const char *p) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)); }
DS_INLINE __m256i bytes32(const char *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
DS_INLINE void put32(char *p, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), x); }

// ---- Activations

// The scale of n activations that are to become bytes, and their factor; factor 0: they are all zero.
DS_INLINE row_scale packed_scale(const float *x, size_t n) {
    __m256i largest = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 8)
        largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)),
                                                             _mm256_set1_epi32(0x7fffffff)));
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return row_scale_of(static_cast<uint32_t>(_mm_cvtsi128_si32(m)), i8_levels);
}

// Thirty-two activations as bytes.
DS_INLINE __m256i packed_round(const float *x, float inverse) {
    if (inverse == 0.0f) return _mm256_setzero_si256();
    __m256i q[4];
    DS_UNROLL for (int i = 0; i < 4; ++i) {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(inverse)));
    }
    const __m256i all = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
DS_INLINE __m256i wide_half(__m256i bytes, size_t half) {
    return _mm256_cvtepi8_epi16(half ? _mm256_extracti128_si256(bytes, 1) : _mm256_castsi256_si128(bytes));
}
// The sums of each 16 bytes, computed from the bytes with the sign bit flipped.
struct two_sums {
    int32_t first, second;
};
DS_INLINE two_sums packed_sums(__m256i q) {
    const __m256i s = _mm256_sad_epu8(_mm256_xor_si256(q, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
    const __m256i both = _mm256_add_epi64(s, _mm256_shuffle_epi32(s, 0x4e));
    return {_mm_cvtsi128_si32(_mm256_castsi256_si128(both)) - 2048,
            _mm_cvtsi128_si32(_mm256_extracti128_si256(both, 1)) - 2048};
}

// ---- Eight rows of weights

// The scales of one block of eight rows, as floats.
DS_INLINE __m256 scales8(const char *const *w, size_t offset) {
    __m128i h = _mm_cvtsi32_si128(read<uint16_t>(w[0] + offset));
    h = _mm_insert_epi16(h, read<int16_t>(w[1] + offset), 1);
    h = _mm_insert_epi16(h, read<int16_t>(w[2] + offset), 2);
    h = _mm_insert_epi16(h, read<int16_t>(w[3] + offset), 3);
    h = _mm_insert_epi16(h, read<int16_t>(w[4] + offset), 4);
    h = _mm_insert_epi16(h, read<int16_t>(w[5] + offset), 5);
    h = _mm_insert_epi16(h, read<int16_t>(w[6] + offset), 6);
    h = _mm_insert_epi16(h, read<int16_t>(w[7] + offset), 7);
    return _mm256_cvtph_ps(h);
}

// Lane r of the result is the sum of p[r]'s lanes; or of its words, if the sum of any four fits a word.
template <bool words> DS_INLINE __m256i added(__m256i a, __m256i b) {
    return words ? _mm256_add_epi16(a, b) : _mm256_add_epi32(a, b);
}
template <bool words = false> DS_INLINE __m256i sum_of_each(const __m256i *p) {
    __m256i s[4];
    // lanes of p[i], p[i + 4]: a0+a2 b0+b2 a1+a3 b1+b3, in each half
    DS_UNROLL for (int i = 0; i < 4; ++i) {
        s[i] = added<words>(_mm256_unpacklo_epi32(p[i], p[i + 4]), _mm256_unpackhi_epi32(p[i], p[i + 4]));
    }
    // 0 4 1 5
    __m256i t = added<words>(_mm256_unpacklo_epi64(s[0], s[1]), _mm256_unpackhi_epi64(s[0], s[1]));
    // 2 6 3 7
    __m256i u = added<words>(_mm256_unpacklo_epi64(s[2], s[3]), _mm256_unpackhi_epi64(s[2], s[3]));
    if constexpr (words)
        t = _mm256_madd_epi16(t, _mm256_set1_epi16(1)), u = _mm256_madd_epi16(u, _mm256_set1_epi16(1));
    const __m256i all =
        _mm256_add_epi32(_mm256_permute2x128_si256(t, u, 0x20), _mm256_permute2x128_si256(t, u, 0x31));
    return _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
}

// Eight rows of eight dwords become eight columns.
DS_INLINE void transpose8(__m256i *r) {
    __m256i t[8], u[8];
    DS_UNROLL for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    DS_UNROLL for (int i = 0; i < 8; i += 4) {
        DS_UNROLL for (int j = 0; j < 2; ++j) {
            u[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
            u[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    }
    DS_UNROLL for (int i = 0; i < 4; ++i) {
        r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
    }
}

// ---- Tiles: rows of weights side by side in the lanes

// What is prefetched while a tile's sums are computed: the weights of the next tile, every step-th row from
// the first on. The passes over a tile take different rows, so that memory is used evenly.
struct packed_ahead {
    const char *w;
    size_t first, step;
};
DS_INLINE void fetch(packed_ahead &ahead, size_t stride, size_t bytes) {
    for (size_t r = ahead.first; r < packed_columns; r += ahead.step)
        for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(ahead.w + r * stride + i, 0, 2);
    ahead.w += bytes;
}

DS_INLINE size_t packed_valid(const packed_args &a, size_t v) {
    return a.weights > 16 * v ? std::min<size_t>(16, a.weights - 16 * v) : 0;
}

// The sums so far of some rows of activations, before part `begin` of the blocks; and after part `end`.
template <int rows>
DS_INLINE void load_sums(const packed_args &a, size_t begin, size_t x0, v16 (*sum)[packed_vectors]) {
    DS_UNROLL for (int j = 0; j < rows; ++j) {
        DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
            const float *from = a.y + (x0 + j) * a.y_stride + 16 * v;
            const size_t n = packed_valid(a, v);
            sum[j][v] = begin == 0 || n == 0 ? v16(0.0f) : n < 16 ? load_n(from, n) : load(from);
        }
    }
}
template <int rows>
DS_INLINE void store_sums(const packed_args &a, size_t end, size_t x0, v16 (*sum)[packed_vectors]) {
    DS_UNROLL for (int j = 0; j < rows; ++j) {
        DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
            const size_t n = packed_valid(a, v);
            float *to = a.y + (x0 + j) * a.y_stride + 16 * v;
            if (n == 0) continue;
            v16 s = sum[j][v];
            if (end == a.blocks && a.bias)
                s = s + (n < 16 ? load_n(a.bias + 16 * v, n) : load(a.bias + 16 * v));
            if (n < 16) store_n(to, s, n);
            else store(to, s);
        }
    }
}

// Few rows of activations, with weights as stored: eight rows of weights at once, one of each eighth of the
// panel, so that memory is read sequentially, and prefetched by hand, since hardware prefetchers stop at
// every memory page.
constexpr size_t packed_rows_ahead = 1024;  // bytes
DS_INLINE size_t packed_eighth(const packed_args &a) { return (a.weights + 7) / 8; }
DS_INLINE void store_rows8(const packed_args &a, __m256 sum, size_t row, size_t w0) {
    float out[8];
    _mm256_storeu_ps(out, sum);
    float *y = a.y + row * a.y_stride;
    size_t at = w0;
    for (size_t r = 0; r < 8 && at < a.weights; ++r, at += packed_eighth(a))
        y[at] = a.bias ? out[r] + a.bias[at] : out[r];
}

// For the rows of activations from x0, groups of at most `most`: run(number of rows as a constant, x0).
template <int most, class F> DS_INLINE void by_rows(size_t count, size_t x0, const F &run) {
    if constexpr (most > 1) {
        if (count < most) return by_rows<most - 1>(count, x0, run);
    }
    run(std::integral_constant<int, most>{}, x0);
}

// Every step-th row of weights, eight from w0; those beyond the last repeat the last.
DS_INLINE void rows_at(const packed_args &a, size_t w0, size_t step, const char **w) {
    for (size_t r = 0; r < 8; ++r) w[r] = a.w + std::min(w0 + r * step, a.weights - 1) * a.w_stride;
}

template <class K> static void packed_pack(const packed_args &a, size_t begin, size_t end, char *tile) {
    for (size_t g = 0; g < packed_columns; g += 8) {
        const char *w[8];
        rows_at(a, g, 1, w);
        for (size_t b = begin; b < end; ++b)
            K::pack8(w, b * K::weight_bytes, tile + (b - begin) * K::tile_block + 4 * g);
    }
}

// Packs the weights part by part; all rows of activations pass through each. K defines: weight_bytes, bytes
// per block of a row; part, blocks per part; tile_block, bytes per block of a tile; pack8(eight rows of
// weights, offset, tile); product<rows>(args, tile, begin, end, x0, ahead).
template <class K> static void packed_tile(const packed_args &a, char *tile) {
    for (size_t begin = 0; begin < a.blocks; begin += K::part) {
        const size_t end = std::min(begin + K::part, a.blocks);
        packed_pack<K>(a, begin, end, tile);
        const char *next = a.w + (end < a.blocks ? end * K::weight_bytes : packed_columns * a.w_stride);
        const size_t passes = (a.rows + packed_tile_x - 1) / packed_tile_x;
        for (size_t p = 0; p < passes; ++p)
            by_rows<packed_tile_x>(a.rows - p * packed_tile_x, p * packed_tile_x, [&](auto rows, size_t x0) {
                K::template product<rows.value>(a, tile, begin, end, x0, packed_ahead{next, p, passes});
            });
    }
}
// packed_rows_*.inl: rows8<rows of activations>(args, first row of weights, of activations), for up to
// `together`
template <format f> struct rows_of;
template <class K> static void packed_rows(const packed_args &a) {
    for (size_t w0 = 0; w0 < packed_eighth(a); ++w0)
        for (size_t x0 = 0; x0 < a.rows; x0 += K::together)
            by_rows<K::together>(a.rows - x0, x0, [&](auto rows, size_t first) {
                K::template rows8<rows.value>(a, w0, first);
            });
}
