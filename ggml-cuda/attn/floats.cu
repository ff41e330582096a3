// Attention over pages of f16 and f32, with the sums of numerics.h; a row whose pages make one part has the
// CPU's bits. A block takes one row of the batch and up to 8 query heads of one key head, so that a page is
// read once for all of them. A thread computes the score of one position and head in the order of the
// elements, then one element of the result in the order of positions.
// Long rows are cut into parts of `part_pages` pages. The cuts depend on positions alone, not on what else
// runs, and the parts' results are combined in order.
#include "warp.cuh"

namespace ds::cuda {

namespace {

constexpr int float_threads = 256, float_heads = 8, part_pages = 16, most_float_head = 1024;

struct float_args {
    attention_launch_params a;
    // [n, heads, parts, head_size + 2]: sums, then maximum and denominator. Null: a single part
    float *parts;
    int32_t part_count, head_parts;
};

DS_HD int32_t head_part_count(int32_t group) { return (group + float_heads - 1) / float_heads; }

template <class T> __device__ float float_at(const T *p);
template <> __device__ float float_at<float>(const float *p) { return *p; }
template <> __device__ float float_at<uint16_t>(const uint16_t *p) { return half_value(*p); }

struct float_memory {
    int32_t q, w, head, bytes;
};
DS_HD float_memory float_memory_of(int32_t width) {
    float_memory m = {};
    m.q = take_bytes(m.bytes, float_heads * width * 4);
    m.w = take_bytes(m.bytes, float_heads * page_length * 4);
    m.head = take_bytes(m.bytes, float_heads * 3 * 4);
    return m;
}

// Dot product of q[0 … n) and the latent key k[0 … n) in sixteen lanes, in the order of dot_in_lanes.
template <class T> __device__ float latent_score(const float *q, const T *k, int32_t n) {
    float lane[dot_lanes] = {};
    for (int32_t first = 0; first < n; first += dot_lanes) DS_UNROLL
    for (int j = 0; j < dot_lanes; ++j)
        if (first + j < n) lane[j] = fma_f32(q[first + j], float_at(k + first + j), lane[j]);
    return fold_lanes<dot_lanes>(lane);
}

template <class T> __global__ void __launch_bounds__(float_threads) float_attention_kernel(float_args g) {
    wait_for_prior_kernels();
    DS_SHARED(memory);
    const attention_launch_params &a = g.a;
    const kv_layout &l = a.p.kv;
    const int32_t size = l.head_size, rope = l.rope_size, width = size + rope, group = a.heads / l.kv_heads,
                  thread = static_cast<int32_t>(threadIdx.x);
    const int32_t row = static_cast<int32_t>(blockIdx.z), part = static_cast<int32_t>(blockIdx.x),
                  kv_head = static_cast<int32_t>(blockIdx.y) / g.head_parts;
    const int32_t first = static_cast<int32_t>(blockIdx.y) % g.head_parts * float_heads,
                  heads = group - first < float_heads ? group - first : float_heads;
    const int32_t head = kv_head * group + first, count = a.position[row] + 1,
                  begin = part * part_pages * page_length;
    if (begin >= count) return;
    const int32_t end = count < begin + part_pages * page_length ? count : begin + part_pages * page_length;
    const float_memory m = float_memory_of(width);
    float *const q = reinterpret_cast<float *>(memory + m.q), *const w =
                                                                  reinterpret_cast<float *>(memory + m.w);
    float *const max = reinterpret_cast<float *>(memory + m.head), *const sum = max + float_heads,
                 *const keep = sum + float_heads;
    for (int32_t i = thread; i < heads * width; i += float_threads) {
        const int32_t h = i / width, d = i % width;
        q[i] = d < size ? a.q[row * a.q_stride + (head + h) * a.q_head_stride + d]
                        : a.q_rope[row * a.rope_stride + (head + h) * a.rope_head_stride + d - size];
    }
    constexpr int own = most_float_head * float_heads / float_threads;
    // thread i % float_threads holds element i of the block's heads * size results
    float out[own] = {};
    const float scale = attention_scale(a.p.scale);
    const int32_t *const table = a.tables + static_cast<int64_t>(a.sequence[row]) * a.table_stride;
    __syncthreads();
    for (int32_t done = begin; done < end; done += page_length) {
        const int32_t seen = end - done < page_length ? end - done : page_length;
        const char *const page = a.pages + static_cast<int64_t>(table[done / page_length]) * a.page_bytes;
        const int64_t part_of_head = static_cast<int64_t>(kv_head) * size * page_length;
        const T *const k = reinterpret_cast<const T *>(page + l.k_offset) + part_of_head,
                       *const v = reinterpret_cast<const T *>(page + (rope ? l.k_offset : l.v_offset)) +
                                  part_of_head;
        for (int32_t i = thread; i < heads * page_length; i += float_threads) {
            const int32_t h = i / page_length, t = i % page_length;
            float s = 0.0f;
            if (t >= seen) {
                w[i] = 0.0f;
                continue;
            }
            if (rope) s = latent_score(q + h * width, k + static_cast<int64_t>(t) * width, width);
            else
                for (int32_t d = 0; d < size; ++d)
                    s = fma_f32(q[h * width + d], float_at(k + d * page_length + t), s);
            w[i] = s * scale;
        }
        __syncthreads();
        if (thread < heads) {
            float most = done == begin ? float_of(0xff800000u) : max[thread];
            const float before = most;
            for (int32_t t = 0; t < seen; ++t) most = attention_max(most, w[thread * page_length + t]);
            max[thread] = most;
            keep[thread] = done == begin ? 0.0f : exp2_f32(before - most);
        }
        __syncthreads();
        for (int32_t i = thread; i < heads * page_length; i += float_threads)
            if (i % page_length < seen) w[i] = exp2_f32(w[i] - max[i / page_length]);
        __syncthreads();
        if (thread < heads) {
            float lane[dot_lanes] = {};
            for (int32_t t = 0; t < page_length; ++t)
                lane[t % dot_lanes] = lane[t % dot_lanes] + w[thread * page_length + t];
            sum[thread] =
                fma_f32(done == begin ? 0.0f : sum[thread], keep[thread], fold_lanes<dot_lanes>(lane));
        }
        DS_UNROLL
        for (int i = 0; i < own; ++i) {
            const int32_t e = thread + i * float_threads, h = e / size, d = e % size;
            if (h >= heads) break;
            float x = 0.0f;
            for (int32_t t = 0; t < seen; ++t)
                x = fma_f32(w[h * page_length + t], float_at(v + static_cast<int64_t>(t) * width + d), x);
            out[i] = fma_f32(out[i], keep[h], x);
        }
        __syncthreads();
    }
    DS_UNROLL
    for (int i = 0; i < own; ++i) {
        const int32_t e = thread + i * float_threads, h = e / size, d = e % size;
        if (h >= heads) break;
        if (!g.parts) {
            a.y[row * a.y_stride + (head + h) * a.y_head_stride + d] = out[i] / sum[h];
            continue;
        }
        float *const to =
            g.parts + ((static_cast<int64_t>(row) * a.heads + head + h) * g.part_count + part) * (size + 2);
        to[d] = out[i];
        if (d == 0) to[size] = max[h], to[size + 1] = sum[h];
    }
}

// Combines the parts of a row and head in order, as pages are.
__global__ void join_parts_kernel(float_args g) {
    wait_for_prior_kernels();
    const attention_launch_params &a = g.a;
    const int32_t size = a.p.kv.head_size, row = static_cast<int32_t>(blockIdx.x),
                  head = static_cast<int32_t>(blockIdx.y);
    const int32_t count = (a.position[row] + part_pages * page_length) / (part_pages * page_length);
    const float *const parts =
        g.parts + (static_cast<int64_t>(row) * a.heads + head) * g.part_count * (size + 2);
    float max = parts[size];
    for (int32_t p = 1; p < count; ++p) max = attention_max(max, parts[p * (size + 2) + size]);
    for (int32_t d = static_cast<int32_t>(threadIdx.x); d < size; d += static_cast<int32_t>(blockDim.x)) {
        float out = 0.0f, sum = 0.0f;
        for (int32_t p = 0; p < count; ++p) {
            const float *const part = parts + p * (size + 2);
            const float keep = exp2_f32(part[size] - max);
            out = fma_f32(part[d], keep, out);
            sum = fma_f32(part[size + 1], keep, sum);
        }
        a.y[row * a.y_stride + head * a.y_head_stride + d] = out / sum;
    }
}

int32_t part_count_of(const attention_launch_params &a) {
    return (a.max_pages + part_pages - 1) / part_pages;
}

}  // namespace

size_t float_attention_bytes(const attention_launch_params &a) {
    const int32_t parts = part_count_of(a);
    return parts > 1 ? static_cast<size_t>(a.n) * static_cast<size_t>(a.heads) * static_cast<size_t>(parts) *
                           static_cast<size_t>(a.p.kv.head_size + 2) * sizeof(float)
                     : 0;
}
bool float_attention_fits(const attention_launch_params &a) {
    return a.p.kv.head_size <= most_float_head &&
           float_memory_of(a.p.kv.head_size + a.p.kv.rope_size).bytes <= 48 << 10;
}

int launch_floats(const attention_launch_params &a, stream s) {
    const int32_t parts = part_count_of(a);
    const float_args g = {a, parts > 1 ? static_cast<float *>(a.work) : nullptr, parts,
                          head_part_count(a.heads / a.p.kv.kv_heads)};
    const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(a.p.kv.kv_heads * g.head_parts),
                    static_cast<unsigned>(a.n));
    const size_t bytes = static_cast<size_t>(float_memory_of(a.p.kv.head_size + a.p.kv.rope_size).bytes);
    const auto halves = float_attention_kernel<uint16_t>, singles = float_attention_kernel<float>;
    const int bad = a.p.kv.type == format::f16 ? DS_LAUNCH(halves, grid, dim3(float_threads), bytes, s, g)
                                               : DS_LAUNCH(singles, grid, dim3(float_threads), bytes, s, g);
    if (bad || !g.parts) return bad;
    return DS_LAUNCH(join_parts_kernel, dim3(static_cast<unsigned>(a.n), static_cast<unsigned>(a.heads)),
                     dim3(128), 0, s, g);
}

}  // namespace ds::cuda
