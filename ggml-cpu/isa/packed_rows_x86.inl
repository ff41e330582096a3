// Few rows of activations with packed weights as stored, on 256 bits without VNNI: eight rows of weights at
// once.

template <format f> struct rows32 {
    using block = block32<f>;
    static constexpr bool minima = packed<f>::minima;
    static constexpr size_t weight_bytes = packed32<f>::weight_bytes;

    // Levels of at most five bits are multiplied as they are: four sums of pairs fit a word, and the bias is
    // subtracted at the end. For others the sign moves to the activations, so that a pair's sum still fits a
    // word.
    static constexpr bool small = block::bias != 128;
    static DS_INLINE __m256i sums(__m256i w, __m256i x) {
        if constexpr (small) return _mm256_maddubs_epi16(w, x);
        return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
                                 _mm256_set1_epi16(1));
    }
    static DS_INLINE __m256i unbiased(__m256i product, const char *x) {
        if constexpr (!small || block::bias == 0) return product;
        return _mm256_sub_epi32(
            product, _mm256_set1_epi32(block::bias * static_cast<int32_t>(read<float>(x + x32_sum))));
    }

    template <int rows> static void rows8(const packed_args &a, size_t w0, size_t x0) {
        const char *w[8], *x = a.x + x0 * a.x_stride;
        rows_at(a, w0, packed_eighth(a), w);
        __m256 sum[rows];
        DS_UNROLL for (int j = 0; j < rows; ++j) sum[j] = _mm256_setzero_ps();
        for (size_t b = 0, at = 0; b < a.blocks; ++b, at += weight_bytes, x += x32_bytes) {
            DS_UNROLL for (int r = 0; r < 8; ++r) __builtin_prefetch(w[r] + at + packed_rows_ahead, 0, 2);
            __m256i xs[rows], p[rows][8];
            DS_UNROLL for (int j = 0; j < rows; ++j) {
                const char *const xb = x + j * a.x_stride;
                xs[j] = _mm256_permute4x64_epi64(_mm256_packs_epi16(bytes32(xb), bytes32(xb + 32)), 0xd8);
            }
            DS_UNROLL for (int r = 0; r < 8; ++r) {
                const __m256i levels = small ? block::levels(w[r] + at) : block::signed_levels(w[r] + at);
                DS_UNROLL for (int j = 0; j < rows; ++j) p[j][r] = sums(levels, xs[j]);
            }
            const __m256 d = scales8(w, at), m = minima ? scales8(w, at + block::m) : d;
            DS_UNROLL for (int j = 0; j < rows; ++j) {
                const char *const xb = x + j * a.x_stride;
                const __m256i product = unbiased(sum_of_each<small>(p[j]), xb);
                const __m256 scale = _mm256_set1_ps(read<float>(xb + x32_scale));
                sum[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), _mm256_mul_ps(d, scale), sum[j]);
                if constexpr (minima)
                    sum[j] = _mm256_fmadd_ps(_mm256_set1_ps(read<float>(xb + x32_sum)),
                                             _mm256_mul_ps(m, scale), sum[j]);
            }
        }
        for (int j = 0; j < rows; ++j) store_rows8(a, sum[j], x0 + j, w0);
    }
};

template <format f> struct rows256 {
    using block = block256<f>;
    static constexpr bool minima = packed<f>::minima;
    static constexpr size_t weight_bytes = block_bytes(f);

    // The pairs' sums of the s-th 32 products, as words: they cannot overflow with levels up to 63, nor with
    // iq4's signed levels up to 127.
    template <size_t s> static DS_INLINE __m256i pair_sums(__m256i levels, const char *x) {
        if constexpr (block::bias != 128) return _mm256_maddubs_epi16(levels, bytes32(x + 32 * s));
        const __m256i w = _mm256_xor_si256(levels, _mm256_set1_epi8(-128));
        return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(bytes32(x + 32 * s), w));
    }
    template <size_t s>
    static DS_INLINE __m256i add_scaled(__m256i sum, __m256i levels, const char *x, __m256i scales) {
        return _mm256_add_epi32(
            sum, _mm256_madd_epi16(pair_sums<s>(levels, x), packed256<f>::template scale_of<s>(scales)));
    }

    struct row_sums {
        __m256i scaled, minima;
    };
    template <int rows>
    static DS_INLINE void one_row(const char *w, const char *x, size_t x_stride, row_sums *out) {
        const __m256i scales = block::scales(w), min = block::minima(w);
        DS_UNROLL for (int j = 0; j < rows; ++j) {
            const __m256i sums = bytes32(x + j * x_stride + x256_sums16);
            out[j].scaled = _mm256_setzero_si256();
            if constexpr (block::bias != 0 && block::bias != 128)
                out[j].scaled =
                    _mm256_madd_epi16(_mm256_mullo_epi16(scales, _mm256_set1_epi16(-block::bias)), sums);
            out[j].minima = minima ? _mm256_madd_epi16(min, sums) : out[j].scaled;
        }
        by_8([&](auto s) {
            const __m256i levels = block::template levels<s.value>(w);
            DS_UNROLL for (int j = 0; j < rows; ++j) {
                out[j].scaled = add_scaled<s.value>(out[j].scaled, levels, x + j * x_stride, scales);
            }
        });
    }

    template <int rows> static void rows8(const packed_args &a, size_t w0, size_t x0) {
        const char *w[8], *x = a.x + x0 * a.x_stride;
        rows_at(a, w0, packed_eighth(a), w);
        __m256 sum[rows];
        DS_UNROLL for (int j = 0; j < rows; ++j) sum[j] = _mm256_setzero_ps();
        for (size_t b = 0, at = 0; b < a.blocks; ++b, at += weight_bytes, x += x256_bytes) {
            __m256i product[rows][8], min[rows][8];
            for (int r = 0; r < 8; ++r) {
                for (size_t i = 0; i < weight_bytes; i += 64)
                    __builtin_prefetch(w[r] + at + packed_rows_ahead + i, 0, 2);
                row_sums sums[rows];
                one_row<rows>(w[r] + at, x, a.x_stride, sums);
                DS_UNROLL for (int j = 0; j < rows; ++j) {
                    product[j][r] = sums[j].scaled, min[j][r] = sums[j].minima;
                }
            }
            const __m256 d = scales8(w, at + block::d), m = minima ? negated(scales8(w, at + block::m)) : d;
            DS_UNROLL for (int j = 0; j < rows; ++j) {
                const __m256 scale = _mm256_set1_ps(read<float>(x + j * a.x_stride + x256_scale));
                sum[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum_of_each(product[j])), _mm256_mul_ps(d, scale),
                                         sum[j]);
                if constexpr (minima)
                    sum[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum_of_each(min[j])), _mm256_mul_ps(m, scale),
                                             sum[j]);
            }
        }
        for (int j = 0; j < rows; ++j) store_rows8(a, sum[j], x0 + j, w0);
    }
};

template <format f> struct rows_of : std::conditional_t<packed<f>::block == 32, std::type_identity<rows32<f>>,
                                                        std::type_identity<rows256<f>>>::type {
    static constexpr int together = 4;  // as many as registers hold
};
