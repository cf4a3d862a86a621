#include "core/calibration.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/hash.h"

namespace kvgrind {
namespace {

void add(Hasher& hasher, const std::string& text) {
  const auto size = static_cast<std::int64_t>(text.size());
  hasher.add(&size, sizeof size);
  hasher.add_text(text);
}

template <class T>
void add(Hasher& hasher, const std::vector<T>& values) {
  const auto size = static_cast<std::int64_t>(values.size());
  hasher.add(&size, sizeof size);
  hasher.add(values.data(), size * static_cast<std::int64_t>(sizeof(T)));
}

}  // namespace

const CalibrationTensor& Calibration::tensor(std::string_view name, const std::vector<std::int64_t>& shape) const {
  const auto it = tensors.find(std::string(name));
  const auto wanted = fmt::format("\"{}\" of shape [{}]", name, fmt::join(shape, ", "));
  const auto fail = [&](const std::string& found) {
    throw Error(Category::usage, {.doing = "reading a calibration",
                                  .on = method,
                                  .found = found,
                                  .expected = wanted,
                                  .next = fmt::format("fit it anew: kvgrind fit {} TRACE… -o calib.h5", method)});
  };
  if (it == tensors.end()) fail("no such tensor");
  bool same = it->second.shape.size() == shape.size();
  for (std::size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || shape[i] == it->second.shape[i];
  if (!same) fail(fmt::format("shape [{}]", fmt::join(it->second.shape, ", ")));
  return it->second;
}

double Calibration::number(std::string_view name, double fallback) const {
  const auto it = numbers.find(std::string(name));
  return it == numbers.end() ? fallback : it->second;
}

std::string Calibration::hash() const {
  Hasher hasher;
  add(hasher, method);
  add(hasher, model);
  for (const auto& [name, tensor] : tensors) {
    add(hasher, name);
    add(hasher, tensor.shape);
    add(hasher, tensor.values);
  }
  return hex(hasher.digest());
}

std::string calibration_model(const ModelCard& card) {
  Hasher hasher;
  add(hasher, card.model_hash);
  add(hasher, std::vector<std::int64_t>{card.layers, card.query_heads, card.kv_heads, card.head_dim});
  for (const RopeSet& set : card.rope) {
    add(hasher, set.inv_freq);
    add(hasher, std::vector<float>{set.attention_factor});
  }
  return hex(hasher.digest());
}

}  // namespace kvgrind
