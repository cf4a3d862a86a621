#include "replay/program/start_gui.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "replay/program/examples.h"

namespace kvgrind::program {

void start_gui(const std::string& command, const std::vector<std::string>& words) {
  const std::filesystem::path program = sibling_program("kvgrind-gui");
  if (program.empty())
    throw Error(Category::unavailable,
                {.doing = "starting",
                 .on = "kvgrind-gui",
                 .found = "no such program beside kvgrind",
                 .expected = "it to have been built",
                 .usable = "every other command",
                 .next = "install qt6-base-dev and libqcustomplot-dev, configure with KVGRIND_GUI=ON and build again"});
  std::vector<std::string> line{program.string(), command};
  line.insert(line.end(), words.begin(), words.end());
  std::vector<char*> pointers;
  for (std::string& word : line) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execv(program.c_str(), pointers.data());
  throw Error(
      Category::unavailable,
      {.doing = "starting", .on = program.string(), .found = std::strerror(errno), .expected = "a program that runs"});
}

}  // namespace kvgrind::program
