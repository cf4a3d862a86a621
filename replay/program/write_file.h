// A small file written whole: beside its place first, then renamed over it.
#pragma once
#include <filesystem>
#include <string_view>

namespace kvgrind::program {

// Error(write) when it exists and `force` is off, or when it cannot be written; the old file survives that.
void write_file(const std::filesystem::path& path, std::string_view text, bool force);

}  // namespace kvgrind::program
