// For ops/<name>.cpp: checks of a shape rule, and reading a tensor of any format and stride one element at a time.
#pragma once

#include "numerics.h"
#include "ops.h"

#include <algorithm>

namespace ds {

#define DS_OP(name, ...) void name##_shape(node &n); void name##_forward(const node &n);
#include "ops.def"
#undef DS_OP

// A shape rule's refusal. Shapes come from the architectures, which have checked the file: this is a mistake of ours, named.
inline void expect(bool ok, const node &n, const char *what) {
    if (ok) return;
    std::string text = std::string(info(n.kind).name) + ": " + what + " (";
    for (const tensor *s : n.src) text += s ? shape_text(*s) + " " : "- ";
    throw error(status::internal, text + ")");
}

inline bool is_list(const tensor *t, int64_t n) { return t->rank == 1 && t->type == format::i32 && t->ne[0] == n; }

// The layer's keys and values lie within a page.
inline bool fits_pages(const kv_layout &l, const tensor &pages) {
    if (pages.rank != 2 || pages.type != format::i8 || l.kv_heads < 1 || l.head_size < 1) return false;
    const auto bytes = static_cast<int64_t>(l.bytes());
    return std::min(l.k_offset, l.v_offset) >= 0 && std::max(l.k_offset, l.v_offset) <= pages.ne[1] - bytes;
}

inline void set_out(node &n, format type, std::span<const int64_t> ne) { n.out = make_tensor(type, ne); }

// One row along the last dimension, as f32; i8 weights are multiplied by their row's scale.
inline void read_row(const tensor &t, int64_t i0, int64_t i1, int64_t i2, std::vector<float> &row) {
    const int64_t n = t.ne[t.rank - 1];
    row.resize(static_cast<size_t>(n));
    decode_row(t.type, at(t, i0, i1, i2), row.data(), row.size());
    if (!t.scale) return;
    const float scale = *f32_at(*t.scale, i0);
    for (float &x : row) x = x * scale;
}

} // namespace ds
