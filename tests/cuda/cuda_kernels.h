// The CUDA kernels on the host, see cuda_emulation.h.
#pragma once

#include "../../ggml-cuda/launch.h"
#include "../../tensor/backend.h"

#include <functional>

namespace ds::test {

bool kernels_run();        // this machine and build can
void run_backwards(bool);  // a block's threads in falling order

// A backend that is the CUDA backend but for its memory, streams and library: every operation goes the way
// that it goes there.
struct emulated_options {
    cuda::device_facts facts = {9, 0, 132, 232448, true};  // an H100's
    bool library = false;           // a library of matrix products is available, for floats
    op kind = op::add;              // operation whose
    const char *variant = nullptr;  // variant is forced; null: none is
    std::function<void()> between;  // called between the pieces of a long step
};
backend_ptr emulated_cuda(const emulated_options &o = {});
std::vector<const char *> emulated_variants(op k);  // best first; none where the operation does not run

}  // namespace ds::test
