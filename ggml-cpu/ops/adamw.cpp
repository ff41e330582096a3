// adamw and square_sum on the CPU: blocks and stretches are shared out.

#include "../variants.h"

#include "../../tensor/op.h"

namespace ds {

namespace {

bool always(const cpu &, const node &) { return true; }
bool floats_fit(const cpu &, const node &n) { return n.src[0]->type == format::f32 && !n.src[5]; }

void run_sums(cpu &c, const node &n, char *) {
    const float *const x = f32_at(*n.src[0], 0);
    const int64_t all = elements(*n.src[0]);
    share_range(c, static_cast<size_t>(n.out.ne[0]), all / 8, [&](size_t begin, size_t end, unsigned) {
        for (size_t i = begin; i < end; ++i) {
            const int64_t first = static_cast<int64_t>(i) * square_sum_stretch;
            *f32_at(n.out, static_cast<int64_t>(i)) = c.vec->floats->product_sum(
                x + first, x + first, static_cast<size_t>(std::min(square_sum_stretch, all - first)));
        }
    });
}

void run_floats(cpu &c, const node &n, char *) {
    const auto at = [&](int i, size_t e) { return static_cast<float *>(n.src[i]->data) + e; };
    const int64_t all = elements(*n.src[0]);
    share_range(c, static_cast<size_t>(all), all / 2, [&](size_t begin, size_t end, unsigned) {
        c.vec->floats->adamw(n.as<adamw_params>(), at(1, begin), at(0, begin), at(2, begin), at(3, begin),
                             end - begin);
    });
}

void run_blocks(cpu &c, const node &n, char *) {
    const int64_t all = elements(*n.src[0]);
    const auto blocks = static_cast<size_t>((all + state_block - 1) / state_block);
    share_range(c, blocks, all * 4, [&](size_t begin, size_t end, unsigned) {
        float w[state_block], m[state_block], v[state_block];
        for (size_t b = begin; b < end; ++b) {
            const int64_t first = static_cast<int64_t>(b) * state_block,
                          count = std::min(state_block, all - first);
            read_adamw_states(n, first, count, w, m, v);
            c.vec->floats->adamw(n.as<adamw_params>(), static_cast<const float *>(n.src[1]->data) + first, w,
                                 m, v, static_cast<size_t>(count));
            write_adamw_states(n, first, count, w, m, v);
        }
    });
}

constexpr variant sum_list[] = {{"stretches", always, nullptr, run_sums}, reference_variant};
constexpr variant list[] = {
    {"floats", floats_fit, nullptr, run_floats}, {"blocks", always, nullptr, run_blocks}, reference_variant};

}  // namespace

constexpr variants square_sum_variants = sum_list;
constexpr variants adamw_variants = list;

}  // namespace ds
