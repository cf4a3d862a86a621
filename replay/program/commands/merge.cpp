// kvgrind merge: result files of shards into one.
#include <fmt/format.h>

#include "replay/program/command.h"
#include "replay/sweep/sweep.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::vector<std::string> files;
  std::string out;
  bool force = false;
};

int run(const Asked& asked, Console& console) {
  const replay::MergeOutcome outcome =
      replay::merge_results({asked.files.begin(), asked.files.end()}, asked.out, asked.force);
  if (console.json()) {
    json::object body;
    body["file"] = asked.out;
    body["files"] = outcome.files;
    body["rows"] = outcome.rows;
    body["duplicates"] = outcome.duplicates;
    body["failed"] = outcome.failed;
    console.document("merge", std::move(body));
  } else {
    console.note(fmt::format("{} files, {} rows ({} seen twice, {} failed jobs): {}", outcome.files, outcome.rows,
                             outcome.duplicates, outcome.failed, asked.out));
  }
  return 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positionals("file", asked->files, "result files");
  options.text("-o,--out", asked->out, "the merged file to write", Need::required);
  options.flag("--force", asked->force, "replace an existing file");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command merge;
const Command merge{.name = "merge",
                    .place = 32,
                    .summary = "join result files of shards; merging again changes nothing",
                    .text = "",
                    .examples = {"kvgrind merge shard0.jsonl shard1.jsonl -o merged.jsonl"},
                    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
