// Opens libdeepseek-cuda.so and wraps its plain functions in a backend that throws. The shared object stays
// loaded, since a driver that was started may not survive being unloaded.
#include "cuda.h"

#include "../../tensor/os.h"

#include <cstring>

namespace ds {

namespace {

constexpr const char *file_name = "libdeepseek-cuda.so";

struct cuda : backend {
    const cuda_plugin &plugin;
    void *self = nullptr;
    cuda_device device{};

    explicit cuda(const cuda_plugin &p) : plugin(p) {}
    cuda(const cuda &) = delete;
    ~cuda() {
        if (self) plugin.close(self);
    }
};
cuda &self(backend *b) { return *static_cast<cuda *>(b); }
const cuda &self(const backend *b) { return *static_cast<const cuda *>(b); }

// Calls f(…, failure) and throws the failure.
template <class F, class... A> void call(F f, A... a) {
    cuda_failure failure;
    if (!f(a..., &failure)) throw error(failure.code, failure.text);
}

std::vector<std::string> candidate_paths() {
    const std::string here = os::code_directory();
    if (here.empty()) return {};
    return {here + "/" + file_name, here + "/../lib/" + file_name};
}

void *open_library(const std::string &path) {
    try {
        if (!path.empty()) return os::open_library(path);
        std::string tried;
        for (const std::string &candidate : candidate_paths()) {
            if (os::file_exists(candidate)) return os::open_library(candidate);
            tried += candidate + ", ";
        }
        try {
            return os::open_library(file_name);
        } catch (const error &e) {
            throw error(e.code, "looked for " + tried + "and where the system looks: " + e.text);
        }
    } catch (const error &e) {
        throw error(status::no_device, std::string("no CUDA device can be used: ") + e.text);
    }
}

const cuda_plugin &load(const std::string &path) {
    void *const library = open_library(path);
    const std::string shown = path.empty() ? file_name : path;
    void *const symbol = os::find_symbol(library, cuda_plugin_symbol);
    if (!symbol)
        throw error(status::no_device, "no CUDA device can be used: " + shown + " has no " +
                                           cuda_plugin_symbol + ", and is something else");
    const cuda_plugin *const p = reinterpret_cast<cuda_plugin_fn>(symbol)(plugin_layout());
    if (!p)
        throw error(status::no_device, "no CUDA device can be used: " + shown +
                                           " was built for another version of this library");
    return *p;
}

void *alloc(backend *b, size_t bytes) {
    void *p;
    call(self(b).plugin.alloc, self(b).self, bytes, &p);
    return p;
}
void *alloc_host(backend *b, size_t bytes) {
    void *p;
    call(self(b).plugin.alloc_host, self(b).self, bytes, &p);
    return p;
}

constexpr backend_fns functions = {
    .name = "cuda",
    .host_memory = false,
    .free = [](backend *b) { delete &self(b); },
    .alloc = alloc,
    .release = [](backend *b, void *p, size_t) { self(b).plugin.release(self(b).self, p); },
    .upload = [](backend *b, void *dst, const void *src,
                 size_t bytes) { call(self(b).plugin.upload, self(b).self, dst, src, bytes); },
    .download = [](backend *b, void *dst, const void *src,
                   size_t bytes) { call(self(b).plugin.download, self(b).self, dst, src, bytes); },
    .copy = [](backend *b, void *dst, const void *src,
               size_t bytes) { call(self(b).plugin.copy, self(b).self, dst, src, bytes); },
    .alloc_host = alloc_host,
    .release_host = [](backend *b, void *p, size_t) { self(b).plugin.release_host(self(b).self, p); },
    .wait = [](backend *b) { call(self(b).plugin.wait, self(b).self); },
    .work_bytes = [](const backend *b, const node &n) { return self(b).plugin.work_bytes(self(b).self, &n); },
    .run =
        [](backend *b, const graph &g, void *work, const std::atomic<bool> *stop) {
            if (stop && stop->load(std::memory_order_relaxed)) return false;
            bool finished = false;
            call(self(b).plugin.run, self(b).self, &g, work, stop, &finished);
            return finished;
        },
    .variant = [](const backend *b, const node &n) { return self(b).plugin.variant(self(b).self, &n); },
};

}  // namespace

int32_t cuda_device_count(const std::string &library) {
    int32_t n = 0;
    call(load(library).count, &n);
    return n;
}

cuda_device describe_cuda_device(int32_t device, const std::string &library) {
    cuda_device d{};
    call(load(library).describe, device, &d);
    return d;
}

backend_ptr cuda_backend(const cuda_options &o) {
    const cuda_plugin &plugin = load(o.library);
    auto b = std::make_unique<cuda>(plugin);
    b->fn = &functions;
    std::vector<const char *> forced;
    for (const auto &[name, variant] : o.force) forced.insert(forced.end(), {name.c_str(), variant.c_str()});
    forced.push_back(nullptr);
    call(plugin.describe, o.device, &b->device);
    call(plugin.open, o.device, static_cast<const char *const *>(forced.data()), o.record, o.overlap,
         &b->self);
    return backend_ptr(b.release());
}

bool is_cuda(const backend &b) { return b.fn == &functions; }
const cuda_device &cuda_device_of(const backend &b) { return self(&b).device; }

size_t cuda_recorded(const backend &b) { return self(&b).plugin.recorded(self(&b).self); }

double cuda_read_rate(backend &b, size_t &bytes) {
    double rate = 0;
    call(self(&b).plugin.read_rate, self(&b).self, bytes, &bytes, &rate);
    return rate;
}

std::vector<std::string> cuda_variants(const backend &b, op k) {
    std::vector<std::string> names;
    while (const char *name = self(&b).plugin.variant_name(k, names.size())) names.emplace_back(name);
    return names;
}

}  // namespace ds
