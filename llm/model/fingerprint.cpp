// Checksums and fingerprints. Session files contain both, so their values for the same bytes may change only
// together with the version of session files.
#include "fingerprint.h"

#include "model.h"

#include <algorithm>
#include <bit>

namespace ds {

// A round of FNV-1a (xor, then a product with an odd number; draft-eastlake-fnv) on words of 8 bytes, with a
// rotation in between, so that high bits reach low ones. It is a bijection of the lane for any word and of
// the word for any lane, which is why a change within one word is always detected.
static uint64_t stirred(uint64_t lane, uint64_t word) {
    return std::rotl(lane ^ word, 29) * 0x9e3779b97f4a7c15ull;
}

checksum_stream::checksum_stream(uint64_t n, uint64_t seed) : lane_{seed, ~seed, std::rotl(seed, 32), n} {}

void checksum_stream::take(const char *words) {
    uint64_t word[4];
    std::memcpy(word, words, sizeof word);
    for (int i = 0; i < 4; ++i) lane_[i] = stirred(lane_[i], word[i]);
}

void checksum_stream::add(std::string_view piece) {
    if (fill_ > 0) {
        const size_t n = std::min(piece.size(), sizeof held_ - fill_);
        std::memcpy(held_ + fill_, piece.data(), n);
        piece.remove_prefix(n);
        if ((fill_ += n) < sizeof held_) return;
        take(held_);
        fill_ = 0;
    }
    for (; piece.size() >= sizeof held_; piece.remove_prefix(sizeof held_)) take(piece.data());
    if (!piece.empty()) std::memcpy(held_, piece.data(), fill_ = piece.size());
}

uint64_t checksum_stream::sum() {
    for (size_t at = 0; at < fill_; at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, held_ + at, std::min<size_t>(8, fill_ - at));
        lane_[at / 8] = stirred(lane_[at / 8], word);
    }
    uint64_t sum = lane_[0];
    for (int i = 1; i < 4; ++i) sum = stirred(sum, lane_[i]);
    return stirred(sum ^ sum >> 32, 0);
}

uint64_t checksum(const void *data, size_t n, uint64_t seed) {
    checksum_stream s(n, seed);
    s.add({static_cast<const char *>(data), n});
    return s.sum();
}

// ---- Models

static uint64_t text_sum(std::string_view text, uint64_t seed) {
    return checksum(text.data(), text.size(), seed);
}

// Checksum of the value's text, which is never built as a whole because it may be several times as long as
// the value.
static uint64_t value_sum(const gguf_value &v, uint64_t seed) {
    uint64_t n = 0;
    gguf_value_text(v, SIZE_MAX, [&](std::string_view piece) { n += piece.size(); });
    checksum_stream s(n, seed);
    gguf_value_text(v, SIZE_MAX, [&](std::string_view piece) { s.add(piece); });
    return s.sum();
}

// Covers name, format and shape, and samples of bytes from the beginning, the end and two offsets between.
static uint64_t tensor_sum(const gguf_tensor &t) {
    constexpr uint64_t sample = 64;
    uint64_t sum = checksum(t.ne, sizeof t.ne, text_sum(info(t.type).text, text_sum(t.name, 0)));
    const uint64_t n = std::min(t.bytes, sample);
    for (uint64_t i = 0; i < 4; ++i) sum = checksum(t.data + (t.bytes - n) / 3 * i, n, sum);
    return sum;
}

// Sums do not depend on order: a model divided into several files has its tensors in another order.
uint64_t model_fingerprint(const model &m) {
    uint64_t sum = text_sum(m.architecture->name, 0);
    for (const gguf_tensor &t : m.file.tensors()) sum += tensor_sum(t);
    const std::string prefix = std::string(m.architecture->name) + ".";
    for (size_t i = 0; i < m.file.key_count(); ++i)
        if (m.file.key(i).starts_with(prefix)) sum += value_sum(m.file.value(i), text_sum(m.file.key(i), 1));
    // Options of loading may override the file's RoPE scaling.
    const uint64_t rope[] = {static_cast<uint64_t>(m.h.scaling), std::bit_cast<uint64_t>(m.h.rope_factor),
                             static_cast<uint64_t>(m.h.original_context)};
    return sum + checksum(rope, sizeof rope, 2);
}

}  // namespace ds
