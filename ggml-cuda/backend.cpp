// The CUDA backend: a device's memory, copies, stream and recorded graphs, and the plain functions that the
// library calls (plugin.h). Every failure of CUDA becomes a cuda_failure; none ends the process.
// Invariant: all work of a backend is on one stream, so it runs in the order of the calls. The caller's
// current device is restored before a function returns.
#include "context.h"
#include "library.h"
#include "plugin.h"
#include "read.h"

#include <cstring>
#include <cuda_runtime_api.h>

namespace ds::cuda {

namespace {

// ---- Errors

status status_of(cudaError_t e) {
    switch (e) {
    case cudaErrorMemoryAllocation: return status::memory;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorStubLibrary: return status::no_device;
    default: return status::device;
    }
}
void check(cudaError_t e, const char *doing) {
    if (e == cudaSuccess) return;
    cudaGetLastError();  // clears the error, unless it is a permanent one
    throw error(status_of(e),
                format_text("CUDA: %s: %s (%s)", doing, cudaGetErrorString(e), cudaGetErrorName(e)));
}

template <class F> bool guarded(cuda_failure *failure, F &&f) noexcept {
    const auto fail = [&](status code, const char *text) {
        failure->code = code;
        const size_t n = std::min(std::strlen(text), sizeof failure->text - 1);
        std::memcpy(failure->text, text, n);
        failure->text[n] = 0;
        return false;
    };
    try {
        f();
        return true;
    } catch (const error &e) {
        return fail(e.code, e.what());
    } catch (const std::bad_alloc &) {
        return fail(status::memory, "out of memory");
    } catch (const std::exception &e) {
        return fail(status::internal, e.what());
    } catch (...) {
        return fail(status::internal, "an exception of unknown type");
    }
}

// ---- The current device during a call

class current_device {
public:
    explicit current_device(int device) {
        check(cudaGetDevice(&before_), "asking for the device");
        if (before_ != device) check(cudaSetDevice(device), "choosing the device");
        changed_ = before_ != device;
    }
    current_device(const current_device &) = delete;
    ~current_device() {
        if (changed_) cudaSetDevice(before_);
    }

private:
    int before_ = 0;
    bool changed_ = false;
};

int count_devices() {
    int n = 0, driver = 0, needed = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess &&
        cudaRuntimeGetVersion(&needed) == cudaSuccess) {
        cudaGetLastError();
        const auto version = [](int v) { return format_text("%d.%d", v / 1000, v % 1000 / 10); };
        throw error(status::no_device, driver == 0 ? "CUDA: there is no NVIDIA driver (libcuda.so.1)"
                                                   : "CUDA: the driver is for " + version(driver) +
                                                         ", needed is " + version(needed) + " or later");
    }
    check(e, "looking for devices");
    if (n == 0) throw error(status::no_device, "CUDA: there is no device");
    return n;
}

void check_device(int device) {
    const int n = count_devices();
    if (device < 0 || device >= n)
        throw error(status::no_device,
                    format_text("device: is %d, there are %d, counted from 1", device + 1, n));
}

int attribute(cudaDeviceAttr a, int device) {
    int v = 0;
    check(cudaDeviceGetAttribute(&v, a, device), "asking for a device's properties");
    return v;
}

device_facts facts_of(int device) {
    return {attribute(cudaDevAttrComputeCapabilityMajor, device),
            attribute(cudaDevAttrComputeCapabilityMinor, device),
            attribute(cudaDevAttrMultiProcessorCount, device),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)};
}

cuda_device describe(int device) {
    check_device(device);
    const current_device now(device);
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, device), "asking for a device's properties");
    size_t free_bytes = 0, total = 0;
    check(cudaMemGetInfo(&free_bytes, &total), "asking for a device's memory");
    cuda_device d{};
    std::memcpy(d.name, p.name, std::min(std::strlen(p.name), sizeof d.name - 1));
    d.memory_total = total;
    d.memory_free = free_bytes;
    d.major = p.major, d.minor = p.minor;
    d.processors = p.multiProcessorCount;
    return d;
}

// ---- A backend

constexpr size_t stage_bytes = size_t{8} << 20;

// Pinned host memory for copies, and the event after the device's last read of it.
struct stage {
    void *memory = nullptr;
    cudaEvent_t read = nullptr;
};

