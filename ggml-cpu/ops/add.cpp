// add on the CPU: contiguous sources, shared out in parts.

#include "../variants.h"

namespace ds {

static bool fits(const cpu &, const node &n) { return contiguous(*n.src[0]) && contiguous(*n.src[1]); }

static void run(cpu &c, const node &n, char *) {
    const float *a = f32_at(*n.src[0], 0), *b = f32_at(*n.src[1], 0);
    float *y = f32_at(n.out, 0);
    const int64_t count = elements(n.out);
    share_range(c, static_cast<size_t>(count), count / 8, [&](size_t begin, size_t end, unsigned) {
        c.vec->floats->add(a + begin, b + begin, y + begin, end - begin);
    });
}

static constexpr variant list[] = {{"vector", fits, nullptr, run}, reference_variant};
constexpr variants add_variants = list;

}  // namespace ds
