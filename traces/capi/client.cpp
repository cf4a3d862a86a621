#include "traces/capi/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace kvgrind::traces {
namespace {

using wire::aligned;
using wire::Kind;

template <class Body>
constexpr std::int64_t body_end() {
  return aligned(static_cast<std::int64_t>(sizeof(wire::Header) + sizeof(Body)));
}

template <class Body>
void put_body(std::byte* message, const Body& body) {
  std::memcpy(message + sizeof(wire::Header), &body, sizeof body);
}

Error usage(std::string found, std::string expected) {
  return Error(Category::usage,
               {.doing = "recording", .on = "", .found = std::move(found), .expected = std::move(expected)});
}

}  // namespace

Client::Client(const kvg_options& options)
    : spool_bytes_(options.spool_bytes > 0 ? options.spool_bytes : std::int64_t{1} << 30),
      pressure_(static_cast<kvg_pressure>(options.pressure)),
      memory_(SpoolMemory::create(std::max<std::int64_t>(spool_bytes_, 1 << 20))),
      process_(find_writer(options.writer), memory_),
      feeder_(memory_, process_.socket()) {
  if (options.pressure < KVG_BLOCK || options.pressure > KVG_SHRINK)
    throw usage(fmt::format("pressure {}", options.pressure), "block, drop or shrink");
}

Client::~Client() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (publisher_.joinable()) publisher_.join();
  for (const auto& [device, lane] : lanes_) {
    try {
      kernels::synchronize(lane->copy_stream());  // nothing may still be writing into the memory
    } catch (...) {
    }
  }
  lanes_.clear();
  if (pinned_) kernels::unpin_memory(memory_.ring());
}

// The writer's own words where it left any.
void Client::fail() {
  if (!failure_) {
    const SpoolControl& control = memory_.control();
    const std::string usable = fmt::format("the first {} tokens are in {}.part", control.committed_rows.load(), path_);
    if (control.state.load() == static_cast<std::uint32_t>(WriterState::failed)) {
      Category category = Category::write;
      for (const Category one : {Category::usage, Category::missing, Category::damaged, Category::unavailable})
        if (exit_code(one) == control.code.load()) category = one;
      failure_.emplace(category, Fault{.doing = "recording", .on = path_, .found = control.text});
    } else {
      const std::string how = process_.ending(1000);
      failure_.emplace(
          Category::jobs_failed,
          Fault{.doing = "recording",
                .on = path_,
                .found = fmt::format("no writer process any more: {}", how.empty() ? "it went silent" : how),
                .usable = usable,
                .next = fmt::format("`kvgrind repair {}.part -o {}` keeps that part", path_, path_)});
    }
  }
  throw *failure_;
}

std::byte* Client::reserve(Kind kind, std::int64_t size_bytes, bool wait) {
  if (failure_) throw *failure_;
  std::byte* message = nullptr;
  switch (feeder_.reserve(kind, size_bytes, wait, message)) {
    case SpoolFeeder::Outcome::ok:
      break;
    case SpoolFeeder::Outcome::writer_gone:
      fail();
    case SpoolFeeder::Outcome::full:
      if (wait)
        throw usage(fmt::format("one piece of {:.1f} MiB", static_cast<double>(size_bytes) / (1 << 20)),
                    fmt::format("at most half the spool's {:.1f} MiB: give a larger spool or feed smaller chunks",
                                static_cast<double>(memory_.ring_bytes()) / (1 << 20)));
      throw NoRoom{};
  }
  ++messages_, bytes_ += size_bytes;
  return message;
}

void Client::publish() {
  const std::uint64_t up_to = feeder_.reserved();
  if (publisher_.joinable()) {  // behind copies that are still under way
    std::unique_lock lock(mutex_);
    if (!pending_.empty() || publishing_) {
      pending_.push_back({.copied = std::nullopt, .device = -1, .up_to = up_to});
      lock.unlock();
      changed_.notify_all();
      return;
    }
  }
  feeder_.publish(up_to);
}

void Client::publish(DeviceLane& lane) {
  kernels::EventHandle copied = kernels::make_event();
  kernels::record_event(copied, lane.copy_stream());
  {
    const std::lock_guard lock(mutex_);
    if (copy_failure_) failure_ = copy_failure_;
    pending_.push_back({.copied = std::move(copied), .device = lane.device(), .up_to = feeder_.reserved()});
  }
  changed_.notify_all();
  if (failure_) throw *failure_;
}

void Client::publish_when_copied() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !pending_.empty(); });
    if (stop_) return;
    const Pending one = std::move(pending_.front());
    pending_.pop_front();
    publishing_ = true;
    lock.unlock();
    std::optional<Error> failed;
    try {
      if (one.copied) {
        const kernels::DeviceGuard guard(one.device);
        // Asked now and then: waiting for an event keeps a core busy, which the run's own thread may need.
        while (!kernels::event_done(*one.copied)) std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
      feeder_.publish(one.up_to);
    } catch (const Error& error) {
      failed = error;
    }
    lock.lock();
    publishing_ = false;
    if (failed) copy_failure_ = failed, stop_ = true;
    changed_.notify_all();
  }
}

