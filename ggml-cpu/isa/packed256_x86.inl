// Products with formats of 256-element blocks, on top of packed_x86.inl and packed32_x86.inl. Levels are
// unpacked to unsigned bytes, the format's bias above their values. A block's scales (and minima) are 16
// words: in the low half of a register those of the first 16 elements of each 32, in the high half those of
// the second 16. A block of quantized activations: 256 bytes; the sums of each 16, ordered like scales; the
// sums of each 32; the scale; the elements as words, if products of tiles take those.

constexpr size_t x256_sums16 = 256, x256_sums32 = x256_sums16 + 32, x256_scale = x256_sums32 + 16,
                 x256_words = 320;
constexpr size_t x256_bytes = x256_words + (packed_unsigned ? 0 : 512),
                 x256_tile = packed_unsigned ? 0 : x256_words;

[[maybe_unused]] static void quantize256(const float *x, char *y, size_t blocks) {
    for (; blocks > 0; --blocks, x += 256, y += x256_bytes) {
        const row_scale s = packed_scale(x, 256);
        int16_t sums[24];
        for (size_t i = 0; i < 8; ++i) {
            const __m256i q = packed_round(x + 32 * i, s.inverse);
            const two_sums two = packed_sums(q);
            sums[i] = static_cast<int16_t>(two.first);
            sums[8 + i] = static_cast<int16_t>(two.second);
            sums[16 + i] = static_cast<int16_t>(two.first + two.second);
            put32(y + 32 * i, q);
            if constexpr (!packed_unsigned)
                for (size_t half = 0; half < 2; ++half)
                    put32(y + x256_words + 64 * i + 32 * half, wide_half(q, half));
        }
        memcpy(y + x256_sums16, sums, sizeof sums);
        memcpy(y + x256_scale, &s.scale, sizeof s.scale);
    }
}

// ---- The formats: offsets of d and m (blocks.h), number of parts with a scale, bias, scales, minima, and
// the s-th 32 levels

