// Where the embedded example and sibling programs lie.
#pragma once
#include <filesystem>
#include <string_view>

namespace kvgrind::program {

// The folder with tiny-3m and prompts: below the working directory, beside an installed program, or in the source tree
// this program was built from. Empty: nowhere.
std::filesystem::path find_examples();

// A program in this program's own folder; empty when it is not there.
std::filesystem::path sibling_program(std::string_view name);

}  // namespace kvgrind::program
