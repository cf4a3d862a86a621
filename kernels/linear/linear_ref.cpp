#include <cassert>
#include <vector>

#include "kernels/linear/linear.h"

namespace kvgrind::kernels {

void linear_ref(const std::vector<LinearPart>& parts, View<const float, 2> x, View<float, 2> y) {
  const std::int64_t rows = x.extent(0), inputs = x.extent(1);
  std::int64_t first_output = 0;
  for (const LinearPart& part : parts) {
    const Tensor& weight = *part.weight;
    const std::int64_t outputs = weight.shape[0];
    assert(weight.shape[1] == inputs);
    std::vector<float> row(static_cast<std::size_t>(inputs));
    std::vector<float> bias(static_cast<std::size_t>(outputs), 0.0f);
    if (part.bias) to_f32(part.bias->dtype, part.bias->data, outputs, bias.data());
    for (std::int64_t n = 0; n < outputs; ++n) {
      to_f32(weight.dtype, weight.data + n * inputs * size_bytes(weight.dtype), inputs, row.data());
      for (std::int64_t m = 0; m < rows; ++m) {
        double sum = bias[static_cast<std::size_t>(n)];
        for (std::int64_t k = 0; k < inputs; ++k)
          sum += static_cast<double>(x(m, k)) * static_cast<double>(row[static_cast<std::size_t>(k)]);
        y(m, first_output + n) = static_cast<float>(sum);
      }
    }
    first_output += outputs;
  }
  assert(first_output == y.extent(1));
}

}  // namespace kvgrind::kernels
