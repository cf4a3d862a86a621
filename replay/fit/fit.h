// kvgrind fit: what calibrated methods need, learned from recordings. Prompts (contexts with all their questions) are
// split: some are held out, and the error on them is stored beside the result.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/calibration.h"
#include "replay/open_loop/recorded_run.h"

namespace kvgrind::replay {

struct FitRequest {
  std::string method;
  std::vector<std::shared_ptr<const RecordedRun>> runs;  // of one model
  double held_out = 0.25;                                // share of the prompts
  std::int64_t hidden = 0;                               // width of a learned head's inner layer; 0 = linear
  std::int64_t epochs = 60;                              // passes over the tokens, with an inner layer
  double ridge = 1;                                      // of least squares, on standardised features
  std::int64_t sinks = 16, recent = 64;                  // of a streaming head
  std::int64_t vectors = 8;                              // queries of each head that stand for an answer
  std::string score = "expected_attention(eps=0.02)";    // that ranks tokens, of a curve
};

struct FitSplit;  // fit_data.h
struct FitMethod {
  const char* name;
  const char* help;   // what is fitted, from what
  const char* error;  // what the held-out error is
  void (*learn)(const FitSplit&, Calibration&);
  bool future = true;  // needs tokens after the context
};
const std::vector<FitMethod>& fit_methods();

// Numbers of the result: fitted_error, held_out_error, prompts_fitted, prompts_held_out. Error(usage): unknown method,
// fewer than two prompts, recordings of different models, a signal that was not recorded (named).
Calibration fit(const FitRequest& request);

}  // namespace kvgrind::replay
