// Each allocation is a mapping of its own, between two pages that are never accessible.
#include "fake_device.h"

#include "../../ggml-cpu/cpu.h"

#include <cstring>
#include <map>
#include <sys/mman.h>
#include <unistd.h>

namespace ds::test {

namespace {

const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
size_t whole(size_t bytes) { return (bytes + page - 1) / page * page; }

struct fake : backend {
    fake_options options;
    backend_ptr inner;
    std::map<char *, size_t> memory;
    fake_counts counts{};
    backend_fns functions{};

    void open(int protection) {
        for (const auto &piece : memory) open(piece, protection);
    }
    static void open(const std::pair<char *const, size_t> &piece, int protection) {
        if (mprotect(piece.first, piece.second, protection) != 0)
            throw error(status::internal, "fake device: mprotect");
    }
    // The allocation that contains an address; null: it is not the device's.
    const std::pair<char *const, size_t> *piece_of(const void *p) const {
        auto after = memory.upper_bound(static_cast<char *>(const_cast<void *>(p)));
        if (after == memory.begin()) return nullptr;
        --after;
        return p < after->first + after->second ? &*after : nullptr;
    }
    void check() const {
        if (options.fails_after >= 0 && counts.runs >= static_cast<size_t>(options.fails_after))
            throw error(status::device, "fake device: lost");
    }
};
fake &self(backend *b) { return *static_cast<fake *>(b); }
const fake &self(const backend *b) { return *static_cast<const fake *>(b); }

struct opened {
    fake &f;
    explicit opened(fake &device) : f(device) { f.open(PROT_READ | PROT_WRITE); }
    ~opened() { f.open(PROT_NONE); }
};
// Copies open only the allocations they touch, since models are uploaded piece by piece.
struct opened_for_copy {
    const std::pair<char *const, size_t> *pieces[2];
    opened_for_copy(fake &f, const void *dst, const void *src) : pieces{f.piece_of(dst), f.piece_of(src)} {
        open(PROT_READ | PROT_WRITE);
    }
    ~opened_for_copy() { open(PROT_NONE); }
    void open(int protection) {
        for (const auto *p : pieces)
            if (p) fake::open(*p, protection);
    }
};

void *alloc(backend *b, size_t bytes) {
    fake &f = self(b);
    if (bytes > f.options.memory - f.counts.allocated)
        throw error(status::memory, format_text("fake device: no %zu bytes", bytes));
    char *const p = static_cast<char *>(
        mmap(nullptr, whole(bytes) + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (p == MAP_FAILED) throw error(status::memory, "fake device: mmap");
    f.memory[p + page] = whole(bytes);
    f.counts.allocated += bytes;
    return p + page;
}
void release(backend *b, void *p, size_t bytes) {
    self(b).memory.erase(static_cast<char *>(p));
    self(b).counts.allocated -= bytes;
    munmap(static_cast<char *>(p) - page, whole(bytes) + 2 * page);
}
void copy(backend *b, void *dst, const void *src, size_t bytes) {
    self(b).check();
    const opened_for_copy now(self(b), dst, src);
    std::memcpy(dst, src, bytes);
}
void upload(backend *b, void *dst, const void *src, size_t bytes) {
    copy(b, dst, src, bytes), self(b).counts.uploaded += bytes;
}
void download(backend *b, void *dst, const void *src, size_t bytes) {
    copy(b, dst, src, bytes), self(b).counts.downloaded += bytes;
}
bool run(backend *b, const graph &g, void *work, const std::atomic<bool> *stop) {
    self(b).check();
    const opened now(self(b));
    ++self(b).counts.runs;
    return self(b).inner->fn->run(self(b).inner.get(), g, work, stop);
}
const char *variant(const backend *b, const node &n) {
    const fake &f = self(b);
    if (f.options.missing && std::strcmp(info(n.kind).name, f.options.missing) == 0) return nullptr;
    return f.inner->fn->variant(f.inner.get(), n);
}

}  // namespace

backend_ptr fake_device(const fake_options &o, backend_ptr inner) {
    auto f = std::make_unique<fake>();
    f->options = o;
    f->inner = inner ? std::move(inner) : cpu_backend({.threads = o.threads});
    f->functions = {
        .name = "fake",
        .host_memory = false,
        .free = [](backend *b) { delete &self(b); },
        .alloc = alloc,
        .release = release,
        .upload = upload,
        .download = download,
        .copy = copy,
        .alloc_host = [](backend *b, size_t n) { return self(b).inner->fn->alloc(self(b).inner.get(), n); },
        .release_host = [](backend *b, void *p,
                           size_t n) { self(b).inner->fn->release(self(b).inner.get(), p, n); },
        .wait = [](backend *b) { self(b).check(); },
        .work_bytes = [](const backend *b,
                         const node &n) { return self(b).inner->fn->work_bytes(self(b).inner.get(), n); },
        .run = run,
        .variant = variant};
    f->fn = &f->functions;
    return backend_ptr(f.release());
}

fake_counts counts_of(const backend &b) { return self(&b).counts; }

}  // namespace ds::test
