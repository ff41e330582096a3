// What makers of cases share: parameters, and products in float64 with a bound of their rounding.
#pragma once

#include "op_cases.h"

namespace ds::test {

template <class P> raw_params raw(const P &p) {
    raw_params r;
    std::memcpy(r.bytes, &p, sizeof p);
    return r;
}

// The functions of unary.def in float64.
double exact(unary f, double x);

// [n, 2, used]: indices of matrices, none twice in a row, then weights.
array make_route(numbers &r, int64_t n, int64_t matrices, int64_t used);

op_case start(op kind, std::vector<array> src, fill f = fill::plain);

// What a gradient's factor is rounded to where its product is of matrices in this format: to nearest even;
// of bf16, nothing below 2^-56 is left.
double rounded_to(format type, double x);

// A value in float64, and how far off it may be.
struct bounded {
    double y, off;
};
bool is_quantized(format type);  // products with these weights quantize the activations
std::vector<bounded> row_of(const array &x, int64_t row, int64_t k);
// x times a row of w.
bounded product(const std::vector<bounded> &x, const array &w, int64_t row, bool quantized);

}  // namespace ds::test
