// Few rows of activations with packed weights as stored, on 512 bits with VNNI: eight rows of weights at
// once. What shares a scale is within a quarter of a register, so that a whole block needs few
// multiplications by scales, and its sums few additions across lanes. Blocks of 32 are taken four at a time,
// a quarter each. Levels are unsigned bytes, the format's bias above their values: sums start from the
// correction for it.

DS_INLINE __m512i all_bytes(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
// The empty asm keeps GCC from loading again for each use; an unaligned load touches two cache lines every
// time.
DS_INLINE __m512i bytes64(const char *p) {
    __m512i x = _mm512_loadu_si512(p);
    __asm__("" : "+v"(x));
    return x;
}
DS_INLINE __m512i in_quarters(const char *a, const char *b, const char *c, const char *d) {
    return _mm512_inserti32x4(
        _mm512_inserti32x4(_mm512_inserti32x4(_mm512_castsi128_si512(bytes16(a)), bytes16(b), 1), bytes16(c),
                           2),
        bytes16(d), 3);
}
DS_INLINE __m512i in_halves(const char *a, const char *b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(bytes32(a)), bytes32(b), 1);
}
DS_INLINE __m512i four_times(__m128i x) { return _mm512_broadcast_i32x4(x); }
DS_INLINE __m512i shuffled(__m512i x, __m128i indices) { return _mm512_shuffle_epi8(x, four_times(indices)); }
DS_INLINE __m512i each_quarter(int a, int b, int c, int d) { return _mm512_set4_epi32(d, c, b, a); }
DS_INLINE __m512i both(__m512i x, __m512i mask) { return _mm512_and_si512(x, mask); }
// a | (b & mask)
DS_INLINE __m512i with_bits(__m512i a, __m512i b, __m512i mask) {
    return _mm512_ternarylogic_epi32(a, b, mask, 0xf8);
}
DS_INLINE __m512i dot_bytes(__m512i sum, __m512i w, __m512i x) { return _mm512_dpbusd_epi32(sum, w, x); }
DS_INLINE __m512i nothing() { return _mm512_setzero_si512(); }
DS_INLINE __m512i negated(__m512i x) { return _mm512_sub_epi32(nothing(), x); }

// Indices of words, dwords or qwords for a permutation.
template <class T> struct alignas(64) indices {
    T at[64 / sizeof(T)];
    template <class F> constexpr explicit indices(const F &f) : at() {
        for (int i = 0; i < static_cast<int>(64 / sizeof(T)); ++i) at[i] = static_cast<T>(f(i));
    }
    DS_INLINE operator __m512i() const { return _mm512_load_si512(at); }
};

// Levels, plus 128, of 64 bytes of nibbles (indices into iq4_levels): those of the low nibbles, then of the
// high ones.
DS_INLINE void iq4_levels512(__m512i q, __m512i *to) {
    const __m512i table =
        four_times(_mm_xor_si128(bytes16(reinterpret_cast<const char *>(iq4_levels)), _mm_set1_epi8(-128)));
    to[0] = _mm512_shuffle_epi8(table, both(q, all_bytes(15)));
    to[1] = _mm512_shuffle_epi8(table, both(_mm512_srli_epi16(q, 4), all_bytes(15)));
}

