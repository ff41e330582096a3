// A libdeepseek-cuda.so that needs no GPU: the CPU backend with memory that the host cannot touch
// (fake_device.h). In place of the real one it lets whole programs use a device through the public interface,
// as tests/on_device does with engines. Every open returns the same device, so one backend at a time works on
// it.
#include "../../ggml-cuda/plugin.h"
#include "../cuda/fake_device.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace ds {

namespace {

struct the_device {
    std::mutex mutex;
    backend_ptr memory = test::fake_device({.threads = 1});
    std::map<void *, size_t> bytes;
};
the_device &device() {
    static the_device d;
    return d;
}

template <class F> bool guarded(cuda_failure *failure, F &&f) noexcept {
    try {
        const std::lock_guard lock(device().mutex);
        f(device().memory.get(), *device().memory->fn);
        return true;
    } catch (const error &e) {
        failure->code = e.code;
        std::strncpy(failure->text, e.what(), sizeof failure->text - 1);
    } catch (const std::exception &e) {
        failure->code = status::internal;
        std::strncpy(failure->text, e.what(), sizeof failure->text - 1);
    }
    return false;
}
void check(int32_t number) {
    if (number != 0) throw error(status::no_device, "there is one device");
}

constexpr cuda_plugin functions = {
    .count = [](int32_t *n, cuda_failure *) { return *n = 1, true; },
    .describe =
        [](int32_t number, cuda_device *d, cuda_failure *f) {
            return guarded(f, [&](backend *, const backend_fns &) {
                check(number);
                *d = {.name = "none",
                      .memory_total = uint64_t{1} << 34,
                      .memory_free = uint64_t{1} << 34,
                      .major = 9,
                      .minor = 0,
                      .processors = 1};
            });
        },
    .open =
        [](int32_t number, const char *const *, bool, bool, void **self, cuda_failure *f) {
            return guarded(f, [&](backend *, const backend_fns &) { check(number), *self = &device(); });
        },
    .close = [](void *) {},
    .alloc =
        [](void *, size_t n, void **p, cuda_failure *f) {
            return guarded(
                f, [&](backend *b, const backend_fns &fn) { *p = fn.alloc(b, n), device().bytes[*p] = n; });
        },
    .release =
        [](void *, void *p) {
            cuda_failure ignored;
            guarded(&ignored, [&](backend *b, const backend_fns &fn) {
                fn.release(b, p, device().bytes.at(p)), device().bytes.erase(p);
            });
        },
    .alloc_host =
        [](void *, size_t n, void **p, cuda_failure *) {
            return *p = std::aligned_alloc(64, (n + 63) / 64 * 64), *p != nullptr;
        },
    .release_host = [](void *, void *p) { std::free(p); },
    .upload =
        [](void *, void *dst, const void *src, size_t n, cuda_failure *f) {
            return guarded(f, [&](backend *b, const backend_fns &fn) { fn.upload(b, dst, src, n); });
        },
    .download =
        [](void *, void *dst, const void *src, size_t n, cuda_failure *f) {
            return guarded(f, [&](backend *b, const backend_fns &fn) { fn.download(b, dst, src, n); });
        },
    .copy =
        [](void *, void *dst, const void *src, size_t n, cuda_failure *f) {
            return guarded(f, [&](backend *b, const backend_fns &fn) { fn.copy(b, dst, src, n); });
        },
    .wait = [](void *, cuda_failure *) { return true; },
    .run =
        [](void *, const graph *g, void *work, const std::atomic<bool> *stop, bool *finished,
           cuda_failure *f) {
            return guarded(f,
                           [&](backend *b, const backend_fns &fn) { *finished = fn.run(b, *g, work, stop); });
        },
    .work_bytes = [](const void *,
                     const node *n) { return device().memory->fn->work_bytes(device().memory.get(), *n); },
    .variant = [](const void *,
                  const node *n) { return device().memory->fn->variant(device().memory.get(), *n); },
    .variant_name = [](op, size_t) -> const char * { return nullptr; },
    .recorded = [](const void *) { return size_t{0}; },
    .read_rate =
        [](void *, size_t, size_t *, double *, cuda_failure *f) {
            return guarded(f, [](backend *, const backend_fns &) {
                throw error(status::unsupported, "this device has no speed");
            });
        },
};

}  // namespace

}  // namespace ds

extern "C" __attribute__((visibility("default"))) const ds::cuda_plugin *ds_cuda_plugin(uint64_t layout) {
    return layout == ds::plugin_layout() ? &ds::functions : nullptr;
}
