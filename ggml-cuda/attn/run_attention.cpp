// attention, from a node to a launch.
#include "../context.h"

namespace ds::cuda {

static attention_launch_params params_of(const node &n, char *work) {
    const tensor &q = *n.src[0], &pages = *n.src[1], &tables = *n.src[2], &y = n.out;
    const tensor *const r = n.src[5];
    return {.q = f32_at(q, 0),
            .q_stride = q.stride[0],
            .q_head_stride = q.stride[1],
            .q_rope = floats_of(r),
            .rope_stride = r ? r->stride[0] : 0,
            .rope_head_stride = r ? r->stride[1] : 0,
            .pages = static_cast<const char *>(pages.data),
            .page_bytes = pages.stride[0],
            .tables = i32_at(tables, 0),
            .table_stride = tables.stride[0],
            .max_pages = dim(tables, 1),
            .sequence = i32_at(*n.src[3], 0),
            .position = i32_at(*n.src[4], 0),
            .y = f32_at(y, 0),
            .y_stride = y.stride[0],
            .y_head_stride = y.stride[1],
            .n = dim(q, 0),
            .heads = dim(q, 1),
            .p = n.as<attention_params>(),
            .work = work};
}

template <attention_way way> static bool attention_fits(const context &c, const node &n) {
    return fits(way, params_of(n, nullptr), c.facts);
}
template <attention_way way> static void run_attention(const context &c, const node &n, char *work) {
    check_launch(c, launch_attention(way, params_of(n, work), c.facts, c.queue), n);
}
// The same for every way, so that a plan holds whichever of them smaller steps take.
static size_t attention_bytes(const context &c, const node &n) {
    return attention_work_bytes(params_of(n, nullptr), c.facts);
}

#define DS_WAY(way)                                                                                          \
    { #way, attention_fits < attention_way::way>, attention_bytes, run_attention < attention_way::way> }
static constexpr variant attention_list[] = {DS_WAY(integers), DS_WAY(floats), DS_WAY(plain)};
#undef DS_WAY
extern const variants attention_variants;
constexpr variants attention_variants = attention_list;

}  // namespace ds::cuda