// In each quarter, lane i is the sum of r[i]'s quarter.
DS_INLINE __m512i quarter_sums(const __m512i *r) {
    const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[0], r[1]));
    const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(r[2], r[3]), _mm512_unpackhi_epi32(r[2], r[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
// half_sums: the sum of each of eight rows, where r[i] has row i's lanes in its low half and row i + 4's in
// its high one. whole_sums: the same for one row per register.
DS_INLINE __m256i half_sums(const __m512i *r) {
    const __m512i q = quarter_sums(r), two = _mm512_add_epi32(q, _mm512_shuffle_i32x4(q, q, 0xb1));
    return _mm512_castsi512_si256(_mm512_shuffle_i32x4(two, two, 0x08));
}
DS_INLINE __m256i whole_sums(const __m512i *r) {
    __m512i half[4];
    DS_UNROLL for (int i = 0; i < 4; ++i) {
        half[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(r[i], r[i + 4], 0x44),
                                   _mm512_shuffle_i32x4(r[i], r[i + 4], 0xee));
    }
    return half_sums(half);
}

// Two adjacent f16 of eight rows, as floats: the first and the second.
struct two_scales {
    __m256 d, m;
};
DS_INLINE two_scales two_scales_of(__m256i pairs) {
    return {_mm256_cvtph_ps(_mm256_cvtepi32_epi16(pairs)),
            _mm256_cvtph_ps(_mm256_cvtepi32_epi16(_mm256_srli_epi32(pairs, 16)))};
}
DS_INLINE __m256i pairs8(const char *const *w, size_t offset) {
    __m128i half[2];
    DS_UNROLL for (int i = 0; i < 2; ++i) {
        half[i] = _mm_cvtsi32_si128(read<int32_t>(w[4 * i] + offset));
        half[i] = _mm_insert_epi32(half[i], read<int32_t>(w[4 * i + 1] + offset), 1);
        half[i] = _mm_insert_epi32(half[i], read<int32_t>(w[4 * i + 2] + offset), 2);
        half[i] = _mm_insert_epi32(half[i], read<int32_t>(w[4 * i + 3] + offset), 3);
    }
    return _mm256_inserti128_si256(_mm256_castsi128_si256(half[0]), half[1], 1);
}

// ---- Blocks of 256. A format defines: `activations`, in the order of its four registers of levels, and what
// their sums start from; `scales` of eight rows of weights; `levels`; the `product` of a row, in any lanes.

struct wide_x {
    __m512i q[4], start[4];
};

// q4_k, q5_k: registers 0 and 1 hold the first and second half of parts 0, 2, 4, 6, a quarter each; registers
// 2 and 3 those of parts 1, 3, 5, 7.
struct eight_parts {
    static DS_INLINE void activations(const char *x, wide_x &to) {
        __m512i v[4], t[4];
        DS_UNROLL for (int i = 0; i < 4; ++i) v[i] = bytes64(x + 64 * i);
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            t[i] = _mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], 0x44);
            t[2 + i] = _mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], 0xee);
        }
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            to.q[2 * i] = _mm512_shuffle_i32x4(t[2 * i], t[2 * i + 1], 0x88);
            to.q[2 * i + 1] = _mm512_shuffle_i32x4(t[2 * i], t[2 * i + 1], 0xdd);
        }
    }
    // Words, one row per quarter: of rows 0 to 3, and 4 to 7.
    struct scales {
        __m512i scale[2], min[2];
        two_scales floats;
        DS_INLINE scales(const char *const *w, size_t at) {
            __m512i head[2];
            DS_UNROLL for (int i = 0; i < 2; ++i) {
                const __m512i h = head[i] =
                    in_quarters(w[4 * i] + at, w[4 * i + 1] + at, w[4 * i + 2] + at, w[4 * i + 3] + at);
                const __m512i low = _mm512_srlv_epi32(
                    _mm512_shuffle_epi32(h, static_cast<_MM_PERM_ENUM>(0xed)), each_quarter(0, 0, 0, 4));
                const __m512i high =
                    _mm512_srli_epi32(_mm512_shuffle_epi32(h, static_cast<_MM_PERM_ENUM>(0xa5)), 2);
                const __m512i all =
                    with_bits(both(low, each_quarter(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f)), high,
                              each_quarter(0, 0x30303030, 0, 0x30303030));
                scale[i] = _mm512_unpacklo_epi8(all, nothing());
                min[i] = _mm512_unpackhi_epi8(all, nothing());
            }
            static constexpr indices<int32_t> firsts([](int i) { return 4 * i; });
            floats =
                two_scales_of(_mm512_castsi512_si256(_mm512_permutex2var_epi32(head[0], firsts, head[1])));
        }
        DS_INLINE __m256i minima(const char *x) const {
            const __m512i sums = four_times(bytes16(x + x256_sums32)),
                          a = _mm512_dpwssd_epi32(nothing(), min[0], sums),
                          b = _mm512_dpwssd_epi32(nothing(), min[1], sums);
            const __m512i two = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            const __m512i one =
                _mm512_add_epi32(two, _mm512_shuffle_epi32(two, static_cast<_MM_PERM_ENUM>(0x4e)));
            static constexpr indices<int32_t> in_rows([](int i) { return i % 4 * 4 + i / 4 % 2; });
            return _mm512_castsi512_si256(_mm512_permutexvar_epi32(in_rows, one));
        }
        template <int r> DS_INLINE __m512i of() const {
            static constexpr indices<int16_t> at([](int i) { return 8 * (r % 4) + i / 4; });
            return _mm512_permutexvar_epi16(at, scale[r / 4]);
        }
    };
    // high_as_is: the levels of registers 2 and 3 are sixteen times their values.
    template <int r, bool high_as_is>
    static DS_INLINE __m512i sums(const __m512i *level, const wide_x &x, const scales &s) {
        const __m512i even = dot_bytes(dot_bytes(nothing(), level[0], x.q[0]), level[1], x.q[1]),
                      odd = dot_bytes(dot_bytes(nothing(), level[2], x.q[2]), level[3], x.q[3]);
        return _mm512_dpwssd_epi32(
            nothing(), _mm512_packs_epi32(even, high_as_is ? _mm512_srai_epi32(odd, 4) : odd), s.of<r>());
    }
    static DS_INLINE void nibbles(const char *p, __m512i *to) {
        const __m512i a = bytes64(p), b = bytes64(p + 64);
        to[0] = _mm512_shuffle_i32x4(a, b, 0x88);
        to[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
    }
};

