// Attention over pages of i8 for any head size: one warp per query head, position by position. Its sums are
// the integers of numerics.h, so it gives the same bits as integers.cu.
#include "warp.cuh"

namespace ds::cuda {

namespace {

// Offsets in shared memory.
struct plain_memory {
    int32_t q, rope, transformed, total, weights, bytes;
};
DS_HD plain_memory plain_memory_of(int32_t size, int32_t rope) {
    plain_memory m = {};
    m.q = take_bytes(m.bytes, 4 * size);
    m.rope = take_bytes(m.bytes, 4 * rope);
    m.transformed = take_bytes(m.bytes, 4 * (size > rope ? size : rope));
    m.total = take_bytes(m.bytes, 8 * size);
    m.weights = take_bytes(m.bytes, 4 * page_length);
    return m;
}

struct plain_page {
    const int8_t *k, *v, *rope;
    const float *k_scale, *v_scale, *rope_scale;
    int32_t d_step, t_step;  // from one element of a value to the next, from one position to the next
};

struct plain_row {
    const attention_launch_params &a;
    const kv_layout &l;
    int32_t *q, *rope;
    float factor, rope_factor;
    int32_t row, head, count;

    __device__ plain_page page_at(int32_t page) const {
        const int32_t kv_head = head / (a.heads / l.kv_heads);
        const char *const at =
            a.pages +
            static_cast<int64_t>(a.tables[static_cast<int64_t>(a.sequence[row]) * a.table_stride + page]) *
                a.page_bytes;
        const int64_t elements = static_cast<int64_t>(l.kv_heads) * l.head_size * page_length,
                      part = static_cast<int64_t>(kv_head) * l.head_size * page_length;
        const char *const k = at + l.k_offset, *const v = at + l.v_offset;
        const float *const k_scale = reinterpret_cast<const float *>(k + elements) + kv_head * page_length;
        const auto bytes = [](const char *p) { return reinterpret_cast<const int8_t *>(p); };
        if (l.rope_size)
            return {bytes(k), bytes(k),   bytes(v),
                    k_scale,  k_scale,    reinterpret_cast<const float *>(v + l.rope_size * page_length),
                    1,        l.head_size};
        return {bytes(k + part),
                bytes(v + part),
                nullptr,
                k_scale,
                reinterpret_cast<const float *>(v + elements) + kv_head * page_length,
                nullptr,
                page_length,
                1};
    }
    __device__ float score(const plain_page &p, int32_t t) const {
        int32_t sum = 0;
        for (int32_t d = 0; d < l.head_size; ++d) sum += q[d] * p.k[t * l.head_size + d];
        float s = i8_score(sum, p.k_scale[t], factor);
        if (!l.rope_size) return s;
        sum = 0;
        for (int32_t d = 0; d < l.rope_size; ++d) sum += rope[d] * p.rope[t * l.rope_size + d];
        return s + i8_score(sum, p.rope_scale[t], rope_factor);
    }
};

template <class T> __device__ T larger_of_warp(T x) {
    for (int s = warp_lanes / 2; s > 0; s /= 2) {
        const T other = __shfl_xor_sync(all_lanes, x, s);
        x = other > x ? other : x;
    }
    return x;
}

__global__ void plain_attention_kernel(attention_launch_params a) {
    wait_for_prior_kernels();
    DS_SHARED(memory);
    const plain_memory m = plain_memory_of(a.p.kv.head_size, a.p.kv.rope_size);
    const int32_t row = static_cast<int32_t>(blockIdx.x), head = static_cast<int32_t>(blockIdx.y),
                  lane = lane_number(), size = a.p.kv.head_size;
    float *const transformed = reinterpret_cast<float *>(memory + m.transformed);
    int64_t *const total = reinterpret_cast<int64_t *>(memory + m.total);
    int32_t *const weights = reinterpret_cast<int32_t *>(memory + m.weights);
    plain_row r = {a,
                   a.p.kv,
                   reinterpret_cast<int32_t *>(memory + m.q),
                   reinterpret_cast<int32_t *>(memory + m.rope),
                   0,
                   0,
                   row,
                   head,
                   a.position[row] + 1};
    const auto query = [&](const float *x, int32_t n, int32_t *to) {
        return quantize_query(x, transformed, n, a.p.scale, [&](int32_t c, int32_t q) { to[c] = q; });
    };
    r.factor = query(a.q + row * a.q_stride + head * a.q_head_stride, size, r.q);
    if (a.p.kv.rope_size)
        r.rope_factor =
            query(a.q_rope + row * a.rope_stride + head * a.rope_head_stride, a.p.kv.rope_size, r.rope);
    uint32_t code = 0, largest = 0;
    for (int32_t t = lane; t < r.count; t += warp_lanes) {
        const plain_page p = r.page_at(t / page_length);
        const uint32_t c = code_of(r.score(p, t % page_length)),
                       s = bits_of(p.v_scale[t % page_length]) & 0x7fffffffu;
        code = c > code ? c : code;
        largest = s > largest ? s : largest;
    }
    const row_maxima at = maxima_of(larger_of_warp(code), larger_of_warp(largest));
    for (int32_t d = lane; d < size; d += warp_lanes) total[d] = 0;
    int64_t share = 0;
    for (int32_t done = 0; at.finite && done < r.count; done += page_length) {
        const plain_page p = r.page_at(done / page_length);
        const int32_t seen = r.count - done < page_length ? r.count - done : page_length;
        float w[page_length / warp_lanes], most = 0.0f;
        for (int i = 0; i < page_length / warp_lanes; ++i) {
            const int32_t t = lane + i * warp_lanes;
            w[i] = 0.0f;
            if (t >= seen) continue;
            const float part = exp2_f32(r.score(p, t) - at.max);
            share += attention_share(part);
            w[i] = part * p.v_scale[t];
            most = w[i] > most ? w[i] : most;
        }
        most = larger_of_warp(most);
        if (most == 0.0f) continue;
        const int32_t e = page_exponent(most);
        for (int i = 0; i < page_length / warp_lanes; ++i)
            weights[lane + i * warp_lanes] = page_weight(w[i], e);
        __syncwarp();
        for (int32_t d = lane; d < size; d += warp_lanes) {
            int32_t sum = 0;
            for (int32_t t = 0; t < seen; ++t) sum += weights[t] * p.v[d * p.d_step + t * p.t_step];
            total[d] += page_total(sum, at.e0 - e);
        }
        __syncwarp();
    }
    for (int s = warp_lanes / 2; s > 0; s /= 2) share += __shfl_xor_sync(all_lanes, share, s);
    float *const y = a.y + row * a.y_stride + head * a.y_head_stride;
    for (int32_t d = lane; d < size; d += warp_lanes)
        (a.p.kv.rope_size ? transformed : y)[d] = output_of(total[d], at.e0, share, at.finite);
    __syncwarp();
    if (a.p.kv.rope_size) store_inverse_hadamard(transformed, size, y);
}

}  // namespace

int launch_plain_attention(const attention_launch_params &a, stream s) {
    return DS_LAUNCH(plain_attention_kernel, dim3(static_cast<unsigned>(a.n), static_cast<unsigned>(a.heads)),
                     dim3(warp_lanes),
                     static_cast<size_t>(plain_memory_of(a.p.kv.head_size, a.p.kv.rope_size).bytes), s, a);
}

}  // namespace ds::cuda
