// router and experts, from a node to a launch.
#include "../context.h"

namespace ds::cuda {

static router_launch_params router_of(const node &n) {
    const tensor &l = *n.src[0];
    return {f32_at(l, 0), l.stride[0],           floats_of(n.src[1]), dim(l, 0),
            dim(l, 1),    n.as<router_params>(), f32_at(n.out, 0),    n.out.stride[0]};
}
static bool router_node_fits(const context &, const node &n) { return router_fits(router_of(n)); }
static void run_router(const context &c, const node &n, char *) {
    check_launch(c, launch_router(router_of(n), c.queue), n);
}
static constexpr variant router_list[] = {{"rows", router_node_fits, nullptr, run_router}};
extern const variants router_variants;
constexpr variants router_variants = router_list;

static experts_launch_params experts_of(const node &n, char *work) {
    const tensor &x = *n.src[0], &route = *n.src[1], &gate = *n.src[2];
    const tensor *const shared = n.src[5];
    const auto matrices = [&](int i) {
        const tensor &w = *n.src[i];
        return expert_matrices{w.type, w.data, floats_of(w.scale), w.stride[0],
                               w.scale ? w.scale->stride[0] : 0};
    };
    return {.x = f32_at(x, 0),
            .x_stride = x.stride[0],
            .route = f32_at(route, 0),
            .route_stride = route.stride[0],
            .gate = matrices(2),
            .up = matrices(3),
            .down = matrices(4),
            .shared = floats_of(shared),
            .shared_stride = shared ? shared->stride[0] : 0,
            .y = f32_at(n.out, 0),
            .y_stride = n.out.stride[0],
            .n = dim(x, 0),
            .used = dim(route, 2),
            .experts = dim(gate, 0),
            .d = dim(x, 1),
            .ffn = dim(gate, 1),
            .work = work};
}
static bool experts_node_fits(const context &, const node &n) { return experts_fit(experts_of(n, nullptr)); }
static size_t experts_bytes(const context &, const node &n) {
    return experts_work_bytes(experts_of(n, nullptr));
}
static void run_experts(const context &c, const node &n, char *work) {
    check_launch(c, launch_experts(experts_of(n, work), c.facts, c.queue), n);
}
static constexpr variant experts_list[] = {{"grouped", experts_node_fits, experts_bytes, run_experts}};
extern const variants experts_variants;
constexpr variants experts_variants = experts_list;

}  // namespace ds::cuda
