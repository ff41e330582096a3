// What each device needs once before kernels are launched or captured.
#include "attn/config.h"
#include "gemm/product.cuh"

namespace ds::cuda {

int prepare_kernels(device_facts &d) {
    if (const int bad = prepare_tiles()) return bad;
    if (const int bad = prepare_integers(d)) return bad;
    return prepare_wgmma(d);
}

}  // namespace ds::cuda
