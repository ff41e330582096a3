// Normalisation form C (Unicode Standard Annex 15) with the generated tables.
// Decomposition, ordering and composition each make one pass over the text, so that a long run of combining
// marks takes linear time: marks are ordered by a counting sort, and whether one is blocked follows from the
// remembered class before it.
#include "unicode.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace ds::unicode {

namespace {

// Hangul syllables compose and decompose by arithmetic (The Unicode Standard, section 3.12).
constexpr uint32_t s_base = 0xac00, l_base = 0x1100, v_base = 0x1161, t_base = 0x11a7;
constexpr uint32_t l_count = 19, v_count = 21, t_count = 28, s_count = l_count * v_count * t_count;

// A code point and its combining class in one word.
struct element {
    uint32_t bits;
    element(uint32_t value, uint8_t combining) : bits(value | uint32_t(combining) << 21) {}
    uint32_t value() const { return bits & 0x1fffff; }
    uint8_t combining() const { return uint8_t(bits >> 21); }
};
static_assert(limit + 0xff <= 0x1fffff);

uint8_t combining_class(uint32_t cp) {
    auto const *r = std::lower_bound(std::begin(combining_ranges), std::end(combining_ranges), cp,
                                     [](const combining_range &x, uint32_t c) { return x.last < c; });
    return r != std::end(combining_ranges) && r->first <= cp ? r->value : 0;
}

const canonical_pair *decomposition(uint32_t cp) {
    auto const *r = std::lower_bound(std::begin(canonical_pairs), std::end(canonical_pairs), cp,
                                     [](const canonical_pair &x, uint32_t c) { return x.composed < c; });
    return r != std::end(canonical_pairs) && r->composed == cp ? r : nullptr;
}

void decompose(uint32_t cp, std::vector<element> &out) {
    if (cp - s_base < s_count) {
        uint32_t const s = cp - s_base, t = s % t_count;
        out.push_back({l_base + s / (v_count * t_count), 0});
        out.push_back({v_base + s % (v_count * t_count) / t_count, 0});
        if (t) out.push_back({t_base + t, 0});
        return;
    }
    // Only the first half of a pair decomposes further, so the second halves are stacked. The longest chain
    // in Unicode has three.
    uint32_t waiting[8];
    int n = 0;
    const canonical_pair *pair;
    while ((pair = decomposition(cp)) && n < 8) {
        if (pair->second) waiting[n++] = pair->second;
        cp = pair->first;
    }
    out.push_back({cp, combining_class(cp)});
    while (n > 0) {
        cp = waiting[--n];
        out.push_back({cp, combining_class(cp)});
    }
}

// Sorts each run of marks by class, stably. Linear time, because a text may have any number of marks.
void order(std::vector<element> &text) {
    auto const starter = [](element e) { return e.combining() == 0; };
    auto const less = [](element a, element b) { return a.combining() < b.combining(); };
    for (auto at = text.begin(); at != text.end();) {
        auto const first = std::find_if_not(at, text.end(), starter),
                   last = std::find_if(first, text.end(), starter);
        at = last;
        if (std::is_sorted(first, last, less)) continue;
        size_t before[257] = {};
        for (auto e = first; e != last; ++e) before[e->combining() + 1]++;
        for (size_t c = 0; c < 256; c++) before[c + 1] += before[c];
        std::vector<element> const marks(first, last);
        for (element const e : marks) first[std::ptrdiff_t(before[e.combining()]++)] = e;
    }
}

// The code point that a and b compose to, or 0.
uint32_t composition(uint32_t a, uint32_t b) {
    if (a - l_base < l_count && b - v_base < v_count)
        return s_base + ((a - l_base) * v_count + (b - v_base)) * t_count;
    if (a - s_base < s_count && (a - s_base) % t_count == 0 && b - t_base - 1 < t_count - 1)
        return a + (b - t_base);
    uint64_t const key = uint64_t(a) << 32 | b;
    auto const key_of = [](uint16_t i) {
        return uint64_t(canonical_pairs[i].first) << 32 | canonical_pairs[i].second;
    };
    auto const *r = std::lower_bound(std::begin(composable), std::end(composable), key,
                                     [&](uint16_t i, uint64_t k) { return key_of(i) < k; });
    return r != std::end(composable) && key_of(*r) == key ? canonical_pairs[*r].composed : 0;
}

void compose(std::vector<element> &text) {
    size_t starter = SIZE_MAX, n = 0;  // index of the last starter; elements written so far
    // Class of the last element written after that starter; -1 if none was.
    int before = -1;
    for (element const e : text) {
        if (starter != SIZE_MAX && before < int(e.combining())) {
            if (uint32_t const both = composition(text[starter].value(), e.value())) {
                text[starter] = {both, text[starter].combining()};
                continue;
            }
        }
        if (e.combining() == 0) starter = n;
        before = e.combining() == 0 ? -1 : e.combining();
        text[n++] = e;
    }
    text.erase(text.begin() + std::ptrdiff_t(n), text.end());
}

}  // namespace

void append_utf8(uint32_t cp, std::string &out) {
    if (cp >= limit) {
        out += char(cp - limit);
    } else if (cp < 0x80) {
        out += char(cp);
    } else if (cp < 0x800) {
        out += {char(0xc0 | cp >> 6), char(0x80 | (cp & 0x3f))};
    } else if (cp < 0x10000) {
        out += {char(0xe0 | cp >> 12), char(0x80 | (cp >> 6 & 0x3f)), char(0x80 | (cp & 0x3f))};
    } else {
        out += {char(0xf0 | cp >> 18), char(0x80 | (cp >> 12 & 0x3f)), char(0x80 | (cp >> 6 & 0x3f)),
                char(0x80 | (cp & 0x3f))};
    }
}

// Text that form C may change is processed in parts, each from the settled code point before it, with which
// it may compose, to the next settled one.
bool to_nfc(std::string_view text, std::string &out) {
    const char *const end = text.data() + text.size();
    auto const settled = [&](const char *p) { return !(class_of(decode(p, end).value) & unsettled); };
    std::vector<element> elements;
    const char *copied = text.data();  // `out` has the text before this
    const char *last = copied;         // the last settled code point from `copied` on, else `copied`
    for (const char *p = copied; p < end;) {
        if (settled(p)) {
            last = p;
            p += decode(p, end).bytes;
            continue;
        }
        if (copied == text.data()) out.clear(), out.reserve(text.size());
        out.append(copied, last);
        size_t points = 1;
        while (p < end && !settled(p)) p += decode(p, end).bytes, points++;
        elements.clear();
        elements.reserve(2 * points);
        for (const char *q = last; q < p;) {
            code_point const c = decode(q, end);
            decompose(c.value, elements);
            q += c.bytes;
        }
        order(elements);
        compose(elements);
        for (element const e : elements) append_utf8(e.value(), out);
        copied = last = p;
    }
    if (copied == text.data()) return false;
    out.append(copied, end);
    return true;
}

}  // namespace ds::unicode
