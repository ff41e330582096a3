// Products by cuBLAS, which sums in f32 and multiplies weights of f32 in full precision (no TF32). Its
// scratch is ours, so it allocates nothing while a graph is recorded.
#include "library.h"

#include <cublas_v2.h>

namespace ds::cuda {

void *open_library_of_products(stream s) {
    cublasHandle_t handle = nullptr;
    const cublasStatus_t made = cublasCreate(&handle);
    if (made != CUBLAS_STATUS_SUCCESS)
        throw error(made == CUBLAS_STATUS_ALLOC_FAILED ? status::memory : status::no_device,
                    format_text("CUDA: cuBLAS cannot be used: %s", cublasGetStatusString(made)));
    cublasSetMathMode(handle, CUBLAS_DEFAULT_MATH);
    cublasSetStream(handle, s);
    return handle;
}

void close_library_of_products(void *library) {
    if (library) cublasDestroy(static_cast<cublasHandle_t>(library));
}

static cudaDataType_t type_of(format f) {
    return f == format::f32 ? CUDA_R_32F : f == format::f16 ? CUDA_R_16F : CUDA_R_16BF;
}

// cuBLAS is column-major: y^T [m, n] = w [m, k] x^T, with w stored as [k, m].
int multiply_by_library(void *library, const library_product &p, void *scratch) {
    const auto handle = static_cast<cublasHandle_t>(library);
    const float one = 1.0f, before = p.add ? 1.0f : 0.0f;
    if (cublasSetWorkspace(handle, scratch, library_bytes) != CUBLAS_STATUS_SUCCESS) return cudaErrorUnknown;
    const cublasStatus_t s = cublasGemmEx(
        handle, CUBLAS_OP_T, CUBLAS_OP_N, p.m, p.n, p.k, &one, p.w, type_of(p.type),
        static_cast<int>(p.w_stride), p.x, type_of(p.type), static_cast<int>(p.x_stride), &before, p.y,
        CUDA_R_32F, static_cast<int>(p.y_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return s == CUBLAS_STATUS_SUCCESS            ? cudaSuccess
           : s == CUBLAS_STATUS_EXECUTION_FAILED ? cudaErrorLaunchFailure
                                                 : cudaErrorUnknown;
}

}  // namespace ds::cuda
