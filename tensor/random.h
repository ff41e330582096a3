// Random numbers that are the same on every machine.
#pragma once

#include <cstdint>

namespace ds {

// splitmix64 (Steele, Lea, Flood 2014).
struct random_bits {
    uint64_t state;
    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // Nearly normal, mean 0 and deviation 1: the sum of four uniform numbers of 16 bits.
    float normal() {
        const uint64_t u = next();
        const auto sum =
            static_cast<int32_t>((u & 0xffff) + (u >> 16 & 0xffff) + (u >> 32 & 0xffff) + (u >> 48)) -
            2 * 65535;
        // four variances of 65536^2 / 12
        return static_cast<float>(sum) * static_cast<float>(1.7320508 / 65536);
    }
};

}  // namespace ds
