// A file that appears only when it is whole: written as `name.part` under a side lock `name.part.lock`, then renamed.
// The lock is flock on the side file, never on the file itself, and dies with its process.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "core/handle.h"

namespace kvgrind::traces {

int close_descriptor(int descriptor);
using Descriptor = Handle<int, close_descriptor, -1>;

class OutputFile {
 public:
  // Takes the lock; with `force` removes a left-over `.part`. Error(write) when another process writes it, when the
  // final file or a `.part` is there without `force`.
  OutputFile(const std::filesystem::path& final, bool force);
  ~OutputFile();  // lets the lock go; the `.part` stays

  const std::filesystem::path& part() const { return part_; }
  const std::filesystem::path& final() const { return final_; }
  // Free bytes of the file system for this user.
  std::int64_t free_bytes() const;
  // fsync of the part, rename to the final name (never onto an existing one without force), fsync of the folder.
  void publish(bool sync);
  void publish(bool sync, const std::filesystem::path& whole);  // the same with another file of this file system
  void unlock();

 private:
  std::filesystem::path final_, part_, lock_path_;
  bool force_ = false;
  Descriptor lock_;
};

// "NFS" or "SMB" when a file of this name would lie there, else null. HDF5's append-while-reading needs POSIX write
// semantics, which they lack.
const char* network_file_system(const std::filesystem::path& path);

void sync_file(const std::filesystem::path& path);

}  // namespace kvgrind::traces
