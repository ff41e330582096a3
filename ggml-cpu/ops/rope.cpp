// rope on the CPU: head by head.

#include "../variants.h"

namespace ds {

static bool always(const cpu &, const node &) { return true; }

static void rotate(const cpu &c, const node &n, int64_t i, int64_t h) {
    const tensor &x = *n.src[0], &table = *n.src[1];
    const size_t half = static_cast<size_t>(table.ne[2]), d = static_cast<size_t>(x.ne[2]);
    const float *a = f32_at(x, i, h), *cosine = f32_at(table, i, 0), *sine = f32_at(table, i, 1);
    float *y = f32_at(n.out, i, h);
    const float direction = n.as<rope_params>().inverse ? -1.0f : 1.0f;
    if (n.as<rope_params>().pairs == rope_pairs::adjacent)
        c.vec->floats->rope_adjacent(a, cosine, sine, y, half, direction);
    else c.vec->floats->rope_halves(a, a + half, cosine, sine, y, y + half, half, direction);
    if (d > 2 * half) std::memcpy(y + 2 * half, a + 2 * half, (d - 2 * half) * sizeof(float));
}

static void run(cpu &c, const node &n, char *) {
    const int64_t heads = n.out.ne[1];
    share_range(c, static_cast<size_t>(n.out.ne[0] * heads), elements(n.out) / 4,
                [&](size_t begin, size_t end, unsigned) {
                    for (int64_t r = static_cast<int64_t>(begin); r < static_cast<int64_t>(end); ++r)
                        rotate(c, n, r / heads, r % heads);
                });
}

static constexpr variant list[] = {{"heads", always, nullptr, run}, reference_variant};
constexpr variants rope_variants = list;

}  // namespace ds
