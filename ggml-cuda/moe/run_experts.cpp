// Routers, experts and routed heads, from a node to a launch.
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

static expert_matrices matrices_of(const tensor &w) {
    return {w.type, w.data, floats_of(w.scale), w.stride[0], w.scale ? w.scale->stride[0] : 0};
}

static experts_launch_params experts_of(const node &n, char *work) {
    const tensor &x = *n.src[0], &route = *n.src[1], &gate = *n.src[2];
    const tensor *const shared = n.src[5];
    return {.x = f32_at(x, 0),
            .x_stride = x.stride[0],
            .route = f32_at(route, 0),
            .route_stride = route.stride[0],
            .gate = matrices_of(*n.src[2]),
            .up = matrices_of(*n.src[3]),
            .down = matrices_of(*n.src[4]),
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

// ---- Routed heads

static head_router_launch_params head_router_of(const node &n) {
    const tensor &l = *n.src[0], *const shared = n.src[1], &mix = *n.src[2];
    return {.logits = f32_at(l, 0),
            .logits_stride = l.stride[0],
            .shared = floats_of(shared),
            .shared_stride = shared ? shared->stride[0] : 0,
            .mix = f32_at(mix, 0),
            .mix_stride = mix.stride[0],
            .n = dim(l, 0),
            .routed = dim(l, 1),
            .shared_count = shared ? dim(*shared, 1) : 0,
            .chosen = n.as<head_router_params>().chosen,
            .y = f32_at(n.out, 0),
            .y_stride = n.out.stride[0]};
}
static bool head_router_node_fits(const context &, const node &n) {
    return head_router_fits(head_router_of(n));
}
static void run_head_router(const context &c, const node &n, char *) {
    check_launch(c, launch_head_router(head_router_of(n), c.queue), n);
}
static constexpr variant head_router_list[] = {{"rows", head_router_node_fits, nullptr, run_head_router}};
extern const variants head_router_variants;
constexpr variants head_router_variants = head_router_list;

static routed_launch_params routed_of(const node &n, char *work) {
    const tensor &x = *n.src[0], &w = *n.src[1], &route = *n.src[2];
    return {.x = f32_at(x, 0),
            .x_stride = x.rank == 2 ? x.stride[0] : x.stride[1],
            .by_rank = x.rank == 3,
            .route = f32_at(route, 0),
            .route_stride = route.stride[0],
            .w = matrices_of(w),
            .y = f32_at(n.out, 0),
            .n = dim(x, 0),
            .used = dim(route, 2),
            .matrices = dim(w, 0),
            .m = dim(w, 1),
            .k = dim(w, 2),
            .work = work};
}
// Rows by rank are equally far apart throughout; those of sliced heads are.
static bool routed_node_fits(const context &, const node &n) {
    const tensor &x = *n.src[0];
    return (x.rank == 2 || x.stride[0] == x.ne[1] * x.stride[1]) && routed_fit(routed_of(n, nullptr));
}
static size_t routed_bytes(const context &, const node &n) {
    return routed_work_bytes(routed_of(n, nullptr));
}
static void run_routed(const context &c, const node &n, char *work) {
    check_launch(c, launch_routed(routed_of(n, work), c.facts, c.queue), n);
}
static constexpr variant routed_matmul_list[] = {{"grouped", routed_node_fits, routed_bytes, run_routed}};
extern const variants routed_matmul_variants;
constexpr variants routed_matmul_variants = routed_matmul_list;

static void run_spread(const context &c, const node &n, char *) {
    const tensor &x = *n.src[0], &route = *n.src[1];
    check_launch(c,
                 launch_spread({f32_at(x, 0), x.stride[0], x.stride[1], f32_at(route, 0), route.stride[0],
                                f32_at(n.out, 0), n.out.stride[0], dim(x, 0), dim(x, 1),
                                n.as<routed_spread_params>().heads, dim(x, 2)},
                               c.queue),
                 n);
}
static bool spread_fits(const context &, const node &n) { return n.src[0]->ne[0] <= 65535; }
static constexpr variant routed_spread_list[] = {{"elements", spread_fits, nullptr, run_spread}};
extern const variants routed_spread_variants;
constexpr variants routed_spread_variants = routed_spread_list;

}  // namespace ds::cuda
