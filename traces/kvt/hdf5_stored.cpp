// What is in a file, for readers that were told nothing of it.
#include <fmt/format.h>

#include "traces/kvt/hdf5.h"

namespace kvgrind::traces::hdf5 {

std::vector<std::string> dataset_names(const File& file) {
  const Lock lock;
  H5G_info_t group;
  constexpr hsize_t most = 256;
  if (H5Gget_info(file.id.get(), &group) < 0) throw read_fault(file.name, last_error());
  if (group.nlinks > most)
    throw read_fault(file.name, fmt::format("{} objects", group.nlinks), fmt::format("at most {}", most));
  std::vector<std::string> names;
  for (hsize_t i = 0; i < group.nlinks; ++i) {
    char name[128] = {};
    if (H5Lget_name_by_idx(file.id.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT) < 0)
      throw read_fault(file.name, last_error());
    names.emplace_back(name);
  }
  return names;
}

DatasetSpec stored_spec(const File& file, const std::string& name) {
  const Lock lock;
  const std::string on = file.name + ": /" + name;
  H5L_info_t link;
  if (!has_link(file, name) || H5Lget_info(file.id.get(), name.c_str(), &link, H5P_DEFAULT) < 0 ||
      link.type != H5L_TYPE_HARD)
    throw read_fault(on, "no dataset of this file", "one");
  const DatasetId id(H5Dopen2(file.id.get(), name.c_str(), H5P_DEFAULT));
  if (!id) throw read_fault(on, last_error(), "a dataset");
  DatasetSpec spec{.name = name, .element = Element::u8, .extents = {}, .chunk = {}};
  const TypeId type(H5Dget_type(id.get()));
  const std::size_t size = H5Tget_size(type.get());
  const H5T_class_t kind = H5Tget_class(type.get());
  const bool is_signed = kind == H5T_INTEGER && H5Tget_sign(type.get()) == H5T_SGN_2;
  if (kind == H5T_FLOAT)
    spec.element = size == 2 ? Element::f16 : Element::f32;
  else if (kind == H5T_INTEGER)
    spec.element = size == 1   ? Element::u8
                   : size == 2 ? Element::bf16
                   : size == 4 ? Element::i32
                   : is_signed ? Element::i64
                               : Element::u64;
  else
    throw read_fault(on, "another element type", "numbers");  // open_dataset holds it to the letter
  const SpaceId space(H5Dget_space(id.get()));
  hsize_t extents[H5S_MAX_RANK] = {}, chunk[H5S_MAX_RANK] = {};
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 1 || H5Sget_simple_extent_dims(space.get(), extents, nullptr) != rank)
    throw read_fault(on, "no array", "an array");
  for (int i = 0; i < rank; ++i) spec.extents.push_back(static_cast<std::int64_t>(extents[i]));
  const PropertyId plist(H5Dget_create_plist(id.get()));
  if (H5Pget_layout(plist.get()) == H5D_CHUNKED) {
    if (H5Pget_chunk(plist.get(), rank, chunk) != rank || chunk[0] == 0) throw read_fault(on, last_error());
    for (int i = 0; i < rank; ++i) spec.chunk.push_back(static_cast<std::int64_t>(chunk[i]));
  }
  return spec;
}

bool has_attribute(const Dataset& dataset, const std::string& name) {
  const Lock lock;
  return H5Aexists(dataset.id.get(), name.c_str()) > 0;
}

}  // namespace kvgrind::traces::hdf5
