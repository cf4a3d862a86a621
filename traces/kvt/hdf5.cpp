#include "traces/kvt/hdf5.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cassert>
#include <cstdio>
#include <limits>
#include <new>

namespace kvgrind::traces::hdf5 {
namespace {

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

void set_up_library() {
  H5dont_atexit();  // after a failed write the handles are abandoned; closing them at exit would crash
  if (H5open() < 0) throw Error(Category::unavailable, {.doing = "starting HDF5", .found = "the library refuses"});
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  H5PLset_loading_state(0);
  H5Lunregister(H5L_TYPE_EXTERNAL);
}

TypeId file_type(Element element) {
  switch (element) {
    case Element::u8:
      return TypeId(H5Tcopy(H5T_STD_U8LE));
    case Element::i32:
      return TypeId(H5Tcopy(H5T_STD_I32LE));
    case Element::i64:
      return TypeId(H5Tcopy(H5T_STD_I64LE));
    case Element::u64:
      return TypeId(H5Tcopy(H5T_STD_U64LE));
    case Element::f32:
      return TypeId(H5Tcopy(H5T_IEEE_F32LE));
    case Element::bf16:
      return TypeId(H5Tcopy(H5T_STD_U16LE));
    case Element::f16: {
      TypeId half(H5Tcopy(H5T_IEEE_F32LE));
      H5Tset_fields(half.get(), 15, 10, 5, 0, 10);
      H5Tset_size(half.get(), 2);
      H5Tset_ebias(half.get(), 15);
      return half;
    }
  }
  return TypeId();
}

std::string list_text(std::span<const std::int64_t> values) { return fmt::format("[{}]", fmt::join(values, ", ")); }

std::vector<hsize_t> sizes(std::span<const std::int64_t> values) { return {values.begin(), values.end()}; }

// The dataspace's extents, each within int64; Error(damaged) otherwise.
std::vector<std::int64_t> space_extents(hid_t space, const std::string& on) {
  if (H5Sget_simple_extent_type(space) != H5S_SIMPLE) throw read_fault(on, "no array", "an array");
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 1 || rank > H5S_MAX_RANK) throw read_fault(on, fmt::format("rank {}", rank), "rank 1 or more");
  std::vector<hsize_t> raw(static_cast<std::size_t>(rank));
  if (H5Sget_simple_extent_dims(space, raw.data(), nullptr) < 0) throw read_fault(on, last_error());
  std::vector<std::int64_t> extents;
  for (const hsize_t n : raw) {
    if (n > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max() / 2))
      throw read_fault(on, fmt::format("an extent of {}", n), "a size below 2^62");
    extents.push_back(static_cast<std::int64_t>(n));
  }
  return extents;
}

void check_storage(hid_t dataset, const std::string& on, std::int64_t element) {
  const PropertyId plist(H5Dget_create_plist(dataset));
  if (!plist) throw read_fault(on, last_error());
  if (H5Pget_external_count(plist.get()) != 0) throw read_fault(on, "data in another file", "data in this file");
  const H5D_layout_t layout = H5Pget_layout(plist.get());
  if (layout != H5D_CHUNKED && layout != H5D_CONTIGUOUS && layout != H5D_COMPACT)
    throw read_fault(on, "a virtual or unknown layout", "a chunked, contiguous or compact layout");
  const int filters = H5Pget_nfilters(plist.get());
  if (filters < 0 || filters > 8) throw read_fault(on, fmt::format("{} filters", filters), "at most 8");
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0, config = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter =
        H5Pget_filter2(plist.get(), static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, &config);
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32)
      throw read_fault(on, fmt::format("filter {}", filter), "deflate, shuffle or fletcher32 only");
  }
  if (layout != H5D_CHUNKED) return;
  hsize_t chunk[H5S_MAX_RANK + 1] = {};
  const int rank = H5Pget_chunk(plist.get(), H5S_MAX_RANK, chunk);
  if (rank < 1) throw read_fault(on, last_error());
  std::int64_t bytes = element;
  for (int i = 0; i < rank; ++i) {
    const std::int64_t extent =
        chunk[i] > static_cast<hsize_t>(max_chunk_bytes) ? -1 : static_cast<std::int64_t>(chunk[i]);
    bytes = extent <= 0 || bytes < 0 ? -1 : checked_product({bytes, extent});
  }
  if (bytes <= 0 || bytes > max_chunk_bytes)
    throw read_fault(on, "chunks of a refused size", fmt::format("1 to {} bytes", max_chunk_bytes));
}

