// add: y = a + b, and the copy of heads out of wider rows; one thread per element.
#include "small.cuh"

namespace ds::cuda {

namespace {

__global__ void __launch_bounds__(small_block) add_kernel(add_params p) {
    wait_for_prior_kernels();
    const int64_t t = thread_index(), k = t % p.ne[2], rest = t / p.ne[2], j = rest % p.ne[1],
                  i = rest / p.ne[1];
    if (i >= p.ne[0]) return;
    p.y[i * p.y_stride[0] + j * p.y_stride[1] + k * p.y_stride[2]] =
        p.a[i * p.a_stride[0] + j * p.a_stride[1] + k * p.a_stride[2]] +
        p.b[i * p.b_stride[0] + j * p.b_stride[1] + k * p.b_stride[2]];
}

__global__ void __launch_bounds__(small_block) copy_heads_kernel(copy_heads_params p) {
    wait_for_prior_kernels();
    const int64_t t = thread_index(), head = t / p.d;
    if (head < static_cast<int64_t>(p.n) * p.heads)
        p.y[t] = p.x[head / p.heads * p.x_stride + head % p.heads * p.x_head_stride + t % p.d];
}

}  // namespace

int launch_add(const add_params &p, stream s) {
    return DS_LAUNCH(add_kernel, small_blocks(static_cast<int64_t>(p.ne[0]) * p.ne[1] * p.ne[2]), small_block,
                     0, s, p);
}

int launch_copy_heads(const copy_heads_params &p, stream s) {
    return DS_LAUNCH(copy_heads_kernel, small_blocks(static_cast<int64_t>(p.n) * p.heads * p.d), small_block,
                     0, s, p);
}

}  // namespace ds::cuda
