// attention_back: gradients of attention, by rows. A sequence's rows are all of its positions in order, so
// that a key's row is known and every row's gradients are complete. A result's row holds the gradients of the
// row's query heads, then of their rotated parts if pages hold latents, then of the row's keys, then of its
// values; of latents, those of the latent, which is key and value, and of the keys' rotated part. With s_t
// the score of a key and w its row's softmax, dp_t = dy . v_t, ds_t = w_t (dp_t - sum(w dp)) scale: dq = sum
// of ds_t k_t; dk_t = sum of ds_t q, and dv_t = sum of w_t dy, over the query heads of a key head in order,
// and for each over the rows in order. Quantized keys and values are taken as they are stored.
#include "../backward.h"

#include <limits>

namespace ds {

attention_back_sizes::attention_back_sizes(const node &n)
    : heads(n.src[1]->ne[1]), kv_heads(n.as<attention_params>().kv.kv_heads),
      value(n.as<attention_params>().kv.head_size), rope(n.as<attention_params>().kv.rope_size),
      key(value + rope) {}

void attention_grad(backward &b, const node &n, const tensor *dy) {
    const tensor &q = *n.src[0], *const r = n.src[5];
    const tensor *const y =
        b.g.add(op::attention_back,
                {dy, b.value(&q), b.exact(n.src[1]), n.src[2], n.src[3], n.src[4], r ? b.value(r) : nullptr},
                n.as<attention_params>());
    int64_t first = 0;
    for (const tensor *const t : {&q, r}) {
        if (!t) continue;
        const int64_t width = t->ne[1] * t->ne[2];
        b.give(t, b.g.reshape(b.g.slice(y, first, width), {t->ne[0], t->ne[1], t->ne[2]}));
        first += width;
    }
    b.give(n.src[1], b.g.slice(y, first, y->ne[1] - first));
}

void attention_back_shape(node &n) {
    const tensor &dy = *n.src[0], &q = *n.src[1], &pages = *n.src[2], *const r = n.src[6];
    const kv_layout &l = n.as<attention_params>().kv;
    expect(fits_pages(l, pages), n, "needs pages of i8 that hold the layer");
    expect(q.rank == 3 && q.type == format::f32 && q.ne[2] == l.head_size && q.ne[1] % l.kv_heads == 0 &&
               dy.type == format::f32 && same_shape(dy, q),
           n, "needs dy[n,h,d] and q[n,h,d] of f32");
    expect(l.rope_size ? r && r->rank == 3 && r->type == format::f32 && r->ne[0] == q.ne[0] &&
                             r->ne[1] == q.ne[1] && r->ne[2] == l.rope_size
                       : !r,
           n, "needs q_rope[n,h,r] of f32 with latent pages, and with no others");
    expect(n.src[3]->rank == 2 && n.src[3]->type == format::i32, n, "needs tables[s,p] of i32");
    expect(is_list(n.src[4], q.ne[0]) && is_list(n.src[5], q.ne[0]), n,
           "needs sequence[n] and position[n] of i32");
    set_out(n, format::f32, {{q.ne[0], attention_back_sizes(n).width()}});
}

void read_page_vectors(const node &n, int64_t i, int64_t head, int64_t t, float *key, float *value) {
    const kv_layout &l = n.as<attention_params>().kv;
    const char *const page = at(*n.src[2], *i32_at(*n.src[3], *i32_at(*n.src[4], i), t / page_positions));
    const int64_t in = t % page_positions, d = l.head_size, r = l.rope_size;
    const auto element = [&](int64_t offset, int64_t e) {
        float x;
        decode_row(l.type, page + offset + row_bytes(l.type, static_cast<uint64_t>(e)), &x, 1);
        return x;
    };
    if (l.type == format::i8) {
        const auto integers = [&](int64_t offset, int64_t width, int64_t first, int64_t step, float scale,
                                  float *to) {
            for (int64_t e = 0; e < width; ++e)
                to[e] = static_cast<float>(static_cast<int8_t>(page[offset + first + e * step])) * scale;
        };
        const auto scale = [&](int64_t offset, int64_t elements, int64_t e) {
            float x;
            std::memcpy(&x, page + offset + elements + e * static_cast<int64_t>(sizeof(float)), sizeof x);
            return x;
        };
        const auto all = static_cast<int64_t>(l.elements());
        integers(l.k_offset, d, (head * page_positions + in) * d, 1,
                 scale(l.k_offset, all, head * page_positions + in), key);
        inverse_hadamard(key, static_cast<int32_t>(d));
        if (r) {
            integers(l.v_offset, r, in * r, 1, scale(l.v_offset, r * page_positions, in), key + d);
            inverse_hadamard(key + d, static_cast<int32_t>(r));
            std::copy_n(key, d, value);
        } else
            integers(l.v_offset, d, head * d * page_positions + in, page_positions,
                     scale(l.v_offset, all, head * page_positions + in), value);
    } else if (r) {
        for (int64_t e = 0; e < d + r; ++e) key[e] = element(l.k_offset, in * (d + r) + e);
        std::copy_n(key, d, value);
    } else
        for (int64_t e = 0; e < d; ++e) {
            key[e] = element(l.k_offset, (head * d + e) * page_positions + in);
            value[e] = element(l.v_offset, (head * page_positions + in) * d + e);
        }
}

namespace {
// One query head's pass over a sequence's rows.
struct head_pass {
    const node &n;
    const attention_back_sizes s;
    int64_t begin, end, head;
    std::vector<std::vector<float>> key, value, dk, dv;

