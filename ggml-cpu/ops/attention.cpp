// attention on the CPU. A tile is some consecutive rows of one sequence with the query heads that share a key
// head: all of them use what is read of a page. Tiles are shared out, the longest first; with fewer tiles
// than threads, a key head's query heads are split. Pages of i8 are read in two passes, with the scores
// stored between them. Latent pages of floats serve as keys and values in place; those of i8 are stored as
// keys, and a tile transposes a page to get its values.
// Invariant: every row takes its pages in order, so the cut changes no bit.

#include "../variants.h"

#include "../../tensor/numerics.h"

#include <cmath>
#include <limits>
#include <utility>

namespace ds {

namespace {

constexpr int64_t tile_rows = 48;  // query rows times heads, about

bool fits(const cpu &, const node &n) {
    const format type = n.as<attention_params>().kv.type;
    return type == format::f16 || type == format::f32;
}

int64_t group_size(const node &n) { return n.src[0]->ne[1] / n.as<attention_params>().kv.kv_heads; }
int64_t rows_of_tile(const node &n) { return std::max<int64_t>(1, tile_rows / group_size(n)); }
// Elements of a key, in latent pages including the rotated part.
size_t key_size(const node &n) {
    return static_cast<size_t>(n.as<attention_params>().kv.head_size + n.as<attention_params>().kv.rope_size);
}
int64_t positions_of(const node &n, int64_t i) { return *i32_at(*n.src[4], i) + 1; }

// A worker's scratch. The list of the tiles' starts precedes that of the first worker.
struct scratch {
    float *q, *out, *weights, *max, *sum;
    int32_t *seen;
};
size_t starts_bytes(const node &n) {
    return align64(static_cast<size_t>(n.src[0]->ne[0] + 1) * sizeof(int32_t));
}
size_t scratch_rows(const node &n) { return static_cast<size_t>(rows_of_tile(n) * group_size(n)); }
size_t value_size(const node &n) { return static_cast<size_t>(n.src[0]->ne[2]); }
size_t scratch_bytes(const node &n) {
    return align64(scratch_rows(n) * (key_size(n) + value_size(n) + page_positions + 3) * sizeof(float));
}
scratch scratch_at(const node &n, char *work, unsigned worker) {
    const size_t rows = scratch_rows(n);
    float *q = reinterpret_cast<float *>(work + starts_bytes(n) + worker * scratch_bytes(n));
    float *out = q + rows * key_size(n), *weights = out + rows * value_size(n),
          *max = weights + rows * page_positions, *sum = max + rows;
    return {q, out, weights, max, sum, reinterpret_cast<int32_t *>(sum + rows)};
}
size_t work_bytes(const cpu &c, const node &n) {
    return fits(c, n) ? starts_bytes(n) + c.pool.size() * scratch_bytes(n) : 0;
}

// Transposes 8 x 8 bytes: neighbours are exchanged by one byte, by two, by four (H. S. Warren, Hacker's
// Delight, section 7-3).
void transpose8(const int8_t *x, size_t x_stride, int8_t *y, size_t y_stride) {
    uint64_t row[8];
    for (size_t r = 0; r < 8; ++r) std::memcpy(&row[r], x + r * x_stride, 8);
    const auto exchange = [&](size_t step, unsigned bits, uint64_t low) {
        for (size_t r = 0; r < 8; ++r) {
            if (r & step) continue;
            const uint64_t t = (row[r] >> bits ^ row[r + step]) & low;
            row[r + step] ^= t;
            row[r] ^= t << bits;
        }
    };
    exchange(1, 8, 0x00ff00ff00ff00ffu);
    exchange(2, 16, 0x0000ffff0000ffffu);
    exchange(4, 32, 0x00000000ffffffffu);
    for (size_t r = 0; r < 8; ++r) std::memcpy(y + r * y_stride, &row[r], 8);
}

// A page's latents [64][columns] become values [columns][64].
void transpose_page(const int8_t *x, size_t columns, int8_t *y) {
    size_t c = 0;
    for (; c + 8 <= columns; c += 8)
        for (size_t t = 0; t < page_positions; t += 8)
            transpose8(x + t * columns + c, columns, y + c * page_positions + t, page_positions);
    for (; c < columns; ++c)
        for (size_t t = 0; t < page_positions; ++t) y[c * page_positions + t] = x[t * columns + c];
}

// Cuts the rows into tiles of at most `most`: a tile's rows are of one sequence, and none sees fewer
// positions than the one before. Returns the number of tiles.
int64_t cut_rows(const node &n, int64_t most, int32_t *starts) {
    const tensor &sequence = *n.src[3];
    const int32_t rows = static_cast<int32_t>(n.src[0]->ne[0]);
    int64_t tiles = 0;
    for (int32_t i = 0; i < rows; ++i) {
        const bool joins = i > 0 && i - starts[tiles - 1] < most &&
                           *i32_at(sequence, i) == *i32_at(sequence, i - 1) &&
                           positions_of(n, i) >= positions_of(n, i - 1);
        if (!joins) starts[tiles++] = i;
    }
    starts[tiles] = rows;
    return tiles;
}

// Rows [begin, end) with query heads [head, head + heads), which share one key head.
struct tile {
    int64_t begin, end, head, heads;
};

// The row and the query head of a tile's row r.
int64_t row_of(const tile &t, size_t r) { return t.begin + static_cast<int64_t>(r) / t.heads; }
int64_t head_of(const tile &t, size_t r) { return t.head + static_cast<int64_t>(r) % t.heads; }
size_t rows_in(const tile &t) { return static_cast<size_t>((t.end - t.begin) * t.heads); }

using attend_kernel = void (*)(const attend_args &);
attend_kernel kernel_of(const cpu &c, const node &n) {
    const float_kernels &f = *c.vec->floats;
    const bool halves = n.as<attention_params>().kv.type == format::f16;
    if (n.src[5]) return halves ? f.attend_latents_f16 : f.attend_latents_f32;
    return halves ? f.attend_f16 : f.attend_f32;
}

void attend(const cpu &c, const node &n, const tile &t, const scratch &s) {
    const tensor &q = *n.src[0], &pages = *n.src[1], &tables = *n.src[2], &sequence = *n.src[3];
    const attention_params &p = n.as<attention_params>();
    const size_t key = key_size(n), value = value_size(n), rows = rows_in(t);
    for (size_t r = 0; r < rows; ++r) {
        std::memcpy(s.q + r * key, f32_at(q, row_of(t, r), head_of(t, r)), value * sizeof(float));
        if (n.src[5])
            std::memcpy(s.q + r * key + value, f32_at(*n.src[5], row_of(t, r), head_of(t, r)),
                        (key - value) * sizeof(float));
        std::fill_n(s.out + r * value, value, 0.0f);
        s.max[r] = -std::numeric_limits<float>::infinity();
        s.sum[r] = 0.0f;
    }
    const attend_kernel kernel = kernel_of(c, n);
    const int64_t key_head =
        row_bytes(p.kv.type, static_cast<uint64_t>(t.head / group_size(n) * p.kv.head_size * page_positions));
    const int64_t positions = positions_of(n, t.end - 1);
    const auto keys = [&](int64_t first) {
        return at(pages, *i32_at(tables, *i32_at(sequence, t.begin), first / page_positions)) +
               p.kv.k_offset + key_head;
    };
    for (int64_t done = 0; done < positions; done += page_positions) {
        for (size_t r = 0; r < rows; ++r)
            s.seen[r] = static_cast<int32_t>(
                std::clamp<int64_t>(positions_of(n, row_of(t, r)) - done, 0, page_positions));
        const char *k = keys(done),
                   *next = done + page_positions < positions ? keys(done + page_positions) : nullptr;
        kernel({.q = s.q,
                .out = s.out,
                .max = s.max,
                .sum = s.sum,
                .weights = s.weights,
                .seen = s.seen,
                .k = k,
                .v = n.src[5] ? k : k + (p.kv.v_offset - p.kv.k_offset),
                .next_k = next,
                .rows = rows,
                .head_size = value,
                .key_size = key,
                .value_stride = key,
                .scale = attention_scale(p.scale),
                .first = done == 0});
    }
    for (size_t r = 0; r < rows; ++r)
        c.vec->floats->divide(s.out + r * value, s.sum[r], f32_at(n.out, row_of(t, r), head_of(t, r)), value);
}

// f(tile, worker) for every tile of at most `most` rows, with a key head's query heads in at least `splits`
// parts.
template <class F>
void share_tiles(cpu &c, const node &n, int64_t most, int64_t splits, char *work, const F &f) {
    int32_t *starts = reinterpret_cast<int32_t *>(work);
    const int64_t kv_heads = n.as<attention_params>().kv.kv_heads, group = group_size(n),
                  tiles = cut_rows(n, most, starts);
    splits = std::clamp<int64_t>(c.pool.size() / (tiles * kv_heads), splits, group);
    const int64_t a_tile = kv_heads * splits;
    int64_t pairs = 0;  // of query rows and positions, all heads
    for (int64_t i = 0; i < n.out.ne[0]; ++i) pairs += positions_of(n, i) * n.out.ne[1];
    const auto one = [&](size_t task, unsigned worker) {
        const int64_t i = tiles - 1 - static_cast<int64_t>(task) / a_tile,
                      part = static_cast<int64_t>(task) % a_tile;
        const int64_t key_head = part / splits, split = part % splits;
        const int64_t first = group * split / splits, last = group * (split + 1) / splits;
        f(tile{starts[i], starts[i + 1], key_head * group + first, last - first}, worker);
    };
    const size_t tasks = static_cast<size_t>(tiles * a_tile);
    if (pairs * n.out.ne[2] / 16 >= worth_sharing) c.pool.run(tasks, one);
    else
        for (size_t i = 0; i < tasks; ++i) one(i, 0);
}

void run(cpu &c, const node &n, char *work) {
    share_tiles(c, n, rows_of_tile(n), 1, work,
                [&](const tile &t, unsigned worker) { attend(c, n, t, scratch_at(n, work, worker)); });
}

// ---- Pages of i8

constexpr size_t most_scores_bytes = 8 << 20;  // per worker, unless one row needs more

bool i8_fits(const cpu &, const node &n) { return n.as<attention_params>().kv.type == format::i8; }

// The number of scores in a worker's scratch.
size_t scratch_scores(const node &n) {
    const size_t row = static_cast<size_t>(n.src[2]->ne[1] * page_positions);
    return std::max(row, std::min(most_scores_bytes / sizeof(float), row * tile_rows));
}

// A worker's scratch for a tile of up to tile_rows rows. Without memory it only counts the bytes.
struct i8_scratch {
    char *memory;
    size_t bytes = 0;
    float *scores, *max, *largest, *transformed;
    int32_t *seen, *exponent;
    int64_t *total, *denominator;
    char *q, *page;
    // of latent pages: the rotated part's scores, and maxima that are discarded
    float *rope_scores, *other;
    char *q_rope;
    int8_t *values;

