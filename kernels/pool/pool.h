// 1-D pooling, stride 1, same length, kernel odd. avg counts the zero padding (divides by kernel always, as
// torch.nn.functional.avg_pool1d); max pads with −inf and lets NaN through.
// Roofline: kernel additions or comparisons an element, from the first-level cache.
#pragma once
#include <cstdint>
#include <span>

namespace kvgrind::kernels {

void pool_avg(std::span<const float> in, std::int64_t kernel, std::span<float> out);  // in and out must differ
void pool_max(std::span<const float> in, std::int64_t kernel, std::span<float> out);

// Plain loops: the oracles.
void pool_avg_ref(std::span<const float> in, std::int64_t kernel, std::span<float> out);
void pool_max_ref(std::span<const float> in, std::int64_t kernel, std::span<float> out);

}  // namespace kvgrind::kernels