// shifts words: the caller masks the bits that cross bytes
template <int left> DS_INLINE __m256i shifted(__m256i x) {
    if constexpr (left >= 0) return _mm256_slli_epi16(x, left);
    else return _mm256_srli_epi16(x, -left);
}
DS_INLINE __m256i only(__m256i x, int bits) {
    return _mm256_and_si256(x, _mm256_set1_epi8(static_cast<char>(bits)));
}
DS_INLINE __m256i twice(__m128i x) { return _mm256_broadcastsi128_si256(x); }
// Sixteen bytes, one for each 16 elements, as words in the order of scales.
DS_INLINE __m128i in_order(__m128i x) {
    return _mm_shuffle_epi8(x, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
}

struct six_bits {  // scales and minima of q4_k and q5_k
    static DS_INLINE __m256i widened_bytes(uint32_t low, uint32_t high) {
        return twice(_mm_cvtepu8_epi16(
            _mm_cvtsi64_si128(static_cast<int64_t>(low | static_cast<uint64_t>(high) << 32))));
    }
    static DS_INLINE __m256i scales(const char *p) {
        const uint32_t a = read<uint32_t>(p + 4), c = read<uint32_t>(p + 12);
        return widened_bytes(a & 0x3f3f3f3fu, (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u));
    }
    static DS_INLINE __m256i minima(const char *p) {
        const uint32_t b = read<uint32_t>(p + 8), c = read<uint32_t>(p + 12);
        return widened_bytes(b & 0x3f3f3f3fu, (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u));
    }
};
template <size_t s> DS_INLINE __m256i nibbles_of_64(const char *p) {
    return only(shifted<(s % 2 ? -4 : 0)>(bytes32(p + s / 2 * 32)), 15);
}

template <format f> struct block256;
template <> struct block256<format::q4_k> : six_bits {
    static constexpr size_t d = 0, m = 2, parts = 8;
    static constexpr int bias = 0;
    template <size_t s> static DS_INLINE __m256i levels(const char *p) { return nibbles_of_64<s>(p + 16); }
};
template <> struct block256<format::q5_k> : six_bits {
    static constexpr size_t d = 0, m = 2, parts = 8;
    static constexpr int bias = 0;
    template <size_t s> static DS_INLINE __m256i levels(const char *p) {
        return _mm256_or_si256(nibbles_of_64<s>(p + 48),
                               only(shifted<4 - static_cast<int>(s)>(bytes32(p + 16)), 16));
    }
};
template <> struct block256<format::q6_k> {
    static constexpr size_t d = 208, m = 208, parts = 16;
    static constexpr int bias = 32;
    static DS_INLINE __m256i scales(const char *p) {
        return _mm256_cvtepi8_epi16(in_order(bytes16(p + 192)));
    }
    static DS_INLINE __m256i minima(const char *) { return _mm256_setzero_si256(); }
    template <size_t s> static DS_INLINE __m256i levels(const char *p) {
        const __m256i low = only(shifted<(s % 4 / 2 ? -4 : 0)>(bytes32(p + s / 4 * 64 + s % 2 * 32)), 15);
        return _mm256_or_si256(
            low, only(shifted<4 - 2 * static_cast<int>(s % 4)>(bytes32(p + 128 + s / 4 * 32)), 48));
    }
};
template <size_t s> DS_INLINE __m256i pairs_of_128(const char *p) {
    return only(shifted<-2 * static_cast<int>(s % 4)>(bytes32(p + s / 4 * 32)), 3);
}
template <> struct block256<format::q3_k> {
    static constexpr size_t d = 108, m = 108, parts = 16;
    static constexpr int bias = 4;
    static DS_INLINE __m256i scales(const char *p) {
        const uint32_t a = read<uint32_t>(p + 96), b = read<uint32_t>(p + 100), c = read<uint32_t>(p + 104);
        const auto four = [](uint32_t low, uint32_t high) {
            return static_cast<int>((low & 0x0f0f0f0fu) | (high & 0x30303030u));
        };
        const __m128i all =
            _mm_setr_epi32(four(a, c << 4), four(b, c << 2), four(a >> 4, c), four(b >> 4, c >> 2));
        return _mm256_cvtepi8_epi16(in_order(_mm_sub_epi8(all, _mm_set1_epi8(32))));
    }
    static DS_INLINE __m256i minima(const char *) { return _mm256_setzero_si256(); }
    template <size_t s> static DS_INLINE __m256i levels(const char *p) {
        return _mm256_or_si256(pairs_of_128<s>(p + 32),
                               only(shifted<2 - static_cast<int>(s)>(bytes32(p)), 4));
    }
};
template <> struct block256<format::q2_k> {
    static constexpr size_t d = 80, m = 82, parts = 16;
    static constexpr int bias = 0;
    static DS_INLINE __m256i scales(const char *p) {
        return _mm256_cvtepu8_epi16(in_order(_mm_and_si128(bytes16(p), _mm_set1_epi8(15))));
    }
    static DS_INLINE __m256i minima(const char *p) {
        return _mm256_cvtepu8_epi16(
            in_order(_mm_and_si128(_mm_srli_epi16(bytes16(p), 4), _mm_set1_epi8(15))));
    }
    template <size_t s> static DS_INLINE __m256i levels(const char *p) { return pairs_of_128<s>(p + 16); }
};
template <> struct block256<format::iq4_xs> {
    static constexpr size_t d = 0, m = 0, parts = 8;
    static constexpr int bias = 128;
    static DS_INLINE __m256i scales(const char *p) {
        const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(read<uint16_t>(p + 2)),
                                               _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
        const __m128i low = _mm_cvtsi32_si128(read<int32_t>(p + 4));
        const __m128i nibbles =
            _mm_and_si128(_mm_unpacklo_epi8(low, _mm_srli_epi16(low, 4)), _mm_set1_epi8(15));
        const __m256i upper = _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4);
        const __m256i all =
            _mm256_sub_epi32(_mm256_or_si256(_mm256_cvtepu8_epi32(nibbles), upper), _mm256_set1_epi32(32));
        return twice(_mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
    }
    static DS_INLINE __m256i minima(const char *) { return _mm256_setzero_si256(); }
    template <size_t s> static DS_INLINE __m256i levels(const char *p) {
        return iq4_bytes(nibbles16(p + 8 + 16 * s), 128);
    }
};

// Calls run(s as a constant) for s from 0 to 7.
template <class F> DS_INLINE void by_8(const F &run) {
    const auto all = [&]<size_t... s>(std::index_sequence<s...>) {
        (run(std::integral_constant<size_t, s>{}), ...);
    };
    all(std::make_index_sequence<8>{});
}

// ---- Products

// A tile's block: d of each column, then m. With products of unsigned bytes: the parts' scales as int32; a
// plane of words, one per part, that multiplies the sums of activations (the minima, or the correction for
// the levels' bias); the levels. With products of words: the minima, and the levels multiplied by their
// scales.
template <size_t parts, bool minima> struct tile256 {
    static constexpr size_t scales = (minima ? 2 : 1) * packed_step,
                            plane = scales + (packed_unsigned ? parts * packed_step : 0);
    static constexpr size_t plane_steps = packed_unsigned || minima ? parts / 2 : 0,
                            levels = plane + plane_steps * packed_step;
    static constexpr size_t tile_block = levels + 64 * packed_element * packed_step;
    static constexpr size_t x_sums = parts == 16 ? x256_sums16 : x256_sums32;

    template <size_t steps, int rows> static DS_INLINE void
    some_steps(const char *tile, const char *const *x, size_t at, w16i (*sum)[packed_vectors]) {
        DS_UNROLL for (size_t s = 0; s < steps; ++s, tile += packed_step) {
            w16i w[packed_vectors];
            DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) w[v] = w16i(tile + 64 * v);
            DS_UNROLL for (int j = 0; j < rows; ++j) {
                const w16i xs(read<int32_t>(x[j] + at + 4 * s));
                DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                    sum[j][v] = tile_step(sum[j][v], w[v], xs);
                }
            }
        }
    }
    template <int rows> static DS_INLINE void plane_product(const char *tile, const char *const *x, size_t b,
                                                            w16i (*sum)[packed_vectors]) {
        DS_UNROLL for (size_t s = 0; s < plane_steps; ++s) {
            DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                const w16i w(tile + plane + s * packed_step + 64 * v);
                DS_UNROLL for (int j = 0; j < rows; ++j) {
                    sum[j][v] = plane_step(sum[j][v], w, w16i(read<int32_t>(x[j] + b + x_sums + 4 * s)));
                }
            }
        }
    }
    template <int rows> static DS_INLINE void clear(w16i (*sum)[packed_vectors]) {
        DS_UNROLL for (int j = 0; j < rows; ++j) {
            DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) { sum[j][v] = w16i(0); }
        }
    }
    // The sums of levels, multiplied by their parts' scales.
    template <int rows> static DS_INLINE void scaled_product(const char *tile, const char *const *x, size_t b,
                                                             w16i (*sum)[packed_vectors]) {
        const char *w = tile + levels;
        if constexpr (packed_unsigned) {
            constexpr size_t steps = 64 / parts;
            for (size_t p = 0; p < parts; ++p, w += steps * packed_step, b += 4 * steps) {
                w16i part[rows][packed_vectors];
                clear<rows>(part);
                some_steps<steps, rows>(w, x, b, part);
                DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                    const w16i scale(tile + scales + p * packed_step + 64 * v);
                    DS_UNROLL for (int j = 0; j < rows; ++j) {
                        sum[j][v] = multiply_add(part[j][v], scale, sum[j][v]);
                    }
                }
            }
        } else {
            for (size_t s = 0; s < 128; s += 8, w += 8 * packed_step)
                some_steps<8, rows>(w, x, b + x256_tile + 4 * s, sum);
        }
    }

    template <int rows> static void product(const packed_args &a, const char *tile, size_t begin, size_t end,
                                            size_t x0, packed_ahead ahead, size_t weight_bytes) {
        const char *x[rows];
        for (int j = 0; j < rows; ++j) x[j] = a.x + (x0 + j) * a.x_stride + begin * x256_bytes;
        v16 sum[rows][packed_vectors];
        load_sums<rows>(a, begin, x0, sum);
        for (size_t b = 0; b < (end - begin) * x256_bytes; b += x256_bytes, tile += tile_block) {
            fetch(ahead, a.w_stride, weight_bytes);
            w16i product[rows][packed_vectors];
            clear<rows>(product);
            if constexpr (!minima) plane_product<rows>(tile, x, b, product);
            scaled_product<rows>(tile, x, b, product);
            DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                const v16 d = load(reinterpret_cast<const float *>(tile + 64 * v));
                DS_UNROLL for (int j = 0; j < rows; ++j) {
                    sum[j][v] = fma_f32(to_float(product[j][v]), d * v16(read<float>(x[j] + b + x256_scale)),
                                        sum[j][v]);
                }
            }
            if constexpr (!minima) continue;
            clear<rows>(product);
            plane_product<rows>(tile, x, b, product);
            DS_UNROLL for (size_t v = 0; v < packed_vectors; ++v) {
                const v16 m = load(reinterpret_cast<const float *>(tile + packed_step + 64 * v));
                DS_UNROLL for (int j = 0; j < rows; ++j) {
                    sum[j][v] = fma_f32(to_float(product[j][v]), m * v16(read<float>(x[j] + b + x256_scale)),
                                        sum[j][v]);
                }
            }
        }
        store_sums<rows>(a, end, x0, sum);
    }
};

