// I8 with many rows by AMX tiles. Included after vnni_avx512.inl, whose rows and heads it uses (a head's
// start is VNNI's alone: TDPBSSD multiplies signed by signed bytes, and sums start at zero). The including
// file defines `tiles`, the instructions on tile registers: the processor's in amx.cpp, a model's in
// tests/cpu/tile_model.cpp.
//
// There are eight tile registers, of 16 rows of 64 bytes. TDPBSSD adds the products of 16 rows, 64 deep, with
// 16 columns to 16 x 16 int32; int32 sums are exact modulo 2^32, in any order. The columns are packed: four k
// of every column per row of the register. Two tiles of rows, two of columns and their four of sums take all
// eight registers, and four loads serve four products.
//
// In a matmul weights are the rows, loaded as they lie in the model's file, and activations the columns,
// packed once when they are quantized: a byte of them serves all weights. Measured on an Emerald Rapids, in
// shares of what the registers alone do with such numbers (4.5 Tera-ops/s a core, with zeros 5.9):
// - Loads from L2 are the limit: 55 bytes a cycle, where four tiles for four products take 64. So a block of
//   32 weights stays in L1, and all activations pass by it (80 %; both from L2, 69 to 76 %), by loads that do
//   not displace it. Of a block as large as L1 the first steps stay.
// - k is cut into chunks of which 32 weights fit L1, and sums between two chunks wait in L2: hence panels of
//   256 weights by 512 rows, 512 KB of sums beside 512 KB of activations.
// - Sums come out as [weight][row]. They are turned a sixteenth at a time between the next block's products
//   (7 % faster than apart), while the lines of y are fetched for writing.
// - The next weights are fetched from memory line by line in the order of addresses (+ 9 %).
// - Rows 2 KB apart fall on the same sets of L1: such blocks are copied first (4096 x 4096: + 14 %).
// A product's speed by this recipe, in a program of its own: 50 % of 4.5 Tera-ops/s from 256 rows on.

#include "unary.inl"

constexpr size_t tile_rows = 16, tile_line = 64, tile_bytes = tile_rows * tile_line, tile_ints = 256;

// The shapes of the eight registers, as LDTILECFG reads them.
struct tile_config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(tile_config) == 64);

// The tile configuration while a kernel runs: sums are in registers 0 to 3 (2 * tile of rows + tile of
// columns), rows in 4 and 5, columns in 6 and 7. The destructor resets the registers to their initial state.
// So a host's thread leaves the library as it came: the system has no tile state to save at every switch, and
// no other library meets our configuration. This costs tens of cycles, beside a kernel's thousands.
class tile_shape {
public:
    tile_shape() = default;
    tile_shape(const tile_shape &) = delete;
    ~tile_shape() {
        if (first) tiles::release();
    }
    // The rows of the first tile and of the second, which may have none, and their length in bytes. Columns
    // are always sixteen.
    void set(size_t rows, size_t next_rows, size_t depth = tile_line) {
        if (rows == first && next_rows == second) return;
        first = rows;
        second = next_rows;
        tile_config c;
        for (int t = 0; t < 8; ++t) {
            const size_t n = t >= 6 ? depth / 4 : t == 5 || t == 2 || t == 3 ? second : first;
            c.rows[t] = static_cast<uint8_t>(n);
            c.row_bytes[t] = static_cast<uint16_t>(n == 0 ? 0 : t == 4 || t == 5 ? depth : tile_line);
        }
        tiles::configure(&c);
    }

private:
    size_t first = 0, second = 0;
};

DS_INLINE w16i as_packed(const char *w) { return w16i(w); }
DS_INLINE w16i sums_at(const int32_t *p) { return w16i(reinterpret_cast<const char *>(p)); }

// ---- The product of one or two tiles of rows with one or two of columns

struct tile_args {
    const char *rows[2];
    size_t stride[2];
    const char *rest[2];     // the rows' last, partial step, padded with zeros, tile_line apart; or null
    const char *columns[2];  // packed, tile_bytes a step
    size_t steps;            // whole ones
    const int32_t *before;   // [4][tile_ints] sums so far, or null
    int32_t *sums;           // [4][tile_ints]
};

// So many first steps of the rows stay in L1: 32 KB of 48.
constexpr size_t resident_steps = 16;

