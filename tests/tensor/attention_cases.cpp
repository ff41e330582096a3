// Cases of the operations on pages: writing keys and values, attention, latent attention.
#include "case_parts.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ds::test {

// ---- Pages of two layers, of which the second is used

static kv_layout layout(format type, int32_t heads, int32_t d) {
    const int64_t part = static_cast<int64_t>(kv_layout{type, heads, d, 0, 0}.k_bytes());
    return {type, heads, d, 2 * part, 3 * part};
}

// The scales of an i8 page are positive; some are 0, as for a row of zeros.
static void fill_scales(numbers &r, array &pages, const kv_layout &l, fill f) {
    const size_t part = l.k_bytes(), integers = l.elements();
    for (size_t p = 0; p < pages.bytes.size(); p += part)
        for (size_t i = p + integers; i < p + part; i += sizeof(float)) {
            const float scale =
                r.below(12) ? std::fabs(r(f == fill::wild ? f : fill::plain)) * 0.02f + 0.001f : 0.0f;
            std::memcpy(&pages.bytes[i], &scale, sizeof scale);
        }
}

static array make_pages(numbers &r, const kv_layout &l, int64_t pages, fill f) {
    const int64_t page_bytes = 2 * l.k_offset;
    array a = make_array(r, l.type, {pages * page_bytes / info(l.type).bytes}, f);
    if (l.type == format::i8) fill_scales(r, a, l, f);
    a.type = format::i8;
    a.ne = {pages, page_bytes};
    a.scale.clear();
    return a;
}

static int64_t k_element(const kv_layout &l, int64_t page, int64_t h, int64_t position, int64_t d) {
    const int64_t start = (page * 2 * l.k_offset + l.k_offset) / info(l.type).bytes;
    return start + (l.type == format::i8 ? (h * page_positions + position) * l.head_size + d
                                         : (h * l.head_size + d) * page_positions + position);
}
static int64_t v_element(const kv_layout &l, int64_t page, int64_t h, int64_t position, int64_t d) {
    const int64_t start = (page * 2 * l.k_offset + l.v_offset) / info(l.type).bytes;
    return start + (l.type == format::i8 ? (h * l.head_size + d) * page_positions + position
                                         : (h * page_positions + position) * l.head_size + d);
}
// Byte offset of the scale of a key (offset = k_offset) or value in i8 pages.
static int64_t scale_at(const kv_layout &l, int64_t offset, int64_t page, int64_t h, int64_t position) {
    return page * 2 * l.k_offset + offset + static_cast<int64_t>(l.elements()) +
           (h * page_positions + position) * 4;
}
static double page_value(const kv_layout &l, const array &pages, int64_t offset, int64_t page, int64_t h,
                         int64_t position, int64_t d) {
    const double x =
        value(l.type, pages.bytes.data(),
              offset == l.k_offset ? k_element(l, page, h, position, d) : v_element(l, page, h, position, d));
    return l.type == format::i8
               ? x * value(format::f32, pages.bytes.data() + scale_at(l, offset, page, h, position), 0)
               : x;
}

// The Walsh-Hadamard transform of a head, computed from the matrix: element (i, j) of a block is -1 when i &
// j has an odd number of bits set, else 1.
static std::vector<double> hadamard_of(const std::vector<double> &x) {
    size_t block = 1;
    while (x.size() % (2 * block) == 0) block *= 2;
    std::vector<double> y(x.size(), 0.0);
    for (size_t i = 0; i < x.size(); ++i)
        for (size_t j = 0; j < block; ++j)
            y[i] += (__builtin_popcountll(i % block & j) % 2 ? -1.0 : 1.0) * x[i / block * block + j];
    return y;
}

