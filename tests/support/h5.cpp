#include "tests/support/h5.h"

#include <hdf5.h>

#include <algorithm>
#include <stdexcept>

namespace kvgrind::tests {
namespace {

template <class T>
hid_t memory_type();
template <>
hid_t memory_type<float>() {
  return H5T_NATIVE_FLOAT;
}
template <>
hid_t memory_type<double>() {
  return H5T_NATIVE_DOUBLE;
}
template <>
hid_t memory_type<std::int32_t>() {
  return H5T_NATIVE_INT32;
}
template <>
hid_t memory_type<std::int64_t>() {
  return H5T_NATIVE_INT64;
}
template <>
hid_t memory_type<std::uint8_t>() {
  return H5T_NATIVE_UINT8;
}
template <>
hid_t memory_type<std::uint16_t>() {
  return H5T_NATIVE_UINT16;
}

template <class Id>
Id need(Id result, const std::string& what) {
  if (result < 0) throw std::runtime_error("HDF5: " + what);
  return result;
}

}  // namespace

H5File::H5File(const std::filesystem::path& path)
    : id_(need(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), "cannot open " + path.string())) {}

H5File::~H5File() { H5Fclose(id_); }

template <class T>
H5Data<T> H5File::read(const std::string& dataset) const {
  const hid_t data = need(H5Dopen2(id_, dataset.c_str(), H5P_DEFAULT), "no dataset " + dataset);
  const hid_t space = H5Dget_space(data);
  std::vector<hsize_t> extents(static_cast<std::size_t>(std::max(0, H5Sget_simple_extent_ndims(space))));
  if (!extents.empty()) H5Sget_simple_extent_dims(space, extents.data(), nullptr);
  H5Data<T> out;
  std::size_t n = 1;
  for (const hsize_t extent : extents) {
    out.shape.push_back(static_cast<std::int64_t>(extent));
    n *= static_cast<std::size_t>(extent);
  }
  out.values.resize(n);
  const herr_t status = H5Dread(data, memory_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, out.values.data());
  H5Sclose(space);
  H5Dclose(data);
  need(status, "cannot read " + dataset);
  return out;
}

template H5Data<float> H5File::read(const std::string&) const;
template H5Data<double> H5File::read(const std::string&) const;
template H5Data<std::int32_t> H5File::read(const std::string&) const;
template H5Data<std::int64_t> H5File::read(const std::string&) const;
template H5Data<std::uint8_t> H5File::read(const std::string&) const;
template H5Data<std::uint16_t> H5File::read(const std::string&) const;

std::vector<std::string> H5File::members(const std::string& group) const {
  const hid_t id = need(H5Gopen2(id_, group.c_str(), H5P_DEFAULT), "no group " + group);
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* into) -> herr_t {
    static_cast<std::vector<std::string>*>(into)->emplace_back(name);
    return 0;
  };
  const herr_t status = H5Literate(id, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names);
  H5Gclose(id);
  need(status, "cannot list " + group);
  return names;
}

bool H5File::has(const std::string& path) const {
  for (std::size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1))
    if (H5Lexists(id_, path.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
  return H5Lexists(id_, path.c_str(), H5P_DEFAULT) > 0;
}

}  // namespace kvgrind::tests
