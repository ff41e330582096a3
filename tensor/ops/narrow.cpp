// narrow: a tensor in a smaller format, to be stored until a gradient needs it, or as weights that products
// read. widen: one of 16 bits as f32 again.
#include "../op.h"

namespace ds {

void narrow_shape(node &n) {
    const tensor &x = *n.src[0], *const scale = n.src[1];
    const format to = n.as<narrow_params>().to;
    expect(x.type == format::f32 && (to == format::f16 || to == format::bf16 || to == format::i8), n,
           "needs x of f32");
    expect((to == format::i8) == (scale != nullptr), n, "needs scales for i8, and for no others");
    set_out(n, to, {x.ne, static_cast<size_t>(x.rank)});
    if (!scale) return;
    expect(scale->type == format::f32 && contiguous(*scale) && x.rank >= 2 &&
               elements(*scale) * x.ne[x.rank - 1] == elements(x),
           n, "needs a scale of f32 for each row");
    n.out.scale = scale;
}

// f(row of x, row of y, its number), by rows of the last dimension.
template <class F> static void each_row(const tensor &x, const tensor &y, const F &f) {
    const int64_t outer = x.rank > 1 ? x.ne[0] : 1, inner = x.rank > 2 ? x.ne[1] : 1,
                  last = x.rank > 3 ? x.ne[2] : 1;
    int64_t row = 0;
    for (int64_t i = 0; i < outer; ++i)
        for (int64_t j = 0; j < inner; ++j)
            for (int64_t k = 0; k < last; ++k, ++row) f(at(x, i, j, k), at(y, i, j, k), row);
}

void narrow_forward(const node &n) {
    const auto width = static_cast<size_t>(n.out.ne[n.out.rank - 1]);
    each_row(*n.src[0], n.out, [&](const char *from, char *to, int64_t row) {
        const auto *const x = reinterpret_cast<const float *>(from);
        if (n.out.type == format::i8)
            static_cast<float *>(n.src[1]->data)[row] =
                encode_row_i8(x, reinterpret_cast<int8_t *>(to), width);
        else encode_row(n.out.type, x, to, width);
    });
}

void widen_shape(node &n) {
    const tensor &x = *n.src[0];
    expect(x.type == format::f16 || x.type == format::bf16, n, "needs x of f16 or bf16");
    set_out(n, format::f32, {x.ne, static_cast<size_t>(x.rank)});
}

void widen_forward(const node &n) {
    const auto width = static_cast<size_t>(n.out.ne[n.out.rank - 1]);
    each_row(*n.src[0], n.out, [&](const char *from, char *to, int64_t) {
        decode_row(n.src[0]->type, from, reinterpret_cast<float *>(to), width);
    });
}

}  // namespace ds
