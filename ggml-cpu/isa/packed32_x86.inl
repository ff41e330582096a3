// Products with formats of 32-element blocks, on top of packed_x86.inl. A block of quantized activations: 32
// elements, its scale, what the tile's sums start from, and the elements' sum as a float. Weights that
// products take as unsigned bytes are w + 128; their sums start from -128 times the sum of x.

constexpr size_t x32_scale = 32 * packed_element, x32_start = x32_scale + 4, x32_sum = x32_start + 4,
                 x32_bytes = x32_sum + 4;

[[maybe_unused]] static void quantize32(const float *x, char *y, size_t blocks) {
    for (; blocks > 0; --blocks, x += 32, y += x32_bytes) {
        const row_scale s = packed_scale(x, 32);
        const __m256i q = packed_round(x, s.inverse);
        const two_sums sums = packed_sums(q);
        const int32_t sum = sums.first + sums.second, start = packed_unsigned ? -128 * sum : 0;
        const float whole = static_cast<float>(sum);
        if constexpr (packed_unsigned) put32(y, q);
        else
            for (size_t half = 0; half < 2; ++half) put32(y + 32 * half, wide_half(q, half));
        memcpy(y + x32_scale, &s.scale, sizeof s.scale);
        memcpy(y + x32_start, &start, sizeof start);
        memcpy(y + x32_sum, &whole, sizeof whole);
    }
}

// ---- The formats: offset of m (blocks.h), bias of the levels, and a block's levels as unsigned or signed
// bytes

DS_INLINE __m256i nibbles16(const char *p) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    return _mm256_and_si256(_mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)),
                            _mm256_set1_epi8(15));
}
// Bytes that are all ones where the bit is clear.
DS_INLINE __m256i clear_bits(const char *p) {
    const __m256i indices = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(read<int32_t>(p)), indices);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), _mm256_setzero_si256());
}
DS_INLINE __m256i fifth_bits(const char *p) {
    return _mm256_andnot_si256(clear_bits(p), _mm256_set1_epi8(16));
}
DS_INLINE __m256i plus(__m256i bytes, int n) {
    return _mm256_add_epi8(bytes, _mm256_set1_epi8(static_cast<char>(n)));
}
// The iq4_levels of some indices, plus `bias`.
DS_INLINE __m256i iq4_bytes(__m256i indices, int bias) {
    const __m128i table = _mm_add_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(iq4_levels)),
                                       _mm_set1_epi8(static_cast<char>(bias)));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), indices);
}

template <format f> struct block32;
template <> struct block32<format::q8_0> {
    static constexpr int m = 0, bias = 128;
    static DS_INLINE __m256i levels(const char *p) {
        return _mm256_xor_si256(bytes32(p + 2), _mm256_set1_epi8(-128));
    }
    static DS_INLINE __m256i signed_levels(const char *p) { return bytes32(p + 2); }
};
template <> struct block32<format::q4_0> {
    static constexpr int m = 0, bias = 8;
    static DS_INLINE __m256i levels(const char *p) { return nibbles16(p + 2); }
    static DS_INLINE __m256i signed_levels(const char *p) { return plus(levels(p), -8); }
};
template <> struct block32<format::q4_1> {
    static constexpr int m = 2, bias = 0;
    static DS_INLINE __m256i levels(const char *p) { return nibbles16(p + 4); }
    static DS_INLINE __m256i signed_levels(const char *p) { return levels(p); }
};
template <> struct block32<format::q5_0> {
    static constexpr int m = 0, bias = 16;
    static DS_INLINE __m256i levels(const char *p) {
        return _mm256_or_si256(nibbles16(p + 6), fifth_bits(p + 2));
    }
    static DS_INLINE __m256i signed_levels(const char *p) {
        return _mm256_or_si256(nibbles16(p + 6), _mm256_and_si256(clear_bits(p + 2), _mm256_set1_epi8(-16)));
    }
};
template <> struct block32<format::q5_1> {
    static constexpr int m = 2, bias = 0;
    static DS_INLINE __m256i levels(const char *p) {
        return _mm256_or_si256(nibbles16(p + 8), fifth_bits(p + 4));
    }
    static DS_INLINE __m256i signed_levels(const char *p) { return levels(p); }
};
template <> struct block32<format::iq4_nl> {
    static constexpr int m = 0, bias = 128;
    static DS_INLINE __m256i levels(const char *p) { return iq4_bytes(nibbles16(p + 2), 128); }
    static DS_INLINE __m256i signed_levels(const char *p) { return iq4_bytes(nibbles16(p + 2), 0); }
};

