// How fast this machine reads memory: what decoding, which reads every weight once a token, is measured
// against.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace bench {

// A buffer that no cache holds, and how fast `threads` threads read it together.
class reader {
public:
    explicit reader(unsigned threads);
    void pass();          // reads it once; in turn as one, two and four streams a thread
    double best() const;  // bytes a second of the quickest pass
    // likewise of the median pass, of the number of streams whose median is best
    double usual() const;
    static size_t bytes();  // of the buffer

private:
    struct unmap {
        size_t size;
        void operator()(uint8_t *p) const;
    };
    unsigned threads_;
    size_t part_;  // of a thread
    std::unique_ptr<uint8_t, unmap> data_;
    uint64_t total_ = 0, passes_ = 0;
    std::array<std::vector<double>, 3> seconds_;  // by streams
};

}  // namespace bench
