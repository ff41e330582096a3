// The CPU backend: its options and what it reports. Neither options nor the machine change a bit of any
// result.
#pragma once

#include "../tensor/backend.h"

namespace ds {

struct isa;

struct cpu_options {
    unsigned threads = 0;  // that work on a graph, the caller's included; 0: one per processor
    // "scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx", "neon"; null: the best available
    const char *isa = nullptr;
    const ds::isa *kernels = nullptr;                        // instead of a named set: a test's own
    std::vector<std::pair<std::string, std::string>> force;  // operation and variant, by name
    ds::host host;
    // only to ask for memory needs: starts no thread, and asks the system for no permission
    bool only_asked = false;
};

// Throws status::argument for an unknown or unavailable instruction set or an unknown variant, naming those
// available.
backend_ptr cpu_backend(const cpu_options &o);
unsigned cpu_threads(const backend &b);
const char *cpu_isa(const backend &b);
std::vector<const char *> cpu_isas();  // that this build has and this machine can run, best first

}  // namespace ds
