// experts: the routed experts of a feed-forward layer (DeepSeekMoE, arXiv 2401.06066): y = shared, then, in
// the order in which the router ranks a row's experts, y = fma(weight, down_e(silu(gate_e x) * up_e x), y).
// Which rows share an expert changes nothing.
#include "../op.h"

namespace ds {

tensor *experts(graph &g, const tensor *x, const tensor *route, const tensor *gate, const tensor *up,
                const tensor *down, const tensor *shared) {
    return g.add(op::experts, {x, route, gate, up, down, shared}, no_params{});
}

tensor *experts_expand(graph &g, const node &n) {
    const tensor *const x = n.src[0], *const route = n.src[1];
    const tensor *const gate = routed_matmul(g, x, n.src[2], route);
    const tensor *const hidden = gated(g, unary::silu, gate, routed_matmul(g, x, n.src[3], route));
    return routed_add(g, routed_matmul(g, hidden, n.src[4], route), route, n.src[5]);
}

static bool is_matrices(const tensor &w, int64_t experts, int64_t rows, int64_t cols) {
    return w.rank == 3 && w.ne[0] == experts && w.ne[1] == rows && w.ne[2] == cols && is_weights(w);
}

void experts_shape(node &n) {
    const tensor &x = *n.src[0], &route = *n.src[1], &gate = *n.src[2], *shared = n.src[5];
    expect(x.rank == 2 && x.type == format::f32, n, "needs x[n,d] of f32");
    expect(is_route(route, x.ne[0]), n, "needs route[n,2,k] of f32");
    expect(is_matrices(gate, gate.ne[0], gate.ne[1], x.ne[1]) &&
               is_matrices(*n.src[3], gate.ne[0], gate.ne[1], x.ne[1]),
           n, "needs gate[e,f,d] and up[e,f,d]");
    expect(is_matrices(*n.src[4], gate.ne[0], x.ne[1], gate.ne[1]), n, "needs down[e,d,f]");
    for (int i = 2; i < 5; ++i) expect_sums_fit(n, *n.src[i]);
    expect(!shared || (same_shape(*shared, x) && shared->type == format::f32), n, "needs shared[n,d] of f32");
    set_out(n, format::f32, {{x.ne[0], x.ne[1]}});
}

namespace {
struct rows {
    std::vector<float> values;
    tensor t;
    explicit rows(int64_t n) : values(static_cast<size_t>(n)), t(make_tensor(format::f32, {1, n})) {
        t.data = values.data();
    }
};
}  // namespace

static void product(const tensor &x, const tensor &weights, int64_t expert, const tensor &y) {
    tensor scale;
    const tensor w = matrix_of(weights, expert, scale);
    matmul_forward(product_node(x, w, y));
}

void experts_forward(const node &n) {
    const tensor &x = *n.src[0], &route = *n.src[1];
    const int64_t d = x.ne[1], f = n.src[2]->ne[1];
    rows in(d), gate(f), up(f), out(d);
    for (int64_t i = 0; i < x.ne[0]; ++i) {
        read_row(x, i, 0, 0, in.values);
        for (int64_t c = 0; c < d; ++c) *f32_at(n.out, i, c) = n.src[5] ? *f32_at(*n.src[5], i, c) : 0.0f;
        for (int64_t r = 0; r < route.ne[2]; ++r) {
            const auto expert = static_cast<int64_t>(*f32_at(route, i, 0, r));
            product(in.t, *n.src[2], expert, gate.t);
            product(in.t, *n.src[3], expert, up.t);
            for (size_t c = 0; c < gate.values.size(); ++c)
                gate.values[c] = apply(unary::silu, gate.values[c]) * up.values[c];
            product(gate.t, *n.src[4], expert, out.t);
            for (int64_t c = 0; c < d; ++c)
                *f32_at(n.out, i, c) = fma_f32(*f32_at(route, i, 1, r), out.values[static_cast<size_t>(c)],
                                               *f32_at(n.out, i, c));
        }
    }
}

}  // namespace ds