// The result is the pages; `wanted` lists their elements in the pages' type.
op_case kv_write_case(format type, int64_t n, int32_t heads, int32_t d, fill f) {
    numbers r(8);
    const kv_layout l = layout(type, heads, d);
    std::vector<int32_t> slots;
    // 37 and 192 are coprime: no slot occurs twice
    for (int64_t i = 0; i < n; ++i)
        slots.push_back(static_cast<int32_t>((i * 37 + 5) % (3 * page_positions)));
    op_case c =
        start(op::kv_write,
              {make_array(r, format::f32, {n, heads, d}, f), make_array(r, format::f32, {n, heads, d}, f),
               make_pages(r, l, 3, fill::plain), make_ints(slots)},
              f);
    c.params = raw(l);
    c.rows = false;
    c.exact = [=, k = c.src[0], v = c.src[1], pages = c.src[2]](auto &wanted, auto &tolerance) {
        const int64_t elements = static_cast<int64_t>(pages.bytes.size()) / info(type).bytes;
        for (int64_t i = 0; i < elements; ++i) wanted.push_back(value(type, pages.bytes.data(), i));
        tolerance.assign(wanted.size(), 0.0);
        const auto put = [&](int64_t at, double x) {
            wanted[static_cast<size_t>(at)] = x;
            tolerance[static_cast<size_t>(at)] = type == format::f16  ? std::fabs(x) * 0x1p-11 + 0x1p-25
                                                 : type == format::i8 ? 0.501
                                                                      : 0.0;
        };
        // In i8 pages, the integers. Another test compares the scales with float64.
        const auto head = [&](const array &from, int64_t i, int64_t h, int64_t offset) {
            std::vector<double> x;
            for (int64_t e = 0; e < d; ++e) x.push_back(value(from, (i * heads + h) * d + e));
            if (type != format::i8) return x;
            if (offset == l.k_offset) x = hadamard_of(x);
            double most = 0.0;
            for (double y : x) most = std::max(most, std::fabs(y));
            for (double &y : x) y = most < 1e-30 ? 0.0 : y * 127.0 / most;
            std::fill_n(tolerance.begin() + scale_at(l, offset, slots[i] / 64, h, slots[i] % 64), 4, 255.0);
            return x;
        };
        for (int64_t i = 0; i < n; ++i)
            for (int64_t h = 0; h < heads; ++h) {
                const std::vector<double> key = head(k, i, h, l.k_offset), val = head(v, i, h, l.v_offset);
                for (int64_t e = 0; e < d; ++e) {
                    put(k_element(l, slots[i] / 64, h, slots[i] % 64, e), key[e]);
                    put(v_element(l, slots[i] / 64, h, slots[i] % 64, e), val[e]);
                }
            }
    };
    return c;
}

// Four, or as many as the longest sequence needs.
static int32_t pages_a_table(const std::vector<int32_t> &last) {
    return std::max<int32_t>(
        4, (*std::max_element(last.begin(), last.end()) + static_cast<int32_t>(page_positions)) /
               static_cast<int32_t>(page_positions));
}

// The last `rows` positions of some sequences, and each one's pages. mixed: every second sequence is in
// descending order.
struct paged_rows {
    int32_t per_table;
    std::vector<int32_t> tables, sequence, position;

    int64_t count() const { return static_cast<int64_t>(position.size()); }
    int32_t page(size_t row, int64_t t) const {
        return tables[static_cast<size_t>(sequence[row] * per_table + t / 64)];
    }
    array table() const {
        array a = make_ints(tables);
        a.ne = {static_cast<int64_t>(tables.size()) / per_table, per_table};
        return a;
    }
};
static paged_rows make_paged_rows(int rows, const std::vector<int32_t> &last, bool mixed = false) {
    paged_rows l{pages_a_table(last), {}, {}, {}};
    for (size_t s = 0; s < last.size(); ++s) {
        for (int32_t p = 0; p < l.per_table; ++p)
            l.tables.push_back(static_cast<int32_t>((s * l.per_table + p) * 7 % (last.size() * l.per_table)));
        const size_t first = l.position.size();
        for (int32_t i = std::max(0, last[s] - rows + 1); i <= last[s]; ++i) {
            l.sequence.push_back(static_cast<int32_t>(s));
            l.position.push_back(i);
        }
        if (mixed && s % 2 == 1)
            std::reverse(l.position.begin() + static_cast<ptrdiff_t>(first), l.position.end());
    }
    return l;
}

