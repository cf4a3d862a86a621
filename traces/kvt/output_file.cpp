#include "traces/kvt/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace kvgrind::traces {
namespace {

Error fault(const std::filesystem::path& on, const std::string& found, const std::string& next = "") {
  return Error(Category::write, {.doing = "writing trace", .on = on.string(), .found = found, .next = next});
}
std::string reason() { return std::strerror(errno); }

bool is_there(const std::filesystem::path& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.parent_path().empty() ? std::filesystem::path(".") : path.parent_path();
}

}  // namespace

const char* network_file_system(const std::filesystem::path& path) {
  struct statfs info;
  if (statfs(folder_of(path).c_str(), &info) != 0) return nullptr;
  switch (static_cast<unsigned long>(info.f_type) & 0xffffffffu) {
    case 0x6969:
      return "NFS";
    case 0xff534d42:
    case 0xfe534d42:
    case 0x517b:
      return "SMB";
    default:
      return nullptr;
  }
}

int close_descriptor(int descriptor) { return ::close(descriptor); }

void sync_file(const std::filesystem::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file || ::fsync(file.get()) != 0) throw fault(path, "fsync failed: " + reason());
}

OutputFile::OutputFile(const std::filesystem::path& final, bool force)
    : final_(final), part_(final.string() + ".part"), lock_path_(final.string() + ".part.lock"), force_(force) {
  std::error_code ignored;
  if (final.filename().empty() || std::filesystem::is_directory(final, ignored))
    throw fault(final, final.empty() ? "no name" : "the name of a folder", "give the name of a file");
  if (!force && is_there(final)) throw fault(final, "a file of this name", "give another name or --force");
  for (;;) {
    lock_.reset(::open(lock_path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (!lock_) throw fault(lock_path_, reason());
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      throw fault(final, "another process is writing it", "wait for it or give another name");
    }
    // The file may have been unlinked by its last owner between open and flock: then the lock is worth nothing.
    struct stat mine, now;
    if (fstat(lock_.get(), &mine) == 0 && lstat(lock_path_.c_str(), &now) == 0 && mine.st_ino == now.st_ino &&
        mine.st_dev == now.st_dev)
      break;
  }
  if (is_there(part_)) {
    if (!force) {
      unlock();
      throw fault(part_, "an unfinished recording of this name",
                  fmt::format("save it with `kvgrind repair {} -o FILE`, or give --force", part_.string()));
    }
    std::filesystem::remove_all(part_, ignored);  // a file, or a folder of segments; a link itself
    if (ignored) throw fault(part_, ignored.message());
  }
}

OutputFile::~OutputFile() { unlock(); }

void OutputFile::unlock() {
  if (!lock_) return;
  ::unlink(lock_path_.c_str());
  lock_.reset();
}

std::int64_t OutputFile::free_bytes() const {
  struct statvfs info;
  if (statvfs(part_.c_str(), &info) != 0) throw fault(part_, reason());
  return static_cast<std::int64_t>(info.f_bavail) * static_cast<std::int64_t>(info.f_frsize);
}

void OutputFile::publish(bool sync) { publish(sync, part_); }

void OutputFile::publish(bool sync, const std::filesystem::path& whole) {
  if (sync) sync_file(whole);
  if (::renameat2(AT_FDCWD, whole.c_str(), AT_FDCWD, final_.c_str(), force_ ? 0 : RENAME_NOREPLACE) != 0) {
    // File systems without RENAME_NOREPLACE: a hard link never replaces either.
    if (errno != EINVAL && errno != ENOSYS)
      throw fault(final_, reason(), "the recording is whole in " + whole.string());
    if (::link(whole.c_str(), final_.c_str()) != 0 || ::unlink(whole.c_str()) != 0)
      throw fault(final_, reason(), "the recording is whole in " + whole.string());
  }
  if (sync) {
    const Descriptor folder(::open(folder_of(final_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder) ::fsync(folder.get());
  }
  unlock();
}

}  // namespace kvgrind::traces
