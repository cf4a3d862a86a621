// Recording a run on a CUDA device without stopping it: layers and decode steps go from the device through a bounded
// spool in pinned host memory to a writer thread, which owns the recorder.
//   prefill: K and V are copied straight from the cache, LSE, norms and the chosen queries through a small ring on the
//            device, by a copy stream, layer by layer
//   decode:  the step's own kernels write q, LSE and norms into a ring of 128 rows; every 64 steps (and at the end) the
//            full half is copied together with the cache's K and V of those positions
//   column sums: a second pass over q and k on the device, after each layer's attention; one more quarter of its time
// When the spool is full, OnFull says what happens (replay/record/pressure.h). Maps, query statistics and predictions
// are summed on the device where they are asked for (StreamExtras), for device time; else they are not recorded this
// way.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/sequence.h"
#include "kernels/capture/spool.h"
#include "replay/record/pressure.h"
#include "replay/record/stream_extras.h"
#include "sim/model/cuda_runtime.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::replay {

// The options with everything switched off that a device recording does not give unless `extras` ask for it.
traces::RecordOptions device_record_options(traces::RecordOptions options, const StreamExtras& extras = {});

class DeviceRecorder final : public sim::DeviceTap {
 public:
  // `recorder` was made with `options` (device_record_options) and `sequences`; it is used by the writer thread alone
  // until finish(). card.dtype is the run's.
  DeviceRecorder(traces::Recorder& recorder, const ModelCard& card, std::vector<TokenSequence> sequences,
                 const traces::RecordOptions& options, int device, std::int64_t spool_bytes,
                 OnFull on_full = OnFull::block, std::function<void(std::int64_t)> before_block = {});
  ~DeviceRecorder() override;

  void begin(const TapPass& pass, kernels::DeviceStream stream) override;
  void layer(const sim::DeviceLayer& layer, kernels::DeviceStream stream) override;
  bool wants_all_logits() const override;
  void logits(const float* logits, std::int64_t first, std::int64_t rows, kernels::DeviceStream stream) override;
  void end(const float* final_norm, kernels::DeviceStream stream) override;
  sim::StepRing ring() const override;
  std::int64_t step(const TapPass& pass, kernels::DeviceStream stream) override;
  void step_queued(const sim::KvCache& cache, kernels::DeviceStream stream) override;

  // The logits of the row fed last, where predictions are recorded and the next token is drawn from them.
  void last_logits(std::span<const float> logits, bool decode);
  // Before the run stops early: what is still in the ring goes to the spool. The cache may be freed afterwards.
  void flush(kernels::DeviceStream stream);
  // After the last token of a sequence: what is still in the ring, then the recorder's sequence_done. Does not wait.
  void sequence_done(std::int64_t sequence, std::int32_t next_token, kernels::DeviceStream stream);
  // Waits until everything is in the recorder's hands, and tells it what was left out; returns that. Throws what
  // writing threw.
  std::vector<std::string> finish();
  kernels::CaptureSpool::Counts counts() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvgrind::replay
