// attention: softmax(q K^T scale) V over paged keys and values, causal by position, query heads in groups
// over fewer key heads (arXiv 2305.13245). Float pages keep a running maximum and sum, page by page; pages of
// i8 sum integers only. Latent pages hold one head that all query heads share, whose values are the first
// part of its keys. numerics.h has the expressions.
// Invariant: neither chunking nor batching changes a bit.
#include "../op.h"

#include <cmath>
#include <limits>

namespace ds {

tensor *attention(graph &g, const tensor *q, const tensor *pages, const tensor *tables,
                  const tensor *sequence, const tensor *position, const attention_params &p,
                  const tensor *q_rope) {
    return g.add(op::attention, {q, pages, tables, sequence, position, q_rope}, p);
}

void attention_shape(node &n) {
    const tensor &q = *n.src[0], &pages = *n.src[1], &tables = *n.src[2];
    const kv_layout &l = n.as<attention_params>().kv;
    expect(fits_pages(l, pages), n, "needs pages of i8 that hold the layer");
    expect(q.rank == 3 && q.type == format::f32 && q.ne[2] == l.head_size && q.ne[1] % l.kv_heads == 0, n,
           "needs q[n,h,d] of f32");
    const tensor *r = n.src[5];
    expect(l.rope_size ? r && r->rank == 3 && r->type == format::f32 && r->ne[0] == q.ne[0] &&
                             r->ne[1] == q.ne[1] && r->ne[2] == l.rope_size
                       : !r,
           n, "needs q_rope[n,h,r] of f32 with latent pages, and with no others");
    expect(tables.rank == 2 && tables.type == format::i32, n, "needs tables[s,p] of i32");
    expect(l.type != format::i8 || tables.ne[1] <= i8_most_positions / page_positions, n,
           "needs sequences of at most 4194304 positions in pages of i8");
    expect(is_list(n.src[3], q.ne[0]) && is_list(n.src[4], q.ne[0]), n,
           "needs sequence[n] and position[n] of i32");
    set_out(n, format::f32, {q.ne, 3});
}

// The page that holds `position` of row i's sequence, and the key head that query head h reads.
static const char *page_of(const node &n, int64_t i, int64_t position) {
    return at(*n.src[1], *i32_at(*n.src[2], *i32_at(*n.src[3], i), position / page_positions));
}
static int64_t key_head(const node &n, int64_t h) {
    return h / (n.src[0]->ne[1] / n.as<attention_params>().kv.kv_heads);
}

static float page_value(format type, const char *array, int64_t i) {
    float x;
    decode_row(type, array + row_bytes(type, i), &x, 1);
    return x;
}

namespace {
// The state of one query row and head between two pages.
struct running {
    float max = -std::numeric_limits<float>::infinity(), sum = 0.0f;
    std::vector<float> out;
};
}  // namespace

// q . k for position t of a page: in order of elements, or, for latents, in the lanes of a dot product.
static float score_of(const float *q, const char *k, const kv_layout &l, int64_t t) {
    float s = 0.0f;
    if (!l.rope_size) {
        for (int64_t d = 0; d < l.head_size; ++d)
            s = fma_f32(q[d], page_value(l.type, k, d * page_positions + t), s);
        return s;
    }
    const int64_t width = l.head_size + l.rope_size;
    std::vector<float> key;
    for (int64_t d = 0; d < width; ++d) key.push_back(page_value(l.type, k, t * width + d));
    return dot_in_lanes<dot_lanes>(q, key.data(), key.size());
}

static void page_step(running &r, const float *q, const char *k, const char *v, const kv_layout &l,
                      float scale, int64_t seen, bool first) {
    float w[page_positions] = {}, lane[dot_lanes] = {}, max = r.max;
    for (int64_t t = 0; t < seen; ++t) {
        w[t] = score_of(q, k, l, t) * scale;
        max = attention_max(max, w[t]);
    }
    for (int64_t t = 0; t < seen; ++t) w[t] = exp2_f32(w[t] - max);
    const float keep = first ? 0.0f : exp2_f32(r.max - max);
    for (int64_t t = 0; t < page_positions; ++t) lane[t % dot_lanes] = lane[t % dot_lanes] + w[t];
    r.sum = fma_f32(r.sum, keep, fold_lanes<dot_lanes>(lane));
    r.max = max;
    for (int64_t d = 0; d < l.head_size; ++d) {
        float sum = 0.0f;
        for (int64_t t = 0; t < seen; ++t)
            sum = fma_f32(w[t], page_value(l.type, v, t * (l.head_size + l.rope_size) + d), sum);
        r.out[d] = fma_f32(r.out[d], keep, sum);
    }
}

static void forward_floats(const node &n, int64_t i, int64_t h, const std::vector<float> &head) {
    const attention_params &p = n.as<attention_params>();
    std::vector<float> q = head;
    if (p.kv.rope_size) q.insert(q.end(), f32_at(*n.src[5], i, h), f32_at(*n.src[5], i, h) + p.kv.rope_size);
    const int64_t positions = *i32_at(*n.src[4], i) + 1;
    running r;
    r.out.assign(static_cast<size_t>(p.kv.head_size), 0.0f);
    for (int64_t done = 0; done < positions; done += page_positions) {
        const char *page = page_of(n, i, done);
        const size_t offset =
            row_bytes(p.kv.type, static_cast<uint64_t>(key_head(n, h) * p.kv.head_size * page_positions));
        const int64_t seen = std::min(page_positions, positions - done);
        page_step(r, q.data(), page + p.kv.k_offset + offset,
                  page + (p.kv.rope_size ? p.kv.k_offset : p.kv.v_offset) + offset, p.kv,
                  attention_scale(p.scale), seen, done == 0);
    }
    for (size_t d = 0; d < r.out.size(); ++d)
        *f32_at(n.out, i, h, static_cast<int64_t>(d)) = r.out[d] / r.sum;
}

// ---- Pages of i8, in integers (numerics.h)

namespace {
// One key head's part of a page. Element d of the value at position t is v[d * d_step + t * t_step]. The rope
// fields are of latent pages.
struct i8_page {
    const int8_t *k, *v, *rope;
    const float *k_scale, *v_scale, *rope_scale;
    int64_t d_step, t_step;
};
// A query's head, Hadamard-transformed, and its quantization.
struct i8_query {
    std::vector<float> q;
    row_scale s;
    float factor;
};
}  // namespace

static i8_page i8_page_of(const node &n, int64_t i, int64_t h, int64_t position) {
    const kv_layout &l = n.as<attention_params>().kv;
    const char *page = page_of(n, i, position);
    const auto *k = reinterpret_cast<const int8_t *>(page + l.k_offset),
               *v = reinterpret_cast<const int8_t *>(page + l.v_offset);
    const int64_t head = key_head(n, h), elements = head * l.head_size * page_positions,
                  scales = head * page_positions;
    const auto *k_scale = reinterpret_cast<const float *>(k + l.elements()) + scales;
    if (l.rope_size)
        return {.k = k,
                .v = k,
                .rope = v,
                .k_scale = k_scale,
                .v_scale = k_scale,
                .rope_scale = reinterpret_cast<const float *>(v + l.rope_size * page_positions),
                .d_step = 1,
                .t_step = l.head_size};
    return {.k = k + elements,
            .v = v + elements,
            .rope = nullptr,
            .k_scale = k_scale,
            .v_scale = reinterpret_cast<const float *>(v + l.elements()) + scales,
            .rope_scale = nullptr,
            .d_step = page_positions,
            .t_step = 1};
}

static i8_query i8_query_of(std::vector<float> q, float scale) {
    const auto size = static_cast<int32_t>(q.size());
    hadamard(q.data(), size);
    const row_scale s = row_scale_of(largest_bits(q.data(), q.size()), q15_levels);
    return {std::move(q), s, i8_query_factor(s.scale, scale, size)};
}

// The score of one query and the key at position t, among keys of the query's size.
static float i8_score_of(const i8_query &q, const int8_t *k, const float *k_scale, int64_t t) {
    int32_t product = 0;
    k += t * static_cast<int64_t>(q.q.size());
    for (size_t d = 0; d < q.q.size(); ++d) product += quantize_i8(q.q[d], q.s) * k[d];
    return i8_score(product, k_scale[t], q.factor);
}

static std::vector<float> i8_scores(const node &n, int64_t i, int64_t h, const std::vector<float> &head) {
    const attention_params &p = n.as<attention_params>();
    const i8_query q = i8_query_of(head, p.scale);
    i8_query rope;
    if (p.kv.rope_size)
        rope = i8_query_of({f32_at(*n.src[5], i, h), f32_at(*n.src[5], i, h) + p.kv.rope_size}, p.scale);
    std::vector<float> scores(static_cast<size_t>(*i32_at(*n.src[4], i)) + 1);
    for (size_t t = 0; t < scores.size(); ++t) {
        const i8_page page = i8_page_of(n, i, h, static_cast<int64_t>(t));
        const int64_t in_page = static_cast<int64_t>(t) % page_positions;
        scores[t] = i8_score_of(q, page.k, page.k_scale, in_page);
        if (p.kv.rope_size) scores[t] = scores[t] + i8_score_of(rope, page.rope, page.rope_scale, in_page);
    }
    return scores;
}

// Adds one page's part to total[d] and the denominator.
static void i8_page_step(const i8_page &page, const float *scores, int64_t seen, float max, int32_t e0,
                         std::vector<int64_t> &total, int64_t &denominator) {
    float w[page_positions], largest = 0.0f;
    for (int64_t t = 0; t < seen; ++t) {
        const float p = exp2_f32(scores[t] - max);
        denominator += attention_share(p);
        w[t] = p * page.v_scale[t];
        largest = std::max(largest, w[t]);
    }
    if (largest == 0.0f) return;
    const int32_t e = page_exponent(largest);
    for (size_t d = 0; d < total.size(); ++d) {
        int32_t acc = 0;
        for (int64_t t = 0; t < seen; ++t)
            acc += page_weight(w[t], e) * page.v[static_cast<int64_t>(d) * page.d_step + t * page.t_step];
        total[d] += page_total(acc, e0 - e);
    }
}

static void forward_i8(const node &n, int64_t i, int64_t h, const std::vector<float> &q) {
    const std::vector<float> scores = i8_scores(n, i, h, q);
    const auto positions = static_cast<int64_t>(scores.size());
    float max = -std::numeric_limits<float>::infinity(), largest = 0.0f;
    for (int64_t t = 0; t < positions; ++t) {
        max = attention_max(max, scores[static_cast<size_t>(t)]);
        largest = attention_max(largest, i8_page_of(n, i, h, t).v_scale[t % page_positions]);
    }
    std::vector<int64_t> total(q.size(), 0);
    int64_t denominator = 0;
    const bool finite = finite_f32(max) && finite_f32(largest);
    const int32_t e0 = exponent_above(largest);
    for (int64_t done = 0; finite && done < positions; done += page_positions)
        i8_page_step(i8_page_of(n, i, h, done), &scores[static_cast<size_t>(done)],
                     std::min(page_positions, positions - done), std::ceil(max), e0, total, denominator);
    float *y = f32_at(n.out, i, h);
    for (size_t d = 0; d < q.size(); ++d)
        y[d] =
            finite ? i8_attention_output(total[d], e0, denominator) : std::numeric_limits<float>::quiet_NaN();
    if (n.as<attention_params>().kv.rope_size) inverse_hadamard(y, n.as<attention_params>().kv.head_size);
}

void attention_forward(const node &n) {
    const bool integers = n.as<attention_params>().kv.type == format::i8;
    std::vector<float> q;
    for (int64_t i = 0; i < n.out.ne[0]; ++i)
        for (int64_t h = 0; h < n.out.ne[1]; ++h) {
            read_row(*n.src[0], i, h, 0, q);
            (integers ? forward_i8 : forward_floats)(n, i, h, q);
        }
}

}  // namespace ds
