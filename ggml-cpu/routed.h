// Products by matrices that a route chooses, row by row (see `router` and `head_router` in ops.def). Pairs of
// a row and a rank are sorted by matrix, so that a matrix is read once for all of its pairs, and not at all
// without any.
#pragma once

#include "products.h"

namespace ds {

// A pair's number is its place in the route, its index its place after the sort. A matrix's quantized rows,
// one a pair, begin at a whole group. A row names no matrix twice, so that a matrix has at most as many pairs
// as there are rows.
class routed_rows {
public:
    // `group`: the most rows that a product packs together
    routed_rows(const tensor &route, int64_t matrices, size_t group, work_memory &m)
        : route_(route), matrices_(matrices), group_(group) {
        index_ = m.take<int32_t>(pairs());
        pair_ = m.take<int32_t>(pairs());
        first_ = m.take<int32_t>(matrices + 1);
        row_ = m.take<int32_t>(matrices);
        touched_ = m.take<int32_t>(matrices);
        pieces_ = m.take<piece>(pairs());
    }

    int64_t ranks() const { return route_.ne[2]; }
    int64_t pairs() const { return route_.ne[0] * ranks(); }
    // With the gaps before whole groups.
    size_t padded_rows() const {
        return static_cast<size_t>(pairs()) +
               (group_ - 1) * static_cast<size_t>(std::min(matrices_, pairs()));
    }
    int64_t index_of(int64_t pair) const { return index_[pair]; }
    int64_t pair_at(size_t index) const { return pair_[index]; }
    size_t first_of(int32_t matrix) const { return static_cast<size_t>(first_[matrix]); }
    size_t rows_of(int32_t matrix) const { return static_cast<size_t>(first_[matrix + 1] - first_[matrix]); }
    // The matrix's first row among such rows.
    char *rows_at(char *rows, int32_t matrix, const product &p) const {
        return rows + static_cast<size_t>(row_[matrix]) * p.row_bytes();
    }

    void sort() {
        const auto group = static_cast<int32_t>(group_);
        std::fill_n(first_, matrices_ + 1, 0);
        for (int64_t i = 0; i < pairs(); ++i) ++first_[matrix_of_pair(i) + 1];
        touched_count_ = piece_count_ = 0;
        int32_t row = 0;
        for (int32_t e = 0; e < matrices_; ++e) {
            const int32_t rows = first_[e + 1];
            if (rows > 0) touched_[touched_count_++] = e;
            row_[e] = row;
            row += (rows + group - 1) / group * group;
            for (int32_t r = 0; r < rows; r += piece_rows)
                pieces_[piece_count_++] = {e, r, std::min(r + piece_rows, rows)};
            first_[e + 1] += first_[e];
        }
        for (int64_t i = 0; i < pairs(); ++i) {
            index_[i] = first_[matrix_of_pair(i)]++;
            pair_[index_[i]] = static_cast<int32_t>(i);
        }
        // each start has advanced to the next one's
        std::copy_backward(first_, first_ + matrices_, first_ + matrices_ + 1);
        first_[0] = 0;
    }

    // Some rows of a matrix, counted from its first; their quantized rows are made by one thread.
    struct piece {
        int32_t matrix, begin, end;
    };
    static constexpr int32_t piece_rows = most_group;

    // f(piece, worker) for all of them.
    template <class F> void share_pieces(cpu &c, int64_t nanoseconds, const F &f) const {
        share_range(c, piece_count_, nanoseconds, [&](size_t begin, size_t end, unsigned worker) {
            for (size_t i = begin; i < end; ++i) f(pieces_[i], worker);
        });
    }
    // f(matrix, first weight, weights, worker) for every panel of the touched matrices' `weights` rows of k.
    template <class F> void share_panels(cpu &c, size_t weights, size_t k, const F &f) const {
        const size_t panel = product_panel(touched_count_, weights, c.pool.size()),
                     panels = ceil_div(weights, panel), tasks = touched_count_ * panels;
        const auto task = [&](size_t i, unsigned worker) {
            const size_t w0 = i % panels * panel;
            f(touched_[i / panels], w0, std::min(panel, weights - w0), worker);
        };
        if (pairs() * static_cast<int64_t>(weights * k) / 200 >= worth_sharing)
            return c.pool.run(tasks, task);
        for (size_t i = 0; i < tasks; ++i) task(i, 0);
    }
    // f(matrix, worker) for every touched matrix, of so many elements.
    template <class F> void share_matrices(cpu &c, size_t matrix, const F &f) const {
        const auto task = [&](size_t i, unsigned worker) { f(touched_[i], worker); };
        if (pairs() * static_cast<int64_t>(matrix) / 16 >= worth_sharing)
            return c.pool.run(touched_count_, task);
        for (size_t i = 0; i < touched_count_; ++i) task(i, 0);
    }
    // Copies the piece's quantized rows to their places in `rows`, packed if many's are. `per` consecutive
    // pairs have one row of `from`.
    void lay_out(const piece &b, const product &p, const char *from, int64_t per, char *rows) const {
        const int32_t *const pair = pair_ + first_[b.matrix];
        const size_t bytes = p.row_bytes(), count = static_cast<size_t>(b.end - b.begin);
        const char *row[piece_rows];
        for (int32_t r = b.begin; r < b.end; ++r)
            row[r - b.begin] = from + static_cast<size_t>(pair[r] / per) * bytes;
        char *const to = rows_at(rows, b.matrix, p) + static_cast<size_t>(b.begin) * bytes;
        if (p.group(p.few(rows_of(b.matrix))) > 1) return p.pack(row, count, to);
        for (size_t r = 0; r < count; ++r) std::memcpy(to + r * bytes, row[r], bytes);
    }

private:
    int32_t matrix_of_pair(int64_t pair) const {
        return static_cast<int32_t>(routed_to(route_, pair / ranks(), pair % ranks()));
    }
    const tensor &route_;
    int64_t matrices_;
    size_t group_, touched_count_ = 0, piece_count_ = 0;
    int32_t *index_;    // [pairs], by number
    int32_t *pair_;     // [pairs], by index
    int32_t *first_;    // [matrices + 1], each matrix's first index
    int32_t *row_;      // [matrices], each matrix's first quantized row
    int32_t *touched_;  // [matrices], those that have pairs
    piece *pieces_;     // [pairs]
};

}  // namespace ds
