// get_rows_back on the CPU: columns are shared out, since every column adds its rows in order.

#include "../variants.h"

namespace ds {

static bool always(const cpu &, const node &) { return true; }

static void run(cpu &c, const node &n, char *) {
    const tensor &dy = *n.src[0], &ids = *n.src[1];
    const int64_t zeros = n.src[2] ? 0 : n.out.ne[0];
    share_range(c, static_cast<size_t>(dy.ne[1]), (elements(dy) + zeros * dy.ne[1]) / 8,
                [&](size_t begin, size_t end, unsigned) {
                    const size_t width = end - begin;
                    for (int64_t i = 0; i < zeros; ++i) std::fill_n(f32_at(n.out, i) + begin, width, 0.0f);
                    for (int64_t i = 0; i < dy.ne[0]; ++i) {
                        float *const y = f32_at(n.out, *i32_at(ids, i)) + begin;
                        c.vec->floats->add(y, f32_at(dy, i) + begin, y, width);
                    }
                });
}

static constexpr variant list[] = {{"columns", always, nullptr, run}, reference_variant};
constexpr variants get_rows_back_variants = list;

}  // namespace ds
