// matmul on the CPU: panels of weight rows, and for many rows of activations groups of those, are shared out.
// Weights are read where they were mapped. For packed formats and I8, activations are quantized once, into
// the work bytes; then few rows (GEMV) read the weights as stored, many (GEMM) through tiles repacked in
// scratch.

#include "../products.h"

namespace ds {

namespace {

size_t dim(const tensor &t, int i) { return static_cast<size_t>(t.ne[i]); }

void add_residual(cpu &c, const node &n, size_t w0, size_t wn, size_t x0, size_t xn) {
    for (size_t i = x0; i < x0 + xn; ++i) {
        float *const y = f32_at(n.out, static_cast<int64_t>(i), static_cast<int64_t>(w0));
        c.vec->floats->add(f32_at(*n.src[3], static_cast<int64_t>(i), static_cast<int64_t>(w0)), y, y, wn);
    }
}

// f(first weight, weights, first row, rows, worker) for every piece, which then gets its residual.
template <class F> void share_pieces(cpu &c, const node &n, const cut &s, int64_t nanoseconds, const F &f) {
    const size_t weights = dim(n.out, 1), rows = dim(n.out, 0);
    const auto piece = [&](size_t task, unsigned worker) {
        const size_t w0 = task / s.groups * s.panel, x0 = task % s.groups * s.group,
                     wn = std::min(s.panel, weights - w0), xn = std::min(s.group, rows - x0);
        f(w0, wn, x0, xn, worker);
        if (n.src[3]) add_residual(c, n, w0, wn, x0, xn);
    };
    const size_t tasks = s.panels * s.groups;
    if (nanoseconds >= worth_sharing) return c.pool.run(tasks, piece);
    for (size_t i = 0; i < tasks; ++i) piece(i, 0);
}

// ---- Which variant

bool i8_fits(const cpu &, const node &n) { return n.src[1]->type == format::i8; }
bool i8_few_fit(const cpu &c, const node &n) {
    return i8_fits(c, n) && product(c, *n.src[1]).few(dim(*n.src[0], 0));
}
bool packed_fits(const cpu &, const node &n) { return is_packed(n.src[1]->type); }
bool packed_few_fit(const cpu &c, const node &n) {
    return packed_fits(c, n) && product(c, *n.src[1]).few(dim(*n.src[0], 0));
}
bool floats_fit(const cpu &c, const node &n) {
    return info(n.src[1]->type).runs && product(c, *n.src[1]).floats();
}

// ---- Running

// Measured on a core of an x86 server; it only decides whether threads are woken.
int64_t nanoseconds_of(const product &p, const node &n) {
    const int64_t weights = elements(*n.src[1]), rows = n.src[0]->ne[0];
    return p.floats()             ? weights * (rows + 1) / 20
           : p.type == format::i8 ? weights * (rows + 5) / 200
                                  : weights * (rows + 3) / 100;
}

size_t rows_bytes(const cpu &c, const node &n) {
    const product p(c, *n.src[1]);
    return p.floats() ? 0 : p.rows_bytes(dim(*n.src[0], 0));
}
template <bool (*fits)(const cpu &, const node &)> size_t few_work(const cpu &c, const node &n) {
    return fits(c, n) ? rows_bytes(c, n) : 0;
}
template <bool (*fits)(const cpu &, const node &)> size_t many_work(const cpu &c, const node &n) {
    return fits(c, n) ? rows_bytes(c, n) + c.pool.size() * product(c, *n.src[1]).scratch_bytes() : 0;
}

void quantize(cpu &c, const node &n, const product &p, bool few, char *work) {
    const tensor &x = *n.src[0];
    const size_t rows = dim(x, 0), together = p.group(few);
    char *const scratch = work + rows_bytes(c, n);
    share_range(c, ceil_div(rows, together), elements(x) / 8, [&](size_t begin, size_t end, unsigned worker) {
        for (size_t i = begin * together; i < std::min(end * together, rows); ++i)
            p.put_row(f32_at(x, static_cast<int64_t>(i)), i, rows, work, few,
                      scratch + worker * p.scratch_bytes());
    });
}

template <bool few> void run(cpu &c, const node &n, char *work) {
    const tensor &x = *n.src[0], &w = *n.src[1];
    const product p(c, w);
    char *const scratch = work + rows_bytes(c, n);
    const char *rows = work;
    size_t stride = p.row_bytes();
    if (p.floats()) {
        rows = at(x, 0);
        stride = static_cast<size_t>(x.stride[0]) * sizeof(float);
    } else {
        quantize(c, n, p, few, work);
    }
    const cut s = make_cut(p, few, dim(w, 0), dim(x, 0), c.pool.size());
    share_pieces(c, n, s, nanoseconds_of(p, n),
                 [&](size_t w0, size_t wn, size_t x0, size_t xn, unsigned worker) {
                     const product::part part = {
                         .first = w0,
                         .weights = wn,
                         .x = rows + x0 * stride,
                         .x_stride = stride,
                         .rows = xn,
                         .y = f32_at(n.out, static_cast<int64_t>(x0), static_cast<int64_t>(w0)),
                         .y_stride = static_cast<size_t>(n.out.stride[0]),
                         .bias = n.src[2] ? f32_at(*n.src[2], 0) + w0 : nullptr};
                     p.run(w, part, scratch + worker * p.scratch_bytes(), few);
                 });
}

constexpr variant list[] = {
    {"i8_few", i8_few_fit, few_work<i8_fits>, run<true>},
    {"i8_many", i8_fits, many_work<i8_fits>, run<false>},
    {"packed_few", packed_few_fit, few_work<packed_fits>, run<true>},
    {"packed_many", packed_fits, many_work<packed_fits>, run<false>},
    {"floats", floats_fit, nullptr, run<false>},
    reference_variant,
};

}  // namespace

constexpr variants matmul_variants = list;

}  // namespace ds
