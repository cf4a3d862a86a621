#include <fmt/format.h>

#include "traces/kvt/hdf5.h"

namespace kvgrind::traces::hdf5 {

void write_text_attribute(const File& file, const std::string& name, const std::string& text) {
  const Lock lock;
  const SpaceId scalar(H5Screate(H5S_SCALAR));
  const TypeId type(H5Tcopy(H5T_C_S1));
  std::string padded = text;
  if (padded.empty()) padded.push_back('\0');
  H5Tset_size(type.get(), padded.size());
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  const AttributeId attribute(
      H5Acreate2(file.id.get(), name.c_str(), type.get(), scalar.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute || H5Awrite(attribute.get(), type.get(), padded.data()) < 0)
    throw write_fault(file.name + ": attribute " + name, last_error());
}

std::string read_text_attribute(const File& file, const std::string& name) {
  const Lock lock;
  const std::string on = file.name + ": attribute " + name;
  const AttributeId attribute(H5Aopen(file.id.get(), name.c_str(), H5P_DEFAULT));
  if (!attribute) throw read_fault(on, "nothing of this name", "a fixed-length text");
  const TypeId type(H5Aget_type(attribute.get()));
  const SpaceId space(H5Aget_space(attribute.get()));
  if (!type || !space || H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0 ||
      H5Sget_simple_extent_npoints(space.get()) != 1 || H5Tget_size(type.get()) > 65536)
    throw read_fault(on, "another type", "a fixed-length text");
  std::string text(H5Tget_size(type.get()), '\0');
  if (H5Aread(attribute.get(), type.get(), text.data()) < 0) throw read_fault(on, last_error());
  return text.substr(0, text.find('\0'));
}

void write_i64_attribute(const File& file, const std::string& name, std::span<const std::int64_t> values) {
  const Lock lock;
  const hsize_t n = values.size();
  const SpaceId space(H5Screate_simple(1, &n, nullptr));
  const AttributeId attribute(
      H5Acreate2(file.id.get(), name.c_str(), H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute || H5Awrite(attribute.get(), H5T_NATIVE_INT64, values.data()) < 0)
    throw write_fault(file.name + ": attribute " + name, last_error());
}

std::vector<std::int64_t> read_i64_attribute(const File& file, const std::string& name, std::int64_t n) {
  const Lock lock;
  const std::string on = file.name + ": attribute " + name;
  const AttributeId attribute(H5Aopen(file.id.get(), name.c_str(), H5P_DEFAULT));
  const TypeId type(attribute ? H5Aget_type(attribute.get()) : -1);
  const SpaceId space(attribute ? H5Aget_space(attribute.get()) : -1);
  if (!type || !space || H5Tequal(type.get(), H5T_STD_I64LE) <= 0 || H5Sget_simple_extent_npoints(space.get()) != n)
    throw read_fault(on, attribute ? "another type" : "nothing of this name", fmt::format("int64 [{}]", n));
  std::vector<std::int64_t> values(static_cast<std::size_t>(n));
  if (H5Aread(attribute.get(), H5T_STD_I64LE, values.data()) < 0) throw read_fault(on, last_error());
  return values;
}

void write_u64_attribute(const Dataset& dataset, const std::string& name, std::uint64_t value) {
  const Lock lock;
  const SpaceId scalar(H5Screate(H5S_SCALAR));
  const AttributeId attribute(
      H5Acreate2(dataset.id.get(), name.c_str(), H5T_STD_U64LE, scalar.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute || H5Awrite(attribute.get(), H5T_STD_U64LE, &value) < 0)
    throw write_fault(dataset.on + ": attribute " + name, last_error());
}

std::uint64_t read_u64_attribute(const Dataset& dataset, const std::string& name) {
  const Lock lock;
  const std::string on = dataset.on + ": attribute " + name;
  const AttributeId attribute(H5Aopen(dataset.id.get(), name.c_str(), H5P_DEFAULT));
  const TypeId type(attribute ? H5Aget_type(attribute.get()) : -1);
  const SpaceId space(attribute ? H5Aget_space(attribute.get()) : -1);
  if (!type || !space || H5Tequal(type.get(), H5T_STD_U64LE) <= 0 || H5Sget_simple_extent_npoints(space.get()) != 1)
    throw read_fault(on, attribute ? "another type" : "nothing of this name", "one uint64");
  std::uint64_t value = 0;
  if (H5Aread(attribute.get(), H5T_STD_U64LE, &value) < 0) throw read_fault(on, last_error());
  return value;
}

}  // namespace kvgrind::traces::hdf5
