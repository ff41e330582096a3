// narrow and widen on the CPU, by rows.

#include "../variants.h"

#include "../../tensor/op.h"

namespace ds {

namespace {

bool contiguous_source(const cpu &, const node &n) { return contiguous(*n.src[0]); }

// f(first element, count), of whole rows.
template <class F> void by_rows(cpu &c, const node &n, const F &f) {
    const int64_t width = n.out.ne[n.out.rank - 1];
    share_range(c, static_cast<size_t>(elements(n.out) / width), elements(n.out),
                [&](size_t begin, size_t end, unsigned) {
                    f(begin * static_cast<size_t>(width), (end - begin) * static_cast<size_t>(width));
                });
}

void run_narrow(cpu &c, const node &n, char *) {
    const auto *const x = static_cast<const float *>(n.src[0]->data);
    const auto width = static_cast<size_t>(n.out.ne[n.out.rank - 1]);
    by_rows(c, n, [&](size_t first, size_t count) {
        auto *const y = static_cast<uint16_t *>(n.out.data) + first;
        if (n.out.type == format::f16) return c.vec->floats->encode_f16(x + first, y, count);
        if (n.out.type == format::bf16) return c.vec->floats->encode_bf16(x + first, y, count);
        for (size_t i = first; i < first + count; i += width)
            static_cast<float *>(n.src[1]->data)[i / width] =
                encode_row_i8(x + i, static_cast<int8_t *>(n.out.data) + i, width);
    });
}

void run_widen(cpu &c, const node &n, char *) {
    const auto *const x = static_cast<const uint16_t *>(n.src[0]->data);
    const auto decode =
        n.src[0]->type == format::f16 ? c.vec->floats->decode_f16 : c.vec->floats->decode_bf16;
    by_rows(c, n, [&](size_t first, size_t count) {
        decode(x + first, static_cast<float *>(n.out.data) + first, count);
    });
}

constexpr variant narrow_list[] = {{"rows", contiguous_source, nullptr, run_narrow}, reference_variant};
constexpr variant widen_list[] = {{"rows", contiguous_source, nullptr, run_widen}, reference_variant};

}  // namespace

constexpr variants narrow_variants = narrow_list;
constexpr variants widen_variants = widen_list;

}  // namespace ds
