// attention_back on the CPU: a sequence's rows and one key head are a task. Its keys and values are copied
// out of their pages, both as rows and as columns; blocks of rows then are outer products: scores, dy . v,
// the gradients of queries, keys and values.

#include "../outer.h"

namespace ds {

namespace {

bool always(const cpu &, const node &) { return true; }

constexpr int64_t block_rows = 48;

// A worker's scratch for sequences of up to `longest` rows.
struct scratch {
    work_memory memory;
    size_t stride;  // positions, of a row of scores and of columns of keys and values
    float *key, *value, *key_columns, *value_columns, *dk, *dv, *scores, *products, *q, *dq;
    char *outer;

    scratch(const attention_back_sizes &s, size_t longest, char *work)
        : memory{work}, stride((longest + 15) / 16 * 16) {
        const auto rows = static_cast<int64_t>(longest), columns = static_cast<int64_t>(stride);
        const auto take = [&](int64_t count) { return memory.take<float>(count); };
        key = take(rows * s.key), value = take(rows * s.value);
        key_columns = take(columns * s.key), value_columns = take(columns * s.value);
        dk = take(rows * s.key), dv = take(rows * s.value);
        scores = take(block_rows * columns), products = take(block_rows * columns);
        q = take(block_rows * s.key), dq = take(block_rows * s.key);
        outer = memory.take_bytes(outer_scratch_bytes);
    }
};

// A sequence's rows, for which the graph was planned: there may be as many as the tables have room for.
size_t longest_of(const node &n) {
    return static_cast<size_t>(std::min(n.src[1]->ne[0], n.src[3]->ne[1] * page_positions));
}
size_t starts_bytes(const node &n) { return align64(static_cast<size_t>(n.out.ne[0] + 1) * sizeof(int32_t)); }
size_t work_bytes(const cpu &c, const node &n) {
    return starts_bytes(n) +
           c.pool.size() * scratch(attention_back_sizes(n), longest_of(n), nullptr).memory.bytes;
}

void transpose(const float *from, size_t rows, size_t columns, float *to, size_t stride) {
    for (size_t r = 0; r < rows; ++r)
        for (size_t j = 0; j < columns; ++j) to[j * stride + r] = from[r * columns + j];
}

struct task {
    const cpu &c;
    const node &n;
    const attention_back_sizes s;
    const scratch &m;
    int64_t begin, rows, key_head;

    size_t key() const { return static_cast<size_t>(s.key); }
    size_t value() const { return static_cast<size_t>(s.value); }

    // y[rows][columns] = ( y + ) a b, summed over the steps
    void outer(const float *a, size_t a_row, size_t a_step, const float *b, size_t b_stride, float *y,
               size_t y_stride, size_t count, size_t columns, size_t steps, bool add) const {
        run_outer(c,
                  {.a = a,
                   .a_row = a_row,
                   .a_step = a_step,
                   .b = reinterpret_cast<const char *>(b),
                   .b_stride = b_stride,
                   .y = y,
                   .y_stride = y_stride,
                   .rows = count,
                   .columns = columns,
                   .steps = steps,
                   .add = add},
                  m.outer);
    }

    void run() const {
        for (int64_t t = 0; t < rows; ++t)
            read_page_vectors(n, begin, key_head, t, m.key + t * s.key, m.value + t * s.value);
        const auto all = static_cast<size_t>(rows);
        transpose(m.key, all, key(), m.key_columns, m.stride);
        transpose(m.value, all, value(), m.value_columns, m.stride);
        const int64_t group = s.heads / s.kv_heads;
        for (int64_t h = key_head * group; h < (key_head + 1) * group; ++h)
            for (int64_t i = 0; i < rows; i += block_rows)
                block(h, static_cast<size_t>(i), static_cast<size_t>(std::min(block_rows, rows - i)),
                      h == key_head * group);
        give();
    }

