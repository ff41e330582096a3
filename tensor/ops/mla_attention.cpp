// mla_attention: attention over latent pages, from a head's own query to its own result (arXiv 2405.04434,
// section 2.1). There are two forms, which differ in rounding only. In the absorbed form, k_b is applied to
// the query and v_b to the result, and all heads attend to the latents: each position is read once, at the
// width of a latent. In the expanded form, each head's keys and values are computed from the latents, once
// for a run of rows, and are narrower: less work for many rows of one sequence. Which form a row takes
// depends on its run alone; a row's bits depend on its form and on nothing else in the step.
#include "../mla.h"

namespace ds {

tensor *mla_attention(graph &g, const tensor *q, const tensor *q_rope, const tensor *k_b, const tensor *v_b,
                      const tensor *pages, const tensor *tables, const tensor *sequence,
                      const tensor *position, const mla_params &p) {
    return g.add(op::mla_attention, {q, q_rope, k_b, v_b, pages, tables, sequence, position}, p);
}

// The absorbed form; the expanded one makes pages of its own, which no primitive does.
tensor *mla_attention_expand(graph &g, const node &n) {
    const mla_params &p = n.as<mla_params>();
    if (p.expand_all) return nullptr;
    const tensor *const q = head_matmul(g, n.src[0], n.src[2]);
    const tensor *const latents =
        attention(g, q, n.src[4], n.src[5], n.src[6], n.src[7], {p.kv, p.scale}, n.src[1]);
    return head_matmul(g, latents, n.src[3]);
}

void mla_attention_shape(node &n) {
    const tensor &q = *n.src[0], &r = *n.src[1], &k = *n.src[2], &v = *n.src[3];
    const kv_layout &l = n.as<mla_params>().kv;
    expect(l.rope_size > 0 && (l.type == format::f32 || l.type == format::f16) && fits_pages(l, *n.src[4]), n,
           "needs latent pages of floats that hold the layer");
    expect(q.rank == 3 && q.type == format::f32, n, "needs q[n,h,d] of f32");
    expect(r.rank == 3 && r.type == format::f32 && r.ne[0] == q.ne[0] && r.ne[1] == q.ne[1] &&
               r.ne[2] == l.rope_size,
           n, "needs q_rope[n,h,r] of f32");
    const auto matrices = [&](const tensor &w) {
        return w.rank == 3 && w.ne[0] == q.ne[1] && info(w.type).runs && w.type != format::i8;
    };
    expect(matrices(k) && k.ne[1] == l.head_size && k.ne[2] == q.ne[2], n,
           "needs k_b[h,c,d] of floats or blocks");
    expect(matrices(v) && v.ne[2] == l.head_size, n, "needs v_b[h,v,c] of floats or blocks");
    expect(n.src[5]->rank == 2 && n.src[5]->type == format::i32, n, "needs tables[s,p] of i32");
    expect(is_list(n.src[6], q.ne[0]) && is_list(n.src[7], q.ne[0]), n,
           "needs sequence[n] and position[n] of i32");
    set_out(n, format::f32, {{q.ne[0], q.ne[1], v.ne[1]}});
}

// ---- Which form

mla_rows mla_rows_of(const node &n, int64_t begin, int64_t end) {
    mla_rows r{end - begin, mla_positions(n, end - 1), 0};
    for (int64_t i = begin; i < end; ++i) r.pairs += mla_positions(n, i);
    return r;
}

// A row goes through both matrices. Products with packed ones are integer products, but the short rows of the
// keys limit the gain to a quarter.
int64_t mla_absorbed_work(const mla_sizes &s, const mla_rows &r) {
    const int64_t row = s.latent * (s.nope + s.value);
    return r.pairs * (2 * s.latent + s.rope) + r.rows * (s.packed ? row * 3 / 4 : row);
}

// A position goes through both matrices, in floats. Transposing and decoding the matrices is counted as so
// many positions more.
int64_t mla_expanded_work(const mla_sizes &s, const mla_rows &r) {
    return r.pairs * (s.key() + s.value) +
           (r.positions + (s.packed ? 90 : 30)) * s.latent * (s.nope + s.value);
}

static int64_t run_end(const node &n, int64_t begin) {
    int64_t i = begin + 1;
    while (i < n.out.ne[0] && *i32_at(*n.src[6], i) == *i32_at(*n.src[6], begin) &&
           mla_positions(n, i) == mla_positions(n, i - 1) + 1)
        ++i;
    return i;
}

mla_stretch mla_stretch_at(const node &n, int64_t begin) {
    const mla_sizes s(n);
    for (int64_t i = begin, end; i < n.out.ne[0]; i = end) {
        end = run_end(n, i);
        const mla_rows r = mla_rows_of(n, i, end);
        // a gain below a tenth is within the estimate's error
        const bool less = mla_expanded_work(s, r) < mla_absorbed_work(s, r) / 10 * 9;
        if (!n.as<mla_params>().expand_all && !less) continue;
        return i > begin ? mla_stretch{begin, i, false} : mla_stretch{begin, end, true};
    }
    return {begin, n.out.ne[0], false};
}

// ---- Absorbed

static tensor rows_of(const tensor &t, int64_t begin, int64_t end) {
    tensor rows = t;
    rows.ne[0] = end - begin;
    rows.data = at(t, begin);
    return rows;
}

static size_t latents_bytes(const node &n, int64_t rows) {
    const mla_sizes s(n);
    return (static_cast<size_t>(rows * s.heads * s.latent) * sizeof(float) + 63) / 64 * 64;
}
size_t mla_absorbed::bytes(const node &n, int64_t rows) { return 2 * latents_bytes(n, rows); }

mla_absorbed::mla_absorbed(const node &n, int64_t begin, int64_t end, char *scratch)
    : q(rows_of(*n.src[0], begin, end)), q_rope(rows_of(*n.src[1], begin, end)),
      sequence(rows_of(*n.src[6], begin, end)), position(rows_of(*n.src[7], begin, end)), ops{} {
    const auto set = [](node &to, op kind, std::initializer_list<const tensor *> src, char *data) {
        to.kind = kind;
        std::copy(src.begin(), src.end(), to.src);
        info(kind).shape(to);
        to.out.data = data;
    };
    const mla_params &p = n.as<mla_params>();
    const attention_params attention{p.kv, p.scale};
    std::memcpy(ops[1].params, &attention, sizeof attention);
    set(ops[0], op::head_matmul, {&q, n.src[2]}, scratch);
    set(ops[1], op::attention, {&ops[0].out, n.src[4], n.src[5], &sequence, &position, &q_rope},
        scratch ? scratch + latents_bytes(n, end - begin) : nullptr);
    set(ops[2], op::head_matmul, {&ops[1].out, n.src[3]}, at(n.out, begin));
}

static void forward_absorbed(const node &n, int64_t begin, int64_t end) {
    std::vector<char> scratch(mla_absorbed::bytes(n, end - begin));
    const mla_absorbed a(n, begin, end, scratch.data());
    for (const node &o : a.ops) info(o.kind).reference(o);
}

// ---- Expanded: an ordinary attention over pages computed from the latents

namespace {
// One head's keys and values of one sequence, in consecutive pages of f32. Keys and values have the width of
// the wider of them, padded with zeros.
struct expanded_pages {
    int64_t width, count;
    kv_layout l;
    std::vector<float> data;

