// lora on the CPU: in blocks of rows that share an adapter, first a x for every block, then b's products in
// panels of outputs. add_scaled: row by row.

#include "../variants.h"

#include "../../tensor/op.h"

namespace ds {

namespace {

constexpr int64_t block_rows = 16, panel = 512;

size_t dim(const tensor &t, int i) { return static_cast<size_t>(t.ne[i]); }

// The work of a node: a x of every row, then each thread's products of a block and a panel.
struct lora_work {
    float *hidden, *products;
    size_t bytes;
    lora_work(const cpu &c, const node &n, char *memory) {
        work_memory w{memory};
        hidden = w.take<float>(n.out.ne[0] * n.as<lora_params>().rank);
        products = w.take<float>(static_cast<int64_t>(c.pool.size()) * block_rows * panel);
        bytes = w.bytes;
    }
};
size_t lora_bytes(const cpu &c, const node &n) { return lora_work(c, n, nullptr).bytes; }

// f(matrix, scale, first row, rows) for the parts of rows [begin, end) that one slot adapts.
template <class F> void each_part(const node &n, int64_t begin, int64_t end, const F &f) {
    while (begin < end) {
        int64_t last = begin + 1;
        while (last < end && *i32_at(*n.src[3], last) == *i32_at(*n.src[3], begin)) ++last;
        if (const lora_row r = lora_of(n, begin); r.m) f(*r.m, r.scale, begin, last - begin);
        begin = last;
    }
}

template <class F> void run_tasks(cpu &c, size_t tasks, int64_t nanoseconds, const F &task) {
    if (nanoseconds >= worth_sharing) return c.pool.run(tasks, task);
    for (size_t i = 0; i < tasks; ++i) task(i, 0);
}

void run(cpu &c, const node &n, char *memory) {
    const tensor &x = *n.src[0], &y = n.out;
    const lora_work work(c, n, memory);
    const int64_t rows = x.ne[0], most = n.as<lora_params>().rank;
    const size_t blocks = ceil_div(dim(x, 0), block_rows), panels = ceil_div(dim(y, 1), panel),
                 row_bytes_of_x = dim(x, 1) * sizeof(float);
    const auto end_of = [&](int64_t begin) { return std::min(rows, begin + block_rows); };
    run_tasks(c, blocks, rows * most * x.ne[1] / 20, [&](size_t task, unsigned) {
        const int64_t begin = static_cast<int64_t>(task) * block_rows;
        each_part(n, begin, end_of(begin), [&](const lora_matrix &m, float, int64_t first, int64_t count) {
            c.vec->floats->dot_f32({.w = reinterpret_cast<const char *>(m.a),
                                    .w_stride = row_bytes_of_x,
                                    .x = f32_at(x, first),
                                    .x_stride = static_cast<size_t>(x.stride[0]),
                                    .y = work.hidden + first * most,
                                    .y_stride = static_cast<size_t>(most),
                                    .bias = nullptr,
                                    .k = dim(x, 1),
                                    .weights = static_cast<size_t>(m.rank),
                                    .rows = static_cast<size_t>(count)});
        });
    });
    run_tasks(c, blocks * panels, rows * most * y.ne[1] / 20, [&](size_t task, unsigned worker) {
        const auto begin = static_cast<int64_t>(task / panels) * block_rows,
                   output = static_cast<int64_t>(task % panels) * panel,
                   outputs = std::min(panel, y.ne[1] - output);
        float *const products = work.products + worker * block_rows * panel;
        each_part(n, begin, end_of(begin),
                  [&](const lora_matrix &m, float scale, int64_t first, int64_t count) {
                      c.vec->floats->dot_f32({.w = reinterpret_cast<const char *>(m.b + output * m.rank),
                                              .w_stride = static_cast<size_t>(m.rank) * sizeof(float),
                                              .x = work.hidden + first * most,
                                              .x_stride = static_cast<size_t>(most),
                                              .y = products,
                                              .y_stride = static_cast<size_t>(panel),
                                              .bias = nullptr,
                                              .k = static_cast<size_t>(m.rank),
                                              .weights = static_cast<size_t>(outputs),
                                              .rows = static_cast<size_t>(count)});
                      for (int64_t i = 0; i < count; ++i)
                          c.vec->floats->add_times(scale, products + i * panel, f32_at(y, first + i, output),
                                                   static_cast<size_t>(outputs));
                  });
    });
}

bool always(const cpu &, const node &) { return true; }

void run_add_scaled(cpu &c, const node &n, char *) {
    const tensor *const a = n.src[0], &b = *n.src[1], &y = n.out;
    const float scale = n.as<add_scaled_params>().scale;
    share_range(c, dim(y, 0), elements(y) / 8, [&](size_t begin, size_t end, unsigned) {
        for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
            if (a) std::copy_n(f32_at(*a, i), y.ne[1], f32_at(y, i));
            (a ? c.vec->floats->add_times : c.vec->floats->times)(scale, f32_at(b, i), f32_at(y, i),
                                                                  dim(y, 1));
        }
    });
}

constexpr variant list[] = {{"blocks", always, lora_bytes, run}, reference_variant};
constexpr variant add_scaled_list[] = {{"rows", always, nullptr, run_add_scaled}, reference_variant};

}  // namespace

constexpr variants lora_variants = list;
constexpr variants add_scaled_variants = add_scaled_list;

}  // namespace ds
