// rms_norm on the CPU: row by row, with any outer strides.

#include "../variants.h"

namespace ds {

static bool always(const cpu &, const node &) { return true; }

static void run(cpu &c, const node &n, char *) {
    const tensor &x = *n.src[0], &y = n.out;
    const size_t d = static_cast<size_t>(x.ne[x.rank - 1]),
                 middle = x.rank == 3 ? static_cast<size_t>(x.ne[1]) : 1;
    const size_t rows = static_cast<size_t>(x.ne[0]) * middle;
    const int64_t x_step = x.rank == 3 ? x.stride[1] : 0, y_step = y.rank == 3 ? y.stride[1] : 0;
    const float *w = f32_at(*n.src[1], 0);
    const float eps = n.as<rms_norm_params>().eps;
    share_range(c, rows, elements(x) / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t r = begin; r < end; ++r) {
            const int64_t i = static_cast<int64_t>(r / middle), j = static_cast<int64_t>(r % middle);
            c.vec->floats->rms_norm(f32_at(x, i) + j * x_step, w, f32_at(y, i) + j * y_step, d, eps);
        }
    });
}

static constexpr variant list[] = {{"rows", always, nullptr, run}, reference_variant};
constexpr variants rms_norm_variants = list;

}  // namespace ds
