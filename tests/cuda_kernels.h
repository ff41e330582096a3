// The CUDA kernels on the host, see cuda_emulation.h.
#pragma once

#include "../ggml-cuda/launch.h"

namespace ds::test {

bool kernels_run();                  // this machine and build can
void run_backwards(bool);            // a block's threads in falling order

} // namespace ds::test
