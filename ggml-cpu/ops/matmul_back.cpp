// Gradients of products on the CPU, as outer products: of x, over w's rows; of w, over the rows of dy and x,
// which is added to the sum in place; of a bias, row by row.

#include "../outer.h"

namespace ds {

namespace {

bool always(const cpu &, const node &) { return true; }
size_t dim(const tensor &t, int i) { return static_cast<size_t>(t.ne[i]); }
size_t heads_of(const tensor &t) { return t.rank == 3 ? dim(t, 1) : 1; }
size_t row_stride(const tensor &t) { return static_cast<size_t>(t.stride[0]); }
// Head h's first row, or the first row.
char *head_at(const tensor &t, size_t h) {
    return t.rank == 3 ? at(t, 0, static_cast<int64_t>(h)) : at(t, 0);
}
float *floats_at(const tensor &t, size_t h) { return reinterpret_cast<float *>(head_at(t, h)); }

size_t scratch_bytes(const cpu &c) { return c.pool.size() * outer_scratch_bytes; }

size_t back_work(const cpu &c, const node &n) { return scratch_bytes(c) + float_rows::bytes(*n.src[1]); }
void run_back(cpu &c, const node &n, char *work) {
    const tensor &dy = *n.src[0], &w = *n.src[1];
    for (size_t h = 0; h < heads_of(dy); ++h) {
        tensor scale, matrix = w;
        if (w.rank == 3) matrix = matrix_of(w, static_cast<int64_t>(h), scale);
        float_rows{matrix}.each(c, work + scratch_bytes(c),
                                {.a = floats_at(dy, h),
                                 .a_row = row_stride(dy),
                                 .a_step = 1,
                                 .y = floats_at(n.out, h),
                                 .y_stride = row_stride(n.out),
                                 .rows = dim(dy, 0),
                                 .columns = dim(matrix, 1)},
                                [&](const outer_args &p) { share_outer(c, p, work); });
    }
}

size_t weights_work(const cpu &c, const node &) { return scratch_bytes(c); }
void run_weights(cpu &c, const node &n, char *work) {
    const tensor &dy = *n.src[1], &x = *n.src[2], &sum = n.out;
    for (size_t h = 0; h < heads_of(dy); ++h)
        share_outer(c,
                    {.a = floats_at(dy, h),
                     .a_row = 1,
                     .a_step = row_stride(dy),
                     .b = head_at(x, h),
                     .b_stride = row_stride(x),
                     .y = sum.rank == 3 ? f32_at(sum, static_cast<int64_t>(h)) : f32_at(sum, 0),
                     .y_stride = static_cast<size_t>(sum.stride[sum.rank - 2]),
                     .rows = dim(sum, sum.rank - 2),
                     .columns = dim(sum, sum.rank - 1),
                     .steps = dim(dy, 0),
                     .add = true,
                     .b_type = x.type,
                     .operands = operand_format(x.type)},
                    work);
}

void run_bias(cpu &c, const node &n, char *) {
    const tensor &dy = *n.src[1];
    float *const sum = f32_at(n.out, 0);
    share_range(c, dim(dy, 1), elements(dy) / 8, [&](size_t begin, size_t end, unsigned) {
        for (int64_t i = 0; i < dy.ne[0]; ++i)
            c.vec->floats->add(sum + begin, f32_at(dy, i) + begin, sum + begin, end - begin);
    });
}

constexpr variant back_list[] = {{"outer", always, back_work, run_back}, reference_variant};
constexpr variant weights_list[] = {{"outer", always, weights_work, run_weights}, reference_variant};
constexpr variant bias_list[] = {{"rows", always, nullptr, run_bias}, reference_variant};

}  // namespace

constexpr variants matmul_back_variants = back_list;
constexpr variants matmul_back_w_variants = weights_list;
constexpr variants bias_back_variants = bias_list;

}  // namespace ds
