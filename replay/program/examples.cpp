#include "replay/program/examples.h"

namespace kvgrind::program {
namespace {

std::filesystem::path own_folder() {
  std::error_code failed;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", failed);
  return failed ? std::filesystem::path() : self.parent_path();
}

}  // namespace

std::filesystem::path find_examples() {
  for (const std::filesystem::path& folder :
       {std::filesystem::path("traces/examples"), own_folder() / "../share/kvgrind/examples",
        std::filesystem::path(KVGRIND_SOURCE_DIR) / "traces/examples"}) {
    std::error_code failed;
    if (std::filesystem::exists(folder / "tiny-3m" / "config.json", failed)) return folder;
  }
  return {};
}

std::filesystem::path sibling_program(std::string_view name) {
  const std::filesystem::path path = own_folder() / name;
  std::error_code failed;
  return std::filesystem::exists(path, failed) ? path : std::filesystem::path();
}

}  // namespace kvgrind::program