    // Rows [first, first + count) of head h.
    void block(int64_t h, size_t first, size_t count, bool fresh) const {
        const int64_t row = begin + static_cast<int64_t>(first);
        const size_t seen = first + count;  // positions, of the last row
        const tensor &dy = *n.src[0];
        for (size_t r = 0; r < count; ++r) {
            const int64_t i = row + static_cast<int64_t>(r);
            std::memcpy(m.q + r * key(), f32_at(*n.src[1], i, h), value() * sizeof(float));
            if (s.rope)
                std::memcpy(m.q + r * key() + value(), f32_at(*n.src[6], i, h),
                            static_cast<size_t>(s.rope) * sizeof(float));
        }
        const float *const d = f32_at(dy, row, h);
        const auto d_stride = static_cast<size_t>(dy.stride[0]);
        outer(m.q, key(), 1, m.key_columns, m.stride, m.scores, m.stride, count, seen, key(), false);
        outer(d, d_stride, 1, m.value_columns, m.stride, m.products, m.stride, count, seen, value(), false);
        for (size_t r = 0; r < count; ++r) {
            float *const scores = m.scores + r * m.stride, *const products = m.products + r * m.stride;
            const size_t own = first + r + 1;
            c.vec->floats->attend_back(scores, products, own, n.as<attention_params>().scale);
            // positions that the row does not see have no share
            std::fill_n(scores + own, seen - own, 0.0f);
            std::fill_n(products + own, seen - own, 0.0f);
        }
        outer(m.products, m.stride, 1, m.key, key(), m.dq, key(), count, key(), seen, false);
        for (size_t r = 0; r < count; ++r) {
            const int64_t i = row + static_cast<int64_t>(r);
            std::memcpy(f32_at(n.out, i, h * s.value), m.dq + r * key(), value() * sizeof(float));
            std::memcpy(f32_at(n.out, i, s.heads * s.value + h * s.rope), m.dq + r * key() + value(),
                        static_cast<size_t>(s.rope) * sizeof(float));
        }
        // Keys that no row before has seen begin at zero, for the first head.
        const auto add = [&](const float *a, const float *b, size_t b_stride, float *y, size_t width) {
            if (fresh) std::fill_n(y + first * width, count * width, 0.0f);
            outer(a, 1, m.stride, b, b_stride, y, width, seen, width, count, true);
        };
        add(m.products, m.q, key(), m.dk, key());
        add(m.scores, d, d_stride, m.dv, value());
    }

    void give() const {
        for (int64_t t = 0; t < rows; ++t) {
            const float *const k = m.dk + t * s.key, *const v = m.dv + t * s.value;
            float *const keys = f32_at(n.out, begin + t, s.keys_at());
            if (s.rope) {
                c.vec->floats->add(k, v, keys, value());
                std::memcpy(keys + s.value, k + s.value, static_cast<size_t>(s.rope) * sizeof(float));
            } else {
                std::memcpy(keys + key_head * s.key, k, key() * sizeof(float));
                std::memcpy(keys + s.kv_heads * s.key + key_head * s.value, v, value() * sizeof(float));
            }
        }
    }
};

void run(cpu &c, const node &n, char *work) {
    const attention_back_sizes s(n);
    auto *const starts = reinterpret_cast<int32_t *>(work);
    int32_t sequences = 0, longest = 0;
    for (int64_t i = 0; i < n.out.ne[0]; i = sequence_end(*n.src[4], i))
        starts[sequences++] = static_cast<int32_t>(i);
    starts[sequences] = static_cast<int32_t>(n.out.ne[0]);
    for (int32_t i = 0; i < sequences; ++i) longest = std::max(longest, starts[i + 1] - starts[i]);
    const size_t bytes = scratch(s, static_cast<size_t>(longest), nullptr).memory.bytes;
    c.pool.run(static_cast<size_t>(sequences * s.kv_heads), [&](size_t i, unsigned worker) {
        const auto q = static_cast<int64_t>(i) / s.kv_heads, g = static_cast<int64_t>(i) % s.kv_heads;
        const scratch m(s, static_cast<size_t>(longest), work + starts_bytes(n) + worker * bytes);
        task{c, n, s, m, starts[q], starts[q + 1] - starts[q], g}.run();
    });
}

constexpr variant list[] = {{"blocks", always, work_bytes, run}, reference_variant};

}  // namespace

constexpr variants attention_back_variants = list;

}  // namespace ds