template <bool two_rows, bool two_columns, bool stay> DS_INLINE void
tile_step_of(const char *const *rows, const size_t *stride, size_t at, const char *const *columns) {
    const auto load = [&]<int t, int i>() {
        if constexpr (stay) tiles::load<t>(rows[i] + at, stride[i]);
        else tiles::stream<t>(rows[i] + at, stride[i]);
    };
    load.template operator()<4, 0>();
    tiles::stream<6>(columns[0], tile_line);
    tiles::product<0, 4, 6>();
    if constexpr (two_columns) {
        tiles::stream<7>(columns[1], tile_line);
        tiles::product<1, 4, 7>();
    }
    if constexpr (two_rows) {
        load.template operator()<5, 1>();
        tiles::product<2, 5, 6>();
    }
    if constexpr (two_rows && two_columns) tiles::product<3, 5, 7>();
}

template <int t> DS_INLINE void begin_sums(const int32_t *before) {
    if (before) tiles::stream<t>(before + t * tile_ints, tile_line);
    else tiles::zero<t>();
}

// What is done beside the products: `step` at every step, and the parts of earlier results, one a step.
struct nothing_beside {
    static constexpr size_t parts = 0;
    void step(size_t) {}
    void part(size_t) const {}
};

template <bool two_rows, bool two_columns, class B> static void tile_product(const tile_args &a, B &beside) {
    begin_sums<0>(a.before);
    if constexpr (two_columns) begin_sums<1>(a.before);
    if constexpr (two_rows) begin_sums<2>(a.before);
    if constexpr (two_rows && two_columns) begin_sums<3>(a.before);
    B now = beside;  // in registers meanwhile
    const char *columns[2] = {a.columns[0], a.columns[1]};
    size_t s = 0;
    for (; s < std::min(a.steps, resident_steps); ++s, columns[0] += tile_bytes, columns[1] += tile_bytes) {
        now.step(s);
        if (s < B::parts) now.part(s);
        tile_step_of<two_rows, two_columns, true>(a.rows, a.stride, s * tile_line, columns);
    }
    for (size_t i = s; i < B::parts; ++i) now.part(i);
    for (; s < a.steps; ++s, columns[0] += tile_bytes, columns[1] += tile_bytes) {
        now.step(s);
        tile_step_of<two_rows, two_columns, false>(a.rows, a.stride, s * tile_line, columns);
    }
    constexpr size_t rest_stride[2] = {tile_line, tile_line};
    if (a.rest[0]) tile_step_of<two_rows, two_columns, true>(a.rest, rest_stride, 0, columns);
    beside = now;
    tiles::store<0>(a.sums, tile_line);
    if constexpr (two_columns) tiles::store<1>(a.sums + tile_ints, tile_line);
    if constexpr (two_rows) tiles::store<2>(a.sums + 2 * tile_ints, tile_line);
    if constexpr (two_rows && two_columns) tiles::store<3>(a.sums + 3 * tile_ints, tile_line);
}
template <class B>
static void tile_product_of(bool two_rows, bool two_columns, const tile_args &a, B &beside) {
    if (two_rows) two_columns ? tile_product<true, true>(a, beside) : tile_product<true, false>(a, beside);
    else two_columns ? tile_product<false, true>(a, beside) : tile_product<false, false>(a, beside);
}

// ---- Activations: a group is the heads of sixteen rows, then its packed columns

static_assert(tile_rows == most_group && i8_head_bytes == tile_line);

static void tile_pack(const char *const *rows, size_t n, size_t k, char *group) {
    const char *row[tile_rows];
    for (size_t r = 0; r < tile_rows; ++r) {
        const char *const from = rows[std::min(r, n - 1)];
        memcpy(group + r * i8_head_bytes, from, i8_head_bytes);
        row[r] = from + i8_head_bytes;
    }
    i8_pack_rows<as_packed, 1>(row, align64(k), group + tile_rows * i8_head_bytes);
}

// ---- Many rows of activations: 32 rows of weights are a block, or 16 of gate and 16 of up

// Panels of so many blocks and rows share a second-level cache of 2 MB; k is whole up to `deepest`, or in
// equal chunks of at most most_chunk_steps.
constexpr size_t panel_blocks = 8, panel_rows = 512, deepest = 1536, most_chunk_steps = 16;
constexpr size_t block_columns = 2 * tile_rows, clashing_stride = 2048;
constexpr size_t steps_of(size_t k) { return align64(k) / tile_line; }
constexpr size_t chunk_steps(size_t k) {
    const size_t steps = steps_of(k), chunks = (steps + most_chunk_steps - 1) / most_chunk_steps;
    return k <= deepest ? steps : (steps + chunks - 1) / chunks;
}
constexpr size_t most_steps = std::max(steps_of(deepest), most_chunk_steps);
// of a copied row: an odd number of lines, so that a tile's rows fall on different sets
constexpr size_t copy_stride(size_t steps) { return (steps | 1) * tile_line; }

