// A trace as the open loop reads it, with W_O from the model's folder where the trace is too small to hold it.
#pragma once
#include <initializer_list>
#include <memory>
#include <string>

#include "replay/open_loop/recorded_run.h"
#include "traces/kvt/trace.h"

namespace kvgrind::program {

// `model` may be empty. Error(usage) when the folder holds other weights than those of the recording.
std::shared_ptr<const replay::RecordedRun> open_run(std::shared_ptr<const traces::Trace> trace,
                                                    const std::string& model);

// Error(usage) when one of these outputs (empty: none) is the input itself: --force would take the only copy.
void require_other_files(const std::string& input, std::initializer_list<std::string> outputs);

}  // namespace kvgrind::program
