// kvgrind repair: a clean copy of what an unfinished recording committed.
#include <fmt/format.h>

#include "replay/program/command.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string file, out;
  bool force = false;
};

int run(const Asked& asked, Console& console) {
  json::object report = traces::repair_trace(asked.file, asked.out, asked.force);
  if (console.json()) {
    console.document("repair", std::move(report));
    return 0;
  }
  for (const auto& entry : report) {
    const std::string value =
        entry.value().is_string() ? std::string(entry.value().get_string()) : json_text(entry.value());
    console.data(fmt::format("{}: {}\n", std::string(entry.key()), value));
  }
  return 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positional("file", asked->file, "the trace, or the .part a killed recording left");
  options.text("-o,--out", asked->out, "the clean copy to write", Need::required);
  options.flag("--force", asked->force, "replace an existing file");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command repair;
const Command repair{.name = "repair",
                     .place = 22,
                     .summary = "write a clean copy of what an unfinished recording holds",
                     .text = "The file itself is never changed.",
                     .examples = {"kvgrind repair run.kvt -o fixed.kvt"},
                     .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