struct tile_scratch {
    int32_t waiting[panel_blocks * panel_rows / block_columns][4 * tile_ints];  // sums between chunks
    int32_t sums[2][4 * tile_ints];
    char rest[2][tile_rows * tile_line];
    char copies[2][tile_rows * copy_stride(most_steps)];
};

// Rows, line by line in the order of their addresses.
class line_fetch {
public:
    line_fetch() = default;
    line_fetch(const char *first, size_t row_stride, size_t row_lines, size_t row_count, size_t a_step)
        : row(first), stride(row_stride), lines(row_lines), rows(row_count), lines_a_step(a_step) {}
    DS_INLINE void step() {
        for (size_t i = 0; i < lines_a_step && rows > 0; ++i) {
            __builtin_prefetch(row + line * tile_line, 0, 2);
            if (++line < lines) continue;
            line = 0;
            row += stride;
            --rows;
        }
    }

private:
    const char *row = nullptr;
    size_t stride = 0, lines = 0, rows = 0, lines_a_step = 0, line = 0;
};

DS_INLINE float group_scale(const i8_args &a, size_t x) {
    return i8_head_of(a.x + x / tile_rows * tile_rows * a.x_stride + x % tile_rows * i8_head_bytes).scale;
}

// Results of at most four rows of activations from x and sixteen weights from w.
DS_INLINE void store_four(const i8_args &a, const v16 *out, size_t x, size_t w) {
    const size_t n = std::min(tile_rows, a.weights - w), rows = std::min<size_t>(4, a.rows - x);
    float *const y = a.y + x * a.y_stride + w;
    if (n == tile_rows && rows == 4) {
        DS_UNROLL for (size_t r = 0; r < 4; ++r) store(y + r * a.y_stride, out[r]);
    } else {
        for (size_t r = 0; r < rows; ++r) store_n(y + r * a.y_stride, out[r], n);
    }
}

// The two users of blocks. A block's tiles of rows are `tile`, 0 and 1; its sums become results in parts:
// four rows of activations by sixteen weights each.
struct plain_blocks {
    static constexpr size_t weights = 2 * tile_rows, y_lines = 2;
    const i8_args &a;

    const i8_args &source(size_t) const { return a; }
    static constexpr size_t first(size_t w0, size_t tile) { return w0 + tile * tile_rows; }
    DS_INLINE void part(size_t i, const int32_t *sums, size_t w0, size_t x0) const {
        const size_t w = first(w0, i / 8), x = x0 + i / 4 % 2 * tile_rows + i % 4 * 4;
        if (w >= a.weights || x >= a.rows) return;
        const size_t n = std::min(tile_rows, a.weights - w);
        w16i four[4];
        v16 out[4];
        turned_quarter(sums + i / 4 * tile_ints, i % 4, four);
        const v16 scale = i8_load(a.w_scale + w, n), bias = a.bias ? i8_load(a.bias + w, n) : v16(0.0f);
        DS_UNROLL for (size_t r = 0; r < 4; ++r) {
            out[r] = (to_float(four[r]) * scale) * v16(group_scale(a, x + r));
            if (a.bias) out[r] = out[r] + bias;
        }
        store_four(a, out, x, w);
    }
};

struct gated_blocks {
    static constexpr size_t weights = tile_rows, y_lines = 1;
    const i8_args &a, &up;
    unary f;

    const i8_args &source(size_t tile) const { return tile ? up : a; }
    static constexpr size_t first(size_t w0, size_t) { return w0; }
    // Every second part does two's work.
    DS_INLINE void part(size_t i, const int32_t *sums, size_t w, size_t x0) const {
        const size_t x = x0 + i / 8 * tile_rows + i / 2 % 4 * 4;
        if (i % 2 || x >= a.rows) return;
        const size_t n = std::min(tile_rows, a.weights - w);
        w16i gates[4], ups[4];
        v16 out[4];
        turned_quarter(sums + i / 8 * tile_ints, i / 2 % 4, gates);
        turned_quarter(sums + (2 + i / 8) * tile_ints, i / 2 % 4, ups);
        const v16 scale = i8_load(a.w_scale + w, n), up_scale = i8_load(up.w_scale + w, n);
        DS_UNROLL for (size_t r = 0; r < 4; ++r) {
            const v16 x_scale(group_scale(a, x + r));
            out[r] = unary_of(f, (to_float(gates[r]) * scale) * x_scale) *
                     ((to_float(ups[r]) * up_scale) * x_scale);
        }
        store_four(a, out, x, w);
    }
};

