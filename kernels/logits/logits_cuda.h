// What a trace keeps of a row of logits, on the device: the target's −log p, the 64 most probable tokens.
//   in   logits [rows, vocab] f32; target i32 [rows] or null (a negative target: nll = NaN)
//   out  nll f32 [rows]; top_id i32, top_logp f32 [rows, 64] in order (logit descending, id ascending); any may be null
//   vocab ≥ 64; NaN logits rank last. Sums in fp32 over 512 threads.
// Roofline: about five reads of the logits, four of them from L2.
#pragma once
#include <cstdint>

#include "kernels/device/device.h"

namespace kvgrind::kernels {

constexpr std::int64_t top_logits = 64;

struct LogitSummary {
  const float* logits = nullptr;
  std::int64_t rows = 0, vocab = 0;
  const std::int32_t* target = nullptr;
  float* nll = nullptr;
  std::int32_t* top_id = nullptr;
  float* top_logp = nullptr;
};
void summarise_logits_cuda(const LogitSummary& params, DeviceStream stream);

}  // namespace kvgrind::kernels
