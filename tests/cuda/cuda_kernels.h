// The CUDA kernels on the host (cuda_emulation.h).
#pragma once

#include "../../ggml-cuda/launch.h"
#include "../../tensor/backend.h"

#include <functional>

namespace ds::test {

bool kernels_run();        // whether this machine and build can run them
void run_backwards(bool);  // a block's threads in reverse order

// The CUDA backend except for its memory, streams and library: every operation takes the same path to its
// kernels.
struct emulated_options {
    cuda::device_facts facts = {9, 0, 132, 232448, true};  // an H100's
    bool library = false;           // a library of matrix products is available, for floats
    op kind = op::add;              // the operation of `variant`
    const char *variant = nullptr;  // the forced one, or null
    std::function<void()> between;  // called between the pieces of a long step
};
backend_ptr emulated_cuda(const emulated_options &o = {});
std::vector<const char *>
emulated_variants(op k);  // in the order of the list; empty: the operation does not run

}  // namespace ds::test
