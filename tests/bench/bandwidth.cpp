// A sum over a large buffer, divided evenly among threads, with the machine's widest loads. Each thread
// touches its part first, so that with several memory nodes the part is on the thread's node. Huge pages keep
// address translation out of the figure.
#include "bandwidth.h"
#include "median.h"
#include "together.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {

namespace {

constexpr size_t unit = 16384;  // a thread's part is a multiple of it

uint8_t *map_buffer(size_t n) {
    void *const p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    madvise(p, n, MADV_HUGEPAGE);
    return static_cast<uint8_t *>(p);
}

// Sums n bytes, read as `streams` interleaved streams; which number is fastest depends on the prefetchers.
// Eight vectors an iteration.
using sum_fn = uint64_t (*)(const uint8_t *p, size_t n);

template <size_t streams> uint64_t sum_plain(const uint8_t *p, size_t n) {
    uint64_t s[8] = {};
    const size_t stream = n / streams;
    for (size_t i = 0; i < stream; i += 64 / streams)
        for (size_t k = 0; k < 8; ++k) {
            uint64_t v;
            std::memcpy(&v, p + k % streams * stream + i + k / streams * 8, 8);
            s[k] += v;
        }
    return std::accumulate(s, s + 8, uint64_t{0});
}

#if defined(__x86_64__)
template <size_t streams> __attribute__((target("avx2"))) uint64_t sum_avx2(const uint8_t *p, size_t n) {
    __m256i s[8] = {};
    const size_t stream = n / streams;
    for (size_t i = 0; i < stream; i += 256 / streams)
        for (size_t k = 0; k < 8; ++k)
            s[k] = _mm256_add_epi64(s[k], _mm256_load_si256(reinterpret_cast<const __m256i *>(
                                              p + k % streams * stream + i + k / streams * 32)));
    for (size_t k = 1; k < 8; ++k) s[0] = _mm256_add_epi64(s[0], s[k]);
    alignas(32) uint64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i *>(lanes), s[0]);
    return std::accumulate(lanes, lanes + 4, uint64_t{0});
}

template <size_t streams> __attribute__((target("avx512f"))) uint64_t sum_avx512(const uint8_t *p, size_t n) {
    __m512i s[8] = {};
    const size_t stream = n / streams;
    for (size_t i = 0; i < stream; i += 512 / streams)
        for (size_t k = 0; k < 8; ++k)
            s[k] = _mm512_add_epi64(s[k], _mm512_load_si512(p + k % streams * stream + i + k / streams * 64));
    for (size_t k = 1; k < 8; ++k) s[0] = _mm512_add_epi64(s[0], s[k]);
    alignas(64) uint64_t lanes[8];
    _mm512_store_si512(lanes, s[0]);
    return std::accumulate(lanes, lanes + 8, uint64_t{0});
}
#endif

std::array<sum_fn, 3> widest_sums() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return {sum_avx512<1>, sum_avx512<2>, sum_avx512<4>};
    if (__builtin_cpu_supports("avx2")) return {sum_avx2<1>, sum_avx2<2>, sum_avx2<4>};
#endif
    return {sum_plain<1>, sum_plain<2>, sum_plain<4>};
}

}  // namespace

size_t reader::bytes() {
    const long llc = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return std::max(size_t{1} << 30, 4 * static_cast<size_t>(std::max(llc, 0L)));
}

void reader::unmap::operator()(uint8_t *p) const { munmap(p, size); }

reader::reader(unsigned threads)
    : threads_(threads), part_(bytes() / threads / unit * unit),
      data_(map_buffer(part_ * threads), unmap{part_ * threads}) {
    together(threads_, [&](unsigned t) { std::memset(data_.get() + t * part_, 1, part_); });
}

void reader::pass() {
    const std::array<sum_fn, 3> sums = widest_sums();
    const size_t kind = passes_++ % sums.size();
    std::atomic<uint64_t> total = 0;  // keeps the sums from being dropped
    seconds_[kind].push_back(
        seconds_together(threads_, [&](unsigned t) { total += sums[kind](data_.get() + t * part_, part_); }));
    total_ += total;
}

double reader::best() const {
    double least = std::numeric_limits<double>::infinity();
    for (const std::vector<double> &s : seconds_)
        for (const double t : s) least = std::min(least, t);
    return total_ == 0 ? 0 : static_cast<double>(part_ * threads_) / least;
}

double reader::usual() const {
    double least = std::numeric_limits<double>::infinity();
    for (const std::vector<double> &s : seconds_)
        if (!s.empty()) least = std::min(least, median(s));
    return total_ == 0 ? 0 : static_cast<double>(part_ * threads_) / least;
}

}  // namespace bench