// A graph that is run a second time is recorded, and from then on launched as one.
struct recording {
    uint64_t identity = 0, used = 0;
    const void *work = nullptr;
    cudaGraphExec_t exec = nullptr;  // null: run once so far
    bool refused = false;
};
constexpr size_t most_recordings = 64;

struct device_backend {
    int device;
    context c;
    cudaStream_t stream = nullptr;
    stage stages[2];
    size_t next_stage = 0;
    bool record = true, overlap = false;
    std::vector<recording> recordings;
    uint64_t clock = 0;
    // of a long step: after the piece queued last, and after the one before it
    cudaEvent_t pieces[2] = {};

    explicit device_backend(int number) : device(number) {}
    device_backend(const device_backend &) = delete;
    ~device_backend();
    void open();
};

void device_backend::open() {
    const current_device now(device);
    c.facts = facts_of(device);
    if (c.facts.major < 8)
        throw error(status::no_device,
                    format_text("device %d has compute capability %d.%d, needed is 8.0 or more", device + 1,
                                c.facts.major, c.facts.minor));
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
    c.queue = {stream, overlap && c.facts.major >= 9};
    c.error_text = [](int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); };
    for (stage &s : stages) {
        check(cudaHostAlloc(&s.memory, stage_bytes, cudaHostAllocDefault),
              "taking memory of the host for copies");
        check(cudaEventCreateWithFlags(&s.read, cudaEventDisableTiming), "making an event");
    }
    for (cudaEvent_t &e : pieces)
        check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "making an event");
    check(static_cast<cudaError_t>(prepare_kernels(c.facts)), "loading the kernels");
    c.library = open_library_of_products(stream);
    c.multiply = multiply_by_library;
    c.integers_fit = lt_fits, c.integers_bytes = lt_bytes, c.multiply_integers = lt_products;
    recordings.reserve(most_recordings);
}

device_backend::~device_backend() {
    int before = 0;
    cudaGetDevice(&before);
    cudaSetDevice(device);
    if (stream) cudaStreamSynchronize(stream);
    for (const recording &r : recordings)
        if (r.exec) cudaGraphExecDestroy(r.exec);
    close_library_of_products(c.library);
    for (const cudaEvent_t e : pieces)
        if (e) cudaEventDestroy(e);
    for (const stage &s : stages) {
        if (s.read) cudaEventDestroy(s.read);
        if (s.memory) cudaFreeHost(s.memory);
    }
    if (stream) cudaStreamDestroy(stream);
    cudaSetDevice(before);
    cudaGetLastError();
}

device_backend &self(void *p) { return *static_cast<device_backend *>(p); }
const device_backend &self(const void *p) { return *static_cast<const device_backend *>(p); }

void wait(device_backend &b) { check(cudaStreamSynchronize(b.stream), "waiting for the device"); }

void *alloc(device_backend &b, size_t bytes) {
    const current_device now(b.device);
    void *p = nullptr;
    const cudaError_t e = cudaMalloc(&p, bytes);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        size_t free_bytes = 0, total = 0;
        cudaMemGetInfo(&free_bytes, &total);
        throw error(status::memory, format_text("CUDA: device %d has no %zu bytes: %zu of %zu are free",
                                                b.device + 1, bytes, free_bytes, total));
    }
    check(e, "taking memory");
    const cudaError_t cleared = cudaMemsetAsync(p, 0, bytes, b.stream);
    if (cleared != cudaSuccess) cudaFree(p);
    check(cleared, "clearing memory");
    return p;
}

// Alternates between two stages: while the device reads one, the other is filled.
void upload(device_backend &b, void *dst, const void *src, size_t bytes) {
    const current_device now(b.device);
    for (size_t done = 0; done < bytes;) {
        stage &s = b.stages[b.next_stage];
        b.next_stage ^= 1;
        const size_t n = std::min(stage_bytes, bytes - done);
        check(cudaEventSynchronize(s.read), "waiting for a copy");
        std::memcpy(s.memory, static_cast<const char *>(src) + done, n);
        check(cudaMemcpyAsync(static_cast<char *>(dst) + done, s.memory, n, cudaMemcpyHostToDevice, b.stream),
              "copying to the device");
        check(cudaEventRecord(s.read, b.stream), "copying to the device");
        done += n;
    }
}