template <format f> struct wide256;
template <> struct wide256<format::q4_k> : eight_parts {
    static DS_INLINE void levels(const char *p, __m512i *to) {
        __m512i q[2];
        nibbles(p + 16, q);
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            to[i] = both(q[i], all_bytes(15));
            to[2 + i] = both(q[i], all_bytes(0xf0));
        }
    }
    template <int r>
    static DS_INLINE __m512i product(const __m512i *level, const wide_x &x, const scales &s) {
        return sums<r, true>(level, x, s);
    }
};
template <> struct wide256<format::q5_k> : eight_parts {
    static DS_INLINE void levels(const char *p, __m512i *to) {
        __m512i q[2];
        nibbles(p + 48, q);
        const __m512i even = _mm512_setr_epi32(4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0, -2, -2, -2, -2),
                      odd = _mm512_sub_epi32(even, _mm512_set1_epi32(1));
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            const __m512i fifth = four_times(bytes16(p + 16 + 16 * i));
            to[i] = with_bits(both(q[i], all_bytes(15)), _mm512_rolv_epi32(fifth, even), all_bytes(16));
            to[2 + i] = with_bits(both(_mm512_srli_epi16(q[i], 4), all_bytes(15)),
                                  _mm512_rolv_epi32(fifth, odd), all_bytes(16));
        }
    }
    template <int r>
    static DS_INLINE __m512i product(const __m512i *level, const wide_x &x, const scales &s) {
        return sums<r, false>(level, x, s);
    }
};

