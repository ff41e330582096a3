// How fast this machine reads memory. Decoding reads every weight once a token, so this is its limit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace bench {

// A buffer larger than any cache, and how fast `threads` threads read it together.
class reader {
public:
    explicit reader(unsigned threads);
    void pass();          // reads it once, in rotation as one, two and four streams a thread
    double best() const;  // bytes a second of the fastest pass
    // bytes a second of the median pass, for the number of streams whose median is best
    double usual() const;
    static size_t bytes();  // size of the buffer

private:
    struct unmap {
        size_t size;
        void operator()(uint8_t *p) const;
    };
    unsigned threads_;
    size_t part_;  // bytes of one thread
    std::unique_ptr<uint8_t, unmap> data_;
    uint64_t total_ = 0, passes_ = 0;
    std::array<std::vector<double>, 3> seconds_;  // for one, two and four streams
};

}  // namespace bench
