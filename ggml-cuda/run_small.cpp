// The small operations, from a node to a launch.
#include "candidates.h"
#include "context.h"

namespace ds::cuda {

// ---- get_rows

static void run_get_rows(const context &c, const node &n, char *) {
    const tensor &table = *n.src[0];
    const format_info &f = info(table.type);
    check_launch(c,
                 launch_get_rows({.type = table.type,
                                  .table = table.data,
                                  .row_bytes = table.stride[0] / f.block * f.bytes,
                                  .scale = floats_of(table.scale),
                                  .ids = i32_at(*n.src[1], 0),
                                  .y = f32_at(n.out, 0),
                                  .y_stride = n.out.stride[0],
                                  .n = dim(n.out, 0),
                                  .d = dim(n.out, 1)},
                                 c.queue),
                 n);
}
static constexpr variant get_rows_list[] = {{"rows", always, nullptr, run_get_rows}};
extern const variants get_rows_variants;
constexpr variants get_rows_variants = get_rows_list;

// ---- add

static void run_add(const context &c, const node &n, char *) {
    const tensor &a = *n.src[0], &b = *n.src[1], &y = n.out;
    add_params p{f32_at(a, 0), f32_at(b, 0), f32_at(y, 0), {}, {}, {}, {1, 1, 1}};
    for (int i = 0; i < y.rank; ++i) {
        const int to = i + 3 - y.rank;
        p.ne[to] = dim(y, i);
        p.a_stride[to] = a.stride[i], p.b_stride[to] = b.stride[i], p.y_stride[to] = y.stride[i];
    }
    check_launch(c, launch_add(p, c.queue), n);
}
static constexpr variant add_list[] = {{"elements", always, nullptr, run_add}};
extern const variants add_variants;
constexpr variants add_variants = add_list;

// ---- rms_norm

static void run_rms_norm(const context &c, const node &n, char *) {
    const tensor &x = *n.src[0], &y = n.out;
    const bool heads = x.rank == 3;
    check_launch(c,
                 launch_norm({.x = f32_at(x, 0),
                              .x_stride = x.stride[0],
                              .x_head_stride = heads ? x.stride[1] : 0,
                              .w = f32_at(*n.src[1], 0),
                              .y = f32_at(y, 0),
                              .y_stride = y.stride[0],
                              .y_head_stride = heads ? y.stride[1] : 0,
                              .eps = n.as<rms_norm_params>().eps,
                              .n = dim(x, 0),
                              .heads = heads ? dim(x, 1) : 1,
                              .d = dim(x, x.rank - 1)},
                             c.queue),
                 n);
}
static constexpr variant rms_norm_list[] = {{"warps", always, nullptr, run_rms_norm}};
extern const variants rms_norm_variants;
constexpr variants rms_norm_variants = rms_norm_list;

// ---- rope

static void run_rope_table(const context &c, const node &n, char *) {
    check_launch(c,
                 launch_rope_table({i32_at(*n.src[0], 0), floats_of(n.src[1]), f32_at(n.out, 0),
                                    dim(n.out, 0), dim(n.out, 2), n.as<rope_table_params>()},
                                   c.queue),
                 n);
}
static constexpr variant rope_table_list[] = {{"pairs", always, nullptr, run_rope_table}};
extern const variants rope_table_variants;
constexpr variants rope_table_variants = rope_table_list;

static void run_rope(const context &c, const node &n, char *) {
    const tensor &x = *n.src[0], &y = n.out;
    check_launch(
        c,
        launch_rope({f32_at(x, 0), x.stride[0], x.stride[1], f32_at(*n.src[1], 0), f32_at(y, 0), y.stride[0],
                     y.stride[1], dim(x, 0), dim(x, 1), dim(x, 2), dim(*n.src[1], 2), n.as<rope_params>()},
                    c.queue),
        n);
}
static constexpr variant rope_list[] = {{"pairs", always, nullptr, run_rope}};
extern const variants rope_variants;
constexpr variants rope_variants = rope_list;

// ---- kv_write

static void run_kv_write(const context &c, const node &n, char *) {
    const tensor &k = *n.src[0], &v = *n.src[1], &pages = *n.src[2];
    check_launch(c,
                 launch_kv_write({f32_at(k, 0), f32_at(v, 0), k.stride[0], k.stride[1], v.stride[0],
                                  v.stride[1], static_cast<char *>(pages.data), pages.stride[0],
                                  i32_at(*n.src[3], 0), dim(k, 0), n.as<kv_layout>()},
                                 c.queue),
                 n);
}
static constexpr variant kv_write_list[] = {{"positions", always, nullptr, run_kv_write}};
extern const variants kv_write_variants;
constexpr variants kv_write_variants = kv_write_list;

// ---- candidates

static candidates_launch_params candidates_of(const node &n, char *work) {
    const tensor &l = *n.src[0];
    return {f32_at(l, 0),
            l.stride[0],
            f32_at(*n.src[1], 0),
            i32_at(n.out, 0),
            n.out.stride[0],
            dim(l, 0),
            dim(l, 1),
            n.as<candidates_params>().count,
            work};
}
static bool candidates_node_fits(const context &, const node &n) {
    return n.src[0]->ne[1] <= most_logits && candidates_fit(candidates_of(n, nullptr));
}
static size_t candidates_bytes(const context &, const node &n) {
    return candidates_work_bytes(candidates_of(n, nullptr));
}
static void run_candidates(const context &c, const node &n, char *work) {
    check_launch(c, launch_candidates(candidates_of(n, work), c.queue), n);
}
static constexpr variant candidates_list[] = {
    {"blocks", candidates_node_fits, candidates_bytes, run_candidates}};
extern const variants candidates_variants;
constexpr variants candidates_variants = candidates_list;

}  // namespace ds::cuda
