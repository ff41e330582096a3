// attention: softmax(q K^T scale) V over paged keys and values, causal by position, query heads in groups over fewer key heads (arXiv 2305.13245).
// The running maximum and sum go page by page (numerics.h has the expressions), so neither chunking nor batching can change a bit.
#include "../op.h"

#include <limits>

namespace ds {

tensor *attention(graph &g, const tensor *q, const tensor *pages, const tensor *tables, const tensor *sequence, const tensor *position,
                  const attention_params &p) {
    return g.add(op::attention, {q, pages, tables, sequence, position}, p);
}

void attention_shape(node &n) {
    const tensor &q = *n.src[0], &pages = *n.src[1], &tables = *n.src[2];
    const kv_layout &l = n.as<attention_params>().kv;
    expect(fits_pages(l, pages), n, "needs pages of i8 that hold the layer");
    expect(q.rank == 3 && q.type == format::f32 && q.ne[2] == l.head_size && q.ne[1] % l.kv_heads == 0, n, "needs q[n,h,d] of f32");
    expect(tables.rank == 2 && tables.type == format::i32, n, "needs tables[s,p] of i32");
    expect(is_list(n.src[3], q.ne[0]) && is_list(n.src[4], q.ne[0]), n, "needs sequence[n] and position[n] of i32");
    set_out(n, format::f32, {q.ne, 3});
}

static float page_value(format type, const char *array, int64_t i) {
    float x;
    decode_row(type, array + row_bytes(type, i), &x, 1);
    return x;
}

namespace {
// One query row and head on its way over the pages.
struct running {
    float max = -std::numeric_limits<float>::infinity(), sum = 0.0f;
    std::vector<float> out;
};
}

static void page_step(running &r, const float *q, const char *k, const char *v, const kv_layout &l, float scale, int64_t seen, bool first) {
    float w[page_positions] = {}, lane[dot_lanes] = {}, max = r.max;
    for (int64_t t = 0; t < seen; ++t) {
        float s = 0.0f;
        for (int64_t d = 0; d < l.head_size; ++d) s = fma_f32(q[d], page_value(l.type, k, d * page_positions + t), s);
        w[t] = s * scale;
        max = attention_max(max, w[t]);
    }
    for (int64_t t = 0; t < seen; ++t) w[t] = exp2_f32(w[t] - max);
    const float keep = first ? 0.0f : exp2_f32(r.max - max);
    for (int64_t t = 0; t < page_positions; ++t) lane[t % dot_lanes] = lane[t % dot_lanes] + w[t];
    r.sum = fma_f32(r.sum, keep, fold_lanes<dot_lanes>(lane));
    r.max = max;
    for (int64_t d = 0; d < l.head_size; ++d) {
        float sum = 0.0f;
        for (int64_t t = 0; t < seen; ++t) sum = fma_f32(w[t], page_value(l.type, v, t * l.head_size + d), sum);
        r.out[d] = fma_f32(r.out[d], keep, sum);
    }
}

void attention_forward(const node &n) {
    const tensor &q = *n.src[0], &pages = *n.src[1], &tables = *n.src[2];
    const attention_params &p = n.as<attention_params>();
    const int64_t group = q.ne[1] / p.kv.kv_heads;
    const float scale = attention_scale(p.scale);
    std::vector<float> row;
    for (int64_t i = 0; i < q.ne[0]; ++i)
        for (int64_t h = 0; h < q.ne[1]; ++h) {
            const int64_t seq = *i32_at(*n.src[3], i), positions = *i32_at(*n.src[4], i) + 1, head_elements = p.kv.head_size * page_positions;
            running r;
            r.out.assign(static_cast<size_t>(p.kv.head_size), 0.0f);
            read_row(q, i, h, 0, row);
            for (int64_t done = 0; done < positions; done += page_positions) {
                const char *page = at(pages, *i32_at(tables, seq, done / page_positions));
                const size_t head = row_bytes(p.kv.type, static_cast<uint64_t>(h / group * head_elements));
                const int64_t seen = std::min(page_positions, positions - done);
                page_step(r, row.data(), page + p.kv.k_offset + head, page + p.kv.v_offset + head, p.kv, scale, seen, done == 0);
            }
            for (int64_t d = 0; d < p.kv.head_size; ++d) *f32_at(n.out, i, h, d) = r.out[d] / r.sum;
        }
}

} // namespace ds
