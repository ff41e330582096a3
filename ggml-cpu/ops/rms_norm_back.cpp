// Gradients of rms_norm on the CPU: of x, row by row; of w, the rows' factors first, then columns are shared
// out, since every column adds its rows in order.

#include "../variants.h"

namespace ds {

namespace {

bool always(const cpu &, const node &) { return true; }

// x[n,(h,)d] as rows of d.
struct rows_of {
    const tensor &t;
    size_t middle = t.rank == 3 ? static_cast<size_t>(t.ne[1]) : 1,
           count = static_cast<size_t>(t.ne[0]) * middle, width = static_cast<size_t>(t.ne[t.rank - 1]);
    float *operator[](size_t r) const {
        return f32_at(t, static_cast<int64_t>(r / middle)) +
               (t.rank == 3 ? static_cast<int64_t>(r % middle) * t.stride[1] : 0);
    }
};

void run(cpu &c, const node &n, char *) {
    const rows_of dy{*n.src[0]}, x{*n.src[1]}, dx{n.out};
    const float *const w = f32_at(*n.src[2], 0);
    share_range(c, x.count, elements(x.t) / 4, [&](size_t begin, size_t end, unsigned) {
        for (size_t r = begin; r < end; ++r)
            c.vec->floats->rms_norm_back(dy[r], x[r], w, dx[r], x.width, n.as<rms_norm_params>().eps);
    });
}

size_t weights_work(const cpu &, const node &n) { return align64(rows_of{*n.src[2]}.count * sizeof(float)); }
void run_weights(cpu &c, const node &n, char *work) {
    const rows_of dy{*n.src[1]}, x{*n.src[2]};
    auto *const factor = reinterpret_cast<float *>(work);
    float *const sum = f32_at(n.out, 0);
    share_range(c, x.count, elements(x.t) / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t r = begin; r < end; ++r)
            factor[r] = c.vec->floats->norm_factor(x[r], x.width, n.as<rms_norm_params>().eps);
    });
    share_range(c, x.width, elements(x.t) / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t r = 0; r < x.count; ++r)
            c.vec->floats->add_norm_products(dy[r] + begin, x[r] + begin, factor[r], sum + begin,
                                             end - begin);
    });
}

constexpr variant list[] = {{"rows", always, nullptr, run}, reference_variant};
constexpr variant weights_list[] = {{"columns", always, weights_work, run_weights}, reference_variant};

}  // namespace

constexpr variants rms_norm_back_variants = list;
constexpr variants rms_norm_back_w_variants = weights_list;

}  // namespace ds
