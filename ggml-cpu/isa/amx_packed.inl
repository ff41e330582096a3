// Packed formats with many rows by AMX tiles. Included after amx.inl, packed32_x86.inl and packed256_x86.inl,
// whose quantized activations and levels it takes.
//
// Sixteen rows of weights are unpacked part by part into rows of bytes, which stay in the first-level cache
// while all activations pass by. Levels of a block of 256 are multiplied by their scales before: the products
// take up to 13 bits, and two planes of bytes, as a query's (numerics.h). So a block ends with one float step
// for 256 elements, as the format's rule has it, and integer sums are exact in any order. The minima's sums
// are products of words, done by vectors beside the tiles. Lanes are rows of activations; the sixteen sums of
// a row of weights stay in a register.
//
// By Intel's figures a product takes 16 cycles: 64 for 16 x 16 results over 256 elements in one plane, 128 in
// two, where VNNI takes 256 and more for the same; not measured on hardware.

// A group of activations: for each block the packed columns, the sums that minima multiply (of blocks of 32
// floats, of blocks of 256 pairs of words), the scales; sixteen rows side by side in each.
struct group_layout {
    size_t columns, sums;
    constexpr size_t sums_at() const { return columns * tile_rows; }
    constexpr size_t scales_at() const { return sums_at() + sums; }
    constexpr size_t bytes() const { return scales_at() + tile_line; }
};

constexpr size_t part_elements = 1024;  // of a row of weights: in two planes, 16 rows take 32 KB

template <format f> struct tiles32 {
    using levels = block32<f>;
    static constexpr size_t elements = 32, depth = 32, weight_bytes = block_bytes(f), row_bytes = x32_bytes;
    static constexpr bool minima = packed<f>::minima;
    static constexpr group_layout group = {32, minima ? tile_line : 0};
    static constexpr size_t products = 1;

    struct block {
        char levels[tile_rows][32];
        float d[tile_rows], m[tile_rows];
    };
    static void pack_sums(const char *const *row, char *to) {
        for (size_t r = 0; r < tile_rows; ++r) memcpy(to + 4 * r, row[r] + x32_sum, 4);
    }
    static constexpr size_t scale = x32_scale;

    static void unpack(const char *const *w, size_t offset, block &to) {
        for (size_t r = 0; r < tile_rows; ++r) put32(to.levels[r], levels::signed_levels(w[r] + offset));
        for (size_t r = 0; r < tile_rows; r += 8) {
            _mm256_storeu_ps(to.d + r, scales8(w + r, offset));
            if constexpr (minima) _mm256_storeu_ps(to.m + r, scales8(w + r, offset + levels::m));
        }
    }
    template <int turn> static DS_INLINE void product(const block &w, const char *x, int32_t *sums) {
        tiles::zero<turn>();
        tiles::load<4 + turn>(w.levels, sizeof w.levels[0]);
        tiles::stream<6 + turn>(x, tile_line);
        tiles::product<turn, 4 + turn, 6 + turn>();
        tiles::store<turn>(sums, tile_line);
    }
    // The r-th row of weights' step of block_step (tensor/blocks.h).
    static DS_INLINE v16 step(const block &w, size_t r, const char *x, const int32_t *sums, v16 sum) {
        const v16 x_scale = load(reinterpret_cast<const float *>(x + group.scales_at()));
        sum = fma_f32(load_i32(sums + r * tile_rows), v16(w.d[r]) * x_scale, sum);
        if constexpr (minima)
            sum = fma_f32(load(reinterpret_cast<const float *>(x + group.sums_at())), v16(w.m[r]) * x_scale,
                          sum);
        return sum;
    }
};

