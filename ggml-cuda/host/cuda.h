// The CUDA backend, as the library sees it: kernels and everything that needs CUDA are in
// libdeepseek-cuda.so, which is opened when a device is asked for.
#pragma once

#include "../plugin.h"

namespace ds {

struct cuda_options {
    int32_t device = 0;
    std::vector<std::pair<std::string, std::string>> force;  // operation and variant, by name
    bool record = true;  // steps that come again are recorded, and replayed as CUDA graphs
    // from sm_90 on a kernel may begin before the one in front of it has ended (programmatic dependent
    // launch)
    bool overlap = false;
    // the path of libdeepseek-cuda.so; empty: beside this code, in ../lib from there, then where the system
    // looks
    std::string library;
};

// All throw status::no_device where the shared object, something that it needs, the driver or the device is
// missing: the text says which.
int32_t cuda_device_count(const std::string &library = "");
cuda_device describe_cuda_device(int32_t device, const std::string &library = "");
// Throws status::argument for a variant that is not known, naming those that are, and status::memory and
// status::device.
backend_ptr cuda_backend(const cuda_options &o);
bool is_cuda(const backend &b);
const cuda_device &cuda_device_of(const backend &b);  // as it was when the backend was made
// best first; none: the operation does not run
std::vector<std::string> cuda_variants(const backend &b, op k);
// bytes a second that a sum over `bytes` reads, or over what there is room for. Throws
double cuda_read_rate(backend &b, size_t &bytes);
size_t cuda_recorded(const backend &b);  // graphs that it has recorded

}  // namespace ds
