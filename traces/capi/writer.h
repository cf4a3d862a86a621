// The emptying end of a recording: turns the spool's messages into a `.kvt` file.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/array.h"
#include "traces/capi/attention_again.h"
#include "traces/capi/plan_json.h"
#include "traces/capi/shared_spool.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::traces {

class Writer {
 public:
  explicit Writer(SpoolControl& control) : control_(control) {}
  // One message. True when everything taken so far may be released; false while a pass of several sequences is held.
  bool take(const wire::Header* message);
  bool ended() const { return ended_; }
  // Returns when all that was taken is in the file, as far as it can be committed.
  void settle();
  const std::string& part() const { return part_; }
  // The feeder is gone or somebody asked for an end: what is whole is kept.
  void stop_early();

 private:
  void open(const std::string& envelope);
  void begin(const std::byte* message);
  void layer(const std::byte* message);
  void end(const std::byte* message);
  void begin_part(std::size_t p);
  void layer_of_part(std::size_t p, const std::byte* message, const float* hidden_norm, std::int64_t hidden_stride,
                     const float* attn_in_norm, std::int64_t attn_in_stride);
  void end_of_part(std::size_t p, const std::byte* message);

  SpoolControl& control_;
  std::optional<Recorder> recorder_;
  RecordingPlanJson plan_;
  ModelCard card_;
  std::string part_;
  bool ended_ = false;

  std::vector<std::string> texts_;
  std::map<std::int64_t, Array<float, 2>> projections_;
  std::optional<AttentionAgain> again_;

  // The pass under way; parts' rows and queries lie one behind the other.
  bool in_pass_ = false, held_ = false;
  const std::byte* begin_ = nullptr;
  wire::Begin pass_;
  std::vector<wire::Part> parts_;
  std::vector<std::int64_t> first_row_, first_query_;
  std::vector<std::int32_t> ids_;
  std::vector<wire::QueryUse> use_;
  std::vector<const std::byte*> layers_;  // held
  std::vector<std::byte> spread_;         // queries at the rows of their part
};

}  // namespace kvgrind::traces
