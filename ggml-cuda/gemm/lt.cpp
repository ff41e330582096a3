// Products with I8 weights by cuBLASLt ("cublasLtMatmul" in its documentation, regular IMMA kernels: both
// operands K-major, m and k multiples of 4, sums of int32), which run only when forced. The sums go to
// scratch, as many rows at a time as fit there, and launch_scale_sums turns them into results. The call's
// descriptors are on the stack: nothing is allocated.
#include "../launch.h"

#include <algorithm>
#include <cublasLt.h>
#include <cuda_runtime_api.h>

namespace ds::cuda {

static constexpr size_t most_sums_bytes = 64 << 20;

static int32_t largest_matrix(const products_params &p) {
    int32_t m = 0;
    for (int32_t i = 0; i < p.count; ++i) m = std::max(m, p.w[i].m);
    return m;
}
// Rows whose sums scratch holds at a time.
static int32_t lt_rows(int32_t n, int32_t m) {
    const auto most = static_cast<int64_t>(most_sums_bytes / sizeof(int32_t));
    return static_cast<int32_t>(std::clamp<int64_t>(most / std::max(m, 1), 1, std::max(n, 1)));
}

size_t lt_bytes(int64_t n, int64_t m) {
    const size_t sums = static_cast<size_t>(n) * static_cast<size_t>(m) * sizeof(int32_t),
                 row = static_cast<size_t>(m) * sizeof(int32_t);
    return std::max(row, std::min(sums, most_sums_bytes)) + 256 + library_bytes;
}

bool lt_fits(const products_params &p) {
    const auto at_16 = [](const void *a) { return reinterpret_cast<uintptr_t>(a) % 16 == 0; };
    bool fits = p.type == format::i8 && p.batch <= 1 && p.k % 16 == 0 && p.q_stride % 16 == 0 && at_16(p.q) &&
                p.scale_stride == 1;
    for (int32_t i = 0; i < p.count; ++i) fits = fits && p.w[i].m % 4 == 0 && at_16(p.w[i].w);
    return fits;
}

static int status_of(cublasStatus_t s) {
    switch (s) {
    case CUBLAS_STATUS_SUCCESS: return cudaSuccess;
    case CUBLAS_STATUS_ALLOC_FAILED: return cudaErrorMemoryAllocation;
    case CUBLAS_STATUS_NOT_SUPPORTED: return cudaErrorNotSupported;
    case CUBLAS_STATUS_EXECUTION_FAILED: return cudaErrorLaunchFailure;
    default: return cudaErrorUnknown;
    }
}

namespace {
// sums[n, m] = q[n, k] w[m, k]^T. The library is column-major: to it this is (m, n) = (k, m)^T (k, n).
struct lt_call {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t w, q, sums;
    cublasLtMatmulPreferenceOpaque_t wish;
    cublasStatus_t bad = CUBLAS_STATUS_SUCCESS;

    void must(cublasStatus_t s) {
        if (bad == CUBLAS_STATUS_SUCCESS) bad = s;
    }
    lt_call(int32_t m, int32_t n, int32_t k, int64_t q_stride) {
        const cublasOperation_t transposed = CUBLAS_OP_T;
        const size_t scratch = library_bytes;
        const auto size = [](int64_t x) { return static_cast<uint64_t>(x); };
        must(cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32I, CUDA_R_32I));
        must(cublasLtMatmulDescSetAttribute(&product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                            sizeof transposed));
        must(cublasLtMatrixLayoutInit(&w, CUDA_R_8I, size(k), size(m), k));
        must(cublasLtMatrixLayoutInit(&q, CUDA_R_8I, size(k), size(n), q_stride));
        must(cublasLtMatrixLayoutInit(&sums, CUDA_R_32I, size(m), size(n), m));
        must(cublasLtMatmulPreferenceInit(&wish));
        must(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &scratch,
                                                  sizeof scratch));
    }
    cublasStatus_t run(cublasLtHandle_t handle, const void *w_data, const void *q_data, void *to,
                       void *scratch, stream s) {
        const int32_t one = 1, zero = 0;
        cublasLtMatmulHeuristicResult_t best;
        int found = 0;
        if (bad == CUBLAS_STATUS_SUCCESS)
            must(cublasLtMatmulAlgoGetHeuristic(handle, &product, &w, &q, &sums, &sums, &wish, 1, &best,
                                                &found));
        if (bad == CUBLAS_STATUS_SUCCESS && found == 0) must(CUBLAS_STATUS_NOT_SUPPORTED);
        if (bad == CUBLAS_STATUS_SUCCESS)
            must(cublasLtMatmul(handle, &product, &one, w_data, &w, q_data, &q, &zero, to, &sums, to, &sums,
                                &best.algo, scratch, library_bytes, s));
        return bad;
    }
};
}  // namespace

int lt_products(void *handle, const products_params &p, void *work, stream s) {
    if (p.n == 0) return cudaSuccess;
    const int32_t rows = lt_rows(p.n, largest_matrix(p));
    void *const scratch = static_cast<char *>(work);
    int32_t *const sums = reinterpret_cast<int32_t *>(static_cast<char *>(work) + library_bytes);
    for (int32_t i = 0; i < p.count; ++i)
        for (int32_t first = 0; first < p.n; first += rows) {
            const int32_t n = std::min(rows, p.n - first), m = p.w[i].m;
            lt_call call(m, n, p.k, p.q_stride);
            if (const int bad = status_of(call.run(static_cast<cublasLtHandle_t>(handle), p.w[i].w,
                                                   p.q + first * p.q_stride, sums, scratch, s)))
                return bad;
            const float *const residual = p.residual ? p.residual + first * p.residual_stride : nullptr;
            if (const int bad =
                    launch_scale_sums({sums, m, p.q_scale + first, p.w[i], p.y + first * p.y_stride,
                                       p.y_stride, residual, p.residual_stride, n},
                                      s))
                return bad;
        }
    return cudaSuccess;
}

}  // namespace ds::cuda
