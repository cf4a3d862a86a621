// Files as bytes, opened so that no kind of path can hang or surprise: only regular files, followed through links.
#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace kvgrind::traces {

// A read-only mapping; the bytes live as long as the object. A file that another process shortens meanwhile faults on
// access, as with every mapping.
class MappedFile {
 public:
  // Throws Error(missing) when the path does not exist or may not be read, Error(damaged) when it is no regular file.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// The whole of a text file; more than `max_bytes` is Error(damaged), the rest as for MappedFile.
std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes);

// What the first bytes look like, for messages: "a PNG image", "an empty file", … or "unknown bytes".
std::string kind_of_bytes(std::span<const std::byte> bytes);

}  // namespace kvgrind::traces
