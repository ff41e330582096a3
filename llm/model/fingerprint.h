// Checksums against accidents, and what a model is recognised by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ds {

// Seeded, so that what it is of can be bound to its place. Changes within one aligned word of 8 bytes are
// always seen, others but for one in 2^64.
uint64_t checksum(const void *data, size_t n, uint64_t seed);

// The same of bytes that come in pieces; how many there will be is told first.
class checksum_stream {
public:
    checksum_stream(uint64_t n, uint64_t seed);
    void add(std::string_view piece);
    uint64_t sum();

private:
    void take(const char *words);
    uint64_t lane_[4];
    char held_[32];
    size_t fill_ = 0;
};

// The same for models whose tensors, as far as samples tell, and whose hyper-parameters are the same; however
// they are loaded.
struct model;
uint64_t model_fingerprint(const model &m);

}  // namespace ds