// q6_k, q3_k, q2_k: a quarter is a part. Either the registers take the elements in order, or each holds 32 of
// the first and 32 of the second 128.
template <format f, bool halved, int bias> struct sixteen_parts {
    static DS_INLINE void activations(const char *x, wide_x &to) {
        DS_UNROLL for (int i = 0; i < 4; ++i) {
            to.q[i] = halved ? in_halves(x + 32 * i, x + 128 + 32 * i) : bytes64(x + 64 * i);
            to.start[i] = bias ? negated(dot_bytes(nothing(), all_bytes(bias), to.q[i])) : nothing();
        }
    }
    static constexpr int part(int i, int quarter) {
        return halved ? 8 * (quarter / 2) + 2 * i + quarter % 2 : 4 * i + quarter;
    }
    // Words: of rows i and i + 4 in scale[i].
    struct scales {
        __m512i scale[4];
        two_scales floats;
        __m512i min[4];
        DS_INLINE scales(const char *const *w, size_t at) {
            __m512i bytes[2], mins[2];
            floats = wide256<f>::unpacked(w, at, bytes, mins);
            DS_UNROLL for (int i = 0; i < 4; ++i) {
                scale[i] = _mm512_cvtepi8_epi16(i % 2 ? _mm512_extracti64x4_epi64(bytes[i / 2], 1)
                                                      : _mm512_castsi512_si256(bytes[i / 2]));
                if constexpr (packed<f>::minima)
                    min[i] = _mm512_cvtepi8_epi16(i % 2 ? _mm512_extracti64x4_epi64(mins[i / 2], 1)
                                                        : _mm512_castsi512_si256(mins[i / 2]));
            }
        }
        DS_INLINE __m256i minima(const char *x) const {
            const __m512i sums = _mm512_broadcast_i64x4(bytes32(x + x256_sums16));
            __m512i products[4];
            DS_UNROLL for (int i = 0; i < 4; ++i) products[i] = _mm512_dpwssd_epi32(nothing(), min[i], sums);
            return half_sums(products);
        }
        template <int r, int i> DS_INLINE __m512i of() const {  // for registers 2i and 2i + 1
            static constexpr indices<int16_t> at(
                [](int word) { return 16 * (r / 4) + part(2 * i + word / 4 % 2, word / 8); });
            return _mm512_permutexvar_epi16(at, scale[r % 4]);
        }
    };
    template <int r>
    static DS_INLINE __m512i product(const __m512i *level, const wide_x &x, const scales &s) {
        __m512i p[4];
        DS_UNROLL for (int i = 0; i < 4; ++i) p[i] = dot_bytes(x.start[i], level[i], x.q[i]);
        return _mm512_dpwssd_epi32(
            _mm512_dpwssd_epi32(nothing(), _mm512_packs_epi32(p[0], p[1]), s.template of<r, 0>()),
            _mm512_packs_epi32(p[2], p[3]), s.template of<r, 1>());
    }
    // Sixteen bytes of each row, in the order of `scales`.
    static DS_INLINE void bytes_of_rows(const char *const *w, size_t at, __m512i *to) {
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            to[i] = in_quarters(w[2 * i] + at, w[2 * i + 4] + at, w[2 * i + 1] + at, w[2 * i + 5] + at);
        }
    }
};
template <> struct wide256<format::q6_k> : sixteen_parts<format::q6_k, false, 32> {
    static DS_INLINE two_scales unpacked(const char *const *w, size_t at, __m512i *scale, __m512i *) {
        bytes_of_rows(w, at + 192, scale);
        return {scales8(w, at + 208), _mm256_setzero_ps()};
    }
    static DS_INLINE void levels(const char *p, __m512i *to) {
        const __m512i first = _mm512_inserti64x4(_mm512_set1_epi32(4), _mm256_set1_epi32(2), 1),
                      second = _mm512_inserti64x4(_mm512_set1_epi32(0), _mm256_set1_epi32(-2), 1);
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            const __m512i low = bytes64(p + 64 * i), high = _mm512_broadcast_i64x4(bytes32(p + 128 + 32 * i));
            to[2 * i] = with_bits(both(low, all_bytes(15)), _mm512_rolv_epi32(high, first), all_bytes(48));
            to[2 * i + 1] = with_bits(both(_mm512_srli_epi16(low, 4), all_bytes(15)),
                                      _mm512_rolv_epi32(high, second), all_bytes(48));
        }
    }
};
template <> struct wide256<format::q3_k> : sixteen_parts<format::q3_k, true, 4> {
    static DS_INLINE two_scales unpacked(const char *const *w, size_t at, __m512i *scale, __m512i *) {
        __m512i end[2];  // two bytes of levels, the scales, d
        bytes_of_rows(w, at + 94, end);
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            const __m512i low = _mm512_srlv_epi32(
                shuffled(end[i], _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9)),
                each_quarter(0, 0, 4, 4));
            const __m512i high =
                _mm512_rolv_epi32(shuffled(end[i], _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12,
                                                                 13, 10, 11, 12, 13)),
                                  each_quarter(4, 2, 0, -2));
            scale[i] =
                _mm512_sub_epi8(with_bits(both(low, all_bytes(15)), high, all_bytes(48)), all_bytes(32));
        }
        static constexpr indices<int32_t> lasts([](int i) { return 3 + 8 * (i % 4) + 4 * (i / 4 % 2); });
        const __m256i d = _mm512_castsi512_si256(_mm512_permutex2var_epi32(end[0], lasts, end[1]));
        return {_mm256_cvtph_ps(_mm256_cvtepi32_epi16(_mm256_srli_epi32(d, 16))), _mm256_setzero_ps()};
    }
    static DS_INLINE void levels(const char *p, __m512i *to) {
        const __m512i low = bytes64(p + 32), bits = all_bytes(3), third = all_bytes(4);
        const __m512i high = _mm512_srlv_epi32(_mm512_broadcast_i64x4(bytes32(p)),
                                               _mm512_inserti64x4(nothing(), _mm256_set1_epi32(4), 1));
        to[0] = with_bits(both(low, bits), _mm512_slli_epi32(high, 2), third);
        to[1] = with_bits(both(_mm512_srli_epi32(low, 2), bits), _mm512_slli_epi32(high, 1), third);
        to[2] = with_bits(both(_mm512_srli_epi32(low, 4), bits), high, third);
        to[3] = with_bits(both(_mm512_srli_epi32(low, 6), bits), _mm512_srli_epi32(high, 1), third);
    }
};
template <> struct wide256<format::q2_k> : sixteen_parts<format::q2_k, true, 0> {
    static DS_INLINE two_scales unpacked(const char *const *w, size_t at, __m512i *scale, __m512i *min) {
        bytes_of_rows(w, at, scale);
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            min[i] = shuffled(both(_mm512_srli_epi16(scale[i], 4), all_bytes(15)),
                              _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
            scale[i] = both(scale[i], all_bytes(15));
        }
        return two_scales_of(pairs8(w, at + 80));
    }
    static DS_INLINE void levels(const char *p, __m512i *to) {
        const __m512i q = bytes64(p + 16);
        DS_UNROLL for (int i = 0; i < 4; ++i) {
            to[i] = both(_mm512_srli_epi32(q, static_cast<unsigned>(2 * i)), all_bytes(3));
        }
    }
};

