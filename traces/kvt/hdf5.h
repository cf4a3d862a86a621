// HDF5's C API, each call wrapped once: checked, owned by handles, named in errors. No other file of the project calls
// HDF5 to read or write traces.
//
// The library is set up once for hostile input: no plug-in filters, no external links, no work at exit. All calls are
// made under one lock (Lock); callers that need several calls to be one step hold it themselves (it is recursive).
#pragma once
#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/handle.h"

namespace kvgrind::traces::hdf5 {

// Limits on what a file may ask of us (R4, R6).
inline constexpr std::int64_t max_chunk_bytes = 64ll << 20;
inline constexpr std::int64_t max_allocation_bytes = 2ll << 30;

// Held while HDF5 is called. The first one sets the library up.
class Lock {
 public:
  Lock();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

// In a child forked under a Lock: the lock's owner does not exist there.
void after_fork();

template <herr_t (*close)(hid_t)>
void close_locked(hid_t id) {
  const Lock lock;
  (void)close(id);
}
using FileId = Handle<hid_t, close_locked<H5Fclose>, hid_t{-1}>;
using DatasetId = Handle<hid_t, close_locked<H5Dclose>, hid_t{-1}>;
using SpaceId = Handle<hid_t, close_locked<H5Sclose>, hid_t{-1}>;
using TypeId = Handle<hid_t, close_locked<H5Tclose>, hid_t{-1}>;
using PropertyId = Handle<hid_t, close_locked<H5Pclose>, hid_t{-1}>;
using AttributeId = Handle<hid_t, close_locked<H5Aclose>, hid_t{-1}>;

// Element types as stored; data are always moved in the file's own type.
enum class Element : std::uint8_t { u8, i32, i64, u64, f32, f16, bf16 };  // bf16: uint16 with attribute kvg_dtype
std::int64_t element_bytes(Element element);
const char* element_name(Element element);

std::string last_error();  // the innermost entry of HDF5's error stack, in its words
Error write_fault(const std::string& on, const std::string& found);
Error read_fault(const std::string& on, const std::string& found, const std::string& expected = "");

// Product of non-negative sizes, or −1 when it leaves [0, 2^62].
std::int64_t checked_product(std::initializer_list<std::int64_t> factors);
std::int64_t checked_product(std::span<const std::int64_t> factors);

struct File {
  FileId id;
  std::string name;   // for messages
  bool swmr = false;  // opened for reading while it may be written, or after a crash
};

// Exclusive, latest format; Error(write). `locked`: as HDF5 does it, which network file systems may not know.
File create_file(const std::string& path, bool locked = true);
// Plainly, else for SWMR reading (live and crashed files). Error(missing | damaged).
File open_file(const std::string& path);
void start_swmr(const File& file);  // Error(write)
void flush_file(const File& file);
int descriptor(const File& file);  // of the underlying file
void close_file(File& file);       // Error(write) when HDF5 reports a fault

struct Dataset {
  DatasetId id;
  std::string on;  // "run.kvt: /k"
  Element element = Element::u8;
  std::vector<std::int64_t> extents;
  std::int64_t row_bytes = 0;  // bytes of one entry of axis 0
};

struct DatasetSpec {
  std::string name;
  Element element = Element::u8;
  std::vector<std::int64_t> extents;  // at creation, or as expected by a reader (axis 0 ignored when growing)
  std::vector<std::int64_t> chunk;    // empty: contiguous, fixed size
  bool growing() const { return !chunk.empty(); }
};

Dataset create_dataset(const File& file, const DatasetSpec& spec);
// Opens a dataset after all checks: hard link, dataset, element type, rank and fixed extents as in the spec, no
// external storage, no virtual layout, filters deflate/shuffle/fletcher32 only, chunks ≤ 64 MiB. Error(damaged) names
// it.
Dataset open_dataset(const File& file, const DatasetSpec& spec);
// A one-dimensional u8 or i64… dataset of any length ≤ max_rows; same checks.
Dataset open_blob(const File& file, const std::string& name, std::int64_t max_bytes);
bool has_link(const File& file, const std::string& name);
// For files of which only what is stored tells what it is: the objects of the root group, by name, and what one of them
// is like. open_dataset makes all its checks on it. Error(damaged).
std::vector<std::string> dataset_names(const File& file);
DatasetSpec stored_spec(const File& file, const std::string& name);
bool has_attribute(const Dataset& dataset, const std::string& name);

void grow(Dataset& dataset, std::int64_t rows);  // axis 0
// Box [at, at + count) of the dataset from or to dense memory.
void write_box(const Dataset& dataset, std::span<const std::int64_t> at, std::span<const std::int64_t> count,
               const void* data);
void read_box(const Dataset& dataset, std::span<const std::int64_t> at, std::span<const std::int64_t> count,
              void* data);
void write_rows(const Dataset& dataset, std::int64_t first, std::int64_t n, const void* data);
void read_rows(const Dataset& dataset, std::int64_t first, std::int64_t n, void* data);
// One whole chunk as it lies on disk; `at` is the chunk's first element.
void write_chunk(const Dataset& dataset, std::span<const std::int64_t> at, const void* data, std::int64_t bytes);
void flush_dataset(const Dataset& dataset);
// Looks up every chunk's place without reading its data: touches the whole index of a file of this size.
void walk_chunk_index(const Dataset& dataset, std::int64_t file_bytes);

void write_text_attribute(const File& file, const std::string& name, const std::string& text);
std::string read_text_attribute(const File& file, const std::string& name);
void write_i64_attribute(const File& file, const std::string& name, std::span<const std::int64_t> values);
std::vector<std::int64_t> read_i64_attribute(const File& file, const std::string& name, std::int64_t n);
void write_u64_attribute(const Dataset& dataset, const std::string& name, std::uint64_t value);
std::uint64_t read_u64_attribute(const Dataset& dataset, const std::string& name);

}  // namespace kvgrind::traces::hdf5