    expanded_pages(int64_t row_width, int64_t positions)
        : width(row_width), count((positions + page_positions - 1) / page_positions),
          l{format::f32, 1, static_cast<int32_t>(row_width), 0, row_width * page_positions * 4, 0},
          data(static_cast<size_t>(2 * count * width * page_positions)) {}
    float *page_of(int64_t t) { return data.data() + t / page_positions * 2 * width * page_positions; }
    float &key(int64_t t, int64_t d) { return page_of(t)[d * page_positions + t % page_positions]; }
    float &value(int64_t t, int64_t d) {
        return page_of(t)[(page_positions + t % page_positions) * width + d];
    }
};
}  // namespace

// The vectors that a latent is multiplied by: the rows of v_b and the columns of k_b.
static std::vector<std::vector<float>> expanding_rows(const node &n, int64_t h) {
    const mla_sizes s(n);
    std::vector<std::vector<float>> rows(static_cast<size_t>(s.value + s.nope),
                                         std::vector<float>(static_cast<size_t>(s.latent)));
    for (int64_t d = 0; d < s.value; ++d) read_row(*n.src[3], h, d, 0, rows[static_cast<size_t>(d)]);
    std::vector<float> k;
    for (int64_t c = 0; c < s.latent; ++c) {
        read_row(*n.src[2], h, c, 0, k);
        for (int64_t d = 0; d < s.nope; ++d)
            rows[static_cast<size_t>(s.value + d)][static_cast<size_t>(c)] = k[static_cast<size_t>(d)];
    }
    return rows;
}

static expanded_pages expand(const node &n, int64_t row, int64_t positions, int64_t h) {
    const mla_sizes s(n);
    const kv_layout &l = n.as<mla_params>().kv;
    const std::vector<std::vector<float>> rows = expanding_rows(n, h);
    expanded_pages p(std::max(s.key(), s.value), positions);
    std::vector<float> c(static_cast<size_t>(s.latent + s.rope));
    for (int64_t t = 0; t < positions; ++t) {
        const char *page =
            at(*n.src[4], *i32_at(*n.src[5], *i32_at(*n.src[6], row), t / page_positions)) + l.k_offset;
        decode_row(l.type, page + row_bytes(l.type, static_cast<uint64_t>(t % page_positions) * c.size()),
                   c.data(), c.size());
        const auto made = [&](int64_t d) {
            return dot_in_lanes<dot_lanes>(rows[static_cast<size_t>(d)].data(), c.data(),
                                           static_cast<size_t>(s.latent));
        };
        for (int64_t d = 0; d < s.value; ++d) p.value(t, d) = made(d);
        for (int64_t d = 0; d < s.nope; ++d) p.key(t, d) = made(s.value + d);
        for (int64_t d = 0; d < s.rope; ++d) p.key(t, s.nope + d) = c[static_cast<size_t>(s.latent + d)];
    }
    return p;
}

static void forward_expanded(const node &n, int64_t begin, int64_t end, int64_t h) {
    const mla_sizes s(n);
    expanded_pages p = expand(n, begin, mla_positions(n, end - 1), h);
    std::vector<int32_t> table;
    for (int64_t i = 0; i < p.count; ++i) table.push_back(static_cast<int32_t>(i));
    std::vector<int32_t> zeros(static_cast<size_t>(end - begin), 0);
    std::vector<float> q(static_cast<size_t>((end - begin) * p.width), 0.0f), y(q.size());
    for (int64_t i = begin; i < end; ++i) {
        float *const to = &q[static_cast<size_t>((i - begin) * p.width)];
        std::copy_n(f32_at(*n.src[0], i, h), s.nope, to);
        std::copy_n(f32_at(*n.src[1], i, h), s.rope, to + s.nope);
    }
    graph g(8);
    const tensor *pages = g.input(format::i8, {p.count, p.width * page_positions * 8}, p.data.data(), ""),
                 *tables = g.input(format::i32, {1, p.count}, table.data(), "");
    const tensor *one = g.input(format::i32, {end - begin}, zeros.data(), ""),
                 *position = g.input(format::i32, {end - begin}, i32_at(*n.src[7], begin), "");
    attention(g, g.input(format::f32, {end - begin, 1, p.width}, q.data(), ""), pages, tables, one, position,
              {p.l, n.as<mla_params>().scale});
    node &o = g.nodes()[0];
    o.out.data = y.data();
    attention_forward(o);
    for (int64_t i = begin; i < end; ++i)
        std::copy_n(&y[static_cast<size_t>((i - begin) * p.width)], s.value, f32_at(n.out, i, h));
}

void mla_attention_forward(const node &n) {
    mla_stretch m{0, 0, false};
    while (m.end < n.out.ne[0]) {
        m = mla_stretch_at(n, m.end);
        if (!m.expanded) forward_absorbed(n, m.begin, m.end);
        else
            for (int64_t h = 0; h < n.out.ne[1]; ++h) forward_expanded(n, m.begin, m.end, h);
    }
}

}  // namespace ds
