#include "kernels/linear/linear.h"

#include <cassert>
#include <vector>

#include "core/parallel.h"

namespace kvgrind::kernels {

struct PackedLinear::Data {
  std::int64_t inputs = 0, outputs = 0;
  std::vector<float> weight, bias;
};

std::int64_t PackedLinear::inputs() const { return data_->inputs; }
std::int64_t PackedLinear::outputs() const { return data_->outputs; }

PackedLinear pack_linear(const std::vector<LinearPart>& parts) {
  auto data = std::make_shared<PackedLinear::Data>();
  data->inputs = parts.at(0).weight->shape[1];
  for (const LinearPart& part : parts) {
    const std::int64_t outputs = part.weight->shape[0];
    data->outputs += outputs;
    data->weight.resize(static_cast<std::size_t>(data->outputs * data->inputs));
    data->bias.resize(static_cast<std::size_t>(data->outputs), 0.0f);
    to_f32(part.weight->dtype, part.weight->data, outputs * data->inputs,
           data->weight.data() + (data->outputs - outputs) * data->inputs);
    if (part.bias) to_f32(part.bias->dtype, part.bias->data, outputs, data->bias.data() + data->outputs - outputs);
  }
  return PackedLinear(std::move(data));
}

void linear(const PackedLinear& weights, View<const float, 2> x, View<float, 2> y) {
  const PackedLinear::Data& data = weights.data();
  parallel_for(data.outputs, [&](std::int64_t n) {
    const float* w = data.weight.data() + n * data.inputs;
    for (std::int64_t m = 0; m < x.extent(0); ++m) {
      float sum = 0.0f;
      for (std::int64_t k = 0; k < data.inputs; ++k) sum += x(m, k) * w[k];
      y(m, n) = sum + data.bias[static_cast<std::size_t>(n)];
    }
  });
}

}  // namespace kvgrind::kernels
