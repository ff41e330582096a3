// UTF-8 sequences: the one function that knows which bytes are well formed (Unicode 15, table 3-7).
#pragma once

#include <cstdint>

namespace ds {

// Length (1 to 4) of the well-formed sequence at p, 0 if there is none; p < end. `good`, if not null,
// receives how many bytes from p on could begin such a sequence: at least 1, the maximal ill-formed part.
inline uint32_t utf8_sequence(const char *p, const char *end, uint32_t *good = nullptr) {
    const auto lead = static_cast<uint8_t>(*p);
    const uint32_t length = lead < 0x80   ? 1
                            : lead < 0xc2 ? 0
                            : lead < 0xe0 ? 2
                            : lead < 0xf0 ? 3
                            : lead < 0xf5 ? 4
                                          : 0;
    // The second byte rules out overlong forms, surrogates and code points beyond U+10FFFF.
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    uint32_t n = 1;
    for (; n < length && p + n < end; ++n, low = 0x80, high = 0xbf) {
        const auto byte = static_cast<uint8_t>(p[n]);
        if (byte < low || byte > high) break;
    }
    if (good) *good = n;
    return n >= length ? length : 0;
}

}  // namespace ds
