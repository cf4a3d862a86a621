// Recording: runs a model over sequences (forks included), with a recorder plugged into its tap.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "core/sequence.h"
#include "replay/probe/probe_plan.h"
#include "replay/record/pressure.h"
#include "replay/record/stream_extras.h"
#include "sim/model/runtime.h"
#include "traces/kvt/recorder.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::replay {

struct RecordJob {
  const traces::ModelFolder* model = nullptr;
  std::vector<TokenSequence> sequences;  // checked by check_sequences; a parent stands before its forks
  std::filesystem::path out;
  traces::RecordOptions options;
  sim::Sampling sampling;         // for sequences that decode
  std::int64_t chunk = 512;       // tokens fed at once in prefill, rounded up to a multiple of 64
  std::string device = "auto";    // auto (the first CUDA device there is, else the CPU) | cpu | cuda:N
  DType arithmetic = DType::f32;  // f32 or bf16, on a CUDA device; the CPU computes in fp32
  // What K, V and Q are stored in; absent = what the run computes in, so that the file holds what the run saw.
  std::optional<DType> stored;
  // On a CUDA device: do not stop the run for the file, and leave out what needs every query and all probabilities
  // (replay/record/device_recorder.h).
  bool streaming = false;
  std::int64_t spool_bytes = 4ll << 30;  // of pinned host memory, for streaming
  // Passes over each context once more, after its sequence: on a copy of the cache, their tokens are no rows of the
  // file. Without token embeddings in the plan, episodes take the model's own.
  ProbePlan probes = {};
  OnFull on_full = OnFull::block;        // when it is full
  StreamExtras extras = {};              // computed on the device besides, with streaming
  // For tests, with streaming: runs on the writer thread before each block is written, with its size: a slow disk.
  std::function<void(std::int64_t)> before_block = {};
  json::object provenance;  // command and the like; device, seed, chunk are added
};

struct RecordOutcome {
  std::string device;                                // what really ran
  std::int64_t rows = 0;                             // tokens fed, all sequences
  std::int64_t probe_tokens = 0;                     // fed in passes over contexts once more
  std::vector<std::vector<std::int32_t>> generated;  // per sequence: the sampled tokens, the last one never fed
  std::string fallback;                              // why the device was passed over; empty: it was not
  std::vector<std::string> left_out;                 // by a spool that was full, as the file says it too
  std::int64_t spool_waits = 0;                      // how often the run waited for room in the spool, and how long
  double spool_waited_ms = 0.0;
};

// Error(usage) for sequences that do not fit the model, Error(unavailable) for a device that is not there or too small,
// Error(write) when the file cannot be written, Error(interrupted) when cancelled; in the last three cases what was
// committed stays readable in `<out>.part`. With device auto, a CUDA device that is too small is passed over: all of it
// is recorded again on the CPU, and outcome and provenance say so. `progress` may be null.
RecordOutcome record(const RecordJob& job, Progress* progress, const CancelToken& cancel);

// Ids within the vocabulary, segments and spans ordered and inside, forks after their parents and within them,
// lengths within the model's positions. Error(usage) names sequence and place.
void check_sequences(const ModelConfig& config, const std::vector<TokenSequence>& sequences);

// "cpu", or "cuda:N" where that is built in and there; Error(unavailable | usage) otherwise.
std::string resolve_device(std::string_view asked);

}  // namespace kvgrind::replay