// iq4_xs: a quarter is half a part; sums are too large for words.
template <> struct wide256<format::iq4_xs> {
    static DS_INLINE void activations(const char *x, wide_x &to) {
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            const __m512i a = bytes64(x + 128 * i), b = bytes64(x + 128 * i + 64);
            to.q[2 * i] = _mm512_shuffle_i32x4(a, b, 0x88);
            to.q[2 * i + 1] = _mm512_shuffle_i32x4(a, b, 0xdd);
            to.start[i] = negated(dot_bytes(dot_bytes(nothing(), all_bytes(128), to.q[2 * i]), all_bytes(128),
                                            to.q[2 * i + 1]));
        }
    }
    struct scales {  // two rows per register
        __m512i scale[4];
        two_scales floats;
        DS_INLINE scales(const char *const *w, size_t at) {
            __m512i head[2];
            DS_UNROLL for (int i = 0; i < 2; ++i) {
                const __m512i h = head[i] =
                    in_quarters(w[4 * i] + at, w[4 * i + 1] + at, w[4 * i + 2] + at, w[4 * i + 3] + at);
                const __m512i low = _mm512_srlv_epi16(
                    shuffled(h, _mm_setr_epi8(4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1)),
                    four_times(_mm_setr_epi16(0, 4, 0, 4, 0, 4, 0, 4)));
                const __m512i high = _mm512_srlv_epi16(shuffled(h, _mm_set1_epi16(0x0302)),
                                                       four_times(_mm_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14)));
                const __m512i all =
                    _mm512_sub_epi16(with_bits(both(low, _mm512_set1_epi16(15)), _mm512_slli_epi16(high, 4),
                                               _mm512_set1_epi16(48)),
                                     _mm512_set1_epi16(32));
                scale[2 * i] = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(all));
                scale[2 * i + 1] = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(all, 1));
            }
            static constexpr indices<int32_t> firsts([](int i) { return 4 * i; });
            floats =
                two_scales_of(_mm512_castsi512_si256(_mm512_permutex2var_epi32(head[0], firsts, head[1])));
        }
        template <int r, int i> DS_INLINE __m512i of() const {
            static constexpr indices<int32_t> at([](int lane) { return 8 * (r % 2) + 4 * i + lane / 4; });
            return _mm512_permutexvar_epi32(at, scale[r / 2]);
        }
    };
    static DS_INLINE void levels(const char *p, __m512i *to) {
        DS_UNROLL for (int i = 0; i < 2; ++i) iq4_levels512(bytes64(p + 8 + 64 * i), to + 2 * i);
    }
    template <int r>
    static DS_INLINE __m512i product(const __m512i *level, const wide_x &x, const scales &s) {
        const __m512i a = dot_bytes(dot_bytes(x.start[0], level[0], x.q[0]), level[1], x.q[1]),
                      b = dot_bytes(dot_bytes(x.start[1], level[2], x.q[2]), level[3], x.q[3]);
        return _mm512_add_epi32(_mm512_mullo_epi32(a, s.of<r, 0>()), _mm512_mullo_epi32(b, s.of<r, 1>()));
    }
};

