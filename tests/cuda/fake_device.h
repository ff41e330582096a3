// A device whose memory the host cannot touch: a backend of the host behind memory that is closed but while
// the backend itself works on it. What reads or writes a device's pointer from the host ends the program
// here, as it would with a graphics card.
#pragma once

#include "../../tensor/backend.h"

namespace ds::test {

struct fake_options {
    unsigned threads = 2;
    size_t memory = SIZE_MAX;       // bytes that it has
    const char *missing = nullptr;  // an operation that it does not have
    int64_t fails_after = -1;       // runs that go well; from then on everything fails as a lost device does
};
// null: the CPU backend
backend_ptr fake_device(const fake_options &o = {}, backend_ptr inner = nullptr);

// Of one fake device.
struct fake_counts {
    size_t allocated, runs, uploaded, downloaded;
};
fake_counts counts_of(const backend &b);

}  // namespace ds::test