template <format f> struct tiles256 {
    using levels = block256<f>;
    static constexpr size_t elements = 256, depth = 64, weight_bytes = block_bytes(f), row_bytes = x256_bytes;
    static constexpr bool minima = packed<f>::minima;
    // two levels of scales' pairs a dword
    static constexpr size_t pairs = levels::parts / 2,
                            x_sums = levels::parts == 16 ? x256_sums16 : x256_sums32;
    static constexpr group_layout group = {256, minima ? pairs *tile_line : 0};
    // q2_k's scaled levels, at most 3 * 15, are bytes
    static constexpr size_t planes = f == format::q2_k ? 1 : 2, products = planes;

    struct block {
        char levels[4][planes][tile_rows][tile_line];
        float d[tile_rows], m[tile_rows];
        int32_t minima[tile_rows][8];  // pairs of words
    };
    static void pack_sums(const char *const *row, char *to) {
        for (size_t p = 0; p < pairs; ++p)
            for (size_t r = 0; r < tile_rows; ++r)
                memcpy(to + p * tile_line + 4 * r, row[r] + x_sums + 4 * p, 4);
    }
    static constexpr size_t scale = x256_scale;

    static DS_INLINE __m256i bytes_of(__m256i first, __m256i second) {
        return _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xd8);
    }
    static void unpack(const char *const *w, size_t offset, block &to) {
        for (size_t r = 0; r < tile_rows; ++r) {
            const char *const from = w[r] + offset;
            const __m256i scales = levels::scales(from);
            by_8([&](auto s) {
                const __m256i all = levels::template levels<s.value>(from),
                              scale_words = packed256<f>::template scale_of<s.value>(scales),
                              first = packed256<f>::scaled_words(all, scale_words, 0),
                              second = packed256<f>::scaled_words(all, scale_words, 1);
                auto &at = to.levels[s.value / 2];
                if constexpr (planes == 1) return put32(at[0][r] + s.value % 2 * 32, bytes_of(first, second));
                const __m256i low = _mm256_set1_epi16(127);
                put32(at[0][r] + s.value % 2 * 32,
                      bytes_of(_mm256_and_si256(first, low), _mm256_and_si256(second, low)));
                put32(at[planes - 1][r] + s.value % 2 * 32,
                      bytes_of(_mm256_srai_epi16(first, 7), _mm256_srai_epi16(second, 7)));
            });
            if constexpr (minima)
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(to.minima[r]), levels::minima(from));
        }
        for (size_t r = 0; r < tile_rows; r += 8) {
            _mm256_storeu_ps(to.d + r, scales8(w + r, offset + levels::d));
            if constexpr (minima) _mm256_storeu_ps(to.m + r, negated(scales8(w + r, offset + levels::m)));
        }
    }
    template <int turn> static DS_INLINE void product(const block &w, const char *x, int32_t *sums) {
        constexpr int low = 2 * turn, high = low + 1;
        tiles::zero<low>();
        if constexpr (planes == 2) tiles::zero<high>();
        const auto step = [&]<int odd>(size_t s) {
            tiles::stream<6 + odd>(x + s * tile_bytes, tile_line);
            tiles::load<4>(w.levels[s][0], tile_line);
            tiles::product<low, 4, 6 + odd>();
            if constexpr (planes == 2) {
                tiles::load<5>(w.levels[s][planes - 1], tile_line);
                tiles::product<high, 5, 6 + odd>();
            }
        };
        step.template operator()<0>(0);
        step.template operator()<1>(1);
        step.template operator()<0>(2);
        step.template operator()<1>(3);
        tiles::store<low>(sums, tile_line);
        if constexpr (planes == 2) tiles::store<high>(sums + tile_ints, tile_line);
    }
    static DS_INLINE v16 step(const block &w, size_t r, const char *x, const int32_t *sums, v16 sum) {
        const v16 x_scale = load(reinterpret_cast<const float *>(x + group.scales_at()));
        w16i scaled = sums_at(sums + r * tile_rows);
        if constexpr (planes == 2) scaled = planes_joined(sums_at(sums + tile_ints + r * tile_rows), scaled);
        sum = fma_f32(to_float(scaled), v16(w.d[r]) * x_scale, sum);
        if constexpr (minima) {
            w16i all(0);
            DS_UNROLL for (size_t p = 0; p < pairs; ++p) {
                all = plane_step(all, w16i(w.minima[r][p]), w16i(x + group.sums_at() + p * tile_line));
            }
            sum = fma_f32(to_float(all), v16(w.m[r]) * x_scale, sum);
        }
        return sum;
    }
};

template <class K> struct packed_scratch {
    typename K::block blocks[part_elements / K::elements];
    int32_t products[2][K::products * tile_ints];
    float sums[panel_rows / tile_rows][tile_ints];  // between two parts: [weight][row]
};

template <class K> static void tile_pack_blocks(const char *const *rows, size_t n, size_t blocks, char *to) {
    const char *row[tile_rows];
    for (size_t r = 0; r < tile_rows; ++r) row[r] = rows[std::min(r, n - 1)];
    for (; blocks > 0; --blocks, to += K::group.bytes()) {
        if constexpr (K::elements % i8_piece == 0) i8_pack_rows<as_packed, 1>(row, K::elements, to);
        else
            for (size_t s = 0; s < K::elements / 4; ++s)
                for (size_t r = 0; r < tile_rows; ++r) memcpy(to + s * tile_line + 4 * r, row[r] + 4 * s, 4);
        if constexpr (K::minima) K::pack_sums(row, to + K::group.sums_at());
        for (size_t r = 0; r < tile_rows; ++r)
            memcpy(to + K::group.scales_at() + 4 * r, row[r] + K::scale, sizeof(float));
        for (const char *&r : row) r += K::row_bytes;
    }
}

