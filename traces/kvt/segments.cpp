#include "traces/kvt/segments.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>

#include "traces/kvt/hdf5.h"
#include "traces/kvt/output_file.h"
#include "traces/kvt/probe.h"

namespace kvgrind::traces {
namespace {

constexpr const char* index_name = "index";
constexpr const char* index_head = "kvgrind-segments 1";
constexpr std::int64_t most_segments = 1'000'000, piece_bytes = std::int64_t{16} << 20;

// Rows [0, n) of one dataset to rows [to, to + n) of another, in pieces of bounded memory along the first two axes.
void copy_rows(const hdf5::Dataset& from, std::int64_t n, hdf5::Dataset& into, std::int64_t to,
               std::int64_t chunk_rows) {
  const std::size_t rank = from.extents.size();
  const std::int64_t layers = rank >= 3 ? from.extents[1] : 1,
                     bytes = from.row_bytes / std::max<std::int64_t>(layers, 1);
  std::int64_t step = std::max<std::int64_t>(1, piece_bytes / std::max<std::int64_t>(bytes, 1));
  if (step > chunk_rows) step = step / chunk_rows * chunk_rows;
  std::vector<std::byte> memory;
  for (std::int64_t row = 0; row < n; row += step)
    for (std::int64_t l = 0; l < layers; ++l) {
      std::vector<std::int64_t> at(rank, 0), count = from.extents;
      at[0] = row;
      count[0] = std::min(step, n - row);
      if (rank >= 3) at[1] = l, count[1] = 1;
      const std::int64_t size = hdf5::checked_product({count[0], bytes});
      if (size < 0 || size > hdf5::max_allocation_bytes) throw hdf5::read_fault(from.on, "rows of a refused size");
      memory.resize(static_cast<std::size_t>(size));
      hdf5::read_box(from, at, count, memory.data());
      at[0] += to;
      hdf5::write_box(into, at, count, memory.data());
    }
}

struct Joined {
  hdf5::Dataset dataset;
  hdf5::DatasetSpec spec;
};

void copy_segment(const hdf5::File& in, const hdf5::File& out, bool first, std::map<std::string, Joined>& datasets) {
  for (const std::string& name : hdf5::dataset_names(in)) {
    const hdf5::DatasetSpec spec = hdf5::stored_spec(in, name);
    const hdf5::Dataset from = hdf5::open_dataset(in, spec);
    if (first) {
      hdf5::DatasetSpec fresh = spec;
      if (fresh.growing()) fresh.extents[0] = 0;
      Joined joined{hdf5::create_dataset(out, fresh), spec};
      if (hdf5::has_attribute(from, "xxh3"))
        hdf5::write_u64_attribute(joined.dataset, "xxh3", hdf5::read_u64_attribute(from, "xxh3"));
      datasets.emplace(name, std::move(joined));
    }
    const auto it = datasets.find(name);
    if (it == datasets.end() || it->second.spec.element != spec.element ||
        it->second.spec.growing() != spec.growing() ||
        !std::equal(spec.extents.begin() + 1, spec.extents.end(), it->second.spec.extents.begin() + 1,
                    it->second.spec.extents.end()))
      throw hdf5::read_fault(from.on, "a dataset that the first segment does not have so", "the same datasets");
    Joined& joined = it->second;
    if (!spec.growing()) {
      copy_rows(from, from.extents[0], joined.dataset, 0, 1);
      continue;
    }
    const std::int64_t base = first ? 0 : static_cast<std::int64_t>(hdf5::read_u64_attribute(from, "base"));
    if (base < 0 || base > joined.dataset.extents[0])
      throw hdf5::read_fault(from.on, fmt::format("rows from {} on", base),
                             fmt::format("rows from {} on", joined.dataset.extents[0]));
    if (base + from.extents[0] > joined.dataset.extents[0]) hdf5::grow(joined.dataset, base + from.extents[0]);
    copy_rows(from, from.extents[0], joined.dataset, base, spec.chunk[0]);
  }
}

}  // namespace

bool is_segment_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) && std::filesystem::is_regular_file(path / index_name, ignored);
}

