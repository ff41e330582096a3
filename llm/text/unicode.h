// Unicode for the tokenizers: UTF-8 read one code point at a time, classes of code points, and normalisation
// form C. A byte outside any well-formed sequence counts as a code point of its own, above Unicode's range,
// in no class.
#pragma once

#include "../../tensor/utf8.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ds::unicode {

// Code points with the same nonzero canonical combining class.
struct combining_range {
    uint32_t first, last;
    uint8_t value;
};
// `second` is 0 if the decomposition is a single code point.
struct canonical_pair {
    uint32_t composed, first, second;
};

#include "unicode_tables.inc"

inline constexpr uint32_t limit = 0x110000;  // an ill-formed byte is the code point limit + byte

// Bits of a class, as make_unicode.py writes them. The first five are general categories, which exclude each
// other. unsettled: form C may change the code point.
enum : uint8_t { letter = 1, mark = 2, number = 4, punctuation = 8, symbol = 16, space = 32, unsettled = 64 };

struct code_point {
    uint32_t value;
    uint32_t bytes;  // 1 to 4
};

// Requires p < end.
inline code_point decode(const char *p, const char *end) {
    if (uint8_t(*p) < 0x80) return {uint8_t(*p), 1};
    uint32_t const n = utf8_sequence(p, end);
    if (n == 0) return {limit + uint8_t(*p), 1};
    uint32_t value = uint8_t(*p) & (0x7fu >> n);
    for (uint32_t i = 1; i < n; i++) value = value << 6 | (uint8_t(p[i]) & 0x3fu);
    return {value, n};
}

inline uint8_t class_of(uint32_t cp) {
    return cp < limit ? classes[class_index[cp / class_block] * class_block + cp % class_block] : 0;
}

void append_utf8(uint32_t cp, std::string &out);  // an ill-formed byte becomes that byte again

// Writes the form C of `text` to `out` and returns true, or returns false if `text` is certainly in form C
// already. Ill-formed bytes are unchanged.
bool to_nfc(std::string_view text, std::string &out);

}  // namespace ds::unicode
