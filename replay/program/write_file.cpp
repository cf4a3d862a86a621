#include "replay/program/write_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/handle.h"

namespace kvgrind::program {
namespace {

Error cannot_write(const std::filesystem::path& path, std::string found, std::string next = {}) {
  return Error(Category::write, {.doing = "writing",
                                 .on = path.string(),
                                 .found = std::move(found),
                                 .expected = "to be able to write it",
                                 .next = std::move(next)});
}

}  // namespace

void write_file(const std::filesystem::path& path, std::string_view text, bool force) {
  std::error_code ignored;
  if (!force && std::filesystem::exists(std::filesystem::symlink_status(path, ignored)))
    throw cannot_write(path, "a file that exists", "--force replaces it");
  const std::string part = path.string() + ".part";
  ::unlink(part.c_str());
  Handle<int, ::close, -1> file(::open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (!file) throw cannot_write(path, std::strerror(errno));
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = ::write(file.get(), text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const std::string why = std::strerror(errno);
      ::unlink(part.c_str());
      throw cannot_write(path, why);
    }
    at += static_cast<std::size_t>(n);
  }
  if (::fsync(file.get()) != 0 || ::close(file.release()) != 0 || ::rename(part.c_str(), path.c_str()) != 0)
    throw cannot_write(path, std::strerror(errno));
}

}  // namespace kvgrind::program