DatasetId open_checked_link(const File& file, const std::string& name, const std::string& on) {
  H5L_info_t link;
  if (!has_link(file, name)) throw read_fault(on, "no such dataset", "a dataset of this name");
  if (H5Lget_info(file.id.get(), name.c_str(), &link, H5P_DEFAULT) < 0) throw read_fault(on, last_error());
  if (link.type != H5L_TYPE_HARD) throw read_fault(on, "a soft or external link", "the dataset itself");
  const PropertyId access(H5Pcreate(H5P_DATASET_ACCESS));
  H5Pset_chunk_cache(access.get(), 0, 0, 0.0);
  DatasetId id(H5Dopen2(file.id.get(), name.c_str(), access.get()));
  if (!id) throw read_fault(on, last_error(), "a dataset");
  if (file.swmr) H5Drefresh(id.get());
  return id;
}

std::int64_t bytes_of_row(const Dataset& dataset) {
  std::vector<std::int64_t> factors(dataset.extents.begin() + 1, dataset.extents.end());
  factors.push_back(element_bytes(dataset.element));
  return checked_product(factors);
}

SpaceId select(const Dataset& dataset, std::span<const std::int64_t> at, std::span<const std::int64_t> count) {
  SpaceId space(H5Dget_space(dataset.id.get()));
  const std::vector<hsize_t> start = sizes(at), n = sizes(count);
  if (!space || H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, n.data(), nullptr) < 0)
    return SpaceId();
  return space;
}

}  // namespace

Lock::Lock() : lock_(library_mutex()) {
  static std::once_flag once;
  std::call_once(once, set_up_library);
  // Where HDF5 is thread-safe, each thread has a printer of errors of its own.
  thread_local const bool silent = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  (void)silent;
}

void after_fork() { new (&library_mutex()) std::recursive_mutex; }

std::int64_t element_bytes(Element element) {
  switch (element) {
    case Element::u8:
      return 1;
    case Element::f16:
    case Element::bf16:
      return 2;
    case Element::i32:
    case Element::f32:
      return 4;
    case Element::i64:
    case Element::u64:
      return 8;
  }
  return 1;
}

const char* element_name(Element element) {
  switch (element) {
    case Element::u8:
      return "uint8";
    case Element::i32:
      return "int32";
    case Element::i64:
      return "int64";
    case Element::u64:
      return "uint64";
    case Element::f32:
      return "float32";
    case Element::f16:
      return "float16";
    case Element::bf16:
      return "uint16 (kvg_dtype bf16)";
  }
  return "?";
}

std::string last_error() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* entry, void* out) -> herr_t {
        if (n == 0 && entry->desc) *static_cast<std::string*>(out) = entry->desc;
        return 0;
      },
      &text);
  H5Eclear2(H5E_DEFAULT);
  if (text.size() > 200) text.resize(200);
  return text.empty() ? "an HDF5 fault" : "HDF5: " + text;
}

Error write_fault(const std::string& on, const std::string& found) {
  return Error(Category::write, {.doing = "writing trace", .on = on, .found = found});
}

Error read_fault(const std::string& on, const std::string& found, const std::string& expected) {
  return Error(Category::damaged, {.doing = "reading trace", .on = on, .found = found, .expected = expected});
}

std::int64_t checked_product(std::span<const std::int64_t> factors) {
  std::int64_t product = 1;
  for (const std::int64_t f : factors) {
    if (f < 0 || __builtin_mul_overflow(product, f, &product) || product > (std::int64_t{1} << 62)) return -1;
  }
  return product;
}
std::int64_t checked_product(std::initializer_list<std::int64_t> factors) {
  return checked_product(std::span<const std::int64_t>(factors.begin(), factors.size()));
}

