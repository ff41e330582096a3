// Q8_0 products on 256 and 512 bits. Given by the including file: w16i (16 int32 lanes), the packed tile's element (`q8_unsigned`: weights + 128 as uint8,
// else int16) and the products below. All integer sums are exact; the order of the float sums is q8_block_step's.
// A block of quantized activations: 32 elements (int8, or int16 where products take those), its scale, and what the tile's sums start from.

constexpr size_t q8_element = q8_unsigned ? 1 : 2, q8_steps = 8 * q8_element;      // a step is 4 bytes of x: 4 or 2 elements
constexpr size_t q8_scale_at = 32 * q8_element, q8_start_at = q8_scale_at + 4, q8_x_block = q8_scale_at + 8;
constexpr size_t q8_w_block = 34, q8_columns = 16 * q8_vectors;
constexpr size_t q8_tile_block = q8_vectors * (64 + q8_steps * 64);

template <class T> DS_INLINE T read(const void *p) {
    T v;
    memcpy(&v, p, sizeof v);
    return v;
}
DS_INLINE __m256i bytes32(const char *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }

// ---- Activations

static void q8_quantize(const float *x, char *y, size_t blocks) {
    for (; blocks > 0; --blocks, x += q8_block, y += q8_x_block) {
        __m256 v[4];
        __m256i largest = _mm256_setzero_si256(), q[4];
        for (int i = 0; i < 4; ++i) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(v[i]), _mm256_set1_epi32(0x7fffffff)));
        }
        __m128i m = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
        m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
        m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
        const float a = float_of(static_cast<uint32_t>(_mm_cvtsi128_si32(m)));
        const bool number = finite_f32(a) && !(a < 1e-30f);
        const float scale = !finite_f32(a) ? a : number ? a / 127.0f : 0.0f;
        const __m256 inverse = _mm256_set1_ps(number ? 127.0f / a : 0.0f);
        __m256i sum = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            q[i] = number ? _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse)) : _mm256_setzero_si256();
            sum = _mm256_add_epi32(sum, q[i]);
        }
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i lo = _mm256_packs_epi32(q[0], q[1]), hi = _mm256_packs_epi32(q[2], q[3]);
        if constexpr (q8_unsigned) {
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(y), _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lo, hi), order));
        } else {
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(y), _mm256_permute4x64_epi64(lo, 0xd8));
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(y + 32), _mm256_permute4x64_epi64(hi, 0xd8));
        }
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
        const int32_t start = q8_unsigned ? -128 * _mm_cvtsi128_si32(s) : 0;
        memcpy(y + q8_scale_at, &scale, sizeof scale);
        memcpy(y + q8_start_at, &start, sizeof start);
    }
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

// Lane r of the result is the sum of p[r]'s lanes.
DS_INLINE __m256i sum_of_each(const __m256i *p) {
    __m256i s[4];
    DS_UNROLL for (int i = 0; i < 4; ++i)     // lanes of p[i], p[i + 4]: a0+a2 b0+b2 a1+a3 b1+b3, in each half
        s[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(p[i], p[i + 4]), _mm256_unpackhi_epi32(p[i], p[i + 4]));
    const __m256i t = _mm256_add_epi32(_mm256_unpacklo_epi64(s[0], s[1]), _mm256_unpackhi_epi64(s[0], s[1]));     // 0 4 1 5
    const __m256i u = _mm256_add_epi32(_mm256_unpacklo_epi64(s[2], s[3]), _mm256_unpackhi_epi64(s[2], s[3]));     // 2 6 3 7
    const __m256i all = _mm256_add_epi32(_mm256_permute2x128_si256(t, u, 0x20), _mm256_permute2x128_si256(t, u, 0x31));
    return _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
}

