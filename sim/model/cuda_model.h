// A model on a device, and what its runs share: stream, products, buffers. Internal to the CUDA runtime.
#pragma once
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/model_config.h"
#include "kernels/attention/attention_cuda.h"
#include "kernels/device/device.h"
#include "kernels/linear/linear_cuda.h"

namespace kvgrind::sim {

// A device buffer that grows to what is asked; its contents do not survive that.
class Scratch {
 public:
  template <class T = void>
  T* of(std::int64_t size_bytes, const char* what) {
    if (buffer_.size_bytes() < size_bytes) {
      buffer_ = {};
      buffer_ = kernels::DeviceBuffer(size_bytes, what);
    }
    return buffer_.as<T>();
  }

 private:
  kernels::DeviceBuffer buffer_;
};

class PinnedScratch {
 public:
  template <class T>
  T* of(std::int64_t count) {
    const auto bytes = count * static_cast<std::int64_t>(sizeof(T));
    if (buffer_.size_bytes() < bytes) {
      buffer_ = {};
      buffer_ = kernels::PinnedBuffer(bytes, "staging memory");
    }
    return buffer_.as<T>();
  }

 private:
  kernels::PinnedBuffer buffer_;
};

struct CudaLayer {
  kernels::DeviceBuffer attention_norm, mlp_norm;  // [hidden] f32
  kernels::DeviceBuffer q_norm, k_norm;            // [D] f32, or none
  kernels::DeviceBuffer qkv, qkv_bias;             // [(Hq + 2·Hk)·D, hidden]; biases f32, or none
  kernels::DeviceBuffer output, output_bias;       // [hidden, Hq·D]
  kernels::DeviceBuffer gate_up, gate_up_bias;     // [2·intermediate, hidden]: gate, then up
  kernels::DeviceBuffer down, down_bias;           // [hidden, intermediate]
};

// What a step's graph reads first and writes last; lies in page-locked memory at a fixed address.
struct StepInput {
  std::int64_t position = 0, trace_row = 0;
  std::int32_t id = 0;
};

// Everything mutable; one run at a time holds the mutex.
struct CudaContext {
  explicit CudaContext(int device);
  std::mutex mutex;
  kernels::DeviceInfo info;
  kernels::StreamHandle stream;
  kernels::DenseProducts products;

  Scratch ids, x, normed, qkv, q, q_pre, attended, lse, delta, gate_up, activated, wanted, last_x, logits;
  Scratch positions, hidden_norm, attn_in_norm, k_rows, v_rows, wide, ragged_q, ragged_out, groups, slots, probabilities,
      workspace;
  std::vector<Scratch> tables;  // per RoPE set
  PinnedScratch host_positions, host_ids, host_q, host_q_pre, host_k, host_v, host_lse, host_input, host_attn_in,
      host_attn_out, host_final, host_logits, host_probabilities, host_slots;

  // Buffers of the step graphs: never reallocated, so their addresses may be captured.
  kernels::DeviceBuffer step_input, step_x, step_normed, step_qkv, step_q, step_attended, step_lse, step_gate_up,
      step_activated, step_logits, step_workspace;
  std::vector<kernels::DeviceBuffer> step_tables;
  kernels::PinnedBuffer step_host, step_host_logits;

  // Frequencies on the device, for the announced length they were resolved for.
  std::int64_t rope_length = -1;
  std::vector<kernels::DeviceBuffer> inv_freq;  // [half] f32 per set
  std::vector<float> rope_factor;
  std::vector<std::int64_t> rope_half;
  std::int64_t rope_generation = 0;  // graphs of an older one are stale
};

class CudaModel {
 public:
  ModelConfig config;  // card.dtype is the arithmetic
  int device = 0;
  std::vector<CudaLayer> layers;
  kernels::DeviceBuffer embedding, own_head, final_norm, sinks;
  std::unique_ptr<CudaContext> context;

  DType dtype() const { return config.card.dtype; }
  std::int64_t element() const { return size_bytes(dtype()); }
  const void* head() const { return own_head ? own_head.as() : embedding.as(); }
  kernels::AttentionShape attention_shape(std::int64_t layer) const;
};

// Resolves and uploads the frequencies for a run, unless they are there already.
void prepare_rope(const CudaModel& model, std::int64_t announced_length);

}  // namespace kvgrind::sim