op_case attention_case(format type, int32_t kv_heads, int32_t group, int32_t d, int rows,
                       std::vector<int32_t> last, fill f) {
    numbers r(9);
    const kv_layout l = layout(type, kv_heads, d);
    const int32_t heads = kv_heads * group;
    // scores spread enough for weights to differ
    const float scale = 1.0f / std::sqrt(static_cast<float>(d)) * 4.0f;
    const paged_rows at = make_paged_rows(rows, last, true);
    const int64_t n = at.count();
    op_case c =
        start(op::attention,
              {make_array(r, format::f32, {n, heads, d}, f, true),
               make_pages(r, l, static_cast<int64_t>(at.tables.size()), f == fill::wild ? fill::plain : f),
               at.table(), make_ints(at.sequence, true), make_ints(at.position, true)},
              f);
    if (f == fill::wild) {  // one NaN among the scores of plain queries, and wild queries
        const float nan = std::numeric_limits<float>::quiet_NaN();
        if (type == format::i8)
            std::memcpy(&c.src[1].bytes[scale_at(l, l.k_offset, at.tables[0], 0, 3)], &nan, sizeof nan);
        else
            encode_row(
                type, &nan,
                &c.src[1].bytes[static_cast<size_t>(k_element(l, at.tables[0], 0, 3, 0)) * info(type).bytes],
                1);
    }
    c.params = raw(attention_params{l, scale});
    if (type == format::i8)  // positions that no row sees are never read
        for (size_t s = 0; s < last.size(); ++s)
            for (int64_t t = last[s] + 1; t < at.per_table * page_positions; ++t)
                for (int64_t h = 0; h < kv_heads; ++h)
                    for (int64_t offset : {l.k_offset, l.v_offset}) {
                        const float nan = std::numeric_limits<float>::quiet_NaN();
                        std::memcpy(&c.src[1].bytes[scale_at(l, offset, at.tables[s * at.per_table + t / 64],
                                                             h, t % 64)],
                                    &nan, 4);
                    }
    c.exact = [=, q = c.src[0], pages = c.src[1]](auto &wanted, auto &tolerance) {
        for (int64_t i = 0; i < n; ++i)
            for (int64_t h = 0; h < heads; ++h) {
                std::vector<double> weight;
                std::vector<double> query;
                for (int64_t e = 0; e < d; ++e) query.push_back(value(q, (i * heads + h) * d + e));
                if (type == format::i8) query = hadamard_of(query);
                const double block = type == format::i8 ? static_cast<double>(d & -d) : 1.0;
                // off: the error of a score from rounding the query to 15 bits
                double most = -1e300, sum = 0.0, reach = 0.0, size = 0.0, off = 0.0;
                for (double x : query) size = std::max(size, std::fabs(x));
                const auto page = [&](int64_t t) { return at.page(static_cast<size_t>(i), t); };
                for (int64_t t = 0; t <= at.position[i]; ++t) {
                    double s = 0.0;
                    double keys = 0.0;
                    for (int64_t e = 0; e < d; ++e) {
                        const double x = page_value(l, pages, l.k_offset, page(t), h / group, t % 64, e);
                        s += query[e] * x;
                        keys += std::fabs(x);
                    }
                    weight.push_back(s * static_cast<double>(scale) / block);
                    off = std::max(off, keys * size / 32000.0 * static_cast<double>(scale) / block);
                    most = std::max(most, weight.back());
                }
                for (double &w : weight) sum += w = std::exp(w - most);
                for (int64_t e = 0; e < d; ++e) {
                    double y = 0.0;
                    for (int64_t t = 0; t <= at.position[i]; ++t) {
                        const double v = page_value(l, pages, l.v_offset, page(t), h / group, t % 64, e);
                        y += weight[static_cast<size_t>(t)] * v;
                        reach = std::max(reach, std::fabs(v));
                    }
                    wanted.push_back(y / sum);
                    tolerance.push_back(reach * (1e-5 + (type == format::i8 ? 1e-4 + 2.0 * off : 0.0)));
                }
            }
    };
    return c;
}

