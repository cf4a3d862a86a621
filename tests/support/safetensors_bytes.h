// safetensors files made by hand for tests: good ones by name, type and shape, and any header over any bytes.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace kvgrind::tests {

// 8 bytes of length, the header as given, then the bytes.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i) & 0xff);
  file += header;
  file += data;
  return file;
}

}  // namespace kvgrind::tests
