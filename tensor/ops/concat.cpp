// concat: matrices of as many rows side by side, y[n,a+b+..] = a[n,a], b[n,b], ...
#include "../op.h"

namespace ds {

tensor *concat(graph &g, std::span<const tensor *const> parts) {
    assert(!parts.empty() && parts.size() <= most_projections);
    const tensor *src[most_projections] = {};
    std::copy(parts.begin(), parts.end(), src);
    return g.add(op::concat, src, no_params{});
}

void concat_shape(node &n) {
    int64_t width = 0;
    for (size_t i = 0; i < most_projections; ++i) {
        const tensor *const part = n.src[i];
        expect(i == 0 ? part != nullptr : !part || n.src[i - 1], n, "needs matrices without a gap");
        if (!part) continue;
        expect(part->rank == 2 && part->type == format::f32 && part->ne[0] == n.src[0]->ne[0], n,
               "needs matrices of f32 of as many rows");
        width += part->ne[1];
    }
    set_out(n, format::f32, {{n.src[0]->ne[0], width}});
}

void concat_forward(const node &n) {
    int64_t first = 0;
    for (size_t p = 0; p < most_projections && n.src[p]; first += n.src[p++]->ne[1])
        for (int64_t i = 0; i < n.out.ne[0]; ++i)
            for (int64_t j = 0; j < n.src[p]->ne[1]; ++j)
                *f32_at(n.out, i, first + j) = *f32_at(*n.src[p], i, j);
}

}  // namespace ds
