// What each way of attention can compute, and how its work is cut into blocks.
#include "config.h"

#include <algorithm>

namespace ds::cuda {

static size_t part_bytes(size_t n) { return (n + 255) / 256 * 256; }
static int32_t parts_of(int32_t n, int32_t of) { return (n + of - 1) / of; }
// 64 MiB: above, scores are computed twice instead of being stored
constexpr size_t most_scores_kept = 64 << 20;

const char *name_of(attention_way w) {
    constexpr const char *names[] = {"integers", "floats", "plain"};
    return names[static_cast<size_t>(w)];
}

static size_t scores_bytes(const attention_launch_params &a) {
    return static_cast<size_t>(a.n) * static_cast<size_t>(a.heads) * static_cast<size_t>(a.max_pages) *
           page_length * sizeof(float);
}

static int32_t most_memory(const attention_launch_params &a, const attention_cut &c) {
    return memory_of(16 * c.tiles, a.p.kv.head_size, a.p.kv.rope_size, true, true, c.stages).bytes;
}

attention_cut cut_of(const attention_launch_params &a, const device_facts &d) {
    const kv_layout &l = a.p.kv;
    const int32_t group = a.heads / l.kv_heads;
    attention_cut c = {};
    c.prefill = a.n > 64 && l.head_size <= 128 && l.rope_size == 0;
    c.tiles = c.prefill ? 4 : 1;
    const int32_t slots = 16 * c.tiles;
    c.head_parts = parts_of(group, slots);
    c.heads = parts_of(group, c.head_parts);
    c.rows = c.prefill ? std::max(1, slots / c.heads) : 1;
    const int64_t blocks = std::max<int64_t>(1, int64_t{a.n} * l.kv_heads * c.head_parts);
    c.splits = c.prefill ? 1
                         : static_cast<int32_t>(
                               std::clamp<int64_t>(2 * d.processors / blocks, 1, std::max(1, a.max_pages)));
    c.keeps_scores = !c.prefill && scores_bytes(a) <= most_scores_kept;
    c.stages = 2;
    if (most_memory(a, c) > d.shared_bytes) c.stages = 1;
    return c;
}

attention_cut one_row_of(attention_cut c, int32_t group) {
    c.tiles = 1, c.rows = 1;
    c.head_parts = parts_of(group, 16);
    c.heads = parts_of(group, c.head_parts);
    return c;
}

// Totals are stored only where blocks share a row, which happens only with few rows times heads.
attention_work work_of(const attention_launch_params &a, const attention_cut &c) {
    const size_t heads = static_cast<size_t>(a.n) * static_cast<size_t>(a.heads);
    attention_work w = {};
    if (c.prefill) return w;
    w.maxima = 0;
    w.totals = part_bytes(2 * heads * sizeof(uint32_t));
    w.scores =
        w.totals +
        (c.splits > 1 ? part_bytes(heads * static_cast<size_t>(a.p.kv.head_size + 1) * sizeof(int64_t)) : 0);
    w.bytes = w.scores + (c.keeps_scores ? part_bytes(scores_bytes(a)) : 0);
    return w;
}

// A bound for every cut, growing with every dimension. Fewer rows may be cut in another way, so the exact
// size would not grow.
size_t attention_work_bytes(const attention_launch_params &a, const device_facts &d) {
    if (a.p.kv.type != format::i8) return float_attention_bytes(a);
    const size_t heads = static_cast<size_t>(a.n) * static_cast<size_t>(a.heads);
    // the most rows times heads whose pages are split among blocks
    const size_t shared = std::min(heads, static_cast<size_t>(2 * d.processors) * 16);
    return part_bytes(2 * heads * sizeof(uint32_t)) +
           part_bytes(shared * static_cast<size_t>(a.p.kv.head_size + 1) * sizeof(int64_t)) +
           part_bytes(std::min(scores_bytes(a), most_scores_kept));
}

bool fits(attention_way way, const attention_launch_params &a, const device_facts &d) {
    const kv_layout &l = a.p.kv;
    if (a.n > 65535 || int64_t{a.heads} > 65535) return false;
    switch (way) {
    case attention_way::plain:
        return l.type == format::i8 && l.head_size <= most_plain_head && l.rope_size <= most_plain_head;
    case attention_way::integers: {
        const bool pieces = l.head_size % 32 == 0 && l.rope_size % 32 == 0 && a.page_bytes % 16 == 0 &&
                            l.k_offset % 16 == 0 && l.v_offset % 16 == 0;
        return l.type == format::i8 && pieces && l.head_size <= 512 && l.rope_size <= l.head_size &&
               reinterpret_cast<uintptr_t>(a.pages) % 16 == 0 && d.major >= 8 &&
               most_memory(a, cut_of(a, d)) <= d.shared_bytes;
    }
    case attention_way::floats:
        return (l.type == format::f16 || l.type == format::f32) && float_attention_fits(a);
    default: return false;
    }
}

}  // namespace ds::cuda
