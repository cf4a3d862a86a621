// kvgrind gui: hands the line to the sibling program kvgrind-gui.
#include "replay/program/command.h"
#include "replay/program/start_gui.h"

namespace kvgrind::program {
namespace {

Action declare(Options& options) {
  auto words = std::make_shared<std::vector<std::string>>();
  options.rest(*words);
  return [words](Console&) -> int { start_gui("gui", *words); };
}

}  // namespace

namespace rows {
extern const Command gui;
const Command gui{.name = "gui",
                  .place = 40,
                  .summary = "look at traces and results in the graphical program",
                  .text = "Everything after the command goes to kvgrind-gui; it needs a display.",
                  .examples = {"kvgrind gui run.kvt"},
                  .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
