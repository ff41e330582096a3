// The CUDA backend as the library sees it. Kernels and all that needs CUDA are in libdeepseek-cuda.so, which
// is opened when a device is asked for.
#pragma once

#include "../plugin.h"

namespace ds {

struct cuda_options {
    int32_t device = 0;
    std::vector<std::pair<std::string, std::string>> force;  // operation and variant, by name
    // Graphs that repeat are recorded and replayed as CUDA graphs.
    bool record = true;
    // From sm_90 on a kernel may begin before the previous one has ended (programmatic dependent launch).
    bool overlap = false;
    // The path of libdeepseek-cuda.so. Empty: beside this code, then in ../lib from there, then the system's
    // search path.
    std::string library;
};

// All throw status::no_device where the shared object, a library it needs, the driver or the device is
// missing; the text says which.
int32_t cuda_device_count(const std::string &library = "");
cuda_device describe_cuda_device(int32_t device, const std::string &library = "");
// Throws status::argument for an unknown variant, listing the known ones, and status::memory and
// status::device.
backend_ptr cuda_backend(const cuda_options &o);
bool is_cuda(const backend &b);
const cuda_device &cuda_device_of(const backend &b);  // when the backend was made
// in the order in which they are tried; empty: the operation does not run
std::vector<std::string> cuda_variants(const backend &b, op k);
// Bytes per second at which a sum reads `bytes`, or as many as can be allocated. Throws.
double cuda_read_rate(backend &b, size_t &bytes);
size_t cuda_recorded(const backend &b);  // number of recorded graphs

}  // namespace ds
