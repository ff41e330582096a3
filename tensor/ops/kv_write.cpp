// kv_write: stores the keys and values of n positions in their pages, in the page's format (layout:
// kv_layout). Its result is the pages themselves, so that a node that reads them comes after it in the graph.
// Keys of i8 pages are Hadamard-transformed before they are quantized. For latent pages, k are the latents
// and v the rotated part of the keys, which has another width.
#include "../backward.h"

namespace ds {

const tensor *kv_write(graph &g, const tensor *k, const tensor *v, const tensor *pages, const tensor *slots,
                       const kv_layout &l) {
    return g.add(op::kv_write, {k, v, pages, slots}, l);
}

void kv_write_shape(node &n) {
    const tensor &k = *n.src[0], &v = *n.src[1], &pages = *n.src[2], &slots = *n.src[3];
    const kv_layout &l = n.as<kv_layout>();
    expect(k.rank == 3 && k.type == format::f32 && k.ne[1] == l.kv_heads && k.ne[2] == l.head_size, n,
           "needs k[n,g,d] of f32");
    expect(v.rank == 3 && v.type == format::f32 && v.ne[0] == k.ne[0] && v.ne[1] == k.ne[1], n,
           "needs v[n,g,..] of f32");
    expect(v.ne[2] == (l.rope_size ? l.rope_size : k.ne[2]), n, "needs v as wide as k, or as rope_size");
    expect(fits_pages(l, pages) && is_list(&slots, k.ne[0]), n,
           "needs pages of i8 that hold the layer, and slots[n] of i32");
    n.out = pages;
    n.out.base = pages.base ? pages.base : &pages;
}

static void put(format type, char *array, int64_t i, float x) {
    encode_row(type, &x, array + row_bytes(type, static_cast<uint64_t>(i)), 1);
}

// One head's key or value at one position of an i8 page: element d goes to to[d * step], its scale to *scale.
static void put_i8(const std::vector<float> &x, int8_t *to, int64_t step, float *scale) {
    const row_scale s = row_scale_of(largest_bits(x.data(), x.size()), i8_levels);
    for (size_t d = 0; d < x.size(); ++d)
        to[static_cast<int64_t>(d) * step] = static_cast<int8_t>(quantize_i8(x[d], s));
    *scale = s.scale;
}

static void write_i8(const node &n, int64_t i, char *page, int64_t t) {
    const kv_layout &l = n.as<kv_layout>();
    auto *k = reinterpret_cast<int8_t *>(page + l.k_offset),
         *v = reinterpret_cast<int8_t *>(page + l.v_offset);
    auto *k_scale = reinterpret_cast<float *>(k + l.elements()),
         *v_scale = reinterpret_cast<float *>(v + l.elements());
    std::vector<float> row;
    for (int64_t h = 0; h < l.kv_heads; ++h) {
        read_row(*n.src[0], i, h, 0, row);
        hadamard(row.data(), l.head_size);
        put_i8(row, k + (h * page_positions + t) * l.head_size, 1, k_scale + h * page_positions + t);
        read_row(*n.src[1], i, h, 0, row);
        if (l.rope_size) {
            hadamard(row.data(), l.rope_size);
            put_i8(row, v + t * l.rope_size, 1,
                   reinterpret_cast<float *>(v + l.rope_size * page_positions) + t);
        } else
            put_i8(row, v + h * l.head_size * page_positions + t, page_positions,
                   v_scale + h * page_positions + t);
    }
}

static void write_floats(const node &n, int64_t i, char *page, int64_t t) {
    const kv_layout &l = n.as<kv_layout>();
    for (int64_t h = 0; h < l.kv_heads; ++h) {
        for (int64_t d = 0; d < l.head_size; ++d) {
            put(l.type, page + l.k_offset, (h * l.head_size + d) * page_positions + t,
                *f32_at(*n.src[0], i, h, d));
            put(l.type, page + l.v_offset, (h * page_positions + t) * l.head_size + d,
                *f32_at(*n.src[1], i, h, d));
        }
    }
}

static void write_latents(const node &n, int64_t i, char *page, int64_t t) {
    const kv_layout &l = n.as<kv_layout>();
    const int64_t row = t * (l.head_size + l.rope_size);
    for (int64_t d = 0; d < l.head_size; ++d)
        put(l.type, page + l.k_offset, row + d, *f32_at(*n.src[0], i, 0, d));
    for (int64_t d = 0; d < l.rope_size; ++d)
        put(l.type, page + l.k_offset, row + l.head_size + d, *f32_at(*n.src[1], i, 0, d));
}

void kv_write_forward(const node &n) {
    const kv_layout &l = n.as<kv_layout>();
    const auto write = l.type == format::i8 ? write_i8 : l.rope_size ? write_latents : write_floats;
    for (int64_t i = 0; i < n.src[0]->ne[0]; ++i) {
        const int32_t slot = *i32_at(*n.src[3], i);
        char *page = at(*n.src[2], slot / page_positions);
        write(n, i, page, slot % page_positions);
    }
}

// dy: see backward::give.
void kv_write_grad(backward &b, const node &n, const tensor *dy) {
    int64_t first = 0;
    for (const tensor *const s : {n.src[0], n.src[1]}) {
        const int64_t width = s->ne[1] * s->ne[2];
        b.give(s, b.g.reshape(b.g.slice(dy, first, width), {s->ne[0], s->ne[1], s->ne[2]}));
        first += width;
    }
}

}  // namespace ds