    head_pass(const node &of, int64_t b, int64_t e)
        : n(of), s(of), begin(b), end(e), head(0), key(static_cast<size_t>(e - b)), value(key), dk(key),
          dv(key) {}

    void take(int64_t key_head) {
        for (int64_t t = 0; t < end - begin; ++t) {
            const auto i = static_cast<size_t>(t);
            key[i].resize(static_cast<size_t>(s.key));
            value[i].resize(static_cast<size_t>(s.value));
            read_page_vectors(n, begin, key_head, t, key[i].data(), value[i].data());
            dk[i].assign(static_cast<size_t>(s.key), 0.0f);
            dv[i].assign(static_cast<size_t>(s.value), 0.0f);
        }
    }

    static float product(const std::vector<float> &a, const std::vector<float> &b) {
        float sum = 0.0f;
        for (size_t d = 0; d < a.size(); ++d) sum = fma_f32(a[d], b[d], sum);
        return sum;
    }
    static float in_lanes(const std::vector<float> &a, const std::vector<float> *b) {
        float lane[dot_lanes] = {};
        for (size_t t = 0; t < a.size(); ++t) {
            float &l = lane[t % dot_lanes];
            l = b ? fma_f32(a[t], (*b)[t], l) : l + a[t];
        }
        return fold_lanes<dot_lanes>(lane);
    }

    void row(int64_t i) {
        const float scale = n.as<attention_params>().scale;
        std::vector<float> q, rope, dy, w, dp;
        read_row(*n.src[1], i, head, 0, q);
        if (s.rope) {
            read_row(*n.src[6], i, head, 0, rope);
            q.insert(q.end(), rope.begin(), rope.end());
        }
        read_row(*n.src[0], i, head, 0, dy);
        const auto seen = static_cast<size_t>(i - begin + 1);
        float max = -std::numeric_limits<float>::infinity();
        for (size_t t = 0; t < seen; ++t) {
            w.push_back(product(q, key[t]) * attention_scale(scale));
            dp.push_back(product(dy, value[t]));
            max = attention_max(max, w[t]);
        }
        for (float &x : w) x = exp2_f32(x - max);
        const float sum = in_lanes(w, nullptr);
        for (float &x : w) x = x / sum;
        const float mean = in_lanes(w, &dp);
        std::vector<float> dq(q.size(), 0.0f);
        for (size_t t = 0; t < seen; ++t) {
            const float ds = (w[t] * (dp[t] - mean)) * scale;
            for (size_t d = 0; d < q.size(); ++d) {
                dq[d] = fma_f32(ds, key[t][d], dq[d]);
                dk[t][d] = fma_f32(ds, q[d], dk[t][d]);
            }
            for (size_t d = 0; d < dy.size(); ++d) dv[t][d] = fma_f32(w[t], dy[d], dv[t][d]);
        }
        std::copy_n(dq.begin(), s.value, f32_at(n.out, i, head * s.value));
        std::copy_n(dq.begin() + s.value, s.rope, f32_at(n.out, i, s.heads * s.value + head * s.rope));
    }

    void give(int64_t key_head) const {
        for (int64_t t = 0; t < end - begin; ++t) {
            const auto &k = dk[static_cast<size_t>(t)], &v = dv[static_cast<size_t>(t)];
            float *const keys = f32_at(n.out, begin + t, s.keys_at());
            if (s.rope) {
                for (size_t d = 0; d < k.size(); ++d) keys[d] = d < v.size() ? k[d] + v[d] : k[d];
                continue;
            }
            std::copy(k.begin(), k.end(), keys + key_head * s.key);
            std::copy(v.begin(), v.end(), keys + s.kv_heads * s.key + key_head * s.value);
        }
    }
};
}  // namespace

int64_t sequence_end(const tensor &sequence, int64_t begin) {
    int64_t end = begin + 1;
    while (end < sequence.ne[0] && *i32_at(sequence, end) == *i32_at(sequence, begin)) ++end;
    return end;
}

void attention_back_forward(const node &n) {
    for (int64_t begin = 0, end; begin < n.out.ne[0]; begin = end) {
        end = sequence_end(*n.src[4], begin);
        head_pass p(n, begin, end);
        for (int64_t g = 0; g < p.s.kv_heads; ++g) {
            p.take(g);
            const int64_t group = p.s.heads / p.s.kv_heads;
            for (p.head = g * group; p.head < (g + 1) * group; ++p.head)
                for (int64_t i = begin; i < end; ++i) p.row(i);
            p.give(g);
        }
    }
}

}  // namespace ds
