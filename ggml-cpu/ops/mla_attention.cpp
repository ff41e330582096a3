// mla_attention on the CPU. Absorbed rows run as the three operations that they stand for (mla_absorbed). An
// expanded run is shared out by heads, and if these are fewer than threads, by parts of its rows. A task
// decodes its head's weights to f32 and takes the pages in order: from a page's latents it computes 64 keys
// and values, which stay in a second-level cache while all of the task's rows attend to them.
// Invariant: every row takes its pages in order, so the cut changes no bit.
#include "../variants.h"

#include "../../tensor/mla.h"

#include <limits>

namespace ds {

namespace {

constexpr int64_t most_rows = 2048;  // of a task: some megabytes of scratch, and few enough expansions

// A part of a run's rows, for one head.
struct task {
    int64_t begin, end, head;
    size_t rows() const { return static_cast<size_t>(end - begin); }
};

// A worker's scratch. Without memory it only counts the bytes.
struct scratch {
    char *memory;
    size_t bytes = 0;
    float *weights;  // [value + nope][latent]: the rows of v_b, the columns of k_b
    float *some;     // some rows of k_b; a key's rotated part
    float *made;     // [value + nope + rope][64]: a page's values, column by column, and keys
    float *values;   // [64][value]
    float *q, *out, *scores, *max, *sum;
    int32_t *seen;