namespace {

// Why a plain open was refused, for people where HDF5 says it in its own terms.
std::string open_refusal(const std::string& reason) {
  const std::size_t at = reason.find("truncated file: eof = ");
  unsigned long long there = 0, whole = 0;
  if (at != std::string::npos &&
      std::sscanf(reason.c_str() + at, "truncated file: eof = %llu, sblock->base_addr = %*u, stored_eof = %llu", &there,
                  &whole) == 2)
    return fmt::format("a file cut short: {} of {} bytes", there, whole);
  return fmt::format("no readable HDF5 file ({})", reason);
}

}  // namespace

File create_file(const std::string& path, bool locked) {
  const Lock lock;
  const PropertyId access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
  if (!locked) H5Pset_file_locking(access.get(), 0, 1);
  File file;
  file.name = path;
  // Pages of 4 KiB, so that no small piece of metadata lies across two pages of memory: a process that is killed in the
  // middle of a write has written whole pages of it, and a piece half new, half old would be lost for good.
  const PropertyId create(H5Pcreate(H5P_FILE_CREATE));
  H5Pset_file_space_strategy(create.get(), H5F_FSPACE_STRATEGY_PAGE, false, 1);
  H5Pset_file_space_page_size(create.get(), 4096);
  file.id.reset(H5Fcreate(path.c_str(), H5F_ACC_EXCL, create.get(), access.get()));
  if (!file.id) throw write_fault(path, last_error());
  return file;
}

File open_file(const std::string& path) {
  const Lock lock;
  const PropertyId access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_file_locking(access.get(), 0, 1);  // readers trust commit rows, not locks
  File file;
  file.name = path;
  file.id.reset(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()));
  if (!file.id) {
    const std::string plain = last_error();
    H5Pset_libver_bounds(access.get(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
    // Tries again when a piece of metadata is being written, sleeping ever longer; the default of 100 tries makes a
    // damaged piece take many seconds.
    H5Pset_metadata_read_attempts(access.get(), 20);
    file.id.reset(H5Fopen(path.c_str(), H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, access.get()));
    if (!file.id) throw read_fault(path, open_refusal(plain), "a .kvt trace");
    last_error();
    file.swmr = true;
  }
  return file;
}

void start_swmr(const File& file) {
  const Lock lock;
  if (H5Fstart_swmr_write(file.id.get()) < 0) throw write_fault(file.name, last_error());
}

void flush_file(const File& file) {
  const Lock lock;
  if (H5Fflush(file.id.get(), H5F_SCOPE_LOCAL) < 0) throw write_fault(file.name, last_error());
}

int descriptor(const File& file) {
  const Lock lock;
  void* handle = nullptr;
  if (H5Fget_vfd_handle(file.id.get(), H5P_DEFAULT, &handle) < 0 || !handle) throw write_fault(file.name, last_error());
  return *static_cast<int*>(handle);
}

void close_file(File& file) {
  const Lock lock;
  if (H5Fclose(file.id.release()) < 0) throw write_fault(file.name, last_error());
}

Dataset create_dataset(const File& file, const DatasetSpec& spec) {
  const Lock lock;
  Dataset out;
  out.on = file.name + ": /" + spec.name;
  out.element = spec.element;
  out.extents = spec.extents;
  const std::vector<hsize_t> extents = sizes(spec.extents);
  std::vector<hsize_t> most = extents;
  const PropertyId create(H5Pcreate(H5P_DATASET_CREATE)), access(H5Pcreate(H5P_DATASET_ACCESS));
  H5Pset_fill_time(create.get(), H5D_FILL_TIME_NEVER);
  H5Pset_obj_track_times(create.get(), false);
  if (spec.growing()) {
    most[0] = H5S_UNLIMITED;
    const std::vector<hsize_t> chunk = sizes(spec.chunk);
    H5Pset_chunk(create.get(), static_cast<int>(chunk.size()), chunk.data());
    H5Pset_chunk_cache(access.get(), 0, 0, 0.0);
  }
  const SpaceId space(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), most.data()));
  const TypeId type = file_type(spec.element);
  out.id.reset(
      H5Dcreate2(file.id.get(), spec.name.c_str(), type.get(), space.get(), H5P_DEFAULT, create.get(), access.get()));
  if (!out.id) throw write_fault(out.on, last_error());
  out.row_bytes = bytes_of_row(out);
  assert(out.row_bytes >= 0);
  if (spec.element == Element::bf16) {
    const SpaceId scalar(H5Screate(H5S_SCALAR));
    const TypeId text(H5Tcopy(H5T_C_S1));
    H5Tset_size(text.get(), 4);
    H5Tset_strpad(text.get(), H5T_STR_NULLPAD);
    const AttributeId attribute(
        H5Acreate2(out.id.get(), "kvg_dtype", text.get(), scalar.get(), H5P_DEFAULT, H5P_DEFAULT));
    if (!attribute || H5Awrite(attribute.get(), text.get(), "bf16") < 0) throw write_fault(out.on, last_error());
  }
  return out;
}

