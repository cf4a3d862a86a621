// Shards into one file.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "replay/sweep/sweep.h"

namespace kvgrind::replay {
namespace {

// What a job found, without its number, spelling and program version: those may differ between sweeps.
std::string found_text(traces::ResultRow row) {
  row.job = 0;
  row.preset.clear();
  row.more.erase("provenance");
  return json_text(traces::to_json(row));
}

}  // namespace

MergeOutcome merge_results(const std::vector<std::filesystem::path>& in, const std::filesystem::path& out, bool force) {
  if (in.empty())
    throw Error(Category::usage, {.doing = "merging results", .found = "no file", .expected = "at least one"});
  std::error_code ignored;
  if (!force && std::filesystem::exists(out, ignored))
    throw Error(Category::write, {.doing = "merging results",
                                  .on = out.string(),
                                  .found = "the file exists",
                                  .next = "use --force to replace it"});
  const traces::ResultsContent content = traces::read_results(in);
  MergeOutcome outcome{.files = static_cast<std::int64_t>(in.size())};
  std::map<std::string, const traces::ResultRow*> chosen;
  for (const traces::ResultRow& row : content.rows) {
    const auto [it, fresh] = chosen.try_emplace(traces::job_key(row), &row);
    if (fresh) continue;
    ++outcome.duplicates;
    const traces::ResultRow& other = *it->second;
    if (row.status != "ok") continue;
    if (other.status != "ok") {
      it->second = &row;
    } else if (found_text(row) != found_text(other)) {
      throw Error(Category::damaged, {.doing = "merging results",
                                      .on = fmt::format("job {} ({}, budget {}, sequence {})", row.job, row.preset,
                                                        row.budget_asked, row.sequence),
                                      .found = "two rows with different figures",
                                      .expected = "one outcome for one job",
                                      .next = "are the files of different versions? merge those of one"});
    }
  }
  std::vector<const traces::ResultRow*> rows;
  for (const auto& [key, row] : chosen) rows.push_back(row);
  std::sort(rows.begin(), rows.end(), [](const traces::ResultRow* a, const traces::ResultRow* b) {
    return std::pair(a->job, traces::job_key(*a)) < std::pair(b->job, traces::job_key(*b));
  });
  // A file may be merged into itself: write aside, then rename.
  const std::filesystem::path part = out.string() + ".part";
  traces::ResultsWriter writer(part, traces::ResultsWriter::Mode::replace);
  std::vector<std::string> written;
  for (const json::object& run : content.runs) {
    const std::string text = json_text(run);
    if (std::find(written.begin(), written.end(), text) != written.end()) continue;
    writer.write(run);
    written.push_back(text);
  }
  for (const traces::ResultRow* row : rows) {
    writer.write(*row);
    ++outcome.rows;
    outcome.failed += row->status != "ok";
  }
  writer.close();
  std::error_code failed;
  std::filesystem::rename(part, out, failed);
  if (failed) throw Error(Category::write, {.doing = "merging results", .on = out.string(), .found = failed.message()});
  return outcome;
}

}  // namespace kvgrind::replay
