// Numbers behind a picture as one array of floats, and as the bytes of a .npy file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/array.h"

namespace kvgrind::gui {

struct Matrix {
  std::vector<std::int64_t> shape;  // empty: none
  std::vector<float> data;          // C order; NaN where there is nothing
  bool empty() const { return shape.empty(); }
};
Matrix matrix_of(const Array<float, 2>& values);
// NumPy format 1.0, float32, little-endian, C order.
std::string npy_bytes(const Matrix& matrix);

}  // namespace kvgrind::gui
