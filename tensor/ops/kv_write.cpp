// kv_write: puts the keys and values of n positions into their pages, in the page's format. Its result is the pages themselves, so that what reads
// them afterwards stands after it in the graph. K lies transposed in a page ([head_size][64 positions]), V does not: see kv_layout.
#include "../op.h"

namespace ds {

const tensor *kv_write(graph &g, const tensor *k, const tensor *v, const tensor *pages, const tensor *slots, const kv_layout &l) {
    return g.add(op::kv_write, {k, v, pages, slots}, l);
}

void kv_write_shape(node &n) {
    const tensor &k = *n.src[0], &v = *n.src[1], &pages = *n.src[2], &slots = *n.src[3];
    const kv_layout &l = n.as<kv_layout>();
    expect(k.rank == 3 && k.type == format::f32 && k.ne[1] == l.kv_heads && k.ne[2] == l.head_size, n, "needs k[n,g,d] of f32");
    expect(same_shape(k, v) && v.type == format::f32, n, "needs v like k");
    expect(fits_pages(l, pages) && is_list(&slots, k.ne[0]), n, "needs pages of i8 that hold the layer, and slots[n] of i32");
    n.out = pages;
    n.out.base = pages.base ? pages.base : &pages;
}

static void put(format type, char *array, int64_t i, float x) { encode_row(type, &x, array + row_bytes(type, i), 1); }

void kv_write_forward(const node &n) {
    const tensor &k = *n.src[0], &v = *n.src[1];
    const kv_layout &l = n.as<kv_layout>();
    for (int64_t i = 0; i < k.ne[0]; ++i) {
        const int32_t slot = *i32_at(*n.src[3], i);
        char *page = at(*n.src[2], slot / page_positions);
        const int64_t place = slot % page_positions;
        for (int64_t h = 0; h < l.kv_heads; ++h)
            for (int64_t d = 0; d < l.head_size; ++d) {
                put(l.type, page + l.k_offset, (h * l.head_size + d) * page_positions + place, *f32_at(k, i, h, d));
                put(l.type, page + l.v_offset, (h * page_positions + place) * l.head_size + d, *f32_at(v, i, h, d));
            }
    }
}

} // namespace ds