bool has_link(const File& file, const std::string& name) {
  const Lock lock;
  const htri_t there = H5Lexists(file.id.get(), name.c_str(), H5P_DEFAULT);
  if (there < 0) last_error();
  return there > 0;
}

Dataset open_dataset(const File& file, const DatasetSpec& spec) {
  const Lock lock;
  Dataset out;
  out.on = file.name + ": /" + spec.name;
  out.element = spec.element;
  out.id = open_checked_link(file, spec.name, out.on);
  const TypeId found(H5Dget_type(out.id.get())), expected = file_type(spec.element);
  if (!found || H5Tequal(found.get(), expected.get()) <= 0)
    throw read_fault(out.on, "another element type", element_name(spec.element));
  const SpaceId space(H5Dget_space(out.id.get()));
  if (!space) throw read_fault(out.on, last_error());
  out.extents = space_extents(space.get(), out.on);
  bool same = out.extents.size() == spec.extents.size();
  for (std::size_t axis = spec.growing() ? 1 : 0; same && axis < spec.extents.size(); ++axis)
    same = out.extents[axis] == spec.extents[axis];
  if (!same)
    throw read_fault(out.on, "extents " + list_text(out.extents),
                     "extents " + list_text(spec.extents) + (spec.growing() ? ", the first free" : ""));
  check_storage(out.id.get(), out.on, element_bytes(spec.element));
  if (spec.element == Element::bf16) {
    char text[16] = {};
    const AttributeId attribute(H5Aopen(out.id.get(), "kvg_dtype", H5P_DEFAULT));
    const TypeId type(attribute ? H5Aget_type(attribute.get()) : -1);
    const SpaceId scalar(attribute ? H5Aget_space(attribute.get()) : -1);
    if (!type || H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0 ||
        H5Tget_size(type.get()) >= sizeof text || H5Sget_simple_extent_npoints(scalar.get()) != 1 ||
        H5Aread(attribute.get(), type.get(), text) < 0 || std::string(text) != "bf16")
      throw read_fault(out.on, "no attribute kvg_dtype = bf16", "16-bit integers marked as bf16");
  }
  out.row_bytes = bytes_of_row(out);
  if (out.row_bytes < 0) throw read_fault(out.on, "extents whose product overflows");
  return out;
}

Dataset open_blob(const File& file, const std::string& name, std::int64_t max_bytes) {
  const Lock lock;
  Dataset out = open_dataset(file, {.name = name, .element = Element::u8, .extents = {0}, .chunk = {1}});
  if (out.extents[0] > max_bytes)
    throw read_fault(out.on, fmt::format("{} bytes", out.extents[0]), fmt::format("at most {}", max_bytes));
  return out;
}

void grow(Dataset& dataset, std::int64_t rows) {
  const Lock lock;
  dataset.extents[0] = rows;
  const std::vector<hsize_t> extents = sizes(dataset.extents);
  if (H5Dset_extent(dataset.id.get(), extents.data()) < 0) throw write_fault(dataset.on, last_error());
}

void write_box(const Dataset& dataset, std::span<const std::int64_t> at, std::span<const std::int64_t> count,
               const void* data) {
  if (checked_product(count) == 0) return;
  const Lock lock;
  const SpaceId space = select(dataset, at, count);
  const std::vector<hsize_t> n = sizes(count);
  const SpaceId memory(H5Screate_simple(static_cast<int>(n.size()), n.data(), nullptr));
  const TypeId type = file_type(dataset.element);
  if (!space || H5Dwrite(dataset.id.get(), type.get(), memory.get(), space.get(), H5P_DEFAULT, data) < 0)
    throw write_fault(dataset.on, last_error());
}

