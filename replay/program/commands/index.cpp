// kvgrind index: the base of the attention pyramid, so that large maps open at once.
#include <fmt/format.h>

#include "replay/look/build_index.h"
#include "replay/program/command.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string trace;
  bool force = false, trust = false;
};

int run(const Asked& asked, Console& console) {
  const auto trace = traces::Trace::open(asked.trace, {.probe = !asked.trust, .verify_checksums = true});
  const replay::IndexOutcome outcome = replay::build_index(trace, asked.force, console.progress(), console.cancel());
  console.end_progress();
  if (console.json())
    console.document("index", {{"file", outcome.path.string()}, {"maps", outcome.maps}, {"bytes", outcome.bytes}});
  else
    console.data(fmt::format("{}: {} maps, {}\n", outcome.path.string(), outcome.maps,
                             bytes_text(static_cast<double>(outcome.bytes))));
  return 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positional("trace", asked->trace, "a trace");
  options.flag("--force", asked->force, "replace an index that is there");
  options.flag("--trust", asked->trust, "skip the first open in a child process");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command index;
const Command index{.name = "index",
                    .place = 21,
                    .summary = "pool every attention map of a trace once, so that large ones open at once",
                    .text = "Writes FILE.index beside the trace: a 512 × 512 max and mean map per query head.",
                    .examples = {"kvgrind index --force run.kvt"},
                    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
