// attention, from a node to a launch. `chosen` is the best way that fits; the others are for tests and
// measurements.
#include "context.h"

namespace ds::cuda {

static constexpr int chosen_attention = static_cast<int>(attention_way::count);

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
static attention_way way_of(int way, const attention_launch_params &p, const device_facts &d) {
    return way == chosen_attention ? choose(p, d) : static_cast<attention_way>(way);
}

template <int way> static bool attention_fits(const context &c, const node &n) {
    const attention_launch_params p = params_of(n, nullptr);
    return fits(way_of(way, p, c.facts), p, c.facts);
}
template <int way> static void run_attention(const context &c, const node &n, char *work) {
    const attention_launch_params p = params_of(n, work);
    check_launch(c, launch_attention(way_of(way, p, c.facts), p, c.facts, c.queue), n);
}
static size_t attention_bytes(const context &c, const node &n) {
    return attention_work_bytes(params_of(n, nullptr), c.facts);
}

#define DS_WAY(name, way)                                                                                    \
    { name, attention_fits<int(way)>, attention_bytes, run_attention<int(way)> }
static constexpr variant attention_list[] = {
    DS_WAY("chosen", chosen_attention), DS_WAY("integers", attention_way::integers),
    DS_WAY("floats", attention_way::floats), DS_WAY("plain", attention_way::plain)};
#undef DS_WAY
extern const variants attention_variants;
constexpr variants attention_variants = attention_list;

}  // namespace ds::cuda
