// The CPU backend.
#pragma once

#include "../tensor/backend.h"

namespace ds {

struct cpu_options {
    unsigned threads = 0;  // that work on a graph, the caller's among them; 0: one a processor
    // "scalar", "avx2", "avx512", "avx512_vnni", "amx", "neon"; null: the best that the machine has
    const char *isa = nullptr;
    std::vector<std::pair<std::string, std::string>> force;  // operation and variant, by name
    ds::host host;
    // what work would take: no thread is started, and the system asked for no permission
    bool only_asked = false;
};

// Throws status::argument for an instruction set or variant that is not known here, naming those that are.
backend_ptr cpu_backend(const cpu_options &o);
unsigned cpu_threads(const backend &b);
const char *cpu_isa(const backend &b);
std::vector<const char *> cpu_isas();  // that this build has and this machine can run, best first

}  // namespace ds
