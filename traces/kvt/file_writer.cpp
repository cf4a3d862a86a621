#include "traces/kvt/file_writer.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>

#include "core/hash.h"

namespace kvgrind::traces {
namespace {

std::uint64_t now_ms() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

void sync_descriptor(const hdf5::File& file) {
  if (::fdatasync(hdf5::descriptor(file)) != 0)
    throw hdf5::write_fault(file.name, std::string("fdatasync failed: ") + std::strerror(errno));
}

}  // namespace

FileWriter::FileWriter(const std::filesystem::path& final, bool force, FsyncMode fsync, FileStart start,
                       bool wants_segments, std::int64_t segment_bytes)
    : output_(final, force),
      fsync_(fsync),
      segmented_(wants_segments || network_file_system(final) != nullptr),
      segment_bytes_(segment_bytes),
      layout_(start.layout),
      start_ms_(now_ms()) {
  const hdf5::Lock lock;
  if (begin(start)) return;
  segmented_ = true;
  begin(start);
}

std::filesystem::path FileWriter::open_path() const {
  return segmented_ ? segment_path(output_.part(), static_cast<std::int64_t>(segments_.size()), true) : output_.part();
}

bool FileWriter::begin(FileStart& start) {
  if (segmented_ && ::mkdir(output_.part().c_str(), 0777) != 0)
    throw hdf5::write_fault(output_.part().string(), std::strerror(errno));
  try {
    file_ = hdf5::create_file(open_path().string(), !segmented_);
    hdf5::write_text_attribute(file_, "kvgrind_format", format_name);
    const std::int64_t numbers[2] = {format_major, format_minor};
    hdf5::write_i64_attribute(file_, "version", numbers);
    hdf5::write_text_attribute(file_, "required_features", "");
    hdf5::write_text_attribute(file_, "optional_features", start.layout.content.probes ? "probes" : "");
    const auto blob = [&](const char* name, std::string text, std::int64_t room, bool sum) {
      if (text.empty()) text.push_back('\0');
      if (room > 0) text.resize(static_cast<std::size_t>(room), '\0');
      const std::int64_t n = static_cast<std::int64_t>(text.size());
      hdf5::Dataset dataset =
          hdf5::create_dataset(file_, {.name = name, .element = hdf5::Element::u8, .extents = {n}, .chunk = {}});
      hdf5::write_rows(dataset, 0, n, text.data());
      if (sum) hdf5::write_u64_attribute(dataset, "xxh3", hash_bytes(text.data(), n));
      datasets_.emplace(name, std::move(dataset));
    };
    blob("card", start.card, 0, true);
    blob("header", start.header, 0, true);
    blob("provenance", start.provenance, 0, true);
    blob("names", start.names, 0, true);
    blob("not_recorded", start.not_recorded, not_recorded_bytes, false);
    for (const hdf5::DatasetSpec& spec : dataset_specs(start.layout)) {
      datasets_.emplace(spec.name, hdf5::create_dataset(file_, spec));
      if (spec.growing()) chunk_rows_[spec.name] = spec.chunk[0];
    }
    const auto announce = [&](const char* name, std::vector<Row>& rows) {
      for (Row& row : rows) seal(row);
      append(name, static_cast<std::int64_t>(rows.size()), rows.data());
    };
    announce("sequence", start.sequences);
    announce("segment", start.segments);
    announce("span", start.spans);
    if (start.layout.content.output_projection) {
      const ModelCard& card = start.layout.card;
      const std::int64_t width = card.query_heads * card.head_dim;
      std::vector<char> layer(
          static_cast<std::size_t>(card.hidden * width * hdf5::element_bytes(start.layout.output_element)));
      std::vector<std::uint64_t> sums;
      for (std::int64_t l = 0; l < card.layers; ++l) {
        start.output_projection(l, layer.data());
        sums.push_back(hash_bytes(layer.data(), static_cast<std::int64_t>(layer.size())));
        write_box("w_o", {l, 0, 0}, {1, card.hidden, width}, layer.data());
      }
      write_rows("w_o_sums", 0, card.layers, sums.data());
    }
    write_status({.state = StatusCode::unfinished, .announced = start.layout.announced_rows, .mass_error = NAN});
    hdf5::flush_file(file_);
    if (!segmented_) {
      try {
        hdf5::start_swmr(file_);
      } catch (const Error&) {
        datasets_.clear();
        file_.id.reset();
        ::unlink(output_.part().c_str());
        return false;
      }
    }
    if (segmented_) next_segment();  // from now on it can be opened
    touched_.clear();
    return true;
  } catch (...) {
    abandon();
    std::error_code ignored;
    std::filesystem::remove_all(output_.part(), ignored);  // nothing in it yet
    throw;
  }
}

// The next segment: no rows yet, and what is written once more at the end.
void FileWriter::begin_segment(std::map<std::string, std::int64_t> rows_before) {
  bases_ = std::move(rows_before);
  file_ = hdf5::create_file(open_path().string(), false);
  for (const hdf5::DatasetSpec& spec : dataset_specs(layout_)) {
    if (!spec.growing()) continue;
    hdf5::Dataset dataset = hdf5::create_dataset(file_, spec);
    hdf5::write_u64_attribute(dataset, "base", static_cast<std::uint64_t>(bases_[spec.name]));
    datasets_.emplace(spec.name, std::move(dataset));
  }
  bytes_ = 0;
  segment_began_ = std::chrono::steady_clock::now();
}

void FileWriter::end_segment() {
  hdf5::close_file(file_);
  enter_segment(output_.part(), segments_, fsync_ != FsyncMode::never);
}

void FileWriter::rest() {
  if (!segmented_) return;
  constexpr std::chrono::seconds longest{10};
  if (bytes_ < segment_bytes_ && std::chrono::steady_clock::now() - segment_began_ < longest) return;
  const hdf5::Lock lock;
  next_segment();
}

void FileWriter::next_segment() {
  // Rows are counted before the datasets close, which must be before their file does.
  std::map<std::string, std::int64_t> counted;
  for (const auto& [name, chunk] : chunk_rows_) counted[name] = rows(name);
  datasets_.clear();
  end_segment();
  begin_segment(std::move(counted));
}

FileWriter::~FileWriter() {
  // The order matters: a file closes for good only after its datasets.
  datasets_.clear();
  file_.id.reset();
}

hdf5::Dataset& FileWriter::at(const std::string& name) {
  const auto it = datasets_.find(name);
  assert(it != datasets_.end());
  return it->second;
}
const hdf5::Dataset& FileWriter::at(const std::string& name) const {
  const auto it = datasets_.find(name);
  assert(it != datasets_.end());
  return it->second;
}

std::int64_t FileWriter::base(const std::string& name) const {
  const auto it = bases_.find(name);
  return it == bases_.end() ? 0 : it->second;
}

std::int64_t FileWriter::rows(const std::string& name) const { return base(name) + at(name).extents[0]; }

void FileWriter::grow(const std::string& name, std::int64_t rows) {
  hdf5::Dataset& dataset = at(name);
  const std::int64_t here = rows - base(name);
  if (here > dataset.extents[0]) hdf5::grow(dataset, here);
  touched_.insert(name);
}

void FileWriter::write_rows(const std::string& name, std::int64_t first, std::int64_t n, const void* data) {
  if (n == 0) return;
  assert(first >= base(name));
  hdf5::write_rows(at(name), first - base(name), n, data);
  bytes_ += n * at(name).row_bytes;
  touched_.insert(name);
}

void FileWriter::append(const std::string& name, std::int64_t n, const void* data) {
  if (n == 0) return;
  const std::int64_t first = rows(name);
  grow(name, first + n);
  write_rows(name, first, n, data);
}

void FileWriter::write_box(const std::string& name, std::initializer_list<std::int64_t> box_at,
                           std::initializer_list<std::int64_t> count, const void* data) {
  std::vector<std::int64_t> here(box_at);
  here[0] -= base(name);
  hdf5::write_box(at(name), here, std::span(count.begin(), count.size()), data);
  bytes_ += hdf5::checked_product(std::span(count.begin(), count.size())) * hdf5::element_bytes(at(name).element);
  touched_.insert(name);
}

void FileWriter::write_group(const std::string& name, std::int64_t layer, std::int64_t head, std::int64_t first,
                             std::int64_t n, const void* data) {
  hdf5::Dataset& dataset = at(name);
  grow(name, first + n);
  const bool heads = dataset.extents.size() == 4;  // else one head axis that is whole in every chunk
  const std::int64_t chunk = chunk_rows_[name], width = dataset.extents.back();
  const std::int64_t row_bytes = width * hdf5::element_bytes(dataset.element);
  const char* from = static_cast<const char*>(data);
  assert(first >= base(name));
  bytes_ += n * row_bytes;
  for (std::int64_t row = first - base(name), end = row + n; row < end;) {
    const std::int64_t stop = std::min(end, (row / chunk + 1) * chunk), count = stop - row;
    std::vector<std::int64_t> offset = {row, layer}, size = {count, 1};
    if (heads) offset.push_back(head), size.push_back(1);
    offset.push_back(0), size.push_back(width);
    if (count == chunk)
      hdf5::write_chunk(dataset, offset, from, count * row_bytes);
    else
      hdf5::write_box(dataset, offset, size, from);
    from += count * row_bytes;
    row = stop;
  }
}

void FileWriter::commit(Stream stream, Row row) {
  const hdf5::Lock lock;
  for (const std::string& name : touched_) hdf5::flush_dataset(at(name));
  touched_.clear();
  if (fsync_ == FsyncMode::chunk) sync_descriptor(file_);
  const std::size_t index = static_cast<std::size_t>(stream);
  row[commit_column::stream] = static_cast<std::uint64_t>(stream);
  row[commit_column::number] = static_cast<std::uint64_t>(commits_[index]);
  row[commit_column::chain] = chain_[index];
  seal(row);
  append("commit", 1, row.data());
  hdf5::flush_dataset(at("commit"));
  touched_.clear();
  if (fsync_ == FsyncMode::chunk) sync_descriptor(file_);
  chain_[index] = row[15];
  ++commits_[index];
}

void FileWriter::write_status(const Ending& ending) {
  std::array<std::uint64_t, 8> status{};
  status[status_column::state] = static_cast<std::uint64_t>(ending.state);
  status[status_column::rows] = static_cast<std::uint64_t>(ending.rows);
  status[status_column::commits] = static_cast<std::uint64_t>(rows("commit"));
  status[status_column::announced] = static_cast<std::uint64_t>(ending.announced);
  status[status_column::start_ms] = ending.start_ms ? ending.start_ms : start_ms_;
  status[status_column::end_ms] = ending.state == StatusCode::unfinished ? 0 : ending.end_ms ? ending.end_ms : now_ms();
  status[status_column::mass_error] = std::bit_cast<std::uint64_t>(ending.mass_error);
  status[status_column::sum] = hash_bytes(status.data(), 7 * 8);
  hdf5::write_rows(at("status"), 0, 1, status.data());
}

void FileWriter::write_endings(const Ending& ending) {
  if (segmented_ && !datasets_.contains("status")) {  // each segment may be the last
    datasets_.emplace("status", hdf5::create_dataset(file_, status_spec()));
    datasets_.emplace("not_recorded", hdf5::create_dataset(file_, {.name = "not_recorded",
                                                                   .element = hdf5::Element::u8,
                                                                   .extents = {not_recorded_bytes},
                                                                   .chunk = {}}));
  }
  std::string text = ending.not_recorded;
  text.resize(static_cast<std::size_t>(not_recorded_bytes), '\0');
  hdf5::write_rows(at("not_recorded"), 0, not_recorded_bytes, text.data());
  write_status(ending);
}

void FileWriter::verify(const std::filesystem::path& path, std::int64_t commits) {
  hdf5::File again = hdf5::open_file(path.string());
  const hdf5::Dataset commit = hdf5::open_dataset(
      again, {.name = "commit", .element = hdf5::Element::u64, .extents = {0, 16}, .chunk = {1, 16}});
  if (commit.extents[0] != commits)
    throw hdf5::write_fault(path.string(),
                            fmt::format("{} commit rows after closing instead of {}", commit.extents[0], commits));
}

// Leaves a `.part` that is closed and holds every commit.
void FileWriter::close(const Ending& ending) {
  const hdf5::Lock lock;
  write_endings(ending);
  for (auto& [name, dataset] : datasets_) hdf5::flush_dataset(dataset);
  const std::int64_t commits = rows("commit");
  datasets_.clear();
  if (segmented_) {
    end_segment();
    return;
  }
  hdf5::close_file(file_);
  verify(output_.part(), commits);
}

void FileWriter::stop(const Ending& ending) {
  close(ending);
  if (fsync_ != FsyncMode::never && !segmented_) sync_file(output_.part());
  output_.unlock();
}

void FileWriter::publish(const Ending& ending) {
  const std::int64_t commits = rows("commit");
  close(ending);
  if (!segmented_) {
    output_.publish(fsync_ != FsyncMode::never);
    return;
  }
  const std::filesystem::path joined = output_.part() / "joined.h5";
  join_segments(output_.part(), joined);
  verify(joined, commits);
  output_.publish(fsync_ != FsyncMode::never, joined);
  std::error_code ignored;
  std::filesystem::remove_all(output_.part(), ignored);
}

void FileWriter::abandon() {
  for (auto& [name, dataset] : datasets_) dataset.id.release();
  datasets_.clear();
  file_.id.release();
}

}  // namespace kvgrind::traces
