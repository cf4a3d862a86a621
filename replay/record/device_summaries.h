// Pooled maps, query statistics and predictions of a streamed recording: summed on the device while the run goes by,
// brought to the recorder when a sequence (a pass, for predictions) ends. All work is queued on the run's stream.
#pragma once
#include <vector>

#include "core/model_card.h"
#include "core/sequence.h"
#include "kernels/capture/spool.h"
#include "replay/record/stream_extras.h"
#include "sim/model/cuda_runtime.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::replay {

class DeviceSummaries {
 public:
  DeviceSummaries(traces::Recorder& recorder, const ModelCard& card, const std::vector<TokenSequence>& sequences,
                  const StreamExtras& extras, kernels::CaptureSpool& spool);

  void begin(const TapPass& pass, kernels::DeviceStream stream);
  void layer(const sim::DeviceLayer& layer, kernels::DeviceStream stream);
  void logits(const float* logits, std::int64_t first, std::int64_t rows, kernels::DeviceStream stream);
  void end(kernels::DeviceStream stream);  // of the pass, before the recorder's
  // Decode steps first, first + 1, … whose q [L, Hq, D] and LSE [L, Hq] lie in rows of a ring.
  void steps(const std::byte* q, const float* lse, std::int64_t first, std::int64_t n, const sim::KvCache& cache,
             kernels::DeviceStream stream);
  void sequence_done(std::int64_t sequence, kernels::DeviceStream stream);

 private:
  struct Part {  // of the queries, for statistics: [L] of mean [Hq, D], modulus [Hq, D/2], second [Hq, D, D]
    Segment segment;
    std::int64_t n = 0;
    kernels::DeviceBuffer sums;
  };
  void start(const TapPass& pass, kernels::DeviceStream stream);
  void rotary_tables(std::int64_t first, std::int64_t n, kernels::DeviceStream stream);
  void add(std::int64_t layer, const void* q, const float* lse, std::int64_t first, std::int64_t n,
           const kernels::PlainCache& cache, kernels::DeviceStream stream);
  std::int64_t moment_values() const {
    return card_.query_heads * (card_.head_dim + card_.head_dim / 2 + card_.head_dim * card_.head_dim);
  }

  traces::Recorder& recorder_;
  const ModelCard& card_;
  const std::vector<TokenSequence>& sequences_;
  StreamExtras extras_;
  kernels::CaptureSpool& spool_;
  kernels::EventHandle ready_, copied_;
  std::vector<kernels::AttentionShape> shapes_;  // [L], from the layers of the first pass

  std::int64_t sequence_ = -1;
  std::int64_t cell_ = 8, stride_ = 0;
  kernels::DeviceBuffer map_max_, map_sum_, probabilities_;  // [L, Hq, stride]; [Hq, 64, slots]
  std::vector<Part> parts_;
  std::vector<kernels::DeviceBuffer> inv_freq_, tables_;  // by RoPE set
  kernels::DeviceBuffer step_q_, step_lse_;               // [64, Hq, D], [64, Hq]

  std::int64_t rows_ = 0;
  bool last_later_ = false, predicted_ = false;
  std::vector<std::int32_t> target_;
  kernels::DeviceBuffer targets_, nll_, top_id_, top_logp_;
};

}  // namespace kvgrind::replay