void Client::wait_for_publisher() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return (pending_.empty() && !publishing_) || copy_failure_; });
  if (copy_failure_) {
    failure_ = copy_failure_;
    throw *failure_;
  }
}

DeviceLane& Client::lane(int device) {
  const auto it = lanes_.find(device);
  if (it != lanes_.end()) return *it->second;
  if (!kernels::built_with_cuda())
    throw Error(Category::unavailable, {.doing = "recording",
                                        .on = fmt::format("memory of device {}", device),
                                        .found = "a library built without CUDA",
                                        .expected = "host memory",
                                        .next = "build kvgrind with the CUDA Toolkit, or run the model on the CPU"});
  if (!pinned_) {
    const kernels::DeviceGuard guard(device);
    memory_.touch();
    kernels::pin_memory(memory_.ring(), memory_.ring_bytes(), "the recording's spool");
    pinned_ = true;
  }
  auto& lane = *lanes_.emplace(device, std::make_unique<DeviceLane>(device)).first->second;
  if (!publisher_.joinable()) publisher_ = std::thread([this] { publish_when_copied(); });
  return lane;
}

void Client::prepare(int device) {
  if (failure_) throw *failure_;
  if (device < 0) throw usage(fmt::format("device {}", device), "the number of a CUDA device");
  lane(device);
}

void Client::text_message(Kind kind, std::int64_t number, const std::string& text) {
  const auto bytes = static_cast<std::int64_t>(text.size());
  const wire::Text body{.number = number, .bytes = bytes, .at = body_end<wire::Text>()};
  std::byte* message = reserve(kind, body.at + aligned(bytes));
  put_body(message, body);
  std::memcpy(message + body.at, text.data(), text.size());
  publish();
}

void Client::token_text(const char* text, const std::int64_t* end, std::int64_t tokens) {
  if (opened_ || tokens < 0) throw usage("the text of tokens", "it before the file is opened");
  for (std::int64_t i = 0; i < tokens; ++i)
    if (end[i] < (i > 0 ? end[i - 1] : 0))
      throw usage(fmt::format("the end of token {}'s text at {}", i, end[i]), "ascending ends");
  const std::int64_t bytes = tokens > 0 ? end[tokens - 1] : 0;
  wire::Tokens body{.tokens = tokens, .text_bytes = bytes, .end_at = body_end<wire::Tokens>(), .text_at = 0};
  body.text_at = body.end_at + aligned(tokens * 8);
  std::byte* message = reserve(Kind::tokens, body.text_at + aligned(bytes));
  put_body(message, body);
  std::memcpy(message + body.end_at, end, static_cast<std::size_t>(tokens * 8));
  std::memcpy(message + body.text_at, text, static_cast<std::size_t>(bytes));
  publish();
}

void Client::output_projection(std::int64_t layer, const void* weights, std::int64_t hidden, std::int64_t width,
                               DType dtype) {
  if (opened_) throw usage("an output projection", "it before the file is opened");
  if (layer < 0 || hidden < 1 || width < 1 || hidden > (1 << 24) || width > (1 << 24))
    throw usage(fmt::format("an output projection [{}, {}] of layer {}", hidden, width, layer), "[hidden, Hq · D]");
  const std::int64_t bytes = hidden * width * size_bytes(dtype);
  const wire::OutputProjection body{.layer = layer,
                                    .hidden = hidden,
                                    .width = width,
                                    .dtype = static_cast<std::int64_t>(dtype),
                                    .at = body_end<wire::OutputProjection>()};
  std::byte* message = reserve(Kind::output_projection, body.at + aligned(bytes));
  put_body(message, body);
  std::memcpy(message + body.at, weights, static_cast<std::size_t>(bytes));
  publish();
}

void Client::open(const char* path, const char* plan_json) {
  if (opened_) throw usage("a second file", "one a recorder");
  plan_ = parse_plan_json(plan_json);
  if (plan_.statistics && pressure_ != KVG_BLOCK)
    throw usage("statistics, and a spool that may leave queries out", "pressure block: statistics are of all queries");
  plan_.sequences.resize(plan_.sequences.size() + static_cast<std::size_t>(plan_.spare_sequences));
  path_ = path;
  json::object envelope;
  envelope["path"] = path;
  envelope["plan"] = plan_json;
  text_message(Kind::open, 0, json_text(envelope));
  while (plan_.wait && memory_.control().state.load() == static_cast<std::uint32_t>(WriterState::starting))
    if (!feeder_.wait_for_change(200) &&
        memory_.control().state.load() != static_cast<std::uint32_t>(WriterState::recording))
      fail();
  if (memory_.control().state.load() == static_cast<std::uint32_t>(WriterState::failed)) fail();
  opened_ = true;
}