    i8_scratch(const cpu &c, const node &n, char *work) : memory(work) {
        const size_t d = static_cast<size_t>(n.src[0]->ne[2]), element = c.vec->i8->element;
        scores = take<float>(scratch_scores(n));
        max = take<float>(tile_rows);
        largest = take<float>(tile_rows);
        transformed = take<float>(key_size(n));
        seen = take<int32_t>(tile_rows);
        exponent = take<int32_t>(tile_rows);
        total = take<int64_t>(tile_rows * i8_total_stride(d));
        denominator = take<int64_t>(tile_rows);
        q = take<char>(tile_rows * i8_row_bytes(element, d, 2));
        page = take<char>(i8_scratch_bytes(element, c.vec->i8->attend_rows, d));
        if (!n.src[5]) return;
        const size_t rope = static_cast<size_t>(n.src[5]->ne[2]);
        rope_scores = take<float>(tile_rows * page_positions);
        other = take<float>(tile_rows);
        q_rope = take<char>(tile_rows * i8_row_bytes(element, rope, 2));
        values = take<int8_t>(d * page_positions);
    }
    template <class T> T *take(size_t count) {
        T *p = memory ? reinterpret_cast<T *>(memory + bytes) : nullptr;
        bytes += align64(count * sizeof(T));
        return p;
    }
};
size_t i8_work_bytes(const cpu &c, const node &n) {
    return i8_fits(c, n) ? starts_bytes(n) + c.pool.size() * i8_scratch(c, n, nullptr).bytes : 0;
}

void i8_begin(const cpu &c, const node &n, const tile &t, const i8_scratch &s) {
    const size_t d = static_cast<size_t>(n.src[0]->ne[2]), q_bytes = i8_row_bytes(c.vec->i8->element, d, 2);
    const auto query = [&](const tensor &q, size_t r, char *to) {
        const size_t size = static_cast<size_t>(q.ne[2]);
        std::memcpy(s.transformed, f32_at(q, row_of(t, r), head_of(t, r)), size * sizeof(float));
        c.vec->i8->hadamard(s.transformed, size);
        c.vec->i8->query(s.transformed, n.as<attention_params>().scale, to, size);
    };
    for (size_t r = 0; r < rows_in(t); ++r) {
        query(*n.src[0], r, s.q + r * q_bytes);
        if (n.src[5])
            query(*n.src[5], r,
                  s.q_rope + r * i8_row_bytes(c.vec->i8->element, static_cast<size_t>(n.src[5]->ne[2]), 2));
        s.max[r] = -std::numeric_limits<float>::infinity();
        s.largest[r] = 0.0f;
        s.denominator[r] = 0;
    }
    std::fill_n(s.total, rows_in(t) * i8_total_stride(d), 0);
}

// A latent page's scores: the sum of those of its two parts.
void i8_latent_scores(const cpu &c, i8_attend_args a, const int8_t *rope, size_t rope_size,
                      const i8_scratch &s) {
    a.v_scale = a.k_scale;
    float *const max = std::exchange(a.max, s.other);
    std::fill_n(s.other, a.rows, -std::numeric_limits<float>::infinity());
    c.vec->i8->scores(a);
    i8_attend_args b = a;
    b.q = s.q_rope;
    b.scores = s.rope_scores;
    b.score_stride = page_positions;
    b.k = rope;
    b.k_scale = reinterpret_cast<const float *>(rope + rope_size * page_positions);
    b.largest = s.other;
    b.head_size = rope_size;
    c.vec->i8->scores(b);
    for (size_t r = 0; r < a.rows; ++r)
        for (int32_t t = 0; t < a.seen[r]; ++t) {
            float &score = a.scores[r * a.score_stride + static_cast<size_t>(t)];
            score = score + s.rope_scores[r * page_positions + static_cast<size_t>(t)];
            max[r] = attention_max(max[r], score);
        }
}

// One of the two passes over all pages that the tile sees.
void i8_pass(const cpu &c, const node &n, const tile &t, const i8_scratch &s, bool values) {
    const tensor &pages = *n.src[1], &tables = *n.src[2];
    const kv_layout &l = n.as<attention_params>().kv;
    const int64_t key_head = t.head / group_size(n), positions = positions_of(n, t.end - 1);
    const auto part = [&](int64_t first, int64_t offset) {
        const int64_t sequence = *i32_at(*n.src[3], t.begin),
                      page = *i32_at(tables, sequence, first / page_positions);
        return reinterpret_cast<const int8_t *>(at(pages, page)) + offset +
               key_head * l.head_size * page_positions;
    };
    const auto scales = [&](int64_t first, int64_t offset) {
        return reinterpret_cast<const float *>(part(first, offset) - key_head * l.head_size * page_positions +
                                               l.elements()) +
               key_head * page_positions;
    };
    for (int64_t done = 0; done < positions; done += page_positions) {
        const int64_t next = done + page_positions;
        for (size_t r = 0; r < rows_in(t); ++r)
            s.seen[r] = static_cast<int32_t>(
                std::clamp<int64_t>(positions_of(n, row_of(t, r)) - done, 0, page_positions));
        i8_attend_args a = {
            .q = s.q,
            .scores = s.scores + done,
            .score_stride = ceil_div(static_cast<size_t>(positions), page_positions) * page_positions,
            .seen = s.seen,
            .k = part(done, l.k_offset),
            .v = part(done, l.v_offset),
            .k_scale = scales(done, l.k_offset),
            .v_scale = scales(done, l.v_offset),
            .next = next < positions ? reinterpret_cast<const char *>(
                                           part(next, values && !l.rope_size ? l.v_offset : l.k_offset))
                                     : nullptr,
            .max = s.max,
            .largest = s.largest,
            .exponent = s.exponent,
            .total = s.total,
            .denominator = s.denominator,
            .scratch = s.page,
            .rows = rows_in(t),
            .head_size = static_cast<size_t>(l.head_size)};
        if (!l.rope_size) {
            (values ? c.vec->i8->values : c.vec->i8->scores)(a);
        } else if (!values) {
            i8_latent_scores(c, a, a.v, static_cast<size_t>(l.rope_size), s);
        } else {
            transpose_page(a.k, static_cast<size_t>(l.head_size), s.values);
            a.v = s.values;
            a.v_scale = a.k_scale;
            c.vec->i8->values(a);
        }
    }
}

void i8_attend(const cpu &c, const node &n, const tile &t, const i8_scratch &s) {
    const size_t d = static_cast<size_t>(n.src[0]->ne[2]);
    i8_begin(c, n, t, s);
    i8_pass(c, n, t, s, false);
    for (size_t r = 0; r < rows_in(t); ++r) {
        const bool finite = finite_f32(s.max[r]) && finite_f32(s.largest[r]);
        s.exponent[r] = finite ? exponent_above(s.largest[r]) : i8_nan;
        s.max[r] = std::ceil(s.max[r]);
    }
    i8_pass(c, n, t, s, true);
    for (size_t r = 0; r < rows_in(t); ++r) {
        float *y = f32_at(n.out, row_of(t, r), head_of(t, r));
        const int64_t *total = s.total + r * i8_total_stride(d);
        if (s.exponent[r] == i8_nan) std::fill_n(y, d, std::numeric_limits<float>::quiet_NaN());
        else
            for (size_t e = 0; e < d; ++e)
                y[e] = i8_attention_output(total[e], s.exponent[r], s.denominator[r]);
        if (n.src[5]) inverse_hadamard(y, static_cast<int32_t>(d));
    }
}

// The longer the sequences, the fewer rows in a tile: their scores must fit a worker's scratch.
void i8_run(cpu &c, const node &n, char *work) {
    int64_t longest = 1;
    for (int64_t i = 0; i < n.out.ne[0]; ++i) longest = std::max(longest, positions_of(n, i));
    const int64_t row = (longest + page_positions - 1) / page_positions * page_positions,
                  group = group_size(n);
    const int64_t most = std::clamp<int64_t>(static_cast<int64_t>(scratch_scores(n)) / row, 1, tile_rows);
    const int64_t splits = (group + most - 1) / most, heads = (group + splits - 1) / splits;
    const size_t bytes = i8_scratch(c, n, nullptr).bytes;
    share_tiles(c, n, std::max<int64_t>(1, most / heads), splits, work, [&](const tile &t, unsigned worker) {
        i8_attend(c, n, t, i8_scratch(c, n, work + starts_bytes(n) + worker * bytes));
    });
}

constexpr variant list[] = {
    {"pages", fits, work_bytes, run}, {"integers", i8_fits, i8_work_bytes, i8_run}, reference_variant};

}  // namespace

constexpr variants attention_variants = list;

}  // namespace ds
