// Reading plain HDF5 files in tests: golden outputs of other people's code. Converts to the asked type; a missing or
// unreadable dataset fails the test by exception.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace kvgrind::tests {

template <class T>
struct H5Data {
  std::vector<std::int64_t> shape;
  std::vector<T> values;  // row-major

  // The value at an index; as many indices as axes.
  template <class... I>
  const T& operator()(I... index) const {
    std::int64_t offset = 0;
    std::size_t axis = 0;
    ((offset = offset * shape.at(axis++) + static_cast<std::int64_t>(index)), ...);
    return values.at(static_cast<std::size_t>(offset));
  }
};

class H5File {
 public:
  explicit H5File(const std::filesystem::path& path);
  ~H5File();
  H5File(const H5File&) = delete;
  H5File& operator=(const H5File&) = delete;

  // T: float, double, std::int32_t, std::int64_t, std::uint8_t, std::uint16_t. Half floats convert to float exactly.
  template <class T>
  H5Data<T> read(const std::string& dataset) const;
  std::vector<std::string> members(const std::string& group = "/") const;  // names, sorted
  bool has(const std::string& path) const;                                 // false too when a parent is missing

 private:
  std::int64_t id_;
};

}  // namespace kvgrind::tests
