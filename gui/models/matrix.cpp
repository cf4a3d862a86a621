#include "gui/models/matrix.h"

#include <bit>
#include <cassert>

namespace kvgrind::gui {

Matrix matrix_of(const Array<float, 2>& values) {
  return {.shape = {values.extent(0), values.extent(1)},
          .data = std::vector<float>(values.data(), values.data() + values.size())};
}

std::string npy_bytes(const Matrix& matrix) {
  static_assert(std::endian::native == std::endian::little);
  std::string shape;
  std::int64_t size = 1;
  for (const std::int64_t extent : matrix.shape) {
    shape += std::to_string(extent) + ", ";
    size *= extent;
  }
  assert(size == static_cast<std::int64_t>(matrix.data.size()));
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + "), }";
  header += std::string((64 - (10 + header.size() + 1) % 64) % 64, ' ') + "\n";
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(header.size() & 0xFF);
  out += static_cast<char>(header.size() >> 8);
  out += header;
  out.append(reinterpret_cast<const char*>(matrix.data.data()), matrix.data.size() * sizeof(float));
  return out;
}

}  // namespace kvgrind::gui
