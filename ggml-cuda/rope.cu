// rope_table and rope: one thread per pair. Elements of a head that are not rotated are copied by the threads
// after those of the pairs.
#include "small.cuh"

namespace ds::cuda {

namespace {

__global__ void __launch_bounds__(small_block) rope_table_kernel(rope_table_launch_params a) {
    wait_for_prior_kernels();
    const int64_t t = thread_index();
    if (t >= static_cast<int64_t>(a.n) * a.pairs) return;
    const int32_t row = static_cast<int32_t>(t / a.pairs), i = static_cast<int32_t>(t % a.pairs);
    const double frequency =
        rope_frequency(a.p.base, a.p.factor, a.p.yarn, a.p.low, a.p.high, a.p.rotated, i);
    const double divisor = a.factors ? static_cast<double>(a.factors[i]) : 1.0;
    double sine, cosine;
    sin_cos_f64(a.positions[row] * (frequency / divisor), &sine, &cosine);
    float *y = a.y + static_cast<int64_t>(row) * 2 * a.pairs + i;
    y[0] = static_cast<float>(cosine * static_cast<double>(a.p.magnitude));
    y[a.pairs] = static_cast<float>(sine * static_cast<double>(a.p.magnitude));
}

__global__ void __launch_bounds__(small_block) rope_kernel(rope_launch_params p) {
    wait_for_prior_kernels();
    const int32_t width = p.d - p.pairs;  // threads per head: its pairs and the elements not rotated
    const int64_t t = thread_index(), head = t / width;
    if (head >= static_cast<int64_t>(p.n) * p.heads) return;
    const int32_t i = static_cast<int32_t>(t % width);
    const float *x = p.x + head / p.heads * p.x_stride + head % p.heads * p.x_head_stride;
    float *y = p.y + head / p.heads * p.y_stride + head % p.heads * p.y_head_stride;
    if (i >= p.pairs) {
        y[i + p.pairs] = x[i + p.pairs];
        return;
    }
    const float *table = p.table + head / p.heads * 2 * p.pairs;
    const bool adjacent = p.p.pairs == rope_pairs::adjacent;
    const int32_t ia = adjacent ? 2 * i : i, ib = adjacent ? 2 * i + 1 : i + p.pairs;
    const float a = x[ia], b = x[ib], cosine = table[i],
                sine = p.p.inverse ? -table[p.pairs + i] : table[p.pairs + i];
    y[ia] = rope_first(a, b, cosine, sine);
    y[ib] = rope_second(a, b, cosine, sine);
}

}  // namespace

int launch_rope_table(const rope_table_launch_params &p, stream s) {
    return DS_LAUNCH(rope_table_kernel, small_blocks(static_cast<int64_t>(p.n) * p.pairs), small_block, 0, s,
                     p);
}
int launch_rope(const rope_launch_params &p, stream s) {
    return DS_LAUNCH(rope_kernel, small_blocks(static_cast<int64_t>(p.n) * p.heads * (p.d - p.pairs)),
                     small_block, 0, s, p);
}

}  // namespace ds::cuda