template <int rows> static void q8_rows8(const q8_args &a, size_t w0, size_t x0) {
    const size_t valid = std::min<size_t>(8, a.weights - w0);
    const char *w[8];
    for (size_t r = 0; r < 8; ++r) w[r] = a.w + (w0 + std::min(r, valid - 1)) * a.w_stride;
    __m256 sum[rows];
    DS_UNROLL for (int j = 0; j < rows; ++j) sum[j] = _mm256_setzero_ps();
    const char *x = a.x + x0 * a.x_stride;
    const size_t ahead = 8 * a.w_stride;
    for (size_t b = 0, at = 0; b < a.blocks; ++b, at += q8_w_block, x += q8_x_block) {
        const __m256 scale = scales8(w, at);
        DS_UNROLL for (int r = 0; r < 8; ++r) __builtin_prefetch(w[r] + at + ahead, 0, 2);
        DS_UNROLL for (int j = 0; j < rows; ++j) {
            const char *xb = x + j * a.x_stride;
            __m256i p[8];
            DS_UNROLL for (int r = 0; r < 8; ++r) p[r] = block_product(w[r] + at + 2, xb);
            const __m256i product = _mm256_add_epi32(sum_of_each(p), _mm256_set1_epi32(read<int32_t>(xb + q8_start_at)));
            const __m256 scales = _mm256_mul_ps(scale, _mm256_set1_ps(read<float>(xb + q8_scale_at)));
            sum[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), scales, sum[j]);
        }
    }
    for (int j = 0; j < rows; ++j) {
        float out[8];
        _mm256_storeu_ps(out, sum[j]);
        float *y = a.y + (x0 + j) * a.y_stride + w0;
        for (size_t r = 0; r < valid; ++r) y[r] = a.bias ? out[r] + a.bias[w0 + r] : out[r];
    }
}

template <int rows> DS_INLINE void q8_rows8_of(const q8_args &a, size_t count, size_t w0, size_t x0) {
    if constexpr (rows > 1) {
        if (count < rows) return q8_rows8_of<rows - 1>(a, count, w0, x0);
    }
    q8_rows8<rows>(a, w0, x0);
}

static void q8_rows(const q8_args &a) {
    for (size_t w0 = 0; w0 < a.weights; w0 += 8)
        for (size_t x0 = 0; x0 < a.rows; x0 += 4) q8_rows8_of<4>(a, a.rows - x0, w0, x0);
}

// ---- Tiles: the rows of weights side by side in the lanes