template <format f> struct rows256 {
    using wide = wide256<f>;
    static constexpr bool minima = packed<f>::minima;
    static constexpr size_t weight_bytes = block_bytes(f);

    template <int rows> static void rows8(const packed_args &a, size_t w0, size_t x0) {
        const char *w[8], *x = a.x + x0 * a.x_stride;
        rows_at(a, w0, packed_eighth(a), w);
        __m256 sum[rows];
        DS_UNROLL for (int j = 0; j < rows; ++j) sum[j] = _mm256_setzero_ps();
        for (size_t b = 0, at = 0; b < a.blocks; ++b, at += weight_bytes, x += x256_bytes) {
            const typename wide::scales scales(w, at);
            wide_x xs[rows];
            DS_UNROLL for (int j = 0; j < rows; ++j) wide::activations(x + j * a.x_stride, xs[j]);
            __m512i product[rows][8];
            by_8([&](auto r) {
                DS_UNROLL for (size_t i = 0; i < weight_bytes; i += 64) {
                    __builtin_prefetch(w[r.value] + at + packed_rows_ahead + i, 0, 2);
                }
                __m512i level[4];
                wide::levels(w[r.value] + at, level);
                DS_UNROLL for (int j = 0; j < rows; ++j) {
                    product[j][r.value] = wide::template product<r.value>(level, xs[j], scales);
                }
            });
            DS_UNROLL for (int j = 0; j < rows; ++j) {
                const char *const xb = x + j * a.x_stride;
                const __m256 scale = _mm256_set1_ps(read<float>(xb + x256_scale));
                sum[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole_sums(product[j])),
                                         _mm256_mul_ps(scales.floats.d, scale), sum[j]);
                if constexpr (minima)
                    sum[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(scales.minima(xb)),
                                             _mm256_mul_ps(negated(scales.floats.m), scale), sum[j]);
            }
        }
        for (int j = 0; j < rows; ++j) store_rows8(a, sum[j], x0 + j, w0);
    }
};

