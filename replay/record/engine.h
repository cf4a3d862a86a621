// A model on the device that a job asked for: one face for the CPU and the CUDA runtime.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "core/array.h"
#include "core/model_config.h"
#include "core/weights.h"
#include "sim/model/cuda_runtime.h"
#include "sim/model/runtime.h"

namespace kvgrind::replay {

class Engine {
 public:
  // `device`: as resolve_device returned it. The CPU computes in fp32 whatever `arithmetic` says.
  Engine(const ModelConfig& config, const Weights& weights, std::string_view device, DType arithmetic = DType::f32);

  bool on_device() const { return std::holds_alternative<Cuda>(model_); }
  int device() const { return device_; }
  DType arithmetic() const;
  std::unique_ptr<sim::KvCache> cache(std::int64_t length) const;
  // The first `tokens` tokens of a cache made here, as one of its own with room for `length`.
  std::unique_ptr<sim::KvCache> fork(const sim::KvCache& from, std::int64_t tokens, std::int64_t length) const;
  // `tap` only with on_device().
  Array<float, 2> forward(const sim::Feed& feed, const sim::RunOptions& options, sim::DeviceTap* tap = nullptr) const;
  Array<float, 2> output_projection(std::int64_t layer) const;
  kernels::DeviceStream stream() const;  // only with on_device()

 private:
  using Cpu = std::shared_ptr<const sim::Model>;
  using Cuda = std::shared_ptr<const sim::CudaModel>;
  std::variant<Cpu, Cuda> model_;
  int device_ = 0;
};

// A model for callers of sim/model/runtime.h, where it was asked to run (auto, cpu, cuda:N). With auto a device that is
// too small for it is passed over for the CPU, and `fallback` says why; else that is an Error(unavailable).
struct PlacedModel {
  std::shared_ptr<const sim::Model> model;
  std::string device;    // what it really runs on
  std::string fallback;  // empty: as resolved
};
PlacedModel place_model(const ModelConfig& config, const Weights& weights, std::string_view asked,
                        DType arithmetic = DType::f32);

}  // namespace kvgrind::replay
