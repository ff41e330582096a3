// The elementwise functions of tensor/unary.def on vectors.

#define DS_UNARY(name, formula, derivative)                                                                  \
    DS_INLINE v16 unary_##name(v16 x) { return formula; }
DS_INLINE v16 sigmoid_f32(v16 x) { return v16(1.0f) / (v16(1.0f) + exp_f32(-x)); }
#include "../../tensor/unary.def"
#undef DS_UNARY

DS_INLINE v16 unary_of(unary f, v16 x) {
    switch (f) {
#define DS_UNARY(name, formula, derivative)                                                                  \
    case unary::name:                                                                                        \
        return unary_##name(x);
#include "../../tensor/unary.def"
#undef DS_UNARY
    }
    return x;
}

#define DS_UNARY(name, formula, derivative)                                                                  \
    DS_INLINE v16 slope_##name(v16 x) { return derivative; }
#include "../../tensor/unary.def"
#undef DS_UNARY

DS_INLINE v16 slope_of(unary f, v16 x) {
    switch (f) {
#define DS_UNARY(name, formula, derivative)                                                                  \
    case unary::name:                                                                                        \
        return slope_##name(x);
#include "../../tensor/unary.def"
#undef DS_UNARY
    }
    return x;
}