void read_box(const Dataset& dataset, std::span<const std::int64_t> at, std::span<const std::int64_t> count,
              void* data) {
  if (checked_product(count) == 0) return;
  const Lock lock;
  for (std::size_t axis = 0; axis < at.size(); ++axis)
    if (at[axis] < 0 || count[axis] < 0 || at[axis] > dataset.extents[axis] - count[axis])
      throw read_fault(dataset.on, "extents " + list_text(dataset.extents),
                       fmt::format("at least {} on axis {}", at[axis] + count[axis], axis));
  const SpaceId space = select(dataset, at, count);
  const std::vector<hsize_t> n = sizes(count);
  const SpaceId memory(H5Screate_simple(static_cast<int>(n.size()), n.data(), nullptr));
  const TypeId type = file_type(dataset.element);
  if (!space || H5Dread(dataset.id.get(), type.get(), memory.get(), space.get(), H5P_DEFAULT, data) < 0)
    throw read_fault(dataset.on, last_error());
}

void write_rows(const Dataset& dataset, std::int64_t first, std::int64_t n, const void* data) {
  std::vector<std::int64_t> at(dataset.extents.size(), 0), count = dataset.extents;
  at[0] = first;
  count[0] = n;
  write_box(dataset, at, count, data);
}

void read_rows(const Dataset& dataset, std::int64_t first, std::int64_t n, void* data) {
  std::vector<std::int64_t> at(dataset.extents.size(), 0), count = dataset.extents;
  at[0] = first;
  count[0] = n;
  read_box(dataset, at, count, data);
}

void write_chunk(const Dataset& dataset, std::span<const std::int64_t> at, const void* data, std::int64_t bytes) {
  const Lock lock;
  const std::vector<hsize_t> offset = sizes(at);
  if (H5Dwrite_chunk(dataset.id.get(), H5P_DEFAULT, 0, offset.data(), static_cast<std::size_t>(bytes), data) < 0)
    throw write_fault(dataset.on, last_error());
}

void flush_dataset(const Dataset& dataset) {
  const Lock lock;
  if (H5Dflush(dataset.id.get()) < 0) throw write_fault(dataset.on, last_error());
}

void walk_chunk_index(const Dataset& dataset, std::int64_t file_bytes) {
  const Lock lock;
  const PropertyId plist(H5Dget_create_plist(dataset.id.get()));
  if (!plist || H5Pget_layout(plist.get()) != H5D_CHUNKED) return;
  hsize_t chunk[H5S_MAX_RANK + 1] = {};
  const std::size_t rank = dataset.extents.size();
  if (H5Pget_chunk(plist.get(), H5S_MAX_RANK, chunk) != static_cast<int>(rank)) return;
  std::int64_t bytes_of_chunk = element_bytes(dataset.element);
  for (std::size_t i = 0; i < rank; ++i) bytes_of_chunk *= static_cast<std::int64_t>(chunk[i]);
  // No more chunks can be there than the file has room for; deflate shrinks at most a thousandfold.
  const bool filtered = H5Pget_nfilters(plist.get()) > 0;
  const std::int64_t most =
      file_bytes / std::max<std::int64_t>(filtered ? bytes_of_chunk / 1000 : bytes_of_chunk, 1) + 1024;
  std::vector<hsize_t> at(rank, 0);
  for (const std::int64_t extent : dataset.extents)
    if (extent == 0) return;
  for (std::int64_t looked_up = 0; looked_up < most; ++looked_up) {
    hsize_t bytes = 0;
    if (H5Dget_chunk_storage_size(dataset.id.get(), at.data(), &bytes) < 0) last_error();
    std::size_t axis = rank;
    while (axis > 0) {
      --axis;
      at[axis] += chunk[axis];
      if (at[axis] < static_cast<hsize_t>(dataset.extents[axis])) break;
      at[axis] = 0;
      if (axis == 0) return;
    }
  }
}

}  // namespace kvgrind::traces::hdf5