// Sixteen rows of weights by all rows of activations.
template <class K> class packed_run {
public:
    packed_run(const packed_args &args, char *memory)
        : a(args), s(*reinterpret_cast<packed_scratch<K> *>(memory)) {
        shape.set(tile_rows, tile_rows, K::depth);
    }
    void all() {
        for (size_t x = 0; x < a.rows; x += panel_rows)
            for (size_t w = 0; w < a.weights; w += tile_rows) weights(w, x);
    }

private:
    static constexpr size_t part = part_elements / K::elements;

    void weights(size_t w0, size_t x0) {
        const char *row[tile_rows];  // the last one stands in for those that are missing
        for (size_t r = 0; r < tile_rows; ++r) row[r] = a.w + std::min(w0 + r, a.weights - 1) * a.w_stride;
        const size_t groups = (std::min(panel_rows, a.rows - x0) + tile_rows - 1) / tile_rows,
                     lines = (a.blocks * K::weight_bytes + tile_line - 1) / tile_line,
                     steps = groups * a.blocks;
        next = line_fetch(a.w + (w0 + tile_rows) * a.w_stride, a.w_stride, lines, tile_rows,
                          (tile_rows * lines + steps - 1) / steps);
        for (size_t begin = 0; begin < a.blocks; begin += part) {
            const size_t end = std::min(begin + part, a.blocks);
            for (size_t b = begin; b < end; ++b) K::unpack(row, b * K::weight_bytes, s.blocks[b - begin]);
            for (size_t g = 0; g < groups; ++g) group(w0, x0 + g * tile_rows, s.sums[g], begin, end);
        }
    }
    static DS_INLINE void add(const typename K::block &w, const char *x, const int32_t *products, v16 *sum) {
        DS_UNROLL for (size_t r = 0; r < tile_rows; ++r) sum[r] = K::step(w, r, x, products, sum[r]);
    }
    // Blocks [begin, end). A block's float steps come after the next one's products, which do not wait.
    void group(size_t w0, size_t x0, float *so_far, size_t begin, size_t end) {
        const char *x = a.x + x0 * a.x_stride + begin * K::group.bytes();
        v16 sum[tile_rows];
        DS_UNROLL for (size_t r = 0; r < tile_rows; ++r) {
            sum[r] = begin > 0 ? load(so_far + r * tile_rows) : v16(0.0f);
        }
        line_fetch ahead = next;
        const size_t count = end - begin;
        for (size_t i = 0; i < count; ++i) {
            ahead.step();
            const char *const from = x + i * K::group.bytes();
            i % 2 ? K::template product<1>(s.blocks[i], from, s.products[1])
                  : K::template product<0>(s.blocks[i], from, s.products[0]);
            if (i > 0) add(s.blocks[i - 1], from - K::group.bytes(), s.products[(i - 1) % 2], sum);
        }
        add(s.blocks[count - 1], x + (count - 1) * K::group.bytes(), s.products[(count - 1) % 2], sum);
        next = ahead;
        DS_UNROLL for (size_t r = 0; r < tile_rows; ++r) { store(so_far + r * tile_rows, sum[r]); }
        if (end == a.blocks) results(w0, x0, so_far);
    }
    // The sums, turned; bits of floats, which are only moved.
    void results(size_t w0, size_t x0, const float *sums) {
        const size_t n = std::min(tile_rows, a.weights - w0), rows = std::min(tile_rows, a.rows - x0);
        int32_t *const turned = s.products[0];
        for (size_t q = 0; 4 * q < rows; ++q) {
            w16i four[4];
            turned_quarter(reinterpret_cast<const int32_t *>(sums), q, four);
            for (size_t r = 4 * q; r < std::min(4 * q + 4, rows); ++r) {
                float *const y = a.y + (x0 + r) * a.y_stride + w0;
                store_ints(turned, four[r % 4]);
                v16 out = load(reinterpret_cast<const float *>(turned));
                if (a.bias) out = out + (n < tile_rows ? load_n(a.bias + w0, n) : load(a.bias + w0));
                if (n < tile_rows) store_n(y, out, n);
                else store(y, out);
            }
        }
    }

    const packed_args &a;
    packed_scratch<K> &s;
    tile_shape shape;
    line_fetch next;
};
template <class K> static void tile_packed(const packed_args &a, char *scratch) {
    packed_run<K>(a, scratch).all();
}

// Up to so many rows the weights are read as stored.
constexpr size_t tile_few_packed = 8;

// The kernels of f with tiles instead of those for many rows.
static packed_kernels packed_by_tiles(format f, packed_kernels k) {
    with_packed(f, [&](auto tag) {
        using K = typename std::conditional_t<packed<tag.value>::block == 32,
                                              std::type_identity<tiles32<tag.value>>,
                                              std::type_identity<tiles256<tag.value>>>::type;
        static_assert(K::group.bytes() <= tile_rows * K::row_bytes);
        k.few_rows = tile_few_packed;
        k.tile_weights = 4 * tile_rows;
        k.tile_bytes = sizeof(packed_scratch<K>);
        k.group_rows = tile_rows;
        k.pack = tile_pack_blocks<K>;
        k.tile = tile_packed<K>;
    });
    return k;
}