// Beside a block's products: the next block's weights and this one's lines of y are fetched, and the last
// block's sums become results.
template <class blocks> struct block_beside {
    static constexpr size_t parts = 16;
    const blocks *b;
    line_fetch weights[2];
    const float *y = nullptr;  // of the first row, or null
    size_t y_rows = 0;
    const int32_t *late = nullptr;  // or null
    size_t late_w = 0, late_x = 0;

    DS_INLINE void step(size_t s) {
        weights[0].step();
        if constexpr (blocks::y_lines == 1) weights[1].step();
        if (!y) return;
        constexpr size_t a_step = blocks::y_lines + 1;
        for (size_t l = a_step * s; l < std::min(a_step * (s + 1), blocks::y_lines * y_rows); ++l)
            __builtin_prefetch(y + l / blocks::y_lines * b->a.y_stride + l % blocks::y_lines * 16, 1, 3);
    }
    DS_INLINE void part(size_t i) const {
        if (late) b->part(i, late, late_w, late_x);
    }
};
static_assert(resident_steps >= block_beside<plain_blocks>::parts);

template <class blocks> class tile_run {
public:
    tile_run(const blocks &of, char *memory)
        : b(of), s(*reinterpret_cast<tile_scratch *>(memory)), beside{&b} {}
    void all() {
        constexpr size_t panel = panel_blocks * blocks::weights;
        const size_t steps = steps_of(a.k), chunk = chunk_steps(a.k);
        for (size_t w = 0; w < a.weights; w += panel)
            for (size_t x = 0; x < a.rows; x += panel_rows)
                for (size_t begin = 0; begin < steps; begin += chunk)
                    for (size_t i = 0; i < panel && w + i < a.weights; i += blocks::weights)
                        block(w + i, i / blocks::weights, x, begin, std::min(begin + chunk, steps));
        for (size_t i = 0; i < beside.parts; ++i) beside.part(i);
    }

private:
    size_t rows_of(size_t w0, size_t tile) const {
        const size_t w = blocks::first(w0, tile);
        return w < a.weights ? std::min(tile_rows, a.weights - w) : 0;
    }
    const char *row_at(size_t w, size_t tile, size_t step) const {
        const i8_args &from = b.source(tile);
        return from.w + w * from.w_stride + step * tile_line;
    }

    // A block of weights from w0, the panel's i-th, by the panel's rows from x0; steps [begin, end) of k.
    void block(size_t w0, size_t i, size_t x0, size_t begin, size_t end) {
        const size_t rows = std::min(panel_rows, a.rows - x0),
                     passes = (rows + block_columns - 1) / block_columns,
                     depth = std::min(end * tile_line, a.k) - begin * tile_line, whole = depth / tile_line;
        const bool last = end == steps_of(a.k);
        tile_args t = {};
        t.steps = whole;
        for (size_t tile = 0; tile < 2; ++tile) {
            const size_t n = rows_of(w0, tile), stride = b.source(tile).w_stride;
            if (n == 0) break;
            const char *const from = row_at(blocks::first(w0, tile), tile, begin);
            t.rows[tile] = from;
            t.stride[tile] = stride;
            if (stride % clashing_stride == 0 && passes > 2) {
                t.rows[tile] = s.copies[tile];
                t.stride[tile] = copy_stride(whole);
                for (size_t r = 0; r < n; ++r)
                    memcpy(s.copies[tile] + r * copy_stride(whole), from + r * stride, whole * tile_line);
            }
            if (depth == whole * tile_line) continue;
            t.rest[tile] = s.rest[tile];
            memset(s.rest[tile], 0, sizeof s.rest[tile]);
            for (size_t r = 0; r < n; ++r)
                memcpy(s.rest[tile] + r * tile_line, from + r * stride + whole * tile_line,
                       depth % tile_line);
        }
        const size_t second = rows_of(w0, 1);
        shape.set(rows_of(w0, 0), second);
        fetch(w0, begin, end, passes);
        for (size_t p = 0; p < passes; ++p) {
            const size_t x = x0 + p * block_columns;
            const bool two = a.rows - x > tile_rows;
            int32_t *const waiting = s.waiting[i * panel_rows / block_columns + p], *const done =
                                                                                        s.sums[turn ^= 1];
            for (size_t tile = 0; tile < (two ? 2 : 1); ++tile)
                t.columns[tile] = a.x + (x + tile * tile_rows) * a.x_stride + tile_rows * i8_head_bytes +
                                  begin * tile_bytes;
            t.before = begin ? waiting : nullptr;
            t.sums = last ? done : waiting;
            beside.y = last ? a.y + x * a.y_stride + w0 : nullptr;
            beside.y_rows = std::min(block_columns, a.rows - x);
            tile_product_of(second > 0, two, t, beside);
            beside.late = last ? done : nullptr;
            beside.late_w = w0;
            beside.late_x = x;
        }
    }
    // What follows this block: the panel's next one, its first one's next chunk, or another panel.
    void fetch(size_t w0, size_t begin, size_t end, size_t passes) {
        constexpr size_t panel = panel_blocks * blocks::weights;
        const size_t next = w0 + blocks::weights;
        const bool same = next % panel != 0 && next < a.weights, chunk = !same && end < steps_of(a.k);
        const size_t w = chunk ? w0 / panel * panel : next, step = same ? begin : chunk ? end : 0;
        constexpr size_t rows = blocks::y_lines == 2 ? 2 * tile_rows : tile_rows;
        const size_t a_step = (rows + passes - 1) / passes;
        for (size_t tile = 0; tile < 3 - blocks::y_lines; ++tile)
            beside.weights[tile] =
                line_fetch(row_at(w, tile, step), b.source(tile).w_stride, end - begin, rows, a_step);
    }

    const blocks &b;
    const i8_args &a = b.a;
    tile_scratch &s;
    tile_shape shape;
    block_beside<blocks> beside;
    size_t turn = 0;
};

