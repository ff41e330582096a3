// projections: up to six products of one x, normed first if there is a norm: y = (rms_norm(x)) w^T + bias for
// each, side by side in a row of the result. Sources: x, norm, six matrices, six biases.
#include "../backward.h"

namespace ds {

tensor *projections(graph &g, const tensor *x, const tensor *norm, float eps,
                    std::initializer_list<projection> list) {
    assert(list.size() >= 1 && list.size() <= most_projections);
    projection p[most_projections] = {};
    std::copy(list.begin(), list.end(), p);
    const tensor *src[2 + 2 * most_projections] = {x, norm};
    for (size_t i = 0; i < most_projections; ++i) {
        src[2 + i] = p[i].w;
        src[2 + most_projections + i] = p[i].bias;
    }
    return g.add(op::projections, src, rms_norm_params{eps});
}

tensor *projections_expand(graph &g, const node &n) {
    const tensor *x = n.src[0], *parts[most_projections];
    if (n.src[1]) x = rms_norm(g, x, n.src[1], n.as<rms_norm_params>().eps);
    size_t count = 0;
    tensor *y = nullptr;
    for (; count < most_projections && n.src[2 + count]; ++count)
        parts[count] = y = matmul(g, x, n.src[2 + count], n.src[2 + most_projections + count]);
    return count == 1 ? y : concat(g, {parts, count});
}

void projections_shape(node &n) {
    const tensor &x = *n.src[0], *norm = n.src[1];
    expect(x.rank == 2 && x.type == format::f32, n, "needs x[n,k] of f32");
    expect(!norm || (norm->rank == 1 && norm->ne[0] == x.ne[1] && norm->type == format::f32), n,
           "needs norm[k] of f32");
    int64_t width = 0;
    for (size_t i = 0; i < most_projections; ++i) {
        const tensor *w = n.src[2 + i], *bias = n.src[2 + most_projections + i];
        expect(w || (i > 0 && !bias), n, "needs a matrix first, and no bias without one");
        if (!w) continue;
        expect(w->rank == 2 && w->ne[1] == x.ne[1] && is_weights(*w), n,
               "needs w[m,k], with a scale if it is i8");
        expect_sums_fit(n, *w);
        expect(!bias || (bias->rank == 1 && bias->ne[0] == w->ne[0] && bias->type == format::f32), n,
               "needs bias[m] of f32");
        width += w->ne[0];
    }
    set_out(n, format::f32, {{x.ne[0], width}});
}

void projections_forward(const node &n) {
    std::vector<float> memory;
    tensor x = *n.src[0];
    if (n.src[1]) {
        memory.resize(static_cast<size_t>(elements(x)));
        tensor y = make_tensor(format::f32, {x.ne[0], x.ne[1]});
        y.data = memory.data();
        rms_norm_forward(norm_node(*n.src[0], *n.src[1], n.as<rms_norm_params>().eps, y));
        x = y;
    }
    int64_t first = 0;
    for (size_t i = 0; i < most_projections && n.src[2 + i]; ++i) {
        tensor y = n.out;
        y.ne[1] = n.src[2 + i]->ne[0];
        y.data = f32_at(n.out, 0, first);
        node one = product_node(x, *n.src[2 + i], y);
        one.src[2] = n.src[2 + most_projections + i];
        matmul_forward(one);
        first += y.ne[1];
    }
}

void projections_grad(backward &b, const node &n, const tensor *dy) {
    const rms_norm_params &p = n.as<rms_norm_params>();
    const tensor *const x =
        n.src[1] ? b.narrowed(rms_norm(b.g, b.value(n.src[0]), n.src[1], p.eps)) : b.factor(n.src[0]);
    const tensor *dx = nullptr;
    int64_t first = 0;
    for (size_t i = 0; i < most_projections && n.src[2 + i]; ++i) {
        const tensor *const w = n.src[2 + i], *const bias = n.src[2 + most_projections + i],
                            *const part = b.g.slice(dy, first, w->ne[0]);
        first += w->ne[0];
        if (b.wanted(n.src[0]) || (n.src[1] && b.wanted(n.src[1]))) {
            const tensor *const by = b.g.add(op::matmul_back, {part, w}, no_params{});
            dx = dx ? add(b.g, dx, by) : by;
        }
        if (const tensor *const sum = b.sum_of(w)) b.g.add(op::matmul_back_w, {sum, part, x}, no_params{});
        if (const tensor *const sum = bias ? b.sum_of(bias) : nullptr)
            b.g.add(op::bias_back, {sum, part}, no_params{});
    }
    if (!dx) return;
    if (n.src[1]) give_norm_gradients(b, n.src[0], n.src[1], p, dx);
    else b.give(n.src[0], dx);
}

}  // namespace ds
