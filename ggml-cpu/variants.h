// How an operation runs on the CPU: an ordered list of variants, best first, ending with the reference
// forward. This one list says what is supported, dispatched and tested. ops/<op>.cpp defines <op>_variants.
// Invariant: all variants of a node give the same bits.
#pragma once

#include "isa/isa.h"
#include "thread_pool.h"

#include "../tensor/backend.h"

#include <algorithm>

namespace ds {

struct variant;

struct cpu : backend {
    ds::host host;
    const isa *vec;
    thread_pool pool;
    const variant *forced[static_cast<size_t>(op::count)] = {};
    std::unique_ptr<cpu> one;  // the same with one thread, if the pool has several

    cpu &alone() { return one ? *one : *this; }
    const cpu &alone() const { return one ? *one : *this; }

    cpu(const ds::host &h, const isa *v, unsigned threads, bool started)
        : host(h), vec(v), pool(threads, started) {}
};

struct variant {
    const char *name;
    // whether it can and should run this node, if no variant before it does
    bool (*fits)(const cpu &, const node &);
    // null: none. Monotone in every dimension, whether the variant fits or not
    size_t (*work_bytes)(const cpu &, const node &);
    void (*run)(cpu &, const node &, char *work);
};

using variants = std::span<const variant>;
// By ops.def's column cpu: variants of its own, the reference alone, or none.
#define DS_CPU_yes(name) extern const variants name##_variants;
#define DS_CPU_ref(name)
#define DS_CPU_no(name)
#define DS_OP(name, sources, params, cpu, ...) DS_CPU_##cpu(name)
#include "../tensor/ops.def"
#undef DS_OP
#undef DS_CPU_yes
#undef DS_CPU_ref
#undef DS_CPU_no
variants cpu_variants(op k);
const variant &choose_variant(const cpu &, const node &);  // throws status::unsupported when there is none
// The most that any variant would take: a plan made for the largest shape must hold for smaller ones, which
// may run by other variants.
size_t most_work_bytes(const cpu &, const node &);

// The reference forward, on the caller's thread.
void run_reference(cpu &, const node &n, char *);
constexpr variant reference_variant = {"reference", [](const cpu &, const node &) { return true; }, nullptr,
                                       run_reference};

// Work below this many nanoseconds, by the operation's own estimate, is done sooner by one thread than by
// several.
constexpr int64_t worth_sharing = 4000;

inline size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

// Scratch, taken part by part. Without memory it only counts the bytes.
struct work_memory {
    char *memory;
    size_t bytes = 0;

    char *take_bytes(size_t n) {
        char *const p = memory ? memory + bytes : nullptr;
        bytes += align64(n);
        return p;
    }
    template <class T> T *take(int64_t count) {
        return reinterpret_cast<T *>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
    }
};

// f(begin, end, worker) over [0, n) in parts; in one part if `nanoseconds` of work in all are not worth
// sharing.
template <class F> void share_range(cpu &c, size_t n, int64_t nanoseconds, const F &f) {
    const size_t parts = nanoseconds < worth_sharing ? 1 : std::min<size_t>(n, 4 * c.pool.size());
    c.pool.run(parts,
               [&](size_t part, unsigned worker) { f(n * part / parts, n * (part + 1) / parts, worker); });
}

}  // namespace ds
