// Checksums against accidental damage, and fingerprints of models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ds {

// The seed can bind data to its position in a file. A change within one aligned word of 8 bytes is always
// detected, other changes with a probability of 1 - 2^-64.
uint64_t checksum(const void *data, size_t n, uint64_t seed);

// The same for bytes that come in pieces, `n` of them in total.
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

// Equal for models with the same hyper-parameters and, judging by samples, the same tensors, however they are
// loaded.
struct model;
uint64_t model_fingerprint(const model &m);

}  // namespace ds
