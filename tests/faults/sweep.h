// Fails the n-th allocation or the n-th call to the operating system, alone or with all later ones, for every
// n until no fault occurs any more. DS_FAULTS_ALL=1 tries every n; otherwise a sample keeps the suite quick.
#pragma once

#include "../support/allocations.h"
#include "faults.h"
#include "../support/golden.h"

#include <algorithm>
#include <cstdlib>

namespace ds::test {

inline bool every_n() { return std::getenv("DS_FAULTS_ALL") != nullptr; }

struct injector {
    const char *name;
    bool memory, harmless;  // memory: allocations fail; harmless: the fault must have no effect
    int64_t (*run)(int64_t n, const std::function<void()> &f);
};
inline constexpr injector injectors[] = {
    {"an allocation", true, false,
     [](int64_t n, const std::function<void()> &f) { return with_failing(n, false, f); }},
    {"all allocations from one on", true, false,
     [](int64_t n, const std::function<void()> &f) { return with_failing(n, true, f); }},
    {"a call", false, false,
     [](int64_t n, const std::function<void()> &f) {
         return with_failing_calls(n, false, fault::refused, f);
     }},
    {"all calls from one on", false, false,
     [](int64_t n, const std::function<void()> &f) {
         return with_failing_calls(n, true, fault::refused, f);
     }},
    {"a call interrupted", false, true,
     [](int64_t n, const std::function<void()> &f) {
         return with_failing_calls(n, false, fault::interrupted, f);
     }},
    {"a read or write cut short", false, true,
     [](int64_t n, const std::function<void()> &f) {
         return with_failing_calls(n, false, fault::shortened, f);
     }},
    {"all reads and writes cut short", false, true,
     [](int64_t n, const std::function<void()> &f) {
         return with_failing_calls(n, true, fault::shortened, f);
     }},
};

// `attempt` runs with the fault and must not contain checks. `verify` runs without one, gets its status,
// checks the outcome and frees what was made.
struct trial {
    std::function<ds_status()> attempt;
    std::function<void(ds_status)> verify;
    ds_status usual = DS_OK;  // without a fault
    // after `verify` the same number of blocks is allocated as before
    bool keeps_nothing = true;
    int64_t most = golden::sanitized ? 100 : 1000;  // about how many trials an injector gets
};

inline void sweep(const std::string &what, const trial &t) {
    std::string figures;
    for (const injector &with : injectors) {
        ds_status status = DS_ERR_INTERNAL;
        const auto attempt = [&] { status = t.attempt(); };
        t.verify(t.attempt());  // makes what is made only once
        const int64_t held = blocks_held(), all = with.run(0, attempt);
        CHECK(status == t.usual);
        t.verify(status);
        const int64_t stride = every_n() ? 1 : std::max<int64_t>(1, all / t.most);
        int64_t met = 0, refused = 0, wrong = 0, leaked = 0;
        for (int64_t n = 1;; n += stride) {
            status = DS_ERR_INTERNAL;
            const int64_t made = with.run(n, attempt);
            if (made >= n) ++met;
            refused += status != t.usual;
            const bool fits =
                status == t.usual || (made >= n && !with.harmless &&
                                      (status == DS_ERR_MEMORY || (!with.memory && status == DS_ERR_IO)));
            if (!fits && ++wrong == 1)
                FAIL_CHECK(what << ", " << with.name << ", n = " << n << " of " << all << ": "
                                << ds_status_name(status));
            t.verify(status);
            if (t.keeps_nothing && blocks_held() != held && ++leaked == 1)
                FAIL_CHECK(what << ", " << with.name << ", n = " << n << " of " << all << ": "
                                << blocks_held() - held << " blocks are lost");
            if (made < n) break;
        }
        CHECK(wrong == 0);
        CHECK(leaked == 0);
        if (all > 0)
            figures += std::string(figures.empty() ? "" : "; ") + with.name + ": " + std::to_string(met) +
                       " of " + std::to_string(all) + " tried, " + std::to_string(refused) + " refused";
    }
    MESSAGE(what << ": " << figures);
}

}  // namespace ds::test
