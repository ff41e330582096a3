// get_rows on the CPU: rows are shared out; each is decoded by its format's definition, then multiplied by
// its scale if it has one.

#include "../variants.h"

namespace ds {

static bool always(const cpu &, const node &) { return true; }

static void scale_row(float *y, size_t d, float scale) {
    for (size_t i = 0; i < d; ++i) y[i] = y[i] * scale;
}

static void run(cpu &c, const node &n, char *) {
    const tensor &table = *n.src[0], &ids = *n.src[1];
    const size_t d = static_cast<size_t>(table.ne[1]);
    share_range(c, static_cast<size_t>(ids.ne[0]), elements(n.out), [&](size_t begin, size_t end, unsigned) {
        for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
            const int32_t id = *i32_at(ids, i);
            float *y = f32_at(n.out, i);
            decode_row(table.type, at(table, id), y, d);
            if (table.scale) scale_row(y, d, *f32_at(*table.scale, id));
        }
    });
}

static constexpr variant list[] = {{"rows", always, nullptr, run}, reference_variant};
constexpr variants get_rows_variants = list;

}  // namespace ds