void download(device_backend &b, void *dst, const void *src, size_t bytes) {
    const current_device now(b.device);
    check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, b.stream), "copying from the device");
    wait(b);
}

// ---- Recorded graphs

// Null where a graph cannot be recorded; it is then queued node by node, as before.
cudaGraphExec_t record(device_backend &b, const graph &g, void *work) {
    if (cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess)
        return cudaGetLastError(), nullptr;
    bool queued = true;
    try {
        run_nodes(b.c, g, work);
    } catch (const error &) {
        queued = false;
    }
    cudaGraph_t made = nullptr;
    cudaGraphExec_t exec = nullptr;
    if (cudaStreamEndCapture(b.stream, &made) != cudaSuccess || !queued ||
        cudaGraphInstantiate(&exec, made, 0) != cudaSuccess)
        exec = nullptr;
    if (made) cudaGraphDestroy(made);
    cudaGetLastError();
    return exec;
}

recording &recording_of(device_backend &b, uint64_t identity, const void *work) {
    for (recording &r : b.recordings)
        if (r.identity == identity && r.work == work) return r;
    if (b.recordings.size() < most_recordings)
        return b.recordings.emplace_back(recording{.identity = identity, .work = work});
    recording &oldest =
        *std::min_element(b.recordings.begin(), b.recordings.end(),
                          [](const recording &x, const recording &y) { return x.used < y.used; });
    wait(b);  // it may still run
    if (oldest.exec) cudaGraphExecDestroy(oldest.exec);
    return oldest = recording{.identity = identity, .work = work};
}

// Long steps are not recorded, because *stop is read between pieces. Two pieces are queued at a time, so that
// the device never waits for the next one.
bool run_long(device_backend &b, const graph &g, void *work, const std::atomic<bool> &stop) {
    size_t piece = 0;
    return run_pieces(b.c, g, work, [&] {
        check(cudaEventRecord(b.pieces[piece % 2], b.stream), "queueing a long step");
        if (piece++ > 0) check(cudaEventSynchronize(b.pieces[piece % 2]), "running a long step");
        return !stop.load(std::memory_order_relaxed);
    });
}

void run_short(device_backend &b, const graph &g, void *work) {
    if (!g.identity || !b.record) return run_nodes(b.c, g, work);
    recording &r = recording_of(b, g.identity, work);
    const bool first = r.used == 0;
    r.used = ++b.clock;
    if (!first && !r.exec && !r.refused) {
        r.exec = record(b, g, work);
        r.refused = !r.exec;
    }
    if (r.exec) check(cudaGraphLaunch(r.exec, b.stream), "running a recorded graph");
    // The first run is not recorded: kernels are loaded when first used, which must not happen during a
    // capture.
    else run_nodes(b.c, g, work);
}

bool run(device_backend &b, const graph &g, void *work, const std::atomic<bool> *stop) {
    const current_device now(b.device);
    if (stop && takes_long(g)) return run_long(b, g, work, *stop);
    return run_short(b, g, work), true;
}

// ---- Speed of reading

double read_rate(device_backend &b, size_t &bytes) {
    const current_device now(b.device);
    void *from = nullptr;
    for (; cudaMalloc(&from, bytes + 256) != cudaSuccess; bytes /= 2) {
        cudaGetLastError();
        if (bytes < size_t{1} << 20)
            throw error(status::memory,
                        format_text("CUDA: device %d has no room to measure its memory", b.device + 1));
    }
    struct kept {
        void *p;
        cudaEvent_t begun = nullptr, ended = nullptr;
        ~kept() {
            cudaFree(p);
            if (begun) cudaEventDestroy(begun);
            if (ended) cudaEventDestroy(ended);
        }
    } k{from};
    check(cudaEventCreate(&k.begun), "making an event");
    check(cudaEventCreate(&k.ended), "making an event");
    read_params p{static_cast<char *>(from) + 256, static_cast<int64_t>(bytes / 16),
                  static_cast<uint32_t *>(from), b.c.facts.processors * 4};
    check(cudaMemsetAsync(from, 0, 256, b.stream), "clearing memory");
    check(static_cast<cudaError_t>(launch_fill(p, b.stream)), "filling memory");
    float best = 0;  // milliseconds
    for (int i = 0; i < 8; ++i) {
        float took = 0;
        check(cudaEventRecord(k.begun, b.stream), "measuring");
        check(static_cast<cudaError_t>(launch_read(p, b.stream)), "reading memory");
        check(cudaEventRecord(k.ended, b.stream), "measuring");
        check(cudaEventSynchronize(k.ended), "reading memory");
        check(cudaEventElapsedTime(&took, k.begun, k.ended), "measuring");
        if (i > 0 && (best == 0 || took < best)) best = took;
    }
    return static_cast<double>(bytes) / (static_cast<double>(best) * 1e-3);
}