std::filesystem::path segment_path(const std::filesystem::path& folder, std::int64_t number, bool open) {
  return folder / fmt::format("{:04}.{}", number, open ? "open" : "h5");
}

void enter_segment(const std::filesystem::path& folder, std::vector<SegmentEntry>& index, bool sync) {
  const std::int64_t number = static_cast<std::int64_t>(index.size());
  const std::filesystem::path open = segment_path(folder, number, true), closed = segment_path(folder, number, false);
  const auto failed = [&](const std::filesystem::path& on) {
    return hdf5::write_fault(on.string(), std::strerror(errno));
  };
  if (sync) sync_file(open);
  if (std::rename(open.c_str(), closed.c_str()) != 0) throw failed(closed);
  std::error_code fault;
  const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(closed, fault));
  if (fault) throw failed(closed);
  index.push_back({closed.filename().string(), bytes});
  const std::filesystem::path fresh = folder / (std::string(index_name) + ".new");
  {
    std::ofstream lines(fresh, std::ios::trunc);
    lines << index_head << '\n';
    for (const SegmentEntry& entry : index) lines << entry.name << ' ' << entry.bytes << '\n';
    lines.close();
    if (!lines) throw failed(fresh);
  }
  if (sync) sync_file(fresh);
  if (std::rename(fresh.c_str(), (folder / index_name).c_str()) != 0) throw failed(folder / index_name);
}

std::vector<SegmentEntry> read_segment_index(const std::filesystem::path& folder) {
  std::ifstream lines(folder / index_name);
  std::string line;
  if (!std::getline(lines, line) || line != index_head)
    throw hdf5::read_fault((folder / index_name).string(), "another first line", index_head);
  std::vector<SegmentEntry> out;
  while (static_cast<std::int64_t>(out.size()) < most_segments && std::getline(lines, line)) {
    char name[32] = {};
    long long bytes = -1;
    int end = 0;
    const std::string expected = segment_path("", static_cast<std::int64_t>(out.size()), false).string();
    if (std::sscanf(line.c_str(), "%31s %lld%n", name, &bytes, &end) != 2 || bytes < 0 ||
        end != static_cast<int>(line.size()) || expected != name)
      throw hdf5::read_fault((folder / index_name).string(), "the line \"" + line.substr(0, 80) + "\"",
                             expected + " and its bytes");
    out.push_back({name, bytes});
  }
  return out;
}

std::int64_t join_segments(const std::filesystem::path& folder, const std::filesystem::path& out) {
  const std::vector<SegmentEntry> index = read_segment_index(folder);
  std::error_code ignored;
  std::filesystem::remove(out, ignored);
  hdf5::File joined = hdf5::create_file(out.string(), false);
  std::map<std::string, Joined> datasets;
  std::int64_t number = 0;
  for (const SegmentEntry& entry : index) {
    const std::filesystem::path path = folder / entry.name;
    try {
      const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(path, ignored));
      if (bytes != entry.bytes)
        throw hdf5::read_fault(path.string(), fmt::format("{} bytes", bytes), fmt::format("{}", entry.bytes));
      probe_in_child(path.string(), [&] {
        const hdf5::File file = hdf5::open_file(path.string());
        for (const std::string& name : hdf5::dataset_names(file))
          hdf5::walk_chunk_index(hdf5::open_dataset(file, hdf5::stored_spec(file, name)), bytes);
      });
      const hdf5::File in = hdf5::open_file(path.string());
      if (number == 0) {
        for (const char* name : {"kvgrind_format", "required_features", "optional_features"})
          hdf5::write_text_attribute(joined, name, hdf5::read_text_attribute(in, name));
        hdf5::write_i64_attribute(joined, "version", hdf5::read_i64_attribute(in, "version", 2));
      }
      copy_segment(in, joined, number == 0, datasets);
    } catch (const Error& error) {
      if (number == 0 || error.category() == Category::write) throw;
      break;  // commit rows say how much of what came before is whole
    }
    ++number;
  }
  if (number == 0) throw hdf5::read_fault(folder.string(), "no closed segment", "at least one");
  datasets.clear();
  hdf5::close_file(joined);
  return number;
}

}  // namespace kvgrind::traces
