// attention on the CPU. A tile is some consecutive rows of one sequence with the query heads that share a key head: what is read of a page serves all of
// them. Tiles are shared out, the longest first; where there are fewer than threads, a key head's query heads are split.
// Every row goes over its pages in order, so the cut changes no bit.

#include "../variants.h"

#include "../../tensor/numerics.h"

#include <limits>

namespace ds {

namespace {

constexpr int64_t tile_rows = 48;      // query rows times heads, about

bool fits(const cpu &, const node &n) {
    const format type = n.as<attention_params>().kv.type;
    return type == format::f16 || type == format::f32;
}

int64_t group_size(const node &n) { return n.src[0]->ne[1] / n.as<attention_params>().kv.kv_heads; }
int64_t rows_of_tile(const node &n) { return std::max<int64_t>(1, tile_rows / group_size(n)); }

// A worker's scratch; the tiles' starts stand before the first.
struct scratch {
    float *q, *out, *weights, *max, *sum;
    int32_t *seen;
};
size_t align64(size_t n) { return ceil_div(n, 64) * 64; }
size_t starts_bytes(const node &n) { return align64(static_cast<size_t>(n.src[0]->ne[0] + 1) * sizeof(int32_t)); }
size_t scratch_rows(const node &n) { return static_cast<size_t>(rows_of_tile(n) * group_size(n)); }
size_t scratch_bytes(const node &n) {
    const size_t a_row = static_cast<size_t>(2 * n.src[0]->ne[2] + page_positions + 3) * sizeof(float);
    return align64(scratch_rows(n) * a_row);
}
scratch scratch_at(const node &n, char *work, unsigned worker) {
    const size_t rows = scratch_rows(n), d = static_cast<size_t>(n.src[0]->ne[2]);
    float *p = reinterpret_cast<float *>(work + starts_bytes(n) + worker * scratch_bytes(n));
    float *out = p + rows * d, *weights = out + rows * d, *max = weights + rows * page_positions, *sum = max + rows;
    return {p, out, weights, max, sum, reinterpret_cast<int32_t *>(sum + rows)};
}
size_t work_bytes(const cpu &c, const node &n) { return fits(c, n) ? starts_bytes(n) + c.pool.size() * scratch_bytes(n) : 0; }

// Cuts the rows: a tile's rows are of one sequence, none sees fewer positions than the one before. Gives the number of tiles.
int64_t cut_rows(const node &n, int32_t *starts) {
    const tensor &sequence = *n.src[3], &position = *n.src[4];
    const int32_t rows = static_cast<int32_t>(n.src[0]->ne[0]);
    int64_t tiles = 0;
    for (int32_t i = 0; i < rows; ++i) {
        const bool joins = i > 0 && i - starts[tiles - 1] < rows_of_tile(n) && *i32_at(sequence, i) == *i32_at(sequence, i - 1) &&
                           *i32_at(position, i) >= *i32_at(position, i - 1);
        if (!joins) starts[tiles++] = i;
    }
    starts[tiles] = rows;
    return tiles;
}

// Rows [begin, end) with query heads [head, head + heads), which share one key head.
struct tile {
    int64_t begin, end, head, heads;
};

void attend(const cpu &c, const node &n, const tile &t, const scratch &s) {
    const tensor &q = *n.src[0], &pages = *n.src[1], &tables = *n.src[2], &sequence = *n.src[3], &position = *n.src[4];
    const attention_params &p = n.as<attention_params>();
    const size_t d = static_cast<size_t>(q.ne[2]), rows = static_cast<size_t>((t.end - t.begin) * t.heads);
    const auto row = [&](size_t r) { return t.begin + static_cast<int64_t>(r) / t.heads; };
    const auto head = [&](size_t r) { return t.head + static_cast<int64_t>(r) % t.heads; };
    for (size_t r = 0; r < rows; ++r) {
        std::memcpy(s.q + r * d, f32_at(q, row(r), head(r)), d * sizeof(float));
        std::fill_n(s.out + r * d, d, 0.0f);
        s.max[r] = -std::numeric_limits<float>::infinity();
        s.sum[r] = 0.0f;
    }
    const int64_t key_head = row_bytes(p.kv.type, static_cast<uint64_t>(t.head / group_size(n) * p.kv.head_size * page_positions));
    const int64_t positions = *i32_at(position, t.end - 1) + 1;
    const auto keys = [&](int64_t first) { return at(pages, *i32_at(tables, *i32_at(sequence, t.begin), first / page_positions)) + p.kv.k_offset + key_head; };
    for (int64_t done = 0; done < positions; done += page_positions) {
        for (size_t r = 0; r < rows; ++r)
            s.seen[r] = static_cast<int32_t>(std::clamp<int64_t>(*i32_at(position, row(r)) + 1 - done, 0, page_positions));
        const char *k = keys(done), *next = done + page_positions < positions ? keys(done + page_positions) : nullptr;
        const attend_args a = {.q = s.q, .out = s.out, .max = s.max, .sum = s.sum, .weights = s.weights, .seen = s.seen,
                               .k = k, .v = k + (p.kv.v_offset - p.kv.k_offset), .next_k = next,
                               .rows = rows, .head_size = d, .scale = attention_scale(p.scale), .first = done == 0};
        (p.kv.type == format::f16 ? c.vec->floats->attend_f16 : c.vec->floats->attend_f32)(a);
    }
    for (size_t r = 0; r < rows; ++r) c.vec->floats->divide(s.out + r * d, s.sum[r], f32_at(n.out, row(r), head(r)), d);
}

void run(cpu &c, const node &n, char *work) {
    int32_t *starts = reinterpret_cast<int32_t *>(work);
    const int64_t kv_heads = n.as<attention_params>().kv.kv_heads, group = group_size(n), tiles = cut_rows(n, starts);
    const int64_t splits = std::clamp<int64_t>(c.pool.size() / (tiles * kv_heads), 1, group), a_tile = kv_heads * splits;
    int64_t pairs = 0;      // of query rows and positions, all heads
    for (int64_t i = 0; i < n.out.ne[0]; ++i) pairs += (*i32_at(*n.src[4], i) + 1) * n.out.ne[1];
    const auto one = [&](size_t task, unsigned worker) {
        const int64_t i = tiles - 1 - static_cast<int64_t>(task) / a_tile, part = static_cast<int64_t>(task) % a_tile;
        const int64_t key_head = part / splits, split = part % splits;
        const int64_t first = group * split / splits, last = group * (split + 1) / splits;
        attend(c, n, {starts[i], starts[i + 1], key_head * group + first, last - first}, scratch_at(n, work, worker));
    };
    const size_t tasks = static_cast<size_t>(tiles * a_tile);
    if (pairs * n.out.ne[2] / 16 >= worth_sharing) c.pool.run(tasks, one);
    else for (size_t i = 0; i < tasks; ++i) one(i, 0);
}

constexpr variant list[] = {{"pages", fits, work_bytes, run}, reference_variant};

} // namespace

constexpr variants attention_variants = list;

} // namespace ds
