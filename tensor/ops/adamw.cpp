// adamw: a step of AdamW on a weight, in place, element by element (numerics.h, adamw_step). square_sum: sums
// of squares over stretches of fixed length, for a norm that does not depend on how the work is divided.
#include "../op.h"

namespace ds {

tensor *square_sum(graph &g, const tensor *x) { return g.add(op::square_sum, {x}, no_params{}); }

tensor *adamw(graph &g, const adamw_sources &s, const adamw_params &p) {
    return g.add(op::adamw, {s.w, s.g, s.m, s.v, s.low, s.m_scale, s.v_scale}, p);
}

void square_sum_shape(node &n) {
    const tensor &x = *n.src[0];
    expect(x.type == format::f32 && contiguous(x), n, "needs contiguous x of f32");
    set_out(n, format::f32, {{(elements(x) + square_sum_stretch - 1) / square_sum_stretch}});
}

void square_sum_forward(const node &n) {
    const float *const x = f32_at(*n.src[0], 0);
    const int64_t all = elements(*n.src[0]);
    for (int64_t i = 0; i < n.out.ne[0]; ++i) {
        const int64_t first = i * square_sum_stretch;
        *f32_at(n.out, i) = dot_in_lanes<sum_lanes>(
            x + first, x + first, static_cast<size_t>(std::min(square_sum_stretch, all - first)));
    }
}

void adamw_shape(node &n) {
    const tensor &w = *n.src[0];
    const int64_t all = elements(w);
    const bool bytes = n.src[5];
    const auto holds = [&](const tensor *t, format type, int64_t count) {
        return t && t->type == type && contiguous(*t) && elements(*t) == count;
    };
    expect(w.type == format::bf16 ? holds(&w, w.type, all) && holds(n.src[4], format::i8, 2 * all)
                                  : holds(&w, format::f32, all) && !n.src[4],
           n, "needs contiguous w of f32, or of bf16 with its lower bits");
    expect(holds(n.src[1], format::f32, all), n, "needs a gradient of f32 as large as w");
    for (int i = 2; i < 4; ++i)
        expect(holds(n.src[i], bytes ? format::i8 : format::f32, all), n, "needs m and v as large as w");
    for (int i = 5; i < 7; ++i)
        expect(bytes ? holds(n.src[i], format::f32, (all + state_block - 1) / state_block) : !n.src[i], n,
               "needs a scale of f32 for each 256 bytes of m and v");
    set_out_in_place(n, w);
}

// The state of elements [first, first + count), at most a block, into arrays of floats, and back.
void read_adamw_states(const node &n, int64_t first, int64_t count, float *w, float *m, float *v) {
    const tensor &wt = *n.src[0];
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = first + i;
        if (wt.type == format::f32) w[i] = static_cast<const float *>(wt.data)[at];
        else
            w[i] = joined({static_cast<const uint16_t *>(wt.data)[at],
                           static_cast<const uint16_t *>(n.src[4]->data)[at]});
        if (!n.src[5]) {
            m[i] = static_cast<const float *>(n.src[2]->data)[at];
            v[i] = static_cast<const float *>(n.src[3]->data)[at];
            continue;
        }
        const float ms = *f32_at(*n.src[5], first / state_block),
                    vs = *f32_at(*n.src[6], first / state_block),
                    root = v_value(static_cast<const uint8_t *>(n.src[3]->data)[at]) * vs;
        m[i] = m_value(static_cast<const uint8_t *>(n.src[2]->data)[at]) * ms;
        v[i] = root * root;
    }
}

void write_adamw_states(const node &n, int64_t first, int64_t count, const float *w, const float *m,
                        float *v) {
    const tensor &wt = *n.src[0];
    float most_m = 0.0f, most_v = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = first + i;
        if (wt.type == format::f32) static_cast<float *>(wt.data)[at] = w[i];
        else {
            const split_float s = split(w[i]);
            static_cast<uint16_t *>(wt.data)[at] = s.high;
            static_cast<uint16_t *>(n.src[4]->data)[at] = s.low;
        }
        if (!n.src[5]) {
            static_cast<float *>(n.src[2]->data)[at] = m[i];
            static_cast<float *>(n.src[3]->data)[at] = v[i];
            continue;
        }
        v[i] = __builtin_sqrtf(v[i]);
        most_m = std::max(most_m, m[i] < 0 ? -m[i] : m[i]);
        most_v = std::max(most_v, v[i]);
    }
    if (!n.src[5]) return;
    *f32_at(*n.src[5], first / state_block) = most_m;
    *f32_at(*n.src[6], first / state_block) = most_v;
    // Below the normal range a quotient could exceed 1: nothing that small moves a weight.
    const float m_inverse = most_m < 1e-30f ? 0.0f : 1.0f / most_m,
                v_inverse = most_v < 1e-30f ? 0.0f : 1.0f / most_v;
    for (int64_t i = 0; i < count; ++i) {
        static_cast<uint8_t *>(n.src[2]->data)[first + i] = m_code(std::clamp(m[i] * m_inverse, -1.0f, 1.0f));
        static_cast<uint8_t *>(n.src[3]->data)[first + i] = v_code(std::min(v[i] * v_inverse, 1.0f));
    }
}

void adamw_forward(const node &n) {
    const int64_t all = elements(*n.src[0]);
    float w[state_block], m[state_block], v[state_block];
    for (int64_t first = 0; first < all; first += state_block) {
        const int64_t count = std::min(state_block, all - first);
        read_adamw_states(n, first, count, w, m, v);
        for (int64_t i = 0; i < count; ++i) {
            const adamw_state s =
                adamw_step({w[i], m[i], v[i]}, static_cast<const float *>(n.src[1]->data)[first + i],
                           n.as<adamw_params>());
            w[i] = s.w, m[i] = s.m, v[i] = s.v;
        }
        write_adamw_states(n, first, count, w, m, v);
    }
}

}  // namespace ds
