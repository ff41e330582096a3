// The planner: gives results their offsets in one arena, in the order of the nodes, first fit into the gaps
// that results past their last use have left.
// Invariant: two results whose lifetimes overlap never share a byte. A result whose `base` is set (kv_write's
// pages) shares its source's bytes.
#include "plan.h"

#include <algorithm>
#include <unordered_map>

namespace ds {

static constexpr size_t align_up(size_t n) {
    return (n + block::alignment - 1) / block::alignment * block::alignment;
}

// For each node, the index of the last node that reads its result; retained results live to the end.
static std::vector<size_t> last_uses(const graph &g) {
    const auto nodes = g.nodes();
    std::unordered_map<const tensor *, size_t> of;
    std::vector<size_t> last(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i) {
        of[&nodes[i].out] = i;
        last[i] = i;
        for (const tensor *s : nodes[i].src) {
            if (!s) continue;
            const auto made = of.find(s->base ? s->base : s);
            if (made != of.end()) last[made->second] = i;
        }
    }
    for (const tensor *t : g.kept()) {
        const auto made = of.find(t);
        if (made != of.end()) last[made->second] = nodes.size();
    }
    return last;
}

struct allocation {
    size_t offset, bytes, last;
};

// The lowest gap of `bytes` between the live allocations, which are sorted by offset.
static size_t first_fit(const std::vector<allocation> &live, size_t bytes) {
    size_t at = 0;
    for (const allocation &p : live) {
        if (p.offset >= at && p.offset - at >= bytes) break;
        at = std::max(at, p.offset + p.bytes);
    }
    return at;
}

plan make_plan(const graph &g, const backend &b) {
    plan p;
    const auto nodes = g.nodes();
    const std::vector<size_t> last = last_uses(g);
    std::vector<allocation> live;
    p.offset.resize(nodes.size(), 0);
    for (size_t i = 0; i < nodes.size(); ++i) {
        p.work_bytes = std::max(p.work_bytes, b.fn->work_bytes(&b, nodes[i]));
        if (nodes[i].out.base) continue;
        std::erase_if(live, [&](const allocation &l) { return l.last < i; });
        const allocation here = {0, align_up(tensor_bytes(nodes[i].out)), last[i]};
        const size_t offset = first_fit(live, here.bytes);
        const auto after =
            std::find_if(live.begin(), live.end(), [&](const allocation &l) { return l.offset > offset; });
        live.insert(after, {offset, here.bytes, here.last});
        p.offset[i] = offset;
        p.arena_bytes = std::max(p.arena_bytes, offset + here.bytes);
    }
    return p;
}

void place(graph &g, const plan &p, void *arena) {
    const auto nodes = g.nodes();
    assert(p.offset.size() == nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i)
        if (!nodes[i].out.base) nodes[i].out.data = static_cast<char *>(arena) + p.offset[i];
    for (tensor &v : g.views())
        if (v.base) v.data = static_cast<char *>(v.base->data) + v.offset;
    for (node &n : nodes)
        if (n.out.base) n.out.data = static_cast<char *>(n.out.base->data) + n.out.offset;
}

}  // namespace ds
