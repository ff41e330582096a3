// The exponentials of numerics.h on vectors, term by term. `clamped` treats NaN differently on different
// processors; keep_nan restores it.

DS_INLINE v16 exp2_poly(v16 f) {
    v16 p = 1.5252734e-05f;
    p = fma_f32(p, f, 1.5403530e-04f);
    p = fma_f32(p, f, 1.3333558e-03f);
    p = fma_f32(p, f, 9.6181291e-03f);
    p = fma_f32(p, f, 5.5504109e-02f);
    p = fma_f32(p, f, 2.4022651e-01f);
    p = fma_f32(p, f, 6.9314718e-01f);
    return fma_f32(p, f, 1.0f);
}
DS_INLINE v16 exp2_f32(v16 x) {
    const v16 c = clamped(x, -152.0f, 130.0f), n = rounded(c);
    return keep_nan(scaled_exp2(exp2_poly(c - n), n), x);
}
DS_INLINE v16 exp_f32(v16 x) {
    const v16 c = clamped(x, -105.0f, 90.0f), n = rounded(c * log2e_high);
    const v16 f = fma_f32(c, log2e_low, fma_f32(c, log2e_high, -n));
    return keep_nan(scaled_exp2(exp2_poly(f), n), x);
}
