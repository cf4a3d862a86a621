#include "kernels/linear/linear_cuda.h"

#include <cublas_v2.h>
#include <fmt/format.h>

#include "core/error.h"
#include "kernels/linear/one_row.h"

namespace kvgrind::kernels {
namespace {

void check_products(cublasStatus_t status, const char* doing) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  // cuBLAS says that it is not initialised when there was no memory to do so.
  const bool memory = status == CUBLAS_STATUS_ALLOC_FAILED || status == CUBLAS_STATUS_NOT_INITIALIZED;
  throw Error(Category::unavailable,
              {.doing = doing,
               .on = "the CUDA device",
               .found = fmt::format("cuBLAS: {}", cublasGetStatusString(status)),
               .expected = memory ? "enough free device memory" : "",
               .next = memory ? "use a shorter prompt, a smaller --chunk, or --device cpu" : ""});
}

cudaDataType_t data_type(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

}  // namespace

int close_products(void* handle) noexcept { return cublasDestroy(static_cast<cublasHandle_t>(handle)); }

DenseProducts::DenseProducts(DeviceStream stream)
    : stream_(stream), workspace_(32ll << 20, "workspace of dense products") {
  cublasHandle_t handle = nullptr;
  check_products(cublasCreate(&handle), "starting cuBLAS");
  handle_.reset(handle);
  check_products(cublasSetStream(handle, stream), "starting cuBLAS");
  check_products(cublasSetWorkspace(handle, workspace_.as(), static_cast<std::size_t>(workspace_.size_bytes())),
                 "starting cuBLAS");
  check_products(cublasSetMathMode(handle, CUBLAS_DEFAULT_MATH), "starting cuBLAS");
}

void DenseProducts::multiply(DType dtype, const void* x, const void* w, std::int64_t m, std::int64_t n, std::int64_t k,
                             DType out, void* y, bool accumulate) const {
  if (m == 0 || n == 0) return;
  if (m == 1 && dtype == DType::bf16 && one_row_fits(k))
    return multiply_one_row(x, w, n, k, out, y, accumulate, stream_);
  const float one = 1.0f, beta = accumulate ? 1.0f : 0.0f;
  // Row-major y = x · Wᵀ is column-major yᵀ [n, m] = W [n, k] · xᵀ.
  check_products(cublasGemmEx(static_cast<cublasHandle_t>(handle_.get()), CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(n),
                              static_cast<int>(m), static_cast<int>(k), &one, w, data_type(dtype), static_cast<int>(k),
                              x, data_type(dtype), static_cast<int>(k), &beta, y, data_type(out), static_cast<int>(n),
                              CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 "a dense product");
}

}  // namespace kvgrind::kernels