    scratch(const node &n, char *work) : memory(work) {
        const mla_sizes s(n);
        const auto of = [](int64_t x, int64_t y) { return static_cast<size_t>(x * y); };
        const int64_t rows = std::min(n.out.ne[0], most_rows);
        weights = take<float>(of(s.value + s.nope, s.latent));
        some = take<float>(of(16, std::max(s.nope, s.rope)));
        made = take<float>(of(s.value + s.key(), page_positions));
        values = take<float>(of(page_positions, s.value));
        q = take<float>(of(rows, s.key()));
        out = take<float>(of(rows, s.value));
        scores = take<float>(of(rows, page_positions));
        max = take<float>(of(rows, 1));
        sum = take<float>(of(rows, 1));
        seen = take<int32_t>(of(rows, 1));
    }
    template <class T> T *take(size_t count) {
        T *p = memory ? reinterpret_cast<T *>(memory + bytes) : nullptr;
        bytes += align64(count * sizeof(T));
        return p;
    }
};

size_t absorbed_bytes(const cpu &c, const node &n) {
    const mla_absorbed a(n, 0, n.out.ne[0], nullptr);
    size_t most = 0;
    for (const node &o : a.ops) most = std::max(most, most_work_bytes(c, o));
    return mla_absorbed::bytes(n, n.out.ne[0]) + most;
}

size_t work_bytes(const cpu &c, const node &n) {
    return std::max(absorbed_bytes(c, n), c.pool.size() * scratch(n, nullptr).bytes);
}

void run_absorbed(cpu &c, const node &n, int64_t begin, int64_t end, char *work) {
    const mla_absorbed a(n, begin, end, work);
    for (const node &o : a.ops) choose_variant(c, o).run(c, o, work + mla_absorbed::bytes(n, end - begin));
}

// ---- Expanded

void take_weights(const node &n, int64_t head, const scratch &s) {
    const mla_sizes m(n);
    const tensor &k = *n.src[2], &v = *n.src[3];
    const auto latent = static_cast<size_t>(m.latent), nope = static_cast<size_t>(m.nope);
    for (int64_t d = 0; d < m.value; ++d)
        decode_row(v.type, at(v, head, d), s.weights + static_cast<size_t>(d) * latent, latent);
    float *const columns = s.weights + static_cast<size_t>(m.value) * latent;
    for (size_t c = 0; c < latent; c += 16) {
        const size_t some = std::min<size_t>(16, latent - c);
        for (size_t i = 0; i < some; ++i)
            decode_row(k.type, at(k, head, static_cast<int64_t>(c + i)), s.some + i * nope, nope);
        for (size_t d = 0; d < nope; ++d)
            for (size_t i = 0; i < some; ++i) columns[d * latent + c + i] = s.some[i * nope + d];
    }
}

// The head's values and keys for a page's first `seen` positions.
void expand_page(const cpu &c, const node &n, const char *page, size_t seen, const scratch &s) {
    const mla_sizes m(n);
    const format type = n.as<mla_params>().kv.type;
    const auto latent = static_cast<size_t>(m.latent), rope = static_cast<size_t>(m.rope),
               value = static_cast<size_t>(m.value), made = static_cast<size_t>(m.value + m.nope);
    const size_t stride = row_bytes(type, latent + rope);
    const float_kernels &f = *c.vec->floats;
    (type == format::f32 ? f.dot_f32 : f.dot_f16)({.w = page,
                                                   .w_stride = stride,
                                                   .x = s.weights,
                                                   .x_stride = latent,
                                                   .y = s.made,
                                                   .y_stride = page_positions,
                                                   .bias = nullptr,
                                                   .k = latent,
                                                   .weights = seen,
                                                   .rows = made});
    for (size_t t = 0; t < seen; ++t) {
        decode_row(type, page + t * stride + row_bytes(type, latent), s.some, rope);
        for (size_t d = 0; d < rope; ++d) s.made[(made + d) * page_positions + t] = s.some[d];
    }
    for (size_t d0 = 0; d0 < value; d0 += 16)
        for (size_t t = 0; t < seen; ++t)
            for (size_t d = d0; d < std::min(d0 + 16, value); ++d)
                s.values[t * value + d] = s.made[d * page_positions + t];
}

void begin_rows(const node &n, const task &t, const scratch &s) {
    const mla_sizes m(n);
    const auto nope = static_cast<size_t>(m.nope), key = static_cast<size_t>(m.key());
    for (size_t r = 0; r < t.rows(); ++r) {
        const int64_t i = t.begin + static_cast<int64_t>(r);
        std::memcpy(s.q + r * key, f32_at(*n.src[0], i, t.head), nope * sizeof(float));
        std::memcpy(s.q + r * key + nope, f32_at(*n.src[1], i, t.head), (key - nope) * sizeof(float));
        s.max[r] = -std::numeric_limits<float>::infinity();
        s.sum[r] = 0.0f;
    }
    std::fill_n(s.out, t.rows() * static_cast<size_t>(m.value), 0.0f);
}

void attend(const cpu &c, const node &n, const task &t, const scratch &s) {
    const mla_sizes m(n);
    const mla_params &p = n.as<mla_params>();
    const tensor &pages = *n.src[4], &tables = *n.src[5];
    const auto value = static_cast<size_t>(m.value);
    take_weights(n, t.head, s);
    begin_rows(n, t, s);
    const int64_t sequence = *i32_at(*n.src[6], t.begin), positions = mla_positions(n, t.end - 1);
    for (int64_t done = 0; done < positions; done += page_positions) {
        const auto seen = [&](int64_t row) {
            return static_cast<int32_t>(std::clamp<int64_t>(mla_positions(n, row) - done, 0, page_positions));
        };
        for (size_t r = 0; r < t.rows(); ++r) s.seen[r] = seen(t.begin + static_cast<int64_t>(r));
        expand_page(c, n, at(pages, *i32_at(tables, sequence, done / page_positions)) + p.kv.k_offset,
                    static_cast<size_t>(seen(t.end - 1)), s);
        c.vec->floats->attend_f32({.q = s.q,
                                   .out = s.out,
                                   .max = s.max,
                                   .sum = s.sum,
                                   .weights = s.scores,
                                   .seen = s.seen,
                                   .k = reinterpret_cast<const char *>(s.made + value * page_positions),
                                   .v = reinterpret_cast<const char *>(s.values),
                                   .next_k = nullptr,
                                   .rows = t.rows(),
                                   .head_size = value,
                                   .key_size = static_cast<size_t>(m.key()),
                                   .value_stride = value,
                                   .scale = attention_scale(p.scale),
                                   .first = done == 0});
    }
    for (size_t r = 0; r < t.rows(); ++r)
        c.vec->floats->divide(s.out + r * value, s.sum[r],
                              f32_at(n.out, t.begin + static_cast<int64_t>(r), t.head), value);
}

// The number of parts of a run's rows per head. Every part computes all keys and values anew, but with few
// parts the last threads may idle.
int64_t parts_of(const cpu &c, const node &n, int64_t begin, int64_t end) {
    const mla_sizes s(n);
    const mla_rows all = mla_rows_of(n, begin, end);
    const int64_t threads = c.pool.size(), least = (all.rows + most_rows - 1) / most_rows;
    const auto time = [&](int64_t parts) {
        return (s.heads * parts + threads - 1) / threads *
               mla_expanded_work(s, {all.rows / parts, all.positions, all.pairs / parts});
    };
    int64_t best = least;
    for (int64_t parts = least + 1; parts <= std::min(all.rows, least + threads); ++parts)
        if (time(parts) < time(best)) best = parts;
    return best;
}

void run_expanded(cpu &c, const node &n, int64_t begin, int64_t end, char *work) {
    const int64_t parts = parts_of(c, n, begin, end), rows = end - begin;
    const size_t bytes = scratch(n, nullptr).bytes;
    c.pool.run(static_cast<size_t>(n.out.ne[1] * parts), [&](size_t i, unsigned worker) {
        const int64_t head = static_cast<int64_t>(i) / parts, part = static_cast<int64_t>(i) % parts;
        attend(c, n, {begin + rows * part / parts, begin + rows * (part + 1) / parts, head},
               scratch(n, work + worker * bytes));
    });
}

bool always(const cpu &, const node &) { return true; }

void run(cpu &c, const node &n, char *work) {
    mla_stretch m{0, 0, false};
    while (m.end < n.out.ne[0]) {
        m = mla_stretch_at(n, m.end);
        (m.expanded ? run_expanded : run_absorbed)(c, n, m.begin, m.end, work);
    }
}

constexpr variant list[] = {{"stretches", always, work_bytes, run}, reference_variant};

}  // namespace

constexpr variants mla_attention_variants = list;

}  // namespace ds
