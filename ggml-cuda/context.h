// How an operation runs on a device: an ordered list of variants, the first of which that fits is taken
// unless another one is forced by name. What is supported, dispatched and tested is this one list.
// run_<group>.cpp define <op>_variants for every operation that ops.def's column says yes to. Nothing here
// needs CUDA's headers, so that tests can run all of it with kernels on the host.
#pragma once

#include "small.h"

#include "../tensor/backend.h"

#include <algorithm>
#include <functional>

namespace ds::cuda {

// y[n, m] = or += x w^T, both of one float format, summed in f32: what a library of matrix products does for
// us.
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
    // null: there is none
    int (*multiply)(void *library, const library_product &, void *scratch) = nullptr;
    // The same for I8 weights, all three or none (launch.h, lt_…).
    bool (*integers_fit)(const products_params &) = nullptr;
    size_t (*integers_bytes)(int64_t n, int64_t m) = nullptr;
    int (*multiply_integers)(void *library, const products_params &, void *scratch, stream) = nullptr;
    const char *(*error_text)(int code) = nullptr;
    const variant *forced[static_cast<size_t>(op::count)] = {};
};

struct variant {
    const char *name;
    bool (*fits)(const context &, const node &);
    size_t (*work_bytes)(const context &, const node &);     // null: none. Grows with every dimension
    void (*run)(const context &, const node &, char *work);  // queues; throws status::device
};
using variants = std::span<const variant>;

variants variants_of(op k);                                    // none: it does not run
const variant *choose_variant(const context &, const node &);  // null: none fits
// The most that the variants take which may be chosen: the forced one, and the first that fits, which then
// fits smaller shapes, too.
size_t most_work_bytes(const context &, const node &);
// throws status::argument, naming those known
void force_variant(context &, const std::string &op_name, const std::string &variant_name);
void run_nodes(const context &, const graph &, void *work);

// A step of many rows takes long: it is queued in pieces of about a layer. After each of them go_on() says
// whether the next one is wanted; false when it was not.
constexpr size_t piece_nodes = 12;
bool takes_long(const graph &);
bool run_pieces(const context &, const graph &, void *work, const std::function<bool()> &go_on);

// For the code of a launch.
void check_launch(const context &, int code, const node &);

// ---- For run_….cpp

constexpr size_t align256(size_t n) { return (n + 255) / 256 * 256; }
inline int32_t dim(const tensor &t, int i) { return static_cast<int32_t>(t.ne[i]); }
inline const float *floats_of(const tensor *t) { return t ? f32_at(*t, 0) : nullptr; }
inline bool is_float(format f) { return f == format::f32 || f == format::f16 || f == format::bf16; }
inline bool rows_contiguous(const tensor &t) { return t.stride[t.rank - 1] == 1; }
inline bool always(const context &, const node &) { return true; }

}  // namespace ds::cuda