// ---- Latent pages, of two layers too

struct latent_pages {
    kv_layout l;
    array pages;
    int64_t page_bytes() const { return 2 * l.k_offset; }
    // Byte offset of an element, and of the scale of its position: of the latents, or (`rope`) of the keys'
    // rotated part.
    int64_t element(bool rope, int64_t page, int64_t position, int64_t d) const {
        if (l.type == format::i8)
            return page * page_bytes() +
                   (rope ? l.v_offset + position * l.rope_size : l.k_offset + position * l.head_size) + d;
        return page * page_bytes() + l.k_offset +
               (position * (l.head_size + l.rope_size) + (rope ? l.head_size : 0) + d) * info(l.type).bytes;
    }
    int64_t scale(bool rope, int64_t page, int64_t position) const {
        return page * page_bytes() + (rope ? l.v_offset : l.k_offset) +
               (rope ? l.rope_size : l.head_size) * page_positions + 4 * position;
    }
    double at(bool rope, int64_t page, int64_t position, int64_t d) const {
        const double x = value(l.type, pages.bytes.data() + element(rope, page, position, d), 0);
        return l.type == format::i8
                   ? x * value(format::f32, pages.bytes.data() + scale(rope, page, position), 0)
                   : x;
    }
};
static latent_pages make_latent_pages(numbers &r, format type, int32_t d, int32_t rope, int64_t pages,
                                      fill f) {
    latent_pages p{{type, 1, d, 0, 0, rope}, {}};
    p.l.k_offset = static_cast<int64_t>(p.l.k_bytes() + p.l.v_bytes());
    p.l.v_offset = p.l.k_offset + static_cast<int64_t>(p.l.k_bytes());
    p.pages = make_array(r, type, {pages * p.page_bytes() / info(type).bytes}, f);
    for (int64_t i = 0; type == format::i8 && i < 2 * pages * page_positions; ++i) {
        const float scale = r.below(12) ? std::fabs(r(fill::plain)) * 0.02f + 0.001f : 0.0f;
        std::memcpy(
            &p.pages
                 .bytes[static_cast<size_t>(p.scale(i % 2, i / 2 / page_positions, i / 2 % page_positions))],
            &scale, sizeof scale);
    }
    p.pages.type = format::i8;
    p.pages.ne = {pages, p.page_bytes()};
    p.pages.scale.clear();
    return p;
}

