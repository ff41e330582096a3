// I8 with many rows by AMX tiles. Included after vnni_avx512.inl, whose rows, weights and heads it uses (a
// head's start is VNNI's alone: TDPBSSD multiplies signed by signed bytes, and sums start at zero). The
// including file defines `tiles`, the instructions on tile registers: the processor's in amx.cpp, a model's
// in tests/cpu/test_amx.cpp.
//
// There are eight tile registers, of 16 rows of 64 bytes. A product of 16 rows of 64 x with 16 weights,
// stored as i8_pack writes them (four k of every weight per row), adds to 16 x 16 int32. Two tiles of x, two
// of weights and their four of sums take all eight registers, and four loads serve four products. int32 sums
// are exact modulo 2^32, in any order.
// The figures below are derived from those of Intel's optimization manual, chapter on AMX: a product every 16
// cycles. On an Emerald Rapids a prompt of 512 ran 1.3 to 2.6 times as fast as with VNNI, at 8 to 15 % of
// what the registers alone can do: it waits for loads from the second-level cache and the stores of y.

// a pair: two packed tiles, side by side
constexpr size_t tile_rows = 16, tile_bytes = 64, pair_columns = 32;

// The shapes of the eight registers, as LDTILECFG reads them.
struct tile_config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(tile_config) == 64);

// The tile configuration while a kernel runs: sums are in registers 0 to 3 (2 * tile of x + tile of weights),
// x in 4 and 5, weights in 6 and 7. The destructor resets the registers to their initial state. So a host's
// thread leaves the library as it came: the system has no tile state to save at every switch, and no other
// library meets our configuration. This costs tens of cycles, beside a kernel's thousands.
class tile_shape {
public:
    tile_shape() = default;
    tile_shape(const tile_shape &) = delete;
    ~tile_shape() {
        if (first) tiles::release();
    }
    // The rows of the first tile of x and of the second, which may have none.
    void set(size_t x, size_t next_x) {
        if (x == first && next_x == second) return;
        first = x;
        second = next_x;
        tile_config c;
        for (int t = 0; t < 8; ++t) {
            const size_t rows = t >= 6 ? tile_rows : t == 5 || t == 2 || t == 3 ? second : first;
            c.rows[t] = static_cast<uint8_t>(rows);
            c.row_bytes[t] = rows ? tile_bytes : 0;
        }
        tiles::configure(&c);
    }

private:
    size_t first = 0, second = 0;
};

DS_INLINE w16i as_packed(const char *w) { return w16i(w); }
constexpr size_t pair_bytes(size_t depth) { return align64(depth) * pair_columns; }
static void pack_pairs(const char *rows, size_t stride, size_t count, size_t depth, char *pairs) {
    for (size_t c = 0; c < count; c += pair_columns, pairs += pair_bytes(depth))
        i8_pack<as_packed, 2>(rows + c * stride, stride, count - c, depth, pairs);
}

// A product of one or two tiles of x with a pair of weights. Both are padded with zeros to a multiple of 64
// deep.
struct tile_args {
    const char *x, *next_x;  // the two tiles' first rows
    size_t x_stride;         // bytes
    const char *pair;
    size_t steps;  // 64 deep each
    // [2 * tile_rows][pair_columns]; the second tile of x has the rows from tile_rows
    int32_t *sums;
    i8_fetch_rows next;  // weights, a line of each row at a step
};

DS_INLINE w16i sums_at(const int32_t *p) { return w16i(reinterpret_cast<const char *>(p)); }

