// A build without CUDA: no model can be made on a device, so nothing else is ever reached.
#include "core/error.h"
#include "sim/model/cuda_runtime.h"

namespace kvgrind::sim {
namespace {

[[noreturn]] void refuse() {
  throw Error(Category::unavailable,
              {.doing = "building model",
               .on = "a CUDA device",
               .found = "a program built without CUDA",
               .next = "use --device cpu, or build with the CUDA Toolkit (cmake -DKVGRIND_CUDA=ON)"});
}

}  // namespace

std::shared_ptr<const CudaModel> build_cuda_model(const ModelConfig&, const Weights&, const CudaOptions&) { refuse(); }
std::shared_ptr<const CudaModel> random_cuda_model(const ModelConfig&, const CudaOptions&, std::uint64_t) { refuse(); }
const ModelConfig& model_config(const CudaModel&) { refuse(); }
Array<float, 2> output_projection(const CudaModel&, std::int64_t) { refuse(); }
kernels::DeviceStream model_stream(const CudaModel&) { refuse(); }
std::unique_ptr<KvCache> cuda_cache(std::shared_ptr<const CudaModel>, std::int64_t) { refuse(); }
std::unique_ptr<KvCache> fork_cuda_cache(const KvCache&, std::int64_t, std::int64_t) { refuse(); }
kernels::PlainCache device_view(const KvCache&, std::int64_t) { refuse(); }
std::vector<Array<float, 2>> forward(const CudaModel&, std::span<const Feed>, const RunOptions&, DeviceTap*) {
  refuse();
}
Array<float, 2> prefill(const CudaModel&, const Feed&, std::int64_t, const RunOptions&, DeviceTap*) { refuse(); }

}  // namespace kvgrind::sim