// ---- Blocks of 32, four at a time, a quarter each. A format defines their levels in two registers: the
// first halves of the four and the second halves, or whole blocks, the first two and the last two.

template <format f> struct wide32;
template <size_t at> struct wide_nibbles {
    static constexpr bool whole_blocks = false;
    static DS_INLINE void levels(const char *const *p, __m512i *to) {
        const __m512i q = in_quarters(p[0] + at, p[1] + at, p[2] + at, p[3] + at);
        to[0] = both(q, all_bytes(15));
        to[1] = both(_mm512_srli_epi16(q, 4), all_bytes(15));
    }
};
// The fifth bits precede the nibbles.
template <size_t at> struct wide_fives {
    static constexpr bool whole_blocks = true;
    static DS_INLINE void levels(const char *const *p, __m512i *to) {
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            const char *const a = p[2 * i] + at, *const b = p[2 * i + 1] + at;
            const __m512i twice =
                _mm512_mask_broadcast_i32x4(four_times(bytes16(a + 4)), 0xff00, bytes16(b + 4));
            const __m512i low = both(
                _mm512_srlv_epi32(twice, _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4)),
                all_bytes(15));
            to[i] = _mm512_mask_add_epi8(
                low, read<uint32_t>(a) | static_cast<uint64_t>(read<uint32_t>(b)) << 32, low, all_bytes(16));
        }
    }
};
template <> struct wide32<format::q4_0> : wide_nibbles<2> {};
template <> struct wide32<format::q4_1> : wide_nibbles<4> {};
template <> struct wide32<format::q5_0> : wide_fives<2> {};
template <> struct wide32<format::q5_1> : wide_fives<4> {};
template <> struct wide32<format::iq4_nl> {
    static constexpr bool whole_blocks = false;
    static DS_INLINE void levels(const char *const *p, __m512i *to) {
        iq4_levels512(in_quarters(p[0] + 2, p[1] + 2, p[2] + 2, p[3] + 2), to);
    }
};
template <> struct wide32<format::q8_0> {
    static constexpr bool whole_blocks = true;
    static DS_INLINE void levels(const char *const *p, __m512i *to) {
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            to[i] = _mm512_xor_si512(in_halves(p[2 * i] + 2, p[2 * i + 1] + 2), all_bytes(128));
        }
    }
};

