// A device whose memory the host cannot touch: a backend on the host whose memory is inaccessible except
// while the backend itself works on it. Code that uses a device's pointer on the host crashes, as it would
// with a GPU.
#pragma once

#include "../../tensor/backend.h"

namespace ds::test {

struct fake_options {
    unsigned threads = 2;
    size_t memory = SIZE_MAX;       // bytes of the device
    const char *missing = nullptr;  // an operation that it does not support
    int64_t fails_after =
        -1;  // successful runs, after which everything fails as on a lost device; -1: none fails
};
// null: the CPU backend
backend_ptr fake_device(const fake_options &o = {}, backend_ptr inner = nullptr);

// Counts of one fake device.
struct fake_counts {
    size_t allocated, runs, uploaded, downloaded;
};
fake_counts counts_of(const backend &b);

}  // namespace ds::test
