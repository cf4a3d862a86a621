// What `kvgrind fit` learned from recordings: named tensors and figures. A plain value: traces reads and writes it,
// policies take it as a parameter, sim opens no file.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/model_card.h"

namespace kvgrind {

struct CalibrationTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // last axis fastest
};

struct Calibration {
  std::string method;                                // of kvgrind fit
  std::string model;                                 // calibration_model() of the recordings
  std::map<std::string, CalibrationTensor> tensors;  // by name, "layer 3 w1"
  std::map<std::string, double> numbers;             // "held_out_error" and the like
  std::map<std::string, std::string> texts;          // how it was fitted

  // Error(usage) naming the method when it is not there or has another shape (−1 = any extent).
  const CalibrationTensor& tensor(std::string_view name, const std::vector<std::int64_t>& shape) const;
  double number(std::string_view name, double fallback) const;
  std::string hash() const;  // over method, model and tensors; 16 hex digits
};

// What a calibration must agree with: shapes, rotary frequencies and weights of the model. 16 hex digits.
std::string calibration_model(const ModelCard& card);

}  // namespace kvgrind