template <format f> struct rows32 {
    static constexpr bool minima = packed<f>::minima;
    static constexpr int bias = block32<f>::bias;
    static constexpr size_t weight_bytes = packed32<f>::weight_bytes;
    using wide = wide32<f>;

    static DS_INLINE void activations(const char *const *x, wide_x &to) {
        DS_UNROLL for (int i = 0; i < 2; ++i) {
            to.q[i] = wide::whole_blocks
                          ? in_halves(x[2 * i], x[2 * i + 1])
                          : in_quarters(x[0] + 16 * i, x[1] + 16 * i, x[2] + 16 * i, x[3] + 16 * i);
            to.start[i] = bias ? negated(dot_bytes(nothing(), all_bytes(bias), to.q[i])) : nothing();
        }
        if constexpr (!wide::whole_blocks) to.start[0] = _mm512_add_epi32(to.start[0], to.start[1]);
    }
    static DS_INLINE __m512i sums(const __m512i *level, const wide_x &x) {
        if constexpr (!wide::whole_blocks)
            return dot_bytes(dot_bytes(x.start[0], level[0], x.q[0]), level[1], x.q[1]);
        const __m512i a = dot_bytes(x.start[0], level[0], x.q[0]),
                      b = dot_bytes(x.start[1], level[1], x.q[1]);
        return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    }

    // The next `count` blocks, 1 to 4; those beyond repeat the last and are left out of the float sums.
    template <int rows> static DS_INLINE void four_blocks(const char *const *w, size_t at, const char *x,
                                                          size_t x_stride, size_t count, __m256 *sum) {
        size_t block[4];
        DS_UNROLL for (size_t i = 0; i < 4; ++i) block[i] = std::min(i, count - 1);
        __m512i product[rows][8];
        wide_x xs[rows];
        DS_UNROLL for (int j = 0; j < rows; ++j) {
            const char *const p = x + j * x_stride, *const four[4] = {p, p + block[1] * x32_bytes,
                                                                      p + block[2] * x32_bytes,
                                                                      p + block[3] * x32_bytes};
            activations(four, xs[j]);
        }
        DS_UNROLL for (int r = 0; r < 8; ++r) {
            const char *const p = w[r] + at, *const four[4] = {p, p + block[1] * weight_bytes,
                                                               p + block[2] * weight_bytes,
                                                               p + block[3] * weight_bytes};
            DS_UNROLL for (size_t i = 0; i < 4 * weight_bytes; i += 64) {
                __builtin_prefetch(p + packed_rows_ahead + i, 0, 2);
            }
            __m512i level[2];
            wide::levels(four, level);
            DS_UNROLL for (int j = 0; j < rows; ++j) product[j][r] = sums(level, xs[j]);
        }
        two_scales scale[4];
        DS_UNROLL for (size_t i = 0; i < 4; ++i) {
            const size_t p = at + block[i] * weight_bytes;
            if constexpr (minima) scale[i] = two_scales_of(pairs8(w, p));
            else scale[i].d = scales8(w, p);
        }
        DS_UNROLL for (int j = 0; j < rows; ++j) {
            static constexpr indices<int64_t> two[2] = {
                indices<int64_t>([](int i) { return i / 4 * 2 + i / 2 % 2 * 8 + i % 2; }),
                indices<int64_t>([](int i) { return 4 + i / 4 * 2 + i / 2 % 2 * 8 + i % 2; })};
            const __m512i low = quarter_sums(product[j]), high = quarter_sums(product[j] + 4);
            DS_UNROLL for (size_t i = 0; i < 4; ++i) {
                const __m512 sums = _mm512_cvtepi32_ps(_mm512_permutex2var_epi64(low, two[i / 2], high));
                if (i >= count) break;
                const char *const xb = x + j * x_stride + i * x32_bytes;
                const __m256 x_scale = _mm256_set1_ps(read<float>(xb + x32_scale));
                sum[j] =
                    _mm256_fmadd_ps(i % 2 ? _mm512_extractf32x8_ps(sums, 1) : _mm512_castps512_ps256(sums),
                                    _mm256_mul_ps(scale[i].d, x_scale), sum[j]);
                if constexpr (minima)
                    sum[j] = _mm256_fmadd_ps(_mm256_set1_ps(read<float>(xb + x32_sum)),
                                             _mm256_mul_ps(scale[i].m, x_scale), sum[j]);
            }
        }
    }
    template <int rows> static void rows8(const packed_args &a, size_t w0, size_t x0) {
        const char *w[8], *x = a.x + x0 * a.x_stride;
        rows_at(a, w0, packed_eighth(a), w);
        __m256 sum[rows];
        DS_UNROLL for (int j = 0; j < rows; ++j) sum[j] = _mm256_setzero_ps();
        size_t b = 0, at = 0;
        for (; b + 4 <= a.blocks; b += 4, at += 4 * weight_bytes, x += 4 * x32_bytes)
            four_blocks<rows>(w, at, x, a.x_stride, 4, sum);
        if (b < a.blocks) four_blocks<rows>(w, at, x, a.x_stride, a.blocks - b, sum);
        for (int j = 0; j < rows; ++j) store_rows8(a, sum[j], x0 + j, w0);
    }
};

template <format f> struct rows_of : std::conditional_t<packed<f>::block == 32, std::type_identity<rows32<f>>,
                                                        std::type_identity<rows256<f>>>::type {
    static constexpr int together = 3;  // as many as registers hold
};
