// The feeding end of a recording: messages for the writer process, from host memory or from CUDA devices.
#pragma once
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "traces/capi/device_lane.h"
#include "traces/capi/kvgrind_record.h"
#include "traces/capi/plan_json.h"
#include "traces/capi/shared_spool.h"
#include "traces/capi/writer_process.h"
#include "traces/kvt/query_choice.h"

namespace kvgrind::traces {

// What stands for KVG_NO_ROOM inside.
struct NoRoom {};

class Client {
 public:
  explicit Client(const kvg_options& options);
  ~Client();

  void prepare(int device);
  void token_text(const char* text, const std::int64_t* end, std::int64_t tokens);
  void output_projection(std::int64_t layer, const void* weights, std::int64_t hidden, std::int64_t width, DType dtype);
  void open(const char* path, const char* plan_json);
  void describe(std::int64_t sequence, const char* sequence_json);
  void begin(const kvg_part* parts, std::int64_t n_parts, int id_bytes, bool decode, int device, void* stream);
  void layer(std::int64_t layer, const kvg_layer_part* parts, int device, void* stream);
  void end(const kvg_end_rows* rows, int device, void* stream);
  void column_sums(std::int64_t sequence, std::int64_t layer, std::int64_t segment, const float* sums,
                   std::int64_t keys, int device, void* stream);
  void sequence_done(std::int64_t sequence, std::int32_t next_token);
  void remark(const std::string& line);
  void drain();
  void close(bool finish);
  std::int64_t pass_bytes(std::int64_t rows, std::int64_t queries, std::int64_t logit_rows) const;
  void status(kvg_status& out) const;

 private:
  struct Pending {  // published once the event, if any, has happened
    std::optional<kernels::EventHandle> copied;
    int device = -1;
    std::uint64_t up_to = 0;
  };
  std::byte* reserve(wire::Kind kind, std::int64_t size_bytes, bool wait = true);
  void publish();                  // of host memory
  void publish(DeviceLane& lane);  // once the lane's copies are done
  void publish_when_copied();      // the publishing thread
  void wait_for_publisher();
  void text_message(wire::Kind kind, std::int64_t number, const std::string& text);
  [[noreturn]] void fail();
  void check_open(const char* doing);
  DeviceLane& lane(int device);
  std::int64_t choose_queries(const kvg_part& part, bool decode, std::uint8_t* use);

  std::int64_t spool_bytes_;
  kvg_pressure pressure_;
  SpoolMemory memory_;
  WriterProcess process_;
  SpoolFeeder feeder_;
  bool pinned_ = false, opened_ = false, closed_ = false;
  std::optional<Error> failure_;

  RecordingPlanJson plan_;
  std::string path_;
  std::int64_t vocab_bytes_ = 0;

  // The pass under way.
  bool in_pass_ = false;
  std::vector<wire::Part> parts_;
  std::vector<std::uint8_t> use_;
  std::vector<std::int32_t> sent_;  // rows of the pass whose queries are sent
  std::int64_t rows_ = 0, queries_ = 0, next_layer_ = 0, pass_ = 0;

  std::map<int, std::unique_ptr<DeviceLane>> lanes_;
  mutable std::mutex mutex_;  // of what the publishing thread shares
  std::condition_variable changed_;
  std::deque<Pending> pending_;
  bool publishing_ = false, stop_ = false;
  std::optional<Error> copy_failure_;
  std::thread publisher_;

  std::int64_t messages_ = 0, bytes_ = 0, refused_ = 0, lost_ = 0, shrunk_ = 0, shrunk_passes_ = 0;
};

}  // namespace kvgrind::traces