static void tile_i8(const i8_args &a, char *scratch) {
    tile_run<plain_blocks>(plain_blocks{a}, scratch).all();
}
static void tile_gated(const i8_args &gate, const i8_args &up, unary f, char *scratch) {
    tile_run<gated_blocks>(gated_blocks{gate, up, f}, scratch).all();
}

// ---- A page's part in attention: the high planes of sixteen query rows are one tile of rows, the low planes
// the other; the page's are packed as columns

struct tile_pages {
    static constexpr size_t rows = tile_rows;
    tile_shape shape;

    void pack(const int8_t *page, size_t stride, size_t columns, size_t depth, char *packed) {
        for (size_t c = 0; c < columns; c += tile_rows, packed += steps_of(depth) * tile_bytes)
            i8_pack<as_packed, 1>(reinterpret_cast<const char *>(page) + c * stride, stride, columns - c,
                                  depth, packed);
    }
    void product(const page_args &a) {
        alignas(64) int32_t sums[4 * tile_ints];
        const char *high = a.x + i8_head_bytes, *low = high + i8_plane_bytes(a.depth), *packed = a.tile;
        const size_t stride = i8_row_bytes(1, a.depth, 2), column_bytes = steps_of(a.depth) * tile_bytes;
        shape.set(a.rows, a.rows);
        nothing_beside nothing;
        for (size_t c = 0; c < a.columns; c += block_columns, packed += 2 * column_bytes) {
            const bool two = a.columns - c > tile_rows;
            const tile_args t = {.rows = {high, low},
                                 .stride = {stride, stride},
                                 .rest = {},
                                 .columns = {packed, two ? packed + column_bytes : packed},
                                 .steps = steps_of(a.depth),
                                 .before = nullptr,
                                 .sums = sums};
            tile_product_of(true, two, t, nothing);
            for (size_t r = 0; r < a.rows; ++r)
                for (size_t j = 0; j < (two ? 2 : 1); ++j) {
                    const int32_t *h = sums + j * tile_ints + r * tile_rows, *l = h + 2 * tile_ints;
                    store_ints(a.out + r * align64(a.columns) + c + j * tile_rows,
                               planes_joined(sums_at(h), sums_at(l)));
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

// Where weights come from memory, VNNI and the tiles are level from 4 to 8 rows on; up to i8_dot_x rows VNNI
// passes over the weights once.
constexpr size_t tile_few_rows = i8_dot_x;

static constexpr i8_kernels i8_by_tiles = {.element = sizeof(i8_x),
                                           .few_rows = tile_few_rows,
                                           .tile_weights = panel_blocks * plain_blocks::weights,
                                           .tile_bytes = sizeof(tile_scratch),
                                           .attend_rows = tile_pages::rows,
                                           .group_rows = tile_rows,
                                           .quantize = i8_quantize,
                                           .pack = tile_pack,
                                           .rows = i8_rows,
                                           .tile = tile_i8,
                                           .gated = tile_gated,
                                           .hadamard = i8_hadamard,
                                           .put = i8_put,
                                           .query = i8_query,
                                           .scores = tile_scores,
                                           .values = tile_values};
