// The model runtime on a CUDA device: the same families, feeds, taps and results as sim/model/runtime.h. Two ways of
// computing: f32 (weights and arithmetic fp32, no TF32) and bf16 (weights, q, k, v and the operands of products bf16;
// residual, norms, softmax and sums fp32).
//
// Caches: a cuda_cache lives on the device. Any other KvCache (a policy's, ragged per head) works too: what it shows is
// copied to the device for each layer, so it is right, not fast.
// A build without CUDA throws Error(unavailable) from every function that makes a model.
// Deviation from the CPU runtime: cuBLAS picks its kernels by shape, so a row's bits may depend on how many rows are
// fed together; attention and column sums alone do not.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/array.h"
#include "core/model_config.h"
#include "core/weights.h"
#include "kernels/attention/attention_cuda.h"
#include "kernels/device/device.h"
#include "sim/model/kv_cache.h"
#include "sim/model/runtime.h"

namespace kvgrind::sim {

class CudaModel;  // immutable for callers; runs of one model take turns

struct CudaOptions {
  int device = 0;
  DType arithmetic = DType::f32;  // f32 or bf16
};

// Throws Error(damaged) as build_model does, Error(unavailable) when the device or its memory is not there.
std::shared_ptr<const CudaModel> build_cuda_model(const ModelConfig& config, const Weights& weights,
                                                  const CudaOptions& options = {});
// For callers of runtime.h: a Model whose forward and prefill run on the device, with whatever caches and taps they are
// given. Beside them it answers as build_model's does; its card keeps the dtype of the configuration.
std::shared_ptr<const Model> build_model_on_device(const ModelConfig& config, const Weights& weights,
                                                   const CudaOptions& options = {});
const CudaModel* device_of(const Model& model);  // null: its passes run on the CPU
// Random weights made on the device, for timing.
std::shared_ptr<const CudaModel> random_cuda_model(const ModelConfig& config, const CudaOptions& options,
                                                   std::uint64_t seed);
const ModelConfig& model_config(const CudaModel& model);  // card.dtype is the arithmetic
Array<float, 2> output_projection(const CudaModel& model,
                                  std::int64_t layer);  // [hidden, Hq · D], as the device has it
kernels::DeviceStream model_stream(const CudaModel& model);

// A plain cache on the device, sized for `length` tokens; grows when more come (that rebuilds the decode graph).
std::unique_ptr<KvCache> cuda_cache(std::shared_ptr<const CudaModel> model, std::int64_t length);
// The first `tokens` tokens of a cuda_cache as one of its own.
std::unique_ptr<KvCache> fork_cuda_cache(const KvCache& cache, std::int64_t tokens, std::int64_t length);

// What a layer left on the device. k and v stay as they are until the cache grows or dies; q and lse are overwritten by
// work queued on the stream after layer() returns: copy them on that stream, or make it wait.
struct DeviceLayer {
  std::int64_t layer = 0, n = 0, first = 0;
  kernels::AttentionShape shape;         // of this layer; shape.dtype is the run's
  const void* q = nullptr;  // [n, Hq, D] post-RoPE
  const void* k = nullptr;  // [Hk, …, D]: head h, position p at h · head_stride + p · D
  const void* v = nullptr;
  std::int64_t head_stride = 0;
  const float* lse = nullptr;           // [n, Hq]
  const float* hidden_norm = nullptr;   // [n] of the layer's input
  const float* attn_in_norm = nullptr;  // [n]
  kernels::PlainCache cache() const { return {k, v, head_stride}; }
};

// Where decode steps put what they compute, straight from the kernels that compute it: row r of each. Null: not wanted.
struct StepRing {
  void* q = nullptr;              // [rows, L, Hq, D] of the run's dtype
  float* lse = nullptr;           // [rows, L, Hq]
  float* hidden_norm = nullptr;   // [rows, L + 1]; the last of the final residual
  float* attn_in_norm = nullptr;  // [rows, L]
  bool operator==(const StepRing&) const = default;
};

// Looks at a run on the device without stopping it. Called on the caller's thread while work is being queued.
class DeviceTap {
 public:
  virtual ~DeviceTap() = default;
  virtual void begin(const TapPass&, kernels::DeviceStream) {}
  virtual void layer(const DeviceLayer&, kernels::DeviceStream) {}
  // Before end(), where asked for: logits [rows, vocab] of rows first, first + 1, … of the pass, piece by piece; the next
  // piece overwrites them. Not of decode steps, whose logits the caller has.
  virtual bool wants_all_logits() const { return false; }
  virtual void logits(const float* logits, std::int64_t first, std::int64_t rows, kernels::DeviceStream) {
    (void)logits, (void)first, (void)rows;
  }
  // final_norm [n]: L2 of the final residual.
  virtual void end(const float* final_norm, kernels::DeviceStream) { (void)final_norm; }
  // Decode steps (one token, no host tap, a cuda_cache): they run as a graph and show nothing but the ring. step() is
  // asked for the row the coming step shall use; step_queued() is told when it has been queued.
  virtual StepRing ring() const { return {}; }
  virtual std::int64_t step(const TapPass&, kernels::DeviceStream) { return 0; }
  virtual void step_queued(const KvCache& cache, kernels::DeviceStream) { (void)cache; }
};

// The device side of a cuda_cache.
kernels::PlainCache device_view(const KvCache& cache, std::int64_t layer);

std::vector<Array<float, 2>> forward(const CudaModel& model, std::span<const Feed> feeds,
                                     const RunOptions& options = {}, DeviceTap* tap = nullptr);
Array<float, 2> prefill(const CudaModel& model, const Feed& feed, std::int64_t chunk = 2048,
                        const RunOptions& options = {}, DeviceTap* tap = nullptr);

}  // namespace kvgrind::sim