// ---- The plugin's functions

constexpr cuda_plugin functions = {
    .count = [](int32_t *n, cuda_failure *f) { return guarded(f, [&] { *n = count_devices(); }); },
    .describe = [](int32_t device, cuda_device *d,
                   cuda_failure *f) { return guarded(f, [&] { *d = describe(device); }); },
    .open =
        [](int32_t device, const char *const *forced, bool record, bool overlap, void **out,
           cuda_failure *f) {
            return guarded(f, [&] {
                check_device(device);
                auto b = std::make_unique<device_backend>(device);
                b->record = record, b->overlap = overlap;
                for (; forced[0]; forced += 2) force_variant(b->c, forced[0], forced[1]);
                b->open();
                *out = b.release();
            });
        },
    .close = [](void *b) { delete &self(b); },
    .alloc = [](void *b, size_t bytes, void **p,
                cuda_failure *f) { return guarded(f, [&] { *p = alloc(self(b), bytes); }); },
    .release =
        [](void *b, void *p) {
            cuda_failure ignored;
            guarded(&ignored, [&] {
                const current_device now(self(b).device);
                cudaFree(p);
                cudaGetLastError();
            });
        },
    .alloc_host =
        [](void *b, size_t bytes, void **p, cuda_failure *f) {
            return guarded(f, [&] {
                const current_device now(self(b).device);
                check(cudaHostAlloc(p, bytes, cudaHostAllocDefault), "taking memory of the host for copies");
            });
        },
    .release_host =
        [](void *, void *p) {
            cudaFreeHost(p);
            cudaGetLastError();
        },
    .upload = [](void *b, void *dst, const void *src, size_t n,
                 cuda_failure *f) { return guarded(f, [&] { upload(self(b), dst, src, n); }); },
    .download = [](void *b, void *dst, const void *src, size_t n,
                   cuda_failure *f) { return guarded(f, [&] { download(self(b), dst, src, n); }); },
    .copy =
        [](void *b, void *dst, const void *src, size_t n, cuda_failure *f) {
            return guarded(f, [&] {
                const current_device now(self(b).device);
                check(cudaMemcpyAsync(dst, src, n, cudaMemcpyDeviceToDevice, self(b).stream),
                      "copying on the device");
            });
        },
    .wait =
        [](void *b, cuda_failure *f) {
            return guarded(f, [&] {
                const current_device now(self(b).device);
                wait(self(b));
            });
        },
    .run = [](void *b, const graph *g, void *work, const std::atomic<bool> *stop, bool *finished,
              cuda_failure *f) { return guarded(f, [&] { *finished = run(self(b), *g, work, stop); }); },
    .work_bytes = [](const void *b, const node *n) { return most_work_bytes(self(b).c, *n); },
    .variant = [](const void *b, const node *n) -> const char * {
        const cuda::variant *const v = choose_variant(self(b).c, *n);
        return v ? v->name : nullptr;
    },
    .variant_name = [](op k, size_t i) -> const char * {
        return i < variants_of(k).size() ? variants_of(k)[i].name : nullptr;
    },
    .recorded =
        [](const void *b) {
            size_t n = 0;
            for (const recording &r : self(b).recordings) n += r.exec != nullptr;
            return n;
        },
    .read_rate =
        [](void *b, size_t bytes, size_t *read, double *rate, cuda_failure *f) {
            return guarded(f, [&] {
                *read = bytes / 16 * 16;
                *rate = read_rate(self(b), *read);
            });
        },
};

}  // namespace

}  // namespace ds::cuda

extern "C" __attribute__((visibility("default"))) const ds::cuda_plugin *ds_cuda_plugin(uint64_t layout) {
    return layout == ds::plugin_layout() ? &ds::cuda::functions : nullptr;
}
