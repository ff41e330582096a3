// The CPU backend: its options, the choice of instruction set and variants, and the loop over a graph's
// nodes. The variant of a node depends on the node and the options alone, never on the number of threads, and
// all variants give the same bits.

#include "cpu.h"
#include "variants.h"

#include "../tensor/os.h"

#include <cassert>
#include <cstring>

namespace ds {

static constexpr const isa *all_isas[] = {
// best first
#ifdef DS_X86_KERNELS
    &isa_amx,    &isa_avx512_bf16, &isa_avx512_vnni, &isa_avx512, &isa_avx2,
#endif
#ifdef DS_ARM_KERNELS
    &isa_neon,
#endif
    &isa_scalar,
};

variants cpu_variants(op k) {
    static constexpr variants reference_only = {&reference_variant, 1};
    [[maybe_unused]] static constexpr variants none = {};
#define DS_CPU_yes(name) &name##_variants
#define DS_CPU_ref(name) &reference_only
#define DS_CPU_no(name) &none
    static constexpr const variants *lists[] = {
#define DS_OP(name, sources, params, cpu, ...) DS_CPU_##cpu(name),
#include "../tensor/ops.def"
#undef DS_OP
    };
#undef DS_CPU_yes
#undef DS_CPU_ref
#undef DS_CPU_no
    return *lists[static_cast<size_t>(k)];
}

void run_reference(cpu &, const node &n, char *) { info(n.kind).reference(n); }

const variant &choose_variant(const cpu &c, const node &n) {
    const variant *forced = c.forced[static_cast<size_t>(n.kind)];
    if (forced && forced->fits(c, n)) return *forced;
    for (const variant &v : cpu_variants(n.kind))
        if (v.fits(c, n)) return v;  // the last one, the reference, always does
    throw error(status::unsupported, std::string("the CPU cannot compute ") + info(n.kind).name);
}

size_t most_work_bytes(const cpu &c, const node &n) {
    size_t most = 0;
    for (const variant &v : cpu_variants(n.kind))
        if (v.work_bytes) most = std::max(most, v.work_bytes(c, n));
    return most;
}

// ---- The table of functions

static cpu &self(backend *b) { return *static_cast<cpu *>(b); }
static const cpu &self(const backend *b) { return *static_cast<const cpu *>(b); }

static void cpu_free(backend *b) { delete &self(b); }
static void *cpu_alloc(backend *b, size_t bytes) { return self(b).host.alloc(bytes, block::alignment); }
static void cpu_release(backend *b, void *p, size_t bytes) {
    self(b).host.release(p, bytes, block::alignment);
}
static void cpu_copy(backend *, void *dst, const void *src, size_t bytes) {
    if (bytes) std::memcpy(dst, src, bytes);
}

static size_t cpu_work_bytes(const backend *b, const node &n) { return most_work_bytes(self(b), n); }

static bool cpu_run(backend *b, const graph &g, void *work, const std::atomic<bool> *stop) {
    const os::default_float_mode mode;
    for (const node &n : g.nodes()) {
        if (stop && stop->load(std::memory_order_relaxed)) return false;
        choose_variant(self(b), n).run(self(b), n, static_cast<char *>(work));
    }
    return true;
}

static const char *cpu_variant(const backend *b, const node &n) { return choose_variant(self(b), n).name; }

static void cpu_wait(backend *) {}

static constexpr backend_fns functions = {
    .name = "cpu",
    .host_memory = true,
    .free = cpu_free,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .alloc_host = cpu_alloc,
    .release_host = cpu_release,
    .wait = cpu_wait,
    .work_bytes = cpu_work_bytes,
    .run = cpu_run,
    .variant = cpu_variant,
};

// ---- Options

std::vector<const char *> cpu_isas() {
    std::vector<const char *> names;
    for (const isa *i : all_isas)
        if (i->available()) names.push_back(i->name);
    return names;
}

// available() is called only for the set in question: AMX's asks the system for a permission, which a process
// may not want.
static bool could_be(const isa *i) { return i->could_be ? i->could_be() : i->available(); }
static const isa *find_isa(const char *name, bool only_asked) {
    for (const isa *i : all_isas)
        if ((!name || std::strcmp(name, i->name) == 0) && (only_asked ? could_be(i) : i->available()))
            return i;
    std::string known;
    for (const isa *i : all_isas)
        if (could_be(i)) known += (known.empty() ? "" : ", ") + std::string(i->name);
    throw error(status::argument, "no instruction set " + quoted(name) + " here; there are: " + known);
}

static bool find_op(const std::string &name, op *out) {
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k) {
        *out = static_cast<op>(k);
        if (name == info(*out).name) return true;
    }
    return false;
}

static const variant *find_variant(op k, const std::string &name) {
    std::string known;
    for (const variant &v : cpu_variants(k)) {
        if (name == v.name) return &v;
        known += (known.empty() ? "" : ", ") + std::string(v.name);
    }
    throw error(status::argument,
                format_text("%s has no variant ", info(k).name) + quoted(name) + "; there are: " + known);
}

backend_ptr cpu_backend(const cpu_options &o) {
    if (o.threads > thread_pool::max_threads)
        throw error(status::argument,
                    format_text("%u threads; at most %u", o.threads, thread_pool::max_threads));
    const unsigned threads =
        o.threads ? o.threads : std::min(os::processor_count(), thread_pool::max_threads);
    const isa *const kernels = o.kernels ? o.kernels : find_isa(o.isa, o.only_asked);
    auto c = std::make_unique<cpu>(o.host, kernels, threads, !o.only_asked);
    c->fn = &functions;
    for (const auto &[name, variant_name] : o.force) {
        op k;
        if (!find_op(name, &k)) throw error(status::argument, "no operation " + quoted(name));
        c->forced[static_cast<size_t>(k)] = find_variant(k, variant_name);
    }
    if (threads > 1) {
        c->one = std::make_unique<cpu>(o.host, c->vec, 1, false);
        std::copy(std::begin(c->forced), std::end(c->forced), c->one->forced);
    }
    return backend_ptr(c.release());
}

unsigned cpu_threads(const backend &b) { return self(&b).pool.size(); }
const char *cpu_isa(const backend &b) { return self(&b).vec->name; }

}  // namespace ds