// ---- Products

// A tile's block: d of each column, m, then the levels.
template <bool minima> struct tile32 {
    static constexpr size_t levels = (minima ? 2 : 1) * packed_step,
                            tile_block = levels + 8 * packed_element * packed_step;

    template <int rows> static void product(const packed_args &a, const char *tile, size_t begin, size_t end,
                                            size_t x0, packed_ahead ahead, size_t weight_bytes) {
        const char *x[rows];
        for (int j = 0; j < rows; ++j) x[j] = a.x + (x0 + j) * a.x_stride + begin * x32_bytes;
        v16 sum[rows][packed_vectors];
        load_sums<rows>(a, begin, x0, sum);
        for (size_t b = 0; b < (end - begin) * x32_bytes; b += x32_bytes, tile += tile_block) {
            fetch(ahead, a.w_stride, weight_bytes);
            w16i product[rows][packed_vectors];
            DS_UNROLL for (int j = 0; j < rows; ++j) {
                DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                    product[j][v] = w16i(read<int32_t>(x[j] + b + x32_start));
                }
            }
            DS_UNROLL for (size_t s = 0; s < 8 * packed_element; ++s) {
                w16i w[packed_vectors];
                DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                    w[v] = w16i(tile + levels + s * packed_step + 64 * v);
                }
                DS_UNROLL for (int j = 0; j < rows; ++j) {
                    const w16i xs(read<int32_t>(x[j] + b + 4 * s));
                    DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                        product[j][v] = tile_step(product[j][v], w[v], xs);
                    }
                }
            }
            DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                const v16 d = load(reinterpret_cast<const float *>(tile + 64 * v));
                DS_UNROLL for (int j = 0; j < rows; ++j) {
                    sum[j][v] = fma_f32(to_float(product[j][v]), d * v16(read<float>(x[j] + b + x32_scale)),
                                        sum[j][v]);
                }
                if constexpr (minima) {
                    const v16 m = load(reinterpret_cast<const float *>(tile + packed_step + 64 * v));
                    DS_UNROLL for (int j = 0; j < rows; ++j) {
                        sum[j][v] = fma_f32(v16(read<float>(x[j] + b + x32_sum)),
                                            m * v16(read<float>(x[j] + b + x32_scale)), sum[j][v]);
                    }
                }
            }
        }
        store_sums<rows>(a, end, x0, sum);
    }
};

template <format f> struct packed32 {
    using block = block32<f>;
    static constexpr bool minima = packed<f>::minima;
    static constexpr size_t weight_bytes = block_bytes(f);
    static constexpr size_t part = packed_tile_width / 32, tile_block = tile32<minima>::tile_block;

    // One block of eight rows.
    static DS_INLINE void pack8(const char *const *w, size_t offset, char *tile) {
        _mm256_storeu_ps(reinterpret_cast<float *>(tile), scales8(w, offset));
        if constexpr (minima)
            _mm256_storeu_ps(reinterpret_cast<float *>(tile + packed_step), scales8(w, offset + block::m));
        char *to = tile + tile32<minima>::levels;
        for (size_t half = 0; half < packed_element; ++half, to += 8 * packed_step) {
            __m256i r[8];
            DS_UNROLL for (int i = 0; i < 8; ++i) {
                r[i] = packed_unsigned ? plus(block::levels(w[i] + offset), 128 - block::bias)
                                       : wide_half(block::signed_levels(w[i] + offset), half);
            }
            transpose8(r);
            DS_UNROLL for (int i = 0; i < 8; ++i) put32(to + i * packed_step, r[i]);
        }
    }
    template <int rows> static void product(const packed_args &a, const char *tile, size_t begin, size_t end,
                                            size_t x0, packed_ahead ahead) {
        tile32<minima>::template product<rows>(a, tile, begin, end, x0, ahead, weight_bytes);
    }
    static constexpr packed_kernels kernels = {.x_bytes = x32_bytes,
                                               .few_rows = few_rows32,
                                               .tile_weights = packed_columns,
                                               .tile_bytes = part * tile_block,
                                               .group_rows = 1,
                                               .quantize = quantize32,
                                               .rows = packed_rows<rows_of<f>>,
                                               .tile = packed_tile<packed32>};
};