template <bool two_x, bool two_w> static void tile_product(const tile_args &a) {
    constexpr size_t pair_stride = 2 * tile_bytes, sum_stride = pair_columns * sizeof(int32_t);
    tiles::zero<0>();
    if constexpr (two_w) tiles::zero<1>();
    if constexpr (two_x) tiles::zero<2>();
    if constexpr (two_x && two_w) tiles::zero<3>();
    const char *x = a.x, *next_x = a.next_x, *w = a.pair;
    const size_t x_stride = a.x_stride;
    for (size_t s = 0; s < a.steps;
         ++s, x += tile_bytes, next_x += tile_bytes, w += tile_rows * pair_stride) {
        i8_fetch(a.next, s * tile_bytes);
        tiles::load<4>(x, x_stride);
        tiles::load<6>(w, pair_stride);
        tiles::product<0, 4, 6>();
        if constexpr (two_w) {
            tiles::load<7>(w + tile_bytes, pair_stride);
            tiles::product<1, 4, 7>();
        }
        if constexpr (two_x) {
            tiles::load<5>(next_x, x_stride);
            tiles::product<2, 5, 6>();
        }
        if constexpr (two_x && two_w) tiles::product<3, 5, 7>();
    }
    int32_t *next_sums = a.sums + tile_rows * pair_columns;
    tiles::store<0>(a.sums, sum_stride);
    if constexpr (two_w) tiles::store<1>(a.sums + 16, sum_stride);
    if constexpr (two_x) tiles::store<2>(next_sums, sum_stride);
    if constexpr (two_x && two_w) tiles::store<3>(next_sums + 16, sum_stride);
}

// ---- Many rows of activations

// What will be packed next is prefetched evenly between the products: a burst would delay the tiles' own
// loads in the miss buffers. A tile is 64 rows of weights, so that activations, which may be in the
// third-level cache, are fetched once for 64 of them. It is as deep in k as a second-level cache of 2 MB
// allows for the tile, the next one's weights and 32 rows of activations (9216 deep: 0.6, 0.6 and 0.3 MB).
// Most models' k is not longer, so that their sums stay in registers to the end.
// Repacking 1 KB of weights takes 64 shuffles, with loads and stores about 80 cycles, and a product of it
// with 16 rows another 16. VNNI takes 8 cycles a row without repacking (16 products, two per cycle). So tiles
// pay from about 12 rows.
constexpr size_t tile_chunk = 9216, tile_few_rows = 12;
static_assert(i8_columns == 2 * pair_columns);

// Writes the results of `rows` rows from the vectors from v of their sums. Between two chunks of k, y holds
// the sums so far.
static void tile_outputs(const i8_args &a, const int32_t *sums, size_t begin, size_t end, size_t x0,
                         size_t rows, size_t v) {
    for (; rows > 0; --rows, ++x0, sums += pair_columns) {
        const float x_scale = i8_head_of(a.x + x0 * a.x_stride).scale;
        for (size_t j = 0; j < 2; ++j) {
            const size_t n = i8_valid(a, v + j), w0 = 16 * (v + j);
            if (n == 0) break;
            float *y = a.y + x0 * a.y_stride + w0;
            w16i sum = sums_at(sums + 16 * j);
            if (begin > 0) sum = _mm512_add_epi32(sum.r, load_sums(y, n).r);
            if (end < a.k) {
                store_sums(y, sum, n);
                continue;
            }
            v16 out = (to_float(sum) * i8_load(a.w_scale + w0, n)) * v16(x_scale);
            if (a.bias) out = out + i8_load(a.bias + w0, n);
            if (n < 16) store_n(y, out, n);
            else store(y, out);
        }
    }
}

