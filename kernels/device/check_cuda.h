// For .cu files: a CUDA status becomes an Error; the last error is asked for after each launch.
#pragma once
#include <cuda_runtime_api.h>

#include <source_location>

namespace kvgrind::kernels {

void check_cuda(cudaError_t status, const char* doing, std::source_location where = std::source_location::current());
inline void check_launch(const char* kernel, std::source_location where = std::source_location::current()) {
  check_cuda(cudaGetLastError(), kernel, where);
}

}  // namespace kvgrind::kernels
