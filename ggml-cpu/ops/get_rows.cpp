// get_rows on the CPU: rows are shared out, each decoded by its format's definition.

#include "../variants.h"

namespace ds {

static bool always(const cpu &, const node &) { return true; }

static void run(cpu &c, const node &n, char *) {
    const tensor &table = *n.src[0], &ids = *n.src[1];
    const size_t d = static_cast<size_t>(table.ne[1]);
    share_range(c, static_cast<size_t>(ids.ne[0]), elements(n.out), [&](size_t begin, size_t end, unsigned) {
        for (int64_t i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i)
            decode_row(table.type, at(table, *i32_at(ids, i)), f32_at(n.out, i), d);
    });
}

static constexpr variant list[] = {{"rows", always, nullptr, run}, reference_variant};
constexpr variants get_rows_variants = list;

} // namespace ds
