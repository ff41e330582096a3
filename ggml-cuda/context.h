// How an operation runs on a device: an ordered list of variants, of which the first that fits runs unless
// another one is forced by name. What is supported, dispatched and tested is this one list. The files
// run_<group>.cpp, beside their kernels, define <op>_variants for every operation with `yes` in the cuda
// column of ops.def. Nothing here needs CUDA's headers, so tests run all of it with kernels on the host.
#pragma once

#include "small.h"

#include "../tensor/backend.h"

#include <algorithm>
#include <functional>

namespace ds::cuda {

// A matrix product by a library: y[n, m] = or += x w^T, both of one float format, summed in f32.
struct library_product {
    format type;
    const void *x;  // [n, k]
    int64_t x_stride;
    const void *w;  // [m, k]
    int64_t w_stride;
    float *y;
    int64_t y_stride;
    int32_t n, m, k;
    bool add;
};

struct variant;

struct context {
    device_facts facts{};
    stream queue = nullptr;
    void *library = nullptr;
    // null: no library
    int (*multiply)(void *library, const library_product &, void *scratch) = nullptr;
    // The same for I8 weights, all three or none (lt_fits, lt_bytes and lt_products in launch.h).
    bool (*integers_fit)(const products_params &) = nullptr;
    size_t (*integers_bytes)(int64_t n, int64_t m) = nullptr;
    int (*multiply_integers)(void *library, const products_params &, void *scratch, stream) = nullptr;
    const char *(*error_text)(int code) = nullptr;
    const variant *forced[static_cast<size_t>(op::count)] = {};
};

struct variant {
    const char *name;
    bool (*fits)(const context &, const node &);
    size_t (*work_bytes)(const context &, const node &);     // null: no scratch. Grows with every dimension
    void (*run)(const context &, const node &, char *work);  // queues; throws status::device
};
using variants = std::span<const variant>;

variants variants_of(op k);                                    // empty: it does not run
const variant *choose_variant(const context &, const node &);  // null: none fits
// The most scratch of the variants that may run for this node and for smaller ones: the forced one, and the
// first that fits, whose scratch is at least that of the first that fits a smaller node.
size_t most_work_bytes(const context &, const node &);
// Throws status::argument, listing the known names.
void force_variant(context &, const std::string &op_name, const std::string &variant_name);
void run_nodes(const context &, const graph &, void *work);

// A step of many rows takes long, so it is queued in pieces of about a layer. After each piece go_on() says
// whether to go on; run_pieces returns false when it did not.
constexpr size_t piece_nodes = 12;
bool takes_long(const graph &);
bool run_pieces(const context &, const graph &, void *work, const std::function<bool()> &go_on);

// Throws for the error code of a launch.
void check_launch(const context &, int code, const node &);

// ---- For run_*.cpp

constexpr size_t align256(size_t n) { return (n + 255) / 256 * 256; }
inline int32_t dim(const tensor &t, int i) { return static_cast<int32_t>(t.ne[i]); }
inline const float *floats_of(const tensor *t) { return t ? f32_at(*t, 0) : nullptr; }
inline bool is_float(format f) { return f == format::f32 || f == format::f16 || f == format::bf16; }
inline bool rows_contiguous(const tensor &t) { return t.stride[t.rank - 1] == 1; }
inline bool always(const context &, const node &) { return true; }

}  // namespace ds::cuda
