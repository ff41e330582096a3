// Gradients are collected by the result that they belong to, with the view that each is of, and added or
// joined when that result's node is reached.
#include "backward.h"

namespace ds {

op_set ops_to_expand() {
    op_set s;
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k)
        s[k] = info(static_cast<op>(k)).expand && !info(static_cast<op>(k)).grad;
    return s;
}

backward::backward(graph &graph, std::span<const gradient_sum> sums, std::vector<bool> again, format stored)
    : g(graph), forward_nodes_(graph.nodes().size()), stored_(stored), again_(std::move(again)),
      wanted_(forward_nodes_), needed_(forward_nodes_) {
    again_.resize(forward_nodes_);
    for (const gradient_sum &s : sums) {
        if (s.sum->type != format::f32 || !contiguous(*s.sum) || !same_shape(*s.sum, *s.weight))
            throw error(status::internal,
                        std::string(s.weight->name) + ": the sum of gradients is " + shape_text(*s.sum));
        sums_[s.weight] = s.sum;
    }
    for (size_t i = 0; i < forward_nodes_; ++i) {
        const node &n = g.nodes()[i];
        for (const tensor *s : n.src)
            if (s && wanted(s)) wanted_[i] = true;
        node_of_[&n.out] = i;
        if (n.kind == op::narrow) in_forward_[n.src[0]] = &n.out;
    }
}

// A result in place (kv_write's pages) is a view of an input as well, but one of its own here.
const tensor *backward::origin(const tensor *t) const { return node_of_.count(t) || !t->base ? t : t->base; }

bool backward::wanted(const tensor *t) const {
    const tensor *const o = origin(t);
    const auto made = node_of_.find(o);
    return made != node_of_.end() ? wanted_[made->second] : sums_.count(o) != 0;
}

void backward::give(const tensor *t, const tensor *gradient) {
    if (wanted(t)) given_[origin(t)].emplace_back(t, gradient);
}

const tensor *backward::sum_of(const tensor *w) {
    const auto sum = sums_.find(origin(w));
    if (sum == sums_.end()) return nullptr;
    return w == sum->first ? sum->second : g.view_like(w, sum->second);
}

const tensor *backward::clone(const node &n, const tensor *(backward::*source)(const tensor *)) {
    const tensor *src[max_sources] = {};
    for (int i = 0; i < info(n.kind).sources; ++i) src[i] = n.src[i] ? (this->*source)(n.src[i]) : nullptr;
    struct {
        unsigned char bytes[max_params_bytes];
    } params;
    std::memcpy(params.bytes, n.params, sizeof params.bytes);
    return g.add(n.kind, std::span(src, static_cast<size_t>(info(n.kind).sources)), params);
}

const tensor *backward::exact(const tensor *t) {
    const tensor *const o = origin(t);
    const auto made = node_of_.find(o);
    if (made == node_of_.end() || !again_[made->second]) return t;
    const tensor *&copy = exact_[o];
    if (!copy) copy = clone(g.nodes()[made->second], &backward::exact);
    return t == o ? copy : g.view_like(t, copy);
}

bool is_cheap(op k) { return k == op::rms_norm || k == op::gated || k == op::rope || k == op::routed_spread; }

// What no weight changes, such as angles; indices and weights of routes; pages.
bool backward::is_exact(const tensor *o) const {
    const auto made = node_of_.find(o);
    if (stored_ == format::f32 || made == node_of_.end() || !wanted_[made->second]) return true;
    const op k = g.nodes()[made->second].kind;
    return k == op::router || k == op::head_router || k == op::kv_write;
}

const tensor *backward::narrowed(const tensor *t) {
    if (stored_ == format::f32) return t;
    return g.add(op::narrow, {t, nullptr}, narrow_params{stored_});
}

const tensor *backward::stored(const tensor *o) {
    if (const auto made = in_forward_.find(o); made != in_forward_.end()) {
        needed_[node_of_.at(o)] = true;
        return made->second;
    }
    const tensor *&copy = factor_[o];
    if (copy) return copy;
    const size_t i = node_of_.at(o);
    if (is_cheap(g.nodes()[i].kind)) return copy = narrowed(value(o));
    needed_[i] = !again_[i];
    return copy = narrowed(exact(o));
}