op_case latent_write_case(format type, int64_t n, int32_t d, int32_t rope, fill f) {
    numbers r(14);
    const latent_pages p = make_latent_pages(r, type, d, rope, 3, fill::plain);
    std::vector<int32_t> slots;
    for (int64_t i = 0; i < n; ++i)
        slots.push_back(static_cast<int32_t>((i * 37 + 5) % (3 * page_positions)));
    op_case c = start(op::kv_write,
                      {make_array(r, format::f32, {n, 1, d}, f), make_array(r, format::f32, {n, 1, rope}, f),
                       p.pages, make_ints(slots)},
                      f);
    c.params = raw(p.l);
    c.rows = false;
    c.exact = [=, from = c.src](auto &wanted, auto &tolerance) {
        const int64_t size = info(type).bytes;
        for (int64_t i = 0; i < static_cast<int64_t>(p.pages.bytes.size()) / size; ++i)
            wanted.push_back(value(type, p.pages.bytes.data(), i));
        tolerance.assign(wanted.size(), 0.0);
        for (int64_t i = 0; i < n; ++i)
            for (int part = 0; part < 2; ++part) {
                const int64_t width = part ? rope : d;
                std::vector<double> x;
                for (int64_t e = 0; e < width; ++e)
                    x.push_back(value(from[static_cast<size_t>(part)], i * width + e));
                if (type == format::i8) {
                    double most = 0.0;
                    x = hadamard_of(x);
                    for (double y : x) most = std::max(most, std::fabs(y));
                    for (double &y : x) y = most < 1e-30 ? 0.0 : y * 127.0 / most;
                    std::fill_n(tolerance.begin() + p.scale(part, slots[static_cast<size_t>(i)] / 64,
                                                            slots[static_cast<size_t>(i)] % 64),
                                4, 255.0);
                }
                for (int64_t e = 0; e < width; ++e) {
                    const auto at = static_cast<size_t>(p.element(part, slots[static_cast<size_t>(i)] / 64,
                                                                  slots[static_cast<size_t>(i)] % 64, e) /
                                                        size);
                    wanted[at] = x[static_cast<size_t>(e)];
                    tolerance[at] = type == format::f16  ? std::fabs(wanted[at]) * 0x1p-11 + 0x1p-25
                                    : type == format::i8 ? 0.501
                                                         : 0.0;
                }
            }
    };
    return c;
}

op_case latent_attention_case(format type, int32_t heads, int32_t d, int32_t rope, int rows,
                              std::vector<int32_t> last, fill f) {
    numbers r(15);
    const float scale = 4.0f / std::sqrt(static_cast<float>(d + rope));
    const paged_rows l = make_paged_rows(rows, last);
    const int64_t n = l.count();
    const latent_pages p = make_latent_pages(r, type, d, rope, static_cast<int64_t>(l.tables.size()),
                                             f == fill::wild ? fill::plain : f);
    op_case c = start(op::attention,
                      {make_array(r, format::f32, {n, heads, d}, f, true), p.pages, l.table(),
                       make_ints(l.sequence, true), make_ints(l.position, true),
                       make_array(r, format::f32, {n, heads, rope}, f, true)},
                      f);
    c.params = raw(attention_params{p.l, scale});
    c.exact = [=, q = c.src[0], q_rope = c.src[5]](auto &wanted, auto &tolerance) {
        const bool integers = type == format::i8;
        for (int64_t i = 0; i < n * heads; ++i) {
            const size_t row = static_cast<size_t>(i / heads);
            std::vector<double> query[2], weight, y(static_cast<size_t>(d), 0.0);
            double most = -1e300, sum = 0.0, reach = 0.0, off = 0.0, size[2] = {};
            for (int part = 0; part < 2; ++part) {
                const int64_t width = part ? rope : d;
                for (int64_t e = 0; e < width; ++e)
                    query[part].push_back(value(part ? q_rope : q, i * width + e));
                if (integers) query[part] = hadamard_of(query[part]);
                for (double x : query[part]) size[part] = std::max(size[part], std::fabs(x));
            }
            for (int64_t t = 0; t <= l.position[row]; ++t) {
                double s = 0.0, wrong = 0.0;
                for (int part = 0; part < 2; ++part) {
                    const int32_t width = part ? rope : d;
                    const double factor = static_cast<double>(scale) / (integers ? width & -width : 1);
                    for (int32_t e = 0; e < width; ++e) {
                        const double x = p.at(part, l.page(row, t), t % 64, e);
                        s += query[part][static_cast<size_t>(e)] * x * factor;
                        wrong += std::fabs(x) * size[part] / 32000.0 * factor;
                    }
                }
                weight.push_back(s);
                off = std::max(off, wrong);
                most = std::max(most, s);
            }
            for (double &w : weight) sum += w = std::exp(w - most);
            for (int64_t t = 0; t <= l.position[row]; ++t)
                for (int32_t e = 0; e < d; ++e) {
                    const double v = p.at(false, l.page(row, t), t % 64, e);
                    y[static_cast<size_t>(e)] += weight[static_cast<size_t>(t)] * v / sum;
                    reach = std::max(reach, std::fabs(v));
                }
            if (integers)
                for (double &x : y = hadamard_of(y)) x /= d & -d;
            for (double x : y) {
                wanted.push_back(x);
                tolerance.push_back(reach * (1e-5 + (integers ? 1e-4 + 2.0 * off : 0.0)));
            }
        }
    };
    return c;
}

