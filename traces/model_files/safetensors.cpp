#include "traces/model_files/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/parallel.h"
#include "traces/model_files/mapped_file.h"

namespace kvgrind::traces {
namespace {

constexpr std::uint64_t max_header_bytes = 100'000'000;
constexpr std::size_t max_rank = 16;

[[noreturn]] void refuse(std::string_view what, const std::string& place, std::string found, std::string expected) {
  throw Error(Category::damaged, {.doing = "reading safetensors",
                                  .on = place.empty() ? std::string(what) : fmt::format("{}: {}", what, place),
                                  .found = std::move(found),
                                  .expected = std::move(expected)});
}

struct Entry {
  std::string name;
  Tensor tensor;
  std::uint64_t begin = 0, end = 0;  // within the byte buffer
};

std::uint64_t whole_number(const json::value& value, std::string_view what, const std::string& place) {
  if (value.is_int64() && value.get_int64() >= 0) return static_cast<std::uint64_t>(value.get_int64());
  if (value.is_uint64()) return value.get_uint64();
  refuse(what, place, json_text(value).substr(0, 60), "a whole number from 0");
}

DType dtype_of(const json::value& value, std::string_view what, const std::string& place) {
  const std::string text = value.is_string() ? std::string(value.get_string()) : json_text(value).substr(0, 60);
  if (text == "F32") return DType::f32;
  if (text == "F16") return DType::f16;
  if (text == "BF16") return DType::bf16;
  for (const char* other : {"BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",
                            "U16", "I32", "U32", "C64", "F64", "I64", "U64", "F4", "F6_E2M3", "F6_E3M2"})
    if (text == other) refuse(what, place, "dtype " + text, "F32, F16 or BF16 (others are not supported)");
  refuse(what, place, "unknown dtype " + text.substr(0, 60), "F32, F16 or BF16");
}

Entry read_entry(const std::string& name, const json::value& value, std::string_view what) {
  const std::string place = "tensor " + name.substr(0, 200);
  const json::object* object = value.if_object();
  if (object == nullptr) refuse(what, place, "no object", "dtype, shape and data_offsets");
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!object->contains(key)) refuse(what, place, fmt::format("no {}", key), "dtype, shape and data_offsets");
  for (const auto& member : *object)
    if (member.key() != "dtype" && member.key() != "shape" && member.key() != "data_offsets")
      refuse(what, place, fmt::format("key {}", std::string(member.key()).substr(0, 60)),
             "dtype, shape and data_offsets alone");
  Entry entry;
  entry.name = name;
  entry.tensor.dtype = dtype_of(object->at("dtype"), what, place);
  const json::array* shape = object->at("shape").if_array();
  if (shape == nullptr || shape->size() > max_rank)
    refuse(what, place, "no usable shape", "a list of up to 16 numbers");
  for (const json::value& extent : *shape) {
    const std::uint64_t n = whole_number(extent, what, place + ", shape");
    if (n > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      refuse(what, place + ", shape", fmt::format("{}", n), "a 63-bit number");
    entry.tensor.shape.push_back(static_cast<std::int64_t>(n));
  }
  const json::array* offsets = object->at("data_offsets").if_array();
  if (offsets == nullptr || offsets->size() != 2) refuse(what, place, "no usable data_offsets", "[begin, end]");
  entry.begin = whole_number((*offsets)[0], what, place + ", data_offsets");
  entry.end = whole_number((*offsets)[1], what, place + ", data_offsets");
  return entry;
}

// Bytes of a tensor by its shape, each product checked. A zero extent does not excuse an overflow beside it.
std::uint64_t shape_bytes(const Entry& entry, std::string_view what) {
  std::uint64_t bytes = static_cast<std::uint64_t>(size_bytes(entry.tensor.dtype));
  bool empty = false;
  for (const std::int64_t extent : entry.tensor.shape) {
    if (extent == 0) {
      empty = true;
      continue;
    }
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes) ||
        bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      refuse(what, "tensor " + entry.name.substr(0, 200), "a shape whose size overflows 63 bits",
             "a size that fits the file");
  }
  return empty ? 0 : bytes;
}

void check_metadata(const json::value& value, std::string_view what) {
  const json::object* object = value.if_object();
  if (object == nullptr) refuse(what, "__metadata__", "no object", "text by name");
  for (const auto& member : *object)
    if (!member.value().is_string())
      refuse(what, "__metadata__", fmt::format("{} that is no text", std::string(member.key()).substr(0, 60)),
             "text by name");
}

}  // namespace

