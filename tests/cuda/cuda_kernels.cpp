// The CUDA kernels' own sources, compiled for the emulation in one piece. Called through ggml-cuda/launch.h.
#include "cuda_emulation.h"

#include "../../ggml-cuda/add.cu"
#include "../../ggml-cuda/attn/config.cpp"
#include "../../ggml-cuda/attn/floats.cu"
#include "../../ggml-cuda/attn/integers.cu"
#include "../../ggml-cuda/attn/launch.cu"
#include "../../ggml-cuda/attn/plain.cu"
#include "../../ggml-cuda/candidates.cu"
#include "../../ggml-cuda/gemm/config.cpp"
#include "../../ggml-cuda/gemm/launch.cu"
#include "../../ggml-cuda/gemm/packed.cu"
#include "../../ggml-cuda/gemm/plain.cu"
#include "../../ggml-cuda/gemm/quantize.cu"
#include "../../ggml-cuda/gemm/rows.cu"
#include "../../ggml-cuda/gemm/tiles.cu"
#include "../../ggml-cuda/gemm/wgmma.cu"
#include "../../ggml-cuda/get_rows.cu"
#include "../../ggml-cuda/kv_write.cu"
#include "../../ggml-cuda/lanes.cu"
#include "../../ggml-cuda/moe/config.cpp"
#include "../../ggml-cuda/moe/experts.cu"
#include "../../ggml-cuda/moe/groups.cu"
#include "../../ggml-cuda/moe/heads.cu"
#include "../../ggml-cuda/moe/router.cu"
#include "../../ggml-cuda/norm.cu"
#include "../../ggml-cuda/prepare.cu"
#include "../../ggml-cuda/read.cu"
#include "../../ggml-cuda/rope.cu"

#include "cuda_kernels.h"

namespace ds::test {

bool kernels_run() { return DS_CUDA_EMULATED; }
void run_backwards(bool on) { emulation::backwards = on; }

}  // namespace ds::test