static void tile_i8(const i8_args &a, char *pairs) {
    constexpr size_t most = 2 * tile_rows;
    alignas(64) int32_t sums[most * pair_columns];
    tile_shape shape;
    const size_t passes = (a.rows + most - 1) / most,
                 pairs_count = (a.weights + pair_columns - 1) / pair_columns;
    for (size_t begin = 0; begin < a.k; begin += tile_chunk) {
        const size_t end = std::min(begin + tile_chunk, a.k), steps = align64(end - begin) / tile_bytes;
        const char *const next_weights = a.w + (end < a.k ? end : i8_columns * a.w_stride);
        pack_pairs(a.w + begin, a.w_stride, a.weights, end - begin, pairs);
        for (size_t p = 0, x0 = 0; p < passes; ++p, x0 += most) {
            const size_t rows = std::min(most, a.rows - x0), first = std::min(tile_rows, rows);
            const char *x = a.x + x0 * a.x_stride + i8_head_bytes + begin,
                       *next_x = rows > first ? x + first * a.x_stride : x;
            shape.set(first, rows - first);
            for (size_t c = 0; c < a.weights; c += pair_columns) {
                const size_t product = p * pairs_count + c / pair_columns, products = passes * pairs_count;
                const i8_fetch_rows next = {next_weights, a.w_stride, product * i8_columns / products,
                                            (product + 1) * i8_columns / products};
                const tile_args t = {.x = x,
                                     .next_x = next_x,
                                     .x_stride = a.x_stride,
                                     .pair = pairs + c / pair_columns * pair_bytes(end - begin),
                                     .steps = steps,
                                     .sums = sums,
                                     .next = next};
                const bool two_w = a.weights - c > 16;
                if (rows > first) two_w ? tile_product<true, true>(t) : tile_product<true, false>(t);
                else two_w ? tile_product<false, true>(t) : tile_product<false, false>(t);
                tile_outputs(a, sums, begin, end, x0, rows, c / 16);
            }
        }
    }
}

// ---- A page's part in attention: the high planes of sixteen query rows are one tile of x, the low planes
// the other

struct tile_pages {
    static constexpr size_t rows = tile_rows;
    tile_shape shape;

    void pack(const int8_t *page, size_t stride, size_t columns, size_t depth, char *pairs) {
        pack_pairs(reinterpret_cast<const char *>(page), stride, columns, depth, pairs);
    }
    void product(const page_args &a) {
        alignas(64) int32_t sums[2 * tile_rows * pair_columns];
        const char *high = a.x + i8_head_bytes, *pair = a.tile;
        shape.set(a.rows, a.rows);
        for (size_t c = 0; c < a.columns; c += pair_columns, pair += pair_bytes(a.depth)) {
            const tile_args t = {.x = high,
                                 .next_x = high + i8_plane_bytes(a.depth),
                                 .x_stride = i8_row_bytes(1, a.depth, 2),
                                 .pair = pair,
                                 .steps = align64(a.depth) / tile_bytes,
                                 .sums = sums,
                                 .next = {}};
            const bool two_w = a.columns - c > 16;
            two_w ? tile_product<true, true>(t) : tile_product<true, false>(t);
            for (size_t r = 0; r < a.rows; ++r)
                for (size_t j = 0; j < (two_w ? 32 : 16); j += 16) {
                    const int32_t *h = sums + r * pair_columns + j, *l = h + tile_rows * pair_columns;
                    store_ints(a.out + r * align64(a.columns) + c + j, planes_joined(sums_at(h), sums_at(l)));
                }
        }
    }
};

// A page of 64 keys of 128 takes 16 products, 256 cycles, and some 100 more around them, for up to sixteen
// rows. VNNI takes 128 cycles a row (256 products, two per cycle), three rows at a time.
constexpr size_t tile_few_attend = 3;
DS_INLINE bool few_attend(const i8_attend_args &a) { return a.rows - i8_first_row(a) <= tile_few_attend; }
static void tile_scores(const i8_attend_args &a) {
    few_attend(a) ? i8_scores_by<i8_pages>(a) : i8_scores_by<tile_pages>(a);
}
static void tile_values(const i8_attend_args &a) {
    few_attend(a) ? i8_values_by<i8_pages>(a) : i8_values_by<tile_pages>(a);
}

static constexpr i8_kernels i8_by_tiles = {.element = sizeof(i8_x),
                                           .few_rows = tile_few_rows,
                                           .tile_weights = i8_columns,
                                           .tile_bytes = i8_columns * tile_chunk,
                                           .attend_rows = tile_pages::rows,
                                           .quantize = i8_quantize,
                                           .rows = i8_rows,
                                           .tile = tile_i8,
                                           .hadamard = i8_hadamard,
                                           .put = i8_put,
                                           .query = i8_query,
                                           .scores = tile_scores,
                                           .values = tile_values};
