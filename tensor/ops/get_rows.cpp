// get_rows: rows of a table by index, decoded to f32. Indices are checked where they enter the library, not
// here.
#include "../op.h"

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

}  // namespace ds
