// gated and its gradient on the CPU: row by row, with any outer strides.

#include "../variants.h"

namespace ds {

namespace {

bool rows_fit(const cpu &, const node &n) { return n.out.rank >= 2; }

// f(i, j) for each row [i, j] of x[n,(h,)d].
template <class F> void each_row(cpu &c, const tensor &x, const F &f) {
    const size_t middle = x.rank == 3 ? static_cast<size_t>(x.ne[1]) : 1;
    share_range(c, static_cast<size_t>(x.ne[0]) * middle, elements(x),
                [&](size_t begin, size_t end, unsigned) {
                    for (size_t r = begin; r < end; ++r)
                        f(static_cast<int64_t>(r / middle), static_cast<int64_t>(r % middle));
                });
}
float *row_at(const tensor &t, int64_t i, int64_t j) {
    return f32_at(t, i) + (t.rank == 3 ? j * t.stride[1] : 0);
}

void run(cpu &c, const node &n, char *) {
    const auto d = static_cast<size_t>(n.out.ne[n.out.rank - 1]);
    each_row(c, n.out, [&](int64_t i, int64_t j) {
        c.vec->floats->gated(n.as<unary_params>().f, row_at(*n.src[0], i, j), row_at(*n.src[1], i, j),
                             row_at(n.out, i, j), d);
    });
}

void run_back(cpu &c, const node &n, char *) {
    const tensor &dy = *n.src[0];
    const auto d = static_cast<size_t>(dy.ne[dy.rank - 1]);
    each_row(c, dy, [&](int64_t i, int64_t j) {
        float *const y = row_at(n.out, i, j);
        c.vec->floats->gated_back(n.as<unary_params>().f, row_at(dy, i, j), row_at(*n.src[1], i, j),
                                  row_at(*n.src[2], i, j), y, y + d, d);
    });
}

constexpr variant list[] = {{"rows", rows_fit, nullptr, run}, reference_variant};
constexpr variant back_list[] = {{"rows", rows_fit, nullptr, run_back}, reference_variant};

}  // namespace

constexpr variants gated_variants = list;
constexpr variants gated_back_variants = back_list;

}  // namespace ds
