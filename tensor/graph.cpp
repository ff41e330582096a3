// The graph's storage and the descriptors expanded from ops.def. Vectors never grow past their reserve, so
// pointers into them stay valid until reset.
#include "op.h"

namespace ds {

const op_info &info(op k) {
    constexpr bool yes = true, ref = true, no = false;
#define DS_GRAD_yes(name) name##_grad
#define DS_GRAD_no(name) nullptr
#define DS_EXPAND_yes(name) name##_expand
#define DS_EXPAND_no(name) nullptr
    static constexpr op_info table[] = {
#define DS_OP(name, sources, params, cpu, cuda, grad, fused)                                                 \
    {#name, sources, name##_shape, name##_forward, cpu, cuda, DS_GRAD_##grad(name), DS_EXPAND_##fused(name)},
#include "ops.def"
#undef DS_OP
    };
#undef DS_GRAD_yes
#undef DS_GRAD_no
#undef DS_EXPAND_yes
#undef DS_EXPAND_no
    return table[static_cast<size_t>(k)];
}

#define DS_OP(name, sources, params, cpu, cuda, grad, fused)                                                 \
    static_assert(sources <= max_sources && sizeof(params) <= max_params_bytes &&                            \
                  std::is_trivially_copyable_v<params>);
#include "ops.def"
#undef DS_OP

graph::graph(size_t max_nodes) : max_nodes_(max_nodes) {
    nodes_.reserve(max_nodes);
    views_.reserve(max_nodes);
    kept_.reserve(max_nodes);
    blocks_.reserve(max_nodes);
}

void graph::reset() {
    identity = 0;
    nodes_.clear();
    views_.clear();
    kept_.clear();
    blocks_.clear();
    narrowed_.clear();
    narrows_ = 0;
}

static void check_room(size_t used, size_t max) {
    if (used >= max)
        throw error(status::internal, format_text("graph: more than the %zu nodes that were reserved", max));
}

tensor *graph::input(format type, std::initializer_list<int64_t> ne, void *data, const char *name) {
    check_room(views_.size(), max_nodes_);
    tensor t = make_tensor(type, ne);
    t.data = data;
    t.name = name;
    return &views_.emplace_back(t);
}

// Whether each index of the outermost dimension has its elements side by side.
static bool contiguous_rows(const tensor &t) {
    return t.rank >= 2 && (t.rank == 2 || t.stride[1] == t.ne[2]) && t.rank <= 3;
}

tensor *graph::reshape(const tensor *t, std::span<const int64_t> ne) {
    check_room(views_.size(), max_nodes_);
    tensor v = make_tensor(t->type, ne);
    const bool whole = contiguous(*t), rows = contiguous_rows(*t) && v.rank >= 2 && ne[0] == t->ne[0];
    if (!(whole || rows) || elements(v) != elements(*t) || (t->scale && ne.back() != t->ne[t->rank - 1]))
        throw error(status::internal, "reshape: " + shape_text(*t) + " does not hold as " + shape_text(v));
    if (!whole) v.stride[0] = t->stride[0];
    v.data = t->data;
    v.name = t->name;
    v.base = t->base ? t->base : t;
    v.offset = t->offset;
    if (t->scale) v.scale = reshape(t->scale, ne.first(ne.size() - 1));
    return &views_.emplace_back(v);
}

tensor *graph::view_like(const tensor *view, const tensor *base) {
    check_room(views_.size(), max_nodes_);
    tensor v = *view;
    v.type = base->type;
    v.scale = base->scale;
    v.name = base->name;
    v.base = base->base ? base->base : base;
    v.offset = base->offset + view->offset / info(view->type).bytes * info(base->type).bytes;
    v.data = base->data ? static_cast<char *>(base->data) + (v.offset - base->offset) : nullptr;
    return &views_.emplace_back(v);
}

tensor *graph::part(const tensor *t, int dim, int64_t first, int64_t count, const char *what) {
    check_room(views_.size(), max_nodes_);
    if (t->type != format::f32 || dim < 0 || first < 0 || count < 1 || first > t->ne[dim] - count)
        throw error(status::internal,
                    format_text("%s: %lld from %lld on of ", what, static_cast<long long>(count),
                                static_cast<long long>(first)) +
                        shape_text(*t));
    tensor v = *t;
    const int64_t skipped = first * t->stride[dim];
    v.ne[dim] = count;
    v.data = t->data ? static_cast<float *>(t->data) + skipped : nullptr;
    v.base = t->base ? t->base : t;
    v.offset = t->offset + static_cast<size_t>(skipped) * sizeof(float);
    return &views_.emplace_back(v);
}
tensor *graph::slice(const tensor *t, int64_t first, int64_t count) {
    return part(t, t->rank - 1, first, count, "slice");
}
tensor *graph::heads(const tensor *t, int64_t first, int64_t count) {
    return part(t, t->rank == 3 ? 1 : -1, first, count, "heads");
}

node &graph::append(op k, std::span<const tensor *const> src) {
    check_room(nodes_.size(), max_nodes_);
    assert(static_cast<int>(src.size()) == info(k).sources);
    node &n = nodes_.emplace_back();
    n.kind = k;
    size_t i = 0;
    for (const tensor *s : src) n.src[i++] = s;
    for (; i < max_sources; ++i) n.src[i] = nullptr;
    return n;
}

tensor *graph::complete(node &n) {
    info(n.kind).shape(n);
    if (info(n.kind).expand && expanded_[static_cast<size_t>(n.kind)]) {
        const node whole = n;
        nodes_.pop_back();
        if (tensor *const y = info(whole.kind).expand(*this, whole)) return y;
        nodes_.push_back(whole);
    }
    tensor *const y = &nodes_.back().out;
    const size_t number = nodes_.size() - 1 - narrows_;
    if (number < narrowed_.size() && narrowed_[number]) {
        ++narrows_;
        const tensor *const sources[] = {y, nullptr};
        node &after = append(op::narrow, sources);
        const narrow_params p{narrow_to_};
        std::memcpy(after.params, &p, sizeof p);
        info(op::narrow).shape(after);
    }
    return y;
}

void graph::mark(const tensor *t) {
    check_room(blocks_.size(), max_nodes_);
    blocks_.push_back({t, nodes_.size()});
}

void graph::keep(const tensor *t) {
    check_room(kept_.size(), max_nodes_);
    kept_.push_back(t->base ? t->base : t);
}

}  // namespace ds
