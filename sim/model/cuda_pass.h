// One forward pass over several feeds on the device. Internal to the CUDA runtime.
#pragma once
#include <span>
#include <vector>

#include "sim/model/cuda_cache.h"

namespace kvgrind::sim {

class CudaPass {
 public:
  CudaPass(const CudaModel& model, std::span<const Feed> feeds, DeviceTap* tap);
  std::vector<Array<float, 2>> run();

 private:
  // Rows of one feed within the joint batch, and its cache when that lies on the device.
  struct Part {
    const Feed* feed = nullptr;
    std::int64_t row = 0, n = 0;
    CudaCache* cache = nullptr;
    std::vector<std::int64_t> wanted;  // rows within the feed whose logits are needed
  };

  void embed();
  void layer(std::int64_t l);
  void rotate(const Part& part, std::int64_t l);
  void attend_device(const Part& part, std::int64_t l);
  void attend_host(const Part& part, std::int64_t l);
  void host_probabilities(const Part& part, std::int64_t l, const std::vector<GroupView>& groups);
  void device_probabilities(const Part& part, std::int64_t l);
  void show_layer(const Part& part, std::int64_t l);
  void mlp(std::int64_t l);
  void show_logits(const Part& part);
  std::vector<Array<float, 2>> finish();

  // n elements of the run's dtype, or fp32, at `from` on their way to host memory; there after synchronize().
  const float* download(const void* from, DType dtype, std::int64_t n, PinnedScratch& to);
  void* element_at(void* base, std::int64_t index) const;
  // q, k, v of a feed in host memory, in the dtype of the run widened to fp32; k and v as [Hk, n, D].
  void download_qkv(const Part& part, std::int64_t l);

  const CudaModel& model_;
  CudaContext& context_;
  const ModelCard& card_;
  DeviceTap* tap_;
  kernels::DeviceStream stream_;
  std::vector<Part> parts_;
  std::int64_t rows_ = 0;
  bool tapped_ = false, device_only_ = true;

  float *x_ = nullptr, *delta_ = nullptr, *lse_ = nullptr, *hidden_norm_ = nullptr, *attn_in_norm_ = nullptr;
  void *normed_ = nullptr, *qkv_ = nullptr, *q_ = nullptr, *q_pre_ = nullptr, *attended_ = nullptr;
  std::int64_t* positions_ = nullptr;  // [feeds] of the first rows
  void *k_rows_ = nullptr, *v_rows_ = nullptr;
  const float *host_q_ = nullptr, *host_k_ = nullptr, *host_v_ = nullptr;
};

// One decode step of one cuda_cache without a host tap, as a graph.
bool step_fits(std::span<const Feed> feeds);
std::vector<Array<float, 2>> run_step(const CudaModel& model, const Feed& feed, DeviceTap* tap);

}  // namespace kvgrind::sim