std::map<std::string, Tensor> parse_safetensors(std::span<const std::byte> file, std::string_view what) {
  if (file.size() < 8)
    refuse(what, "", fmt::format("{} ({} bytes)", kind_of_bytes(file), file.size()), "at least 8 bytes");
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i)
    header_bytes = header_bytes << 8 | static_cast<std::uint64_t>(file[static_cast<std::size_t>(i)]);
  if (header_bytes > max_header_bytes)
    refuse(what, "header length", fmt::format("{} ({})", header_bytes, kind_of_bytes(file)),
           "at most 100000000 (a safetensors file)");
  if (header_bytes > file.size() - 8)
    refuse(what, "header length", fmt::format("{}", header_bytes),
           fmt::format("at most the {} bytes that follow (is the file cut short?)", file.size() - 8));
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  if (!header.starts_with('{')) refuse(what, "header", kind_of_bytes(file.subspan(8)), "JSON that starts with {");

  const json::value parsed = parse_json(header, what, {.max_bytes = max_header_bytes, .max_depth = 8});
  std::vector<Entry> entries;
  for (const auto& member : parsed.as_object()) {
    if (member.key() == "__metadata__")
      check_metadata(member.value(), what);
    else
      entries.push_back(read_entry(std::string(member.key()), member.value(), what));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end != b.end ? a.end < b.end : a.name < b.name;
  });

  const std::span<const std::byte> buffer = file.subspan(8 + header_bytes);
  std::uint64_t previous_end = 0;
  std::map<std::string, Tensor> tensors;
  for (Entry& entry : entries) {
    const std::string place = "tensor " + entry.name.substr(0, 200);
    if (entry.begin != previous_end)
      refuse(what, place, fmt::format("bytes from {}", entry.begin),
             fmt::format("from {} (no holes, no overlap)", previous_end));
    if (entry.end < entry.begin)
      refuse(what, place, fmt::format("end {}", entry.end), fmt::format("at least {}", entry.begin));
    const std::uint64_t bytes = shape_bytes(entry, what);
    if (entry.end - entry.begin != bytes)
      refuse(what, place, fmt::format("{} bytes", entry.end - entry.begin), fmt::format("{} by its shape", bytes));
    if (entry.end > buffer.size())
      refuse(what, place, fmt::format("end {}", entry.end),
             fmt::format("at most {} (is the file cut short?)", buffer.size()));
    previous_end = entry.end;
    entry.tensor.data = buffer.data() + entry.begin;
    tensors.emplace(std::move(entry.name), std::move(entry.tensor));
  }
  if (previous_end != buffer.size())
    refuse(what, "", fmt::format("{} bytes of tensors", buffer.size()), fmt::format("{}", previous_end));
  return tensors;
}

std::map<std::string, std::string> parse_safetensors_index(std::string_view text, std::string_view what) {
  const json::value parsed = parse_json(text, what, {.max_bytes = 64u << 20, .max_depth = 8});
  const json::object* object = parsed.if_object();
  const json::value* map = object ? object->if_contains("weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) refuse(what, "", "no weight_map", "file names by tensor");
  std::map<std::string, std::string> files;
  for (const auto& member : map->get_object()) {
    const std::string name(member.key());
    if (!member.value().is_string()) refuse(what, "weight_map/" + name.substr(0, 200), "no text", "a file name");
    const std::string file(member.value().get_string());
    if (file.empty() || file.size() > 255 || file.find_first_of("/\\") != std::string::npos || file.starts_with('.'))
      refuse(what, "weight_map/" + name.substr(0, 200), fmt::format("\"{}\"", file.substr(0, 255)),
             "the plain name of a file in the same folder");
    files.emplace(name, file);
  }
  if (files.empty()) refuse(what, "", "an empty weight_map", "file names by tensor");
  return files;
}

std::string content_hash(const std::map<std::string, Tensor>& tensors) {
  std::vector<const Tensor*> order;
  for (const auto& [name, tensor] : tensors) order.push_back(&tensor);
  std::vector<std::uint64_t> digest(order.size());
  parallel_for(static_cast<std::int64_t>(order.size()), [&](std::int64_t i) {
    const Tensor& tensor = *order[static_cast<std::size_t>(i)];
    digest[static_cast<std::size_t>(i)] = hash_bytes(tensor.data, tensor.elements() * size_bytes(tensor.dtype));
  });
  Hasher hasher;
  std::size_t i = 0;
  for (const auto& [name, tensor] : tensors) {
    std::string line = fmt::format("{} {} {}", name.size(), name, dtype_name(tensor.dtype));
    for (const std::int64_t extent : tensor.shape) line += fmt::format(" {}", extent);
    hasher.add_text(line + fmt::format(" {:016x}\n", digest[i++]));
  }
  return hex(hasher.digest());
}

}  // namespace kvgrind::traces