// In float64 both forms are equal, so one is enough: the absorbed one, which rounds activations when weights
// are packed.
op_case mla_attention_case(format type, format k_type, format v_type, mla_case m, int rows,
                           std::vector<int32_t> last, bool expand_all, fill f) {
    numbers r(16);
    const float scale = 2.0f / std::sqrt(static_cast<float>(m.nope + m.rope));
    const paged_rows l = make_paged_rows(rows, last);
    const int64_t n = l.count();
    const latent_pages p = make_latent_pages(r, type, m.latent, m.rope, static_cast<int64_t>(l.tables.size()),
                                             f == fill::wild ? fill::plain : f);
    op_case c = start(op::mla_attention,
                      {make_array(r, format::f32, {n, m.heads, m.nope}, f, true),
                       make_array(r, format::f32, {n, m.heads, m.rope}, f, true),
                       make_array(r, k_type, {m.heads, m.latent, m.nope}),
                       make_array(r, v_type, {m.heads, m.value, m.latent}), p.pages, l.table(),
                       make_ints(l.sequence, true), make_ints(l.position, true)},
                      f);
    c.params = raw(mla_params{p.l, scale, expand_all});
    c.rows = expand_all;  // otherwise the form depends on the other rows of the step
    c.exact = [=, q = c.src[0], q_rope = c.src[1], k = c.src[2], v = c.src[3]](auto &wanted,
                                                                               auto &tolerance) {
        for (int64_t i = 0; i < n * m.heads; ++i) {
            const size_t row = static_cast<size_t>(i / m.heads);
            const int64_t h = i % m.heads;
            std::vector<bounded> latent, u(static_cast<size_t>(m.latent), bounded{0.0, 0.0});
            for (int64_t e = 0; e < m.latent; ++e)
                latent.push_back(
                    product(row_of(q, i, m.nope), k, h * m.latent + e, !expand_all && is_quantized(k_type)));
            std::vector<double> weight;
            double most = -1e300, sum = 0.0, reach = 0.0, off = 0.0;
            for (int64_t t = 0; t <= l.position[row]; ++t) {
                double s = 0.0, wrong = 0.0;
                for (int32_t e = 0; e < m.rope; ++e)
                    s += value(q_rope, i * m.rope + e) * p.at(true, l.page(row, t), t % 64, e);
                for (int32_t e = 0; e < m.latent; ++e) {
                    const double x = p.at(false, l.page(row, t), t % 64, e);
                    s += latent[static_cast<size_t>(e)].y * x;
                    wrong += latent[static_cast<size_t>(e)].off * std::fabs(x);
                    reach = std::max(reach, std::fabs(x));
                }
                weight.push_back(s * static_cast<double>(scale));
                off = std::max(off, wrong * static_cast<double>(scale));
                most = std::max(most, weight.back());
            }
            for (double &w : weight) sum += w = std::exp(w - most);
            for (int64_t t = 0; t <= l.position[row]; ++t)
                for (int32_t e = 0; e < m.latent; ++e)
                    u[static_cast<size_t>(e)].y +=
                        weight[static_cast<size_t>(t)] / sum * p.at(false, l.page(row, t), t % 64, e);
            for (bounded &x : u) x.off = reach * (1e-5 + std::expm1(2.0 * off));
            for (int64_t e = 0; e < m.value; ++e) {
                const bounded y = product(u, v, h * m.value + e, !expand_all && is_quantized(v_type));
                wanted.push_back(y.y);
                tolerance.push_back(y.off);
            }
        }
    };
    return c;
}

}  // namespace ds::test
