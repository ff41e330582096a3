// What must be said to a device once, before kernels are launched or captured.
#include "attn/config.h"
#include "gemm/product.cuh"

namespace ds::cuda {

int prepare_kernels(const device_facts &d) {
    const int bad = prepare_tiles();
    return bad ? bad : prepare_integers(d);
}

} // namespace ds::cuda
