#include "traces/model_files/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "core/handle.h"

namespace kvgrind::traces {
namespace {

using Descriptor = Handle<int, ::close, -1>;

const char* kind_of_mode(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "something else";
}

void require_regular(const std::filesystem::path& path, const struct stat& info) {
  if (!S_ISREG(info.st_mode))
    throw Error(
        Category::damaged,
        {.doing = "opening", .on = path.string(), .found = kind_of_mode(info.st_mode), .expected = "a regular file"});
}

[[noreturn]] void cannot_read(const std::filesystem::path& path) {
  throw Error(Category::missing,
              {.doing = "opening", .on = path.string(), .found = std::strerror(errno), .expected = "a readable file"});
}

// The kind is checked before opening, since opening a device may act; and again after it, since the path may have been
// exchanged. O_NONBLOCK: a pipe put there in between must not hang us.
std::pair<Descriptor, std::size_t> open_regular(const std::filesystem::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) cannot_read(path);
  require_regular(path, info);
  Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!descriptor || ::fstat(descriptor.get(), &info) != 0) cannot_read(path);
  require_regular(path, info);
  return {std::move(descriptor), static_cast<std::size_t>(info.st_size)};
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const auto [descriptor, size] = open_regular(path);
  std::shared_ptr<MappedFile> file(new MappedFile);
  if (size == 0) return file;
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (data == MAP_FAILED)
    throw Error(Category::unavailable, {.doing = "mapping",
                                        .on = path.string(),
                                        .found = std::strerror(errno),
                                        .expected = fmt::format("{} bytes of address space", size)});
  file->data_ = static_cast<const std::byte*>(data);
  file->size_ = size;
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const auto [descriptor, size] = open_regular(path);
  if (size > max_bytes)
    throw Error(Category::damaged, {.doing = "reading",
                                    .on = path.string(),
                                    .found = fmt::format("{} bytes", size),
                                    .expected = fmt::format("at most {}", max_bytes)});
  std::string text(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(descriptor.get(), text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) cannot_read(path);
    if (n == 0) break;  // shortened meanwhile
    done += static_cast<std::size_t>(n);
  }
  text.resize(done);
  return text;
}

std::string kind_of_bytes(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 64));
  if (text.empty()) return "an empty file";
  const std::pair<std::string_view, const char*> known[] = {
      {"\x89PNG", "a PNG image"},
      {"\x1f\x8b", "a gzip archive"},
      {"PK\x03\x04", "a zip archive or a PyTorch pickle"},
      {"\x80\x02", "a Python pickle"},
      {"\x80\x04", "a Python pickle"},
      {"\x89HDF\r\n\x1a\n", "an HDF5 file"},
      {"GGUF", "a GGUF file"},
      {"\x7f"
       "ELF",
       "a program"},
      {"version https://git-lfs", "a Git LFS pointer, not the file it stands for"},
      {"{", "JSON text"},
      {"<", "HTML or XML text"}};
  for (const auto& [magic, kind] : known)
    if (text.starts_with(magic)) return kind;
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\r' && c != '\t') return "unknown bytes";
  return "plain text";
}

}  // namespace kvgrind::traces