// Eight rows of eight dwords become eight columns.
DS_INLINE void transpose8(__m256i *r) {
    __m256i t[8], u[8];
    DS_UNROLL for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    DS_UNROLL for (int i = 0; i < 8; i += 4)
        DS_UNROLL for (int j = 0; j < 2; ++j) {
            u[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
            u[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    DS_UNROLL for (int i = 0; i < 4; ++i) {
        r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
    }
}

// One block of eight rows into lanes 8 * part … of vector v of a tile's block.
DS_INLINE void q8_pack8(const char *const *w, size_t offset, char *tile, size_t v, size_t part) {
    _mm256_storeu_ps(reinterpret_cast<float *>(tile + 64 * v + 32 * part), scales8(w, offset));
    char *to = tile + 64 * q8_vectors + 64 * v + 32 * part;
    for (size_t half = 0; half < q8_element; ++half) {
        __m256i r[8];
        DS_UNROLL for (int i = 0; i < 8; ++i) r[i] = packed_half(w[i] + offset + 2, half);
        transpose8(r);
        DS_UNROLL for (int i = 0; i < 8; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + (8 * half + i) * 64 * q8_vectors), r[i]);
    }
}

static void q8_pack(const q8_args &a, size_t begin, size_t end, char *tile) {
    for (size_t g = 0; g < q8_columns; g += 8) {
        const char *w[8];
        for (size_t r = 0; r < 8; ++r) w[r] = a.w + std::min(g + r, a.weights - 1) * a.w_stride;
        for (size_t b = begin; b < end; ++b) {
            DS_UNROLL for (int r = 0; r < 8; ++r) __builtin_prefetch(w[r] + b * q8_w_block + 8 * a.w_stride, 0, 2);
            q8_pack8(w, b * q8_w_block, tile + (b - begin) * q8_tile_block, g / 16, g / 8 % 2);
        }
    }
}

DS_INLINE size_t q8_valid(const q8_args &a, size_t v) { return a.weights > 16 * v ? std::min<size_t>(16, a.weights - 16 * v) : 0; }

template <int rows> static void q8_tile_rows(const q8_args &a, const char *tile, size_t begin, size_t end, size_t x0) {
    const char *x[rows];
    for (int j = 0; j < rows; ++j) x[j] = a.x + (x0 + j) * a.x_stride + begin * q8_x_block;
    float *y = a.y + x0 * a.y_stride;
    v16 sum[rows][q8_vectors];
    DS_UNROLL for (int j = 0; j < rows; ++j)
        DS_UNROLL for (size_t v = 0; v < q8_vectors; ++v) {
            const float *from = y + j * a.y_stride + 16 * v;
            const size_t n = q8_valid(a, v);
            sum[j][v] = begin == 0 || n == 0 ? v16(0.0f) : n < 16 ? load_n(from, n) : load(from);
        }
    for (size_t b = 0; b < (end - begin) * q8_x_block; b += q8_x_block, tile += q8_tile_block) {
        w16i product[rows][q8_vectors];
        DS_UNROLL for (int j = 0; j < rows; ++j)
            DS_UNROLL for (size_t v = 0; v < q8_vectors; ++v) product[j][v] = w16i(read<int32_t>(x[j] + b + q8_start_at));
        // Separate adds are left rolled up: GCC would turn an unrolled sum into a tree, which takes more registers than there are.
        DS_UNROLL_BY(q8_unsigned ? 8 : 1) for (size_t s = 0; s < q8_steps; ++s) {
            w16i w[q8_vectors];
            DS_UNROLL for (size_t v = 0; v < q8_vectors; ++v) w[v] = w16i(tile + 64 * (q8_vectors * (s + 1) + v));
            DS_UNROLL for (int j = 0; j < rows; ++j) {
                const w16i xs(read<int32_t>(x[j] + b + 4 * s));
                DS_UNROLL for (size_t v = 0; v < q8_vectors; ++v) product[j][v] = tile_step(product[j][v], w[v], xs);
            }
        }
        DS_UNROLL for (size_t v = 0; v < q8_vectors; ++v) {
            const v16 scale = load(reinterpret_cast<const float *>(tile + 64 * v));
            DS_UNROLL for (int j = 0; j < rows; ++j)
                sum[j][v] = fma_f32(to_float(product[j][v]), scale * v16(read<float>(x[j] + b + q8_scale_at)), sum[j][v]);
        }
    }
    DS_UNROLL for (int j = 0; j < rows; ++j)
        DS_UNROLL for (size_t v = 0; v < q8_vectors; ++v) {
            const size_t n = q8_valid(a, v);
            float *to = y + j * a.y_stride + 16 * v;
            if (n == 0) continue;
            v16 s = sum[j][v];
            if (end == a.blocks && a.bias) s = s + (n < 16 ? load_n(a.bias + 16 * v, n) : load(a.bias + 16 * v));
            if (n < 16) store_n(to, s, n);
            else store(to, s);
        }
}

template <int rows> DS_INLINE void q8_tile_rows_of(const q8_args &a, const char *tile, size_t begin, size_t end, size_t count, size_t x0) {
    if constexpr (rows > 1) {
        if (count < rows) return q8_tile_rows_of<rows - 1>(a, tile, begin, end, count, x0);
    }
    q8_tile_rows<rows>(a, tile, begin, end, x0);
}

static void q8_tile(const q8_args &a, char *tile) {
    for (size_t begin = 0; begin < a.blocks; begin += q8_tile_blocks) {
        const size_t end = std::min(begin + q8_tile_blocks, a.blocks);
        q8_pack(a, begin, end, tile);
        for (size_t x0 = 0; x0 < a.rows; x0 += q8_tile_x) q8_tile_rows_of<q8_tile_x>(a, tile, begin, end, a.rows - x0, x0);
    }
}

static constexpr q8_kernels q8 = {q8_x_block, q8_columns, q8_tile_block, q8_quantize, q8_rows, q8_tile};
