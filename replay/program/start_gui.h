// Starts the sibling program kvgrind-gui, the only one that links Qt.
#pragma once
#include <string>
#include <vector>

namespace kvgrind::program {

// Replaces this program by `kvgrind-gui COMMAND words…`; Error(unavailable) when it is not there.
[[noreturn]] void start_gui(const std::string& command, const std::vector<std::string>& words);

}  // namespace kvgrind::program