void Client::check_open(const char* doing) {
  if (failure_) throw *failure_;
  if (memory_.control().state.load() == static_cast<std::uint32_t>(WriterState::failed)) fail();
  if (!opened_ || closed_) throw usage(doing, "a recording that is open");
}

void Client::describe(std::int64_t sequence, const char* sequence_json) {
  check_open("a description of a sequence");
  if (in_pass_ || sequence < 0 || sequence >= static_cast<std::int64_t>(plan_.sequences.size()))
    throw usage(fmt::format("a description of sequence {}", sequence), "an announced or spare one, between passes");
  TokenSequence known =
      parse_sequence_json(parse_json(sequence_json, "sequence"), fmt::format("sequence {}", sequence));
  plan_.sequences[static_cast<std::size_t>(sequence)] = std::move(known);
  text_message(Kind::describe, sequence, sequence_json);
}

void Client::column_sums(std::int64_t sequence, std::int64_t layer, std::int64_t segment, const float* sums,
                         std::int64_t keys, int device, void* stream) {
  check_open("column sums");
  if (in_pass_ || sequence < 0 || sequence >= static_cast<std::int64_t>(plan_.sequences.size()) || layer < 0 ||
      layer >= plan_.shape.layers || segment < -1 || keys < 1 || keys > (std::int64_t{1} << 32))
    throw usage(
        fmt::format("column sums of {} keys, layer {}, segment {}, sequence {}", keys, layer, segment, sequence),
        "those of a layer and sequence that there is, between passes");
  const std::int64_t bytes = plan_.shape.query_heads * keys * 4;
  const wire::ColumnSums body{
      .sequence = sequence, .layer = layer, .segment = segment, .keys = keys, .at = body_end<wire::ColumnSums>()};
  std::byte* message = reserve(Kind::column_sums, body.at + aligned(bytes));
  put_body(message, body);
  if (device < 0) {
    std::memcpy(message + body.at, sums, static_cast<std::size_t>(bytes));
    publish();
    return;
  }
  const kernels::DeviceGuard guard(device);
  auto* run = static_cast<kernels::DeviceStream>(stream);
  DeviceLane& to = lane(device);
  kernels::copy_on_device(to.take(bytes, run), sums, bytes, run);
  to.send(message + body.at, bytes, run);
  publish(to);
}

void Client::sequence_done(std::int64_t sequence, std::int32_t next_token) {
  check_open("the end of a sequence");
  if (in_pass_) throw usage("the end of a sequence", "it between passes");
  const wire::Done body{.sequence = sequence, .next_token = next_token};
  std::byte* message = reserve(Kind::done, body_end<wire::Done>());
  put_body(message, body);
  publish();
}

void Client::remark(const std::string& line) {
  check_open("a remark");
  text_message(Kind::remark, 0, line);
}

void Client::drain() {
  if (failure_) throw *failure_;
  if (publisher_.joinable()) wait_for_publisher();
  SpoolControl& control = memory_.control();
  while (control.released.load() < feeder_.reserved()) {
    control.feeder_waits.store(1);
    if (control.released.load() >= feeder_.reserved()) break;
    if (!feeder_.wait_for_change(200)) fail();
  }
}

void Client::close(bool finish) {
  check_open("the end of the recording");
  if (shrunk_ > 0)
    remark(fmt::format("queries: {} rows of {} passes left out, the spool was filling (pressure shrink)", shrunk_,
                       shrunk_passes_));
  if (lost_ > 0)
    remark(fmt::format(
        "queries and LSE of {} steps: dropped, the spool was full (pressure drop); their K and V are there", lost_));
  const wire::Close body{.finish = finish && !in_pass_ ? 1 : 0};
  std::byte* message = reserve(Kind::close, body_end<wire::Close>());
  put_body(message, body);
  publish();
  if (publisher_.joinable()) wait_for_publisher();
  closed_ = true;
  const SpoolControl& control = memory_.control();
  while (control.state.load() == static_cast<std::uint32_t>(WriterState::recording) ||
         control.state.load() == static_cast<std::uint32_t>(WriterState::starting))
    if (!feeder_.wait_for_change(200)) break;
  if (control.state.load() != static_cast<std::uint32_t>(WriterState::finished)) fail();
}

void Client::status(kvg_status& out) const {
  const SpoolControl& control = memory_.control();
  out.writer_pid = process_.pid();
  out.code = failure_ ? exit_code(failure_->category()) : control.code.load();
  out.committed_rows = control.committed_rows.load();
  out.spool_bytes = memory_.ring_bytes();
  out.free_bytes = feeder_.free_bytes();
  out.peak_bytes = feeder_.peak_bytes;
  out.messages = messages_, out.bytes = bytes_;
  out.waits = feeder_.waits, out.waited_ms = feeder_.waited_ms;
  out.refused_passes = refused_, out.lost_queries = lost_, out.shrunk_queries = shrunk_;
}

}  // namespace kvgrind::traces
