// What the tests of deepseek.h share: statistics, and checks of calls that must fail.
#pragma once

#include "model_file.h"

#include "../../tensor/utf8.h"

#include <functional>

namespace golden {

inline ds_engine_stats stats_of(const engine_ptr &e) {
    ds_engine_stats s{};
    s.struct_size = sizeof s;
    MUST(ds_engine_get_stats(e.get(), &s, &err));
    return s;
}

inline bool well_formed(std::string_view s) {
    for (const char *p = s.data(), *end = p + s.size(); p < end;) {
        const uint32_t n = ds::utf8_sequence(p, end);
        if (n == 0) return false;
        p += n;
    }
    return true;
}

// Checks that the call fails with `expected`, with and without a ds_error, and that the message contains
// `part`.
using call = std::function<ds_status(ds_error *)>;
inline void check_fails(ds_status expected, std::string_view part, const call &f) {
    ds_error err;
    std::memset(&err, 0x7f, sizeof err);
    CHECK(f(&err) == expected);
    REQUIRE(std::memchr(err.message, 0, sizeof err.message));
    CAPTURE(err.message);
    CHECK(err.status == expected);
    CHECK(std::string_view(err.message).find(part) != std::string_view::npos);
    CHECK(well_formed(err.message));
    CHECK(f(nullptr) == expected);
}
inline void check_argument(std::string_view part, const call &f) { check_fails(DS_ERR_ARGUMENT, part, f); }

inline const ds_message hello = {"user", "Hello"};

}  // namespace golden
