// get_rows: rows of a table by index, decoded to f32. Indices are checked where they enter the library, not
// here.
#include "../backward.h"

namespace ds {

tensor *get_rows(graph &g, const tensor *table, const tensor *ids) {
    return g.add(op::get_rows, {table, ids}, no_params{});
}

void get_rows_shape(node &n) {
    const tensor &table = *n.src[0], &ids = *n.src[1];
    expect(table.rank == 2 && info(table.type).runs && is_list(&ids, ids.ne[0]), n,
           "needs table[v,d] and ids[n] of i32");
    expect((table.type == format::i8) == (table.scale != nullptr), n,
           "needs a scale with an i8 table, and with no other");
    set_out(n, format::f32, {{ids.ne[0], table.ne[1]}});
}

void get_rows_forward(const node &n) {
    std::vector<float> row;
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        read_row(*n.src[0], *i32_at(*n.src[1], i), 0, 0, row);
        std::memcpy(f32_at(n.out, i), row.data(), row.size() * sizeof(float));
    }
}

// ---- get_rows_back: y = ( sum, in place, or 0 ) with dy's rows added at their indices, in order

void get_rows_grad(backward &b, const node &n, const tensor *dy) {
    const get_rows_back_params p{n.src[0]->ne[0]};
    if (const tensor *const sum = b.sum_of(n.src[0])) b.g.add(op::get_rows_back, {dy, n.src[1], sum}, p);
    else b.give(n.src[0], b.g.add(op::get_rows_back, {dy, n.src[1], nullptr}, p));
}

void get_rows_back_shape(node &n) {
    const tensor &dy = *n.src[0], *const sum = n.src[2];
    const int64_t rows = n.as<get_rows_back_params>().rows;
    expect(dy.rank == 2 && dy.type == format::f32 && is_list(n.src[1], dy.ne[0]) && rows >= 1, n,
           "needs dy[n,d] of f32, ids[n] of i32, and rows");
    expect(!sum ||
               (sum->rank == 2 && sum->type == format::f32 && sum->ne[0] == rows && sum->ne[1] == dy.ne[1]),
           n, "needs sum[v,d] of f32");
    if (sum) set_out_in_place(n, *sum);
    else set_out(n, format::f32, {{rows, dy.ne[1]}});
}

void get_rows_back_forward(const node &n) {
    const tensor &dy = *n.src[0];
    if (!n.src[2])
        for (int64_t i = 0; i < n.out.ne[0]; ++i) std::fill_n(f32_at(n.out, i), n.out.ne[1], 0.0f);
    for (int64_t i = 0; i < dy.ne[0]; ++i)
        for (int64_t j = 0; j < dy.ne[1]; ++j) {
            float &y = *f32_at(n.out, *i32_at(*n.src[1], i), j);
            y = y + *f32_at(dy, i, j);
        }
}

}  // namespace ds
