// A recording in closed pieces, for file systems that cannot show a file while it is written (NFS, SMB): `name.part` is
// a folder there. Each segment is a small HDF5 file that is never opened for writing again: 0000.h5 with everything,
// the next ones with the rows that came after (attribute `base` of each dataset: rows before them), and status and
// not_recorded anew. `index` names the closed ones; what it does not name does not exist. One behind the other they
// are the file that would have been written elsewhere, with the same commit rows.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace kvgrind::traces {

struct SegmentEntry {
  std::string name;
  std::int64_t bytes = 0;
};

bool is_segment_folder(const std::filesystem::path& path);
std::filesystem::path segment_path(const std::filesystem::path& folder, std::int64_t number, bool open);
// The segment that was just closed gets its name and its line; `sync`: all of it reaches the disk first. Error(write).
void enter_segment(const std::filesystem::path& folder, std::vector<SegmentEntry>& index, bool sync);
// Error(missing | damaged).
std::vector<SegmentEntry> read_segment_index(const std::filesystem::path& folder);
// Writes the segments as one file; returns how many. A segment that is not as the index says ends it: what came before
// is whole. Error(damaged) when there is nothing before. Each is looked at in a child process first.
std::int64_t join_segments(const std::filesystem::path& folder, const std::filesystem::path& out);

}  // namespace kvgrind::traces
