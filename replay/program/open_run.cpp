#include "replay/program/open_run.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "sim/model/runtime.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::program {

std::shared_ptr<const replay::RecordedRun> open_run(std::shared_ptr<const traces::Trace> trace,
                                                    const std::string& model) {
  auto run = replay::recorded_run(trace);
  if (model.empty() || trace->output_projection(0)) return run;
  const traces::ModelFolder folder = traces::read_model_folder(model);
  const std::string &recorded = trace->card().model_hash, &given = folder.config.card.model_hash;
  if (!recorded.empty() && recorded != given)
    throw Error(Category::usage, {.doing = "taking W_O for the output error",
                                  .on = model,
                                  .found = fmt::format("weights with the hash {}", given),
                                  .expected = fmt::format("those of the recording, {}", recorded),
                                  .next = "give the folder of the model that was recorded; `kvgrind info` names it"});
  const auto runtime = sim::build_model(folder.config, folder.weights);
  return replay::with_output_projection(
      std::move(run), [runtime](std::int64_t layer) { return sim::output_projection(*runtime, layer); });
}

void require_other_files(const std::string& input, std::initializer_list<std::string> outputs) {
  for (const std::string& output : outputs) {
    std::error_code none_there;
    if (!output.empty() && std::filesystem::equivalent(input, output, none_there))
      throw Error(Category::usage, {.doing = "choosing where to write",
                                    .on = output,
                                    .found = "the trace that is read",
                                    .expected = "another file",
                                    .next = "give another name"});
  }
}

}  // namespace kvgrind::program
