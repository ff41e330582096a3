// cross_entropy and its gradient on the CPU. The logits of a block of rows are in the work bytes at a time,
// whatever the batch; panels of the vocabulary are shared out.

#include "../outer.h"
#include "../products.h"

#include <limits>

namespace ds {

namespace {

bool fits(const cpu &, const node &n) { return info(n.src[n.kind == op::cross_entropy ? 1 : 3]->type).runs; }

constexpr size_t block_rows = 64;

size_t dim(const tensor &t, int i) { return static_cast<size_t>(t.ne[i]); }

// A block's logits, and what its products need.
struct logits_block {
    const tensor &x, &w;
    product p;
    size_t vocab, rows;  // rows: of a whole block

    logits_block(const cpu &c, const tensor &of, const tensor &weights)
        : x(of), w(weights), p(c, weights), vocab(dim(weights, 0)), rows(std::min(block_rows, dim(of, 0))) {}

    size_t logits_bytes() const { return align64(rows * vocab * sizeof(float)); }
    size_t quantized_bytes() const { return p.floats() ? 0 : p.rows_bytes(rows); }
    size_t bytes(const cpu &c) const {
        return logits_bytes() + quantized_bytes() + c.pool.size() * p.scratch_bytes();
    }

    // Of rows [first, first + n).
    float *compute(cpu &c, size_t first, size_t n, char *work) const {
        auto *const logits = reinterpret_cast<float *>(work);
        char *const quantized = work + logits_bytes(), *const scratch = quantized + quantized_bytes();
        const bool few = p.few(n);
        const char *from = at(x, static_cast<int64_t>(first));
        size_t stride = static_cast<size_t>(x.stride[0]) * sizeof(float);
        if (!p.floats()) {
            for (size_t i = 0; i < n; ++i)
                p.put_row(f32_at(x, static_cast<int64_t>(first + i)), i, n, quantized, few, scratch);
            from = quantized;
            stride = p.row_bytes();
        }
        const cut s = make_cut(p, few, vocab, n, c.pool.size());
        c.pool.run(s.panels * s.groups, [&](size_t task, unsigned worker) {
            const size_t w0 = task / s.groups * s.panel, x0 = task % s.groups * s.group;
            p.run(w,
                  {.first = w0,
                   .weights = std::min(s.panel, vocab - w0),
                   .x = from + x0 * stride,
                   .x_stride = stride,
                   .rows = std::min(s.group, n - x0),
                   .y = logits + x0 * vocab + w0,
                   .y_stride = vocab},
                  scratch + worker * p.scratch_bytes(), few);
        });
        return logits;
    }
};

size_t work_bytes(const cpu &c, const node &n) { return logits_block(c, *n.src[0], *n.src[1]).bytes(c); }

void take_row(const float_kernels &f, const float *logits, size_t vocab, int32_t target, bool entropy,
              float *y) {
    y[0] = y[1] = y[2] = std::numeric_limits<float>::quiet_NaN();
    const float max = f.largest_finite(logits, vocab);
    if (!finite_f32(max)) return;
    const double log_sum = log_sum_of(max, f.sampling_sum(logits, max, vocab));
    y[0] = static_cast<float>(logits[target] - log_sum);
    y[2] = static_cast<float>(log_sum);
    y[1] = entropy ? f.entropy(logits, y[2], vocab) : 0.0f;
}

void run(cpu &c, const node &n, char *work) {
    const logits_block b(c, *n.src[0], *n.src[1]);
    const size_t all = dim(n.out, 0);
    for (size_t first = 0; first < all; first += b.rows) {
        const size_t count = std::min(b.rows, all - first);
        const float *const logits = b.compute(c, first, count, work);
        share_range(c, count, static_cast<int64_t>(count * b.vocab), [&](size_t begin, size_t end, unsigned) {
            for (size_t r = begin; r < end; ++r) {
                const auto i = static_cast<int64_t>(first + r);
                take_row(*c.vec->floats, logits + r * b.vocab, b.vocab, *i32_at(*n.src[2], i),
                         n.as<cross_entropy_params>().entropy, f32_at(n.out, i));
            }
        });
    }
}

size_t back_work(const cpu &c, const node &n) {
    return logits_block(c, *n.src[2], *n.src[3]).bytes(c) + float_rows::bytes(*n.src[3]) +
           c.pool.size() * outer_scratch_bytes;
}

void run_back(cpu &c, const node &n, char *work) {
    const tensor &x = *n.src[2], &w = *n.src[3], *const sum = n.src[5];
    const logits_block b(c, x, w);
    char *const decoded = work + b.bytes(c), *const scratch = decoded + float_rows::bytes(w);
    const size_t all = dim(x, 0), width = dim(x, 1);
    for (size_t first = 0; first < all; first += b.rows) {
        const size_t count = std::min(b.rows, all - first);
        const auto i0 = static_cast<int64_t>(first);
        float *const slopes = b.compute(c, first, count, work);
        share_range(c, count, static_cast<int64_t>(count * b.vocab), [&](size_t begin, size_t end, unsigned) {
            for (size_t r = begin; r < end; ++r) {
                const auto i = static_cast<int64_t>(first + r);
                const float *const dy = f32_at(*n.src[0], i), *const y = f32_at(*n.src[1], i);
                float *const row = slopes + r * b.vocab;
                c.vec->floats->cross_entropy_slopes(row, y[2], y[1], dy[0], dy[1], b.vocab);
                float &own = row[*i32_at(*n.src[4], i)];
                own = own + dy[0];
            }
        });
        float_rows{w}.each(c, decoded,
                           {.a = slopes,
                            .a_row = b.vocab,
                            .a_step = 1,
                            .y = f32_at(n.out, i0),
                            .y_stride = width,
                            .rows = count,
                            .columns = width},
                           [&](const outer_args &p) { share_outer(c, p, scratch); });
        if (sum)
            share_outer(c,
                        {.a = slopes,
                         .a_row = 1,
                         .a_step = b.vocab,
                         .b = at(x, i0),
                         .b_stride = static_cast<size_t>(x.stride[0]),
                         .y = f32_at(*sum, 0),
                         .y_stride = width,
                         .rows = b.vocab,
                         .columns = width,
                         .steps = count,
                         .add = true,
                         .b_type = format::f32,
                         .operands = operand_format(w.type)},
                        scratch);
    }
}

constexpr variant list[] = {{"blocks", fits, work_bytes, run}, reference_variant};
constexpr variant back_list[] = {{"blocks", fits, back_work, run_back}, reference_variant};

}  // namespace

constexpr variants cross_entropy_variants = list;
constexpr variants cross_entropy_back_variants = back_list;

}  // namespace ds
