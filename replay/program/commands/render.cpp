// kvgrind render: hands the line to the sibling program kvgrind-gui.
#include "replay/program/command.h"
#include "replay/program/start_gui.h"

namespace kvgrind::program {
namespace {

Action declare(Options& options) {
  auto words = std::make_shared<std::vector<std::string>>();
  options.rest(*words);
  return [words](Console&) -> int { start_gui("render", *words); };
}

}  // namespace

namespace rows {
extern const Command render;
const Command render{.name = "render",
                     .place = 41,
                     .summary = "draw any view of the graphical program into a file, without a display",
                     .text = "Everything after the command goes to kvgrind-gui.",
                     .examples = {"kvgrind render run.kvt --view attention -o attention.png"},
                     .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
