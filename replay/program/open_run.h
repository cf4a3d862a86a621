// A trace as the open loop reads it, with W_O from the model's folder where the trace is too small to hold it.
#pragma once
#include <memory>
#include <string>

#include "replay/open_loop/recorded_run.h"
#include "traces/kvt/trace.h"

namespace kvgrind::program {

// `model` may be empty. Error(usage) when the folder holds other weights than those of the recording.
std::shared_ptr<const replay::RecordedRun> open_run(std::shared_ptr<const traces::Trace> trace,
                                                    const std::string& model);

}  // namespace kvgrind::program