const tensor *backward::value(const tensor *t) {
    const tensor *const o = origin(t);
    if (is_exact(o)) return exact(t);
    const tensor *&copy = value_[o];
    if (!copy) {
        const node &n = g.nodes()[node_of_.at(o)];
        copy = is_cheap(n.kind) ? clone(n, &backward::value) : g.add(op::widen, {stored(o)}, no_params{});
    }
    return t == o ? copy : g.view_like(t, copy);
}

const tensor *backward::factor(const tensor *t) {
    const tensor *const o = origin(t);
    if (stored_ == format::f32) return exact(t);
    if (is_exact(o)) return narrowed(exact(t));
    return t == o ? stored(o) : g.view_like(t, stored(o));
}

std::vector<bool> backward::needed() const {
    std::vector<bool> of;
    for (size_t i = 0; i < forward_nodes_; ++i)
        if (g.nodes()[i].kind != op::narrow) of.push_back(needed_[i]);
    return of;
}

namespace {
// Where a view's elements lie in the tensor that it is of: `width` of them from `first` on in every `period`.
struct stripe {
    int64_t period, first, width;
};
}  // namespace

static stripe stripe_of(const tensor &whole, const tensor &view) {
    const auto first = static_cast<int64_t>(view.offset / sizeof(float));
    const bool rows = view.rank == 2 || view.stride[1] == view.ne[2];
    const int64_t period = rows ? view.stride[0] : view.stride[1],
                  width = rows ? elements(view) / view.ne[0] : view.ne[2];
    const int64_t used = elements(view) / width;
    if (first + width > period || used * period != elements(whole))
        throw error(status::internal,
                    "a gradient of " + shape_text(view) + ", a part of " + shape_text(whole));
    return {period, first, width};
}

// The gradient of t from those of parts that fill it, side by side.
const tensor *backward::joined(const tensor *t,
                               std::span<const std::pair<const tensor *, const tensor *>> parts) {
    std::vector<std::pair<stripe, const tensor *>> all;
    for (const auto &[view, gradient] : parts) {
        const stripe s = stripe_of(*t, *view);
        const auto same =
            std::find_if(all.begin(), all.end(), [&](const auto &p) { return p.first.first == s.first; });
        const tensor *const rows = g.reshape(gradient, {elements(*view) / s.width, s.width});
        if (same == all.end()) all.emplace_back(s, rows);
        else same->second = add(g, same->second, rows);
    }
    std::sort(all.begin(), all.end(),
              [](const auto &a, const auto &b) { return a.first.first < b.first.first; });
    int64_t filled = 0;
    std::vector<const tensor *> rows;
    for (const auto &[s, gradient] : all) {
        if (s.first != filled || s.period != all[0].first.period) break;
        filled += s.width;
        rows.push_back(gradient);
    }
    if (rows.size() != all.size() || filled != all[0].first.period)
        throw error(status::internal, "gradients of some parts of " + shape_text(*t));
    return g.reshape(concat(g, rows), {t->ne, static_cast<size_t>(t->rank)});
}

const tensor *backward::total(const tensor *t) {
    const auto given = given_.find(t);
    if (given == given_.end()) return nullptr;
    const bool pages = t->base;  // kv_write's: see give
    std::vector<std::pair<const tensor *, const tensor *>> parts;
    const tensor *sum = nullptr;
    for (const auto &[of, gradient] : given->second) {
        if (!pages && elements(*of) != elements(*t)) {
            parts.emplace_back(of, gradient);
            continue;
        }
        const tensor *const whole = pages || same_shape(*gradient, *t)
                                        ? gradient
                                        : g.reshape(gradient, {t->ne, static_cast<size_t>(t->rank)});
        sum = sum ? add(g, sum, whole) : whole;
    }
    if (parts.empty()) return sum;
    const tensor *const whole = joined(t, parts);
    return sum ? add(g, sum, whole) : whole;
}

const tensor *backward::run(const tensor *until) {
    const tensor *asked = nullptr;
    for (size_t i = forward_nodes_; i-- > 0;) {
        const node &n = g.nodes()[i];
        if (!wanted_[i]) continue;
        const tensor *const dy = total(&n.out);
        if (&n.out == until) asked = dy;
        if (!dy || &n.out == until) continue;
        if (!info(n.kind).grad)
            throw error(status::internal, std::string(info(n.kind).name) + " has no gradient");
        info(n.kind).grad(*this, n, dy);
    }
    return asked;
}

}  // namespace ds
