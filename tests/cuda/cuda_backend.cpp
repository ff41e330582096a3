// The CUDA backend from nodes to launches, compiled for the host, with the kernels of cuda_kernels.cpp.
#include "../../ggml-cuda/context.cpp"
#include "../../ggml-cuda/gemm/products.cpp"
#include "../../ggml-cuda/attn/run_attention.cpp"
#include "../../ggml-cuda/moe/run_experts.cpp"
#include "../../ggml-cuda/gemm/run_products.cpp"
#include "../../ggml-cuda/run_small.cpp"

#include "cuda_kernels.h"

namespace ds::test {

namespace {

struct emulated : backend {
    cuda::context context;
    std::function<void()> between;
    static emulated &self(backend *b) { return *static_cast<emulated *>(b); }
    static const emulated &self(const backend *b) { return *static_cast<const emulated *>(b); }
};

// A stand-in for a library of matrix products: f32 sums in the order of k.
int multiply(void *, const cuda::library_product &p, void *) {
    const auto at = [&](const void *from, int64_t i) {
        float x;
        decode_row(p.type, static_cast<const char *>(from) + i * info(p.type).bytes, &x, 1);
        return x;
    };
    for (int64_t i = 0; i < p.n; ++i)
        for (int64_t j = 0; j < p.m; ++j) {
            float sum = p.add ? p.y[i * p.y_stride + j] : 0.0f;
            for (int64_t k = 0; k < p.k; ++k)
                sum += at(p.x, i * p.x_stride + k) * at(p.w, j * p.w_stride + k);
            p.y[i * p.y_stride + j] = sum;
        }
    return 0;
}

void *host_alloc(backend *, size_t n) { return ds::host{}.alloc(n, block::alignment); }
void host_release(backend *, void *p, size_t n) { ds::host{}.release(p, n, block::alignment); }
void host_copy(backend *, void *dst, const void *src, size_t n) { std::memcpy(dst, src, n); }

constexpr backend_fns emulated_fns = {
    .name = "emulated",
    .host_memory = true,
    .free = [](backend *b) { delete &emulated::self(b); },
    .alloc = host_alloc,
    .release = host_release,
    .upload = host_copy,
    .download = host_copy,
    .copy = host_copy,
    .alloc_host = host_alloc,
    .release_host = host_release,
    .wait = [](backend *) {},
    .work_bytes = [](const backend *b,
                     const node &n) { return cuda::most_work_bytes(emulated::self(b).context, n); },
    .run =
        [](backend *b, const graph &g, void *work, const std::atomic<bool> *stop) {
            if (stop && stop->load()) return false;
            const emulated &e = emulated::self(b);
            const auto go_on = [&] {
                if (e.between) e.between();
                return !stop->load();
            };
            if (stop && cuda::takes_long(g)) return cuda::run_pieces(e.context, g, work, go_on);
            return cuda::run_nodes(e.context, g, work), true;
        },
    .variant =
        [](const backend *b, const node &n) {
            const cuda::variant *const v = cuda::choose_variant(emulated::self(b).context, n);
            return v ? v->name : nullptr;
        },
};

}  // namespace

backend_ptr emulated_cuda(const emulated_options &o) {
    auto b = std::make_unique<emulated>();
    b->fn = &emulated_fns;
    b->context.facts = o.facts;
    b->between = o.between;
    if (o.library) b->context.multiply = multiply;
    if (o.variant) cuda::force_variant(b->context, info(o.kind).name, o.variant);
    return backend_ptr(b.release());
}

std::vector<const char *> emulated_variants(op k) {
    std::vector<const char *> names;
    for (const cuda::variant &v : cuda::variants_of(k)) names.push_back(v.name);
    return names;
}

}  // namespace ds::test