template <format f> struct packed256 {
    using block = block256<f>;
    static constexpr bool minima = packed<f>::minima;
    using tiles = tile256<block::parts, minima>;
    static constexpr size_t weight_bytes = block_bytes(f), part = packed_tile_width / 256,
                            tile_block = tiles::tile_block;

    // Every word of the low half is the scale of the first 16 of the s-th 32 elements, every word of the high
    // half that of the second 16.
    template <size_t s> static DS_INLINE __m256i scale_of(__m256i scales) {
        return _mm256_shuffle_epi8(scales, _mm256_set1_epi16(0x0100 + 0x0202 * static_cast<int>(s)));
    }

    static DS_INLINE void put_columns(__m256i *r, char *to, size_t n, size_t step) {
        transpose8(r);
        for (size_t i = 0; i < n; ++i) put32(to + i * step, r[i]);
    }
    // One block of eight rows.
    static void pack8(const char *const *w, size_t offset, char *tile) {
        __m256i scales[8], r[8];
        _mm256_storeu_ps(reinterpret_cast<float *>(tile), scales8(w, offset + block::d));
        if constexpr (minima)
            _mm256_storeu_ps(reinterpret_cast<float *>(tile + packed_step),
                             negated(scales8(w, offset + block::m)));
        for (int i = 0; i < 8; ++i) {
            scales[i] = block::scales(w[i] + offset);
            r[i] = minima ? block::minima(w[i] + offset)
                          : _mm256_mullo_epi16(scales[i], _mm256_set1_epi16(-block::bias));
        }
        if constexpr (tiles::plane_steps > 0)
            put_columns(r, tile + tiles::plane, tiles::plane_steps, packed_step);
        if constexpr (packed_unsigned) {
            constexpr size_t halves = block::parts / 8;
            for (size_t half = 0; half < halves; ++half) {
                for (int i = 0; i < 8; ++i)
                    r[i] = _mm256_cvtepi16_epi32(half ? _mm256_extracti128_si256(scales[i], 1)
                                                      : _mm256_castsi256_si128(scales[i]));
                put_columns(r, tile + tiles::scales + half * packed_step, 8, halves * packed_step);
            }
        }
        by_8([&](auto s) {
            char *const to = tile + tiles::levels + 8 * packed_element * packed_step * s.value;
            for (size_t half = 0; half < packed_element; ++half) {
                for (int i = 0; i < 8; ++i) {
                    const __m256i levels = block::template levels<s.value>(w[i] + offset);
                    r[i] =
                        packed_unsigned ? levels : scaled_words(levels, scale_of<s.value>(scales[i]), half);
                }
                put_columns(r, to + 8 * half * packed_step, 8, packed_step);
            }
        });
    }
    static DS_INLINE __m256i scaled_words(__m256i levels, __m256i scale, size_t half) {
        const __m256i w =
            wide_half(_mm256_sub_epi8(levels, _mm256_set1_epi8(static_cast<char>(block::bias))), half);
        return _mm256_mullo_epi16(w, half ? _mm256_permute2x128_si256(scale, scale, 0x11)
                                          : _mm256_permute2x128_si256(scale, scale, 0x00));
    }

    template <int rows> static void product(const packed_args &a, const char *tile, size_t begin, size_t end,
                                            size_t x0, packed_ahead ahead) {
        tiles::template product<rows>(a, tile, begin, end, x0, ahead, weight_bytes);
    }
    static constexpr packed_kernels kernels = {.x_bytes = x256_bytes,
                                               .few_rows = few_rows256,
                                               .tile_weights = packed_columns,
                                               .tile_bytes = part * tile_block,
                                               .group_rows = 1,
                                               .quantize = quantize256,
                                               .rows = packed_rows<rows_of<f>>,
                                               .tile = packed_tile<packed256>};
};

template <format f> using packed_x86 =
    typename std::conditional_t<packed<f>::block == 32, std::type_identity<packed32<f>>,
                                std::type_identity<packed256<f>>>::type;
