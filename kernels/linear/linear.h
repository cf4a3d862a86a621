// y = x · Wᵀ + b for weights of any stored type; fp32 arithmetic.
//   in   x [M, K] f32, W [N, K] f32|f16|bf16, b [N] or none        out  y [M, N] f32
// Each row of y depends on its own row of x alone, bitwise: the result of a row is the same whatever M is, whatever
// the thread count (fixed order of the sum over K). That is what makes chunked prefill equal whole prefill.
// 16-bit weights stay at 16 bits in memory and are widened on the way to the registers.
// Errors: weights that are not [N_i, K] of one K, or a bias not [N_i], throw Error(damaged).
// Roofline: 2·M·N·K flops at the machine's fp32 FMA rate for M ≥ 16; N·K·size(W) bytes of weights read for M = 1.
#pragma once
#include <cstdint>
#include <memory>

#include "core/view.h"
#include "core/weights.h"

namespace kvgrind::kernels {

// Weights laid out for the CPU kernel. Immutable, shared between threads.
class PackedLinear {
 public:
  struct Data;
  PackedLinear() = default;
  explicit PackedLinear(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  std::int64_t inputs() const;   // K
  std::int64_t outputs() const;  // N
  const Data& data() const { return *data_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  std::shared_ptr<const Data> data_;
};

// Several weight matrices of equal K may be stacked along N (q, k, v in one product). A null bias means none; if any
// part has a bias, parts without count as zero.
struct LinearPart {
  const Tensor* weight = nullptr;  // [N_i, K]
  const Tensor* bias = nullptr;    // [N_i]
};
PackedLinear pack_linear(const std::vector<LinearPart>& parts);

void linear(const PackedLinear& weights, View<const float, 2> x, View<float, 2> y);
// The plain loop, double accumulation: the oracle.
void linear_ref(const std::vector<LinearPart>& parts, View<const float, 2> x, View<float, 2> y);

}  // namespace kvgrind::kernels
