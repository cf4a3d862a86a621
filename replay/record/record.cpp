#include "replay/record/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <map>
#include <optional>

#include "core/error.h"
#include "replay/probe/probe_tap.h"
#include "replay/record/device_recorder.h"
#include "replay/record/engine.h"
#include "sim/model/model_tensors.h"

namespace kvgrind::replay {
namespace {

// One run over all sequences of a job.
class Run {
 public:
  Run(const RecordJob& job, Progress* progress, const CancelToken& cancel)
      : job_(job), progress_(progress), cancel_(cancel), config_(job.model->config) {
    check_sequences(config_, job.sequences);
    outcome_.device = resolve_device(job.device);
    for (const TokenSequence& sequence : job.sequences) {
      // The last generated token is never fed.
      const std::int64_t own =
          static_cast<std::int64_t>(sequence.ids.size()) + std::max<std::int64_t>(sequence.decode - 1, 0);
      total_rows_ += own;
      run_.announced_length = std::max(run_.announced_length, sequence.fork_at + own);
    }
    config_.card.rope = resolve_rope(config_, run_.announced_length);
    engine_.emplace(config_, job.model->weights, outcome_.device, job.arithmetic);
    if (job.streaming && !engine_->on_device())
      throw Error(Category::usage, {.doing = "recording",
                                    .on = job.out.string(),
                                    .found = "streaming asked for on the CPU",
                                    .expected = "a CUDA device",
                                    .next = "leave streaming off, or use --device cuda:N"});
    if (job.streaming && job.stored && *job.stored != engine_->arithmetic())
      throw Error(Category::usage,
                  {.doing = "recording",
                   .on = job.out.string(),
                   .found = fmt::format("{} asked for in the file, {} in the run", dtype_name(*job.stored),
                                        dtype_name(engine_->arithmetic())),
                   .expected = "the same when streaming: the device's bytes go to the file as they are",
                   .next = "leave --dtype at run, or change --arithmetic"});
    plan_passes();
    options_ = job.streaming ? device_record_options(job.options, job.extras) : job.options;
    config_.card.dtype = job.stored.value_or(engine_->arithmetic());
  }

  bool began() const { return began_; }  // a file was begun

  RecordOutcome go() {
    traces::Recorder recorder(job_.out, recording_plan(), options_);
    began_ = true;
    std::optional<DeviceRecorder> streaming;
    if (job_.streaming) {
      const ModelCard& card = config_.card;
      const std::int64_t row_bytes =
          card.layers *
          ((2 * card.kv_heads + card.query_heads) * card.head_dim * size_bytes(card.dtype) + 8 * card.query_heads + 16);
      const std::int64_t spool = std::min<std::int64_t>(job_.spool_bytes, total_rows_ * row_bytes + (64ll << 20));
      streaming.emplace(recorder, card, job_.sequences, options_, engine_->device(), spool, job_.on_full,
                        job_.before_block);
      streaming_ = &*streaming;
    }
    try {
      for (std::size_t s = 0; s < job_.sequences.size(); ++s) record_sequence(recorder, static_cast<std::int64_t>(s));
      if (streaming) finish(*streaming);
    } catch (const Error& error) {
      const bool interrupted = error.category() == Category::interrupted;
      if (!interrupted && error.category() != Category::unavailable)
        throw;  // the recorder abandons the file: its prefix is readable
      if (streaming && interrupted) finish(*streaming);
      if (streaming && !interrupted) try_finish(*streaming);
      recorder.interrupt();
      const std::string part = job_.out.string() + ".part";
      Fault fault = error.fault();
      if (interrupted) {
        fault.doing = "recording";
        fault.on = job_.out.string();
        fault.found = fmt::format("an interruption after {} of {} tokens", outcome_.rows, total_rows_);
        fault.next = fmt::format("`kvgrind repair {} -o {}` keeps that part; or record again with --force", part,
                                 job_.out.string());
      }
      fault.usable = fmt::format("what was committed before, in {}", part);
      throw Error(error.category(), std::move(fault));
    }
    recorder.close();
    return std::move(outcome_);
  }

 private:
  void finish(DeviceRecorder& streaming) {
    outcome_.left_out = streaming.finish();
    outcome_.spool_waits = streaming.counts().waits;
    outcome_.spool_waited_ms = streaming.counts().waited_ms;
  }
  // After a failure of the device, which may have taken the copies with it.
  void try_finish(DeviceRecorder& streaming) {
    try {
      finish(streaming);
    } catch (const Error&) {
    }
  }

  traces::Recorder::Plan recording_plan() const {
    traces::Recorder::Plan plan;
    plan.card = config_.card;
    plan.sequences = job_.sequences;
    plan.provenance = job_.provenance;
    plan.provenance["device"] = outcome_.device;
    plan.provenance["arithmetic"] = std::string(dtype_name(engine_->arithmetic()));
    plan.provenance["streaming"] = job_.streaming;
    if (job_.streaming) plan.provenance["on_full"] = std::string(on_full_name(job_.on_full));
    plan.provenance["chunk"] = job_.chunk;
    plan.probes = static_cast<std::int64_t>(total_passes_);
    plan.probe_rows = pass_rows_;
    if (total_passes_ > 0) {
      plan.provenance["probe_tokens"] = pass_tokens_;
      plan.provenance["probe_chunk"] = job_.probes.chunk;
    }
    plan.provenance["temperature"] = job_.sampling.temperature;
    plan.provenance["top_p"] = job_.sampling.top_p;
    plan.provenance["top_k"] = job_.sampling.top_k;
    plan.provenance["seed"] = job_.sampling.seed;
    plan.output_projection = [this](std::int64_t layer) { return engine_->output_projection(layer); };
    if (const auto tokenizer = job_.model->tokenizer)
      plan.token_bytes = [tokenizer](std::int32_t id) { return tokenizer->bytes(id); };
    return plan;
  }

  // Over the contexts of sequences that continue no other.
  void plan_passes() {
    ProbePlan plan = job_.probes;
    if (!plan.any()) return;
    if (job_.streaming)
      throw Error(Category::usage, {.doing = "recording",
                                    .on = job_.out.string(),
                                    .found = "passes over contexts once more, while streaming",
                                    .expected = "one of both",
                                    .next = "leave --streaming or --probes off"});
    if (plan.episode && !plan.episodes.embed)
      plan.episodes.embed = mean_embedding(*sim::find_tensors(config_, job_.model->weights).embedding);
    passes_.resize(job_.sequences.size());
    for (std::size_t s = 0; s < passes_.size(); ++s) {
      const TokenSequence& one = job_.sequences[s];
      if (one.parent >= 0) continue;
      const auto [begin, end] = probed_range(one.segments, static_cast<std::int64_t>(one.ids.size()));
      passes_[s] = plan_probes({std::span(one.ids).first(static_cast<std::size_t>(end)), begin, one.spans}, plan);
      check_probes(config_.card, passes_[s]);
      for (const ProbePass& pass : passes_[s]) {
        pass_rows_ += std::popcount(measured_statistics(pass.kind)) * (pass.end - pass.begin);
        pass_tokens_ += pass.fed;
        ++total_passes_;
      }
    }
  }

  void run_passes(traces::Recorder& recorder, std::int64_t index, const sim::KvCache& cache) {
    if (passes_.empty()) return;
    for (const ProbePass& pass : passes_[static_cast<std::size_t>(index)]) {
      const std::unique_ptr<sim::KvCache> copy = engine_->fork(cache, pass.first, pass.first + pass.fed);
      ProbeTap tap(config_.card, pass, *copy);
      run_probe(pass, *copy, tap, job_.chunk, [&](const sim::Feed& feed) {
        cancel_.throw_if_cancelled();
        (void)engine_->forward(feed, run_);
        outcome_.probe_tokens += static_cast<std::int64_t>(feed.ids.size());
        if (progress_)
          progress_->update("recording tokens", outcome_.rows + outcome_.probe_tokens, total_rows_ + pass_tokens_);
      });
      recorder.probe(index, pass, [&](std::int64_t layer) { return tap.rows(layer); });
    }
  }

  void record_sequence(traces::Recorder& recorder, std::int64_t index) {
    const TokenSequence& sequence = job_.sequences[static_cast<std::size_t>(index)];
    const std::int64_t length = sequence.fork_at + static_cast<std::int64_t>(sequence.ids.size()) + sequence.decode;
    std::unique_ptr<sim::KvCache> cache = sequence.parent < 0
                                              ? engine_->cache(length)
                                              : engine_->fork(*caches_.at(sequence.parent), sequence.fork_at, length);
    const std::int64_t end = sequence.fork_at + static_cast<std::int64_t>(sequence.ids.size());
    // Pieces end at absolute multiples of the chunk, itself a multiple of 64: equal to one whole pass bit for bit.
    const std::int64_t chunk = (std::max<std::int64_t>(job_.chunk, 1) + 63) / 64 * 64;
    Array<float, 2> logits;
    for (std::int64_t at = sequence.fork_at; at < end;) {
      const std::int64_t n = std::min(end, (at / chunk + 1) * chunk) - at;
      const std::span<const std::int32_t> ids =
          std::span(sequence.ids).subspan(static_cast<std::size_t>(at - sequence.fork_at), static_cast<std::size_t>(n));
      logits = feed(recorder, *cache, index, at, ids, false, sequence.decode > 0 && at + n == end);
      at += n;
    }
    const std::vector<std::int32_t> generated = decode(recorder, *cache, index, end, sequence.decode, logits);
    const std::int32_t next = generated.empty() ? -1 : generated.back();
    if (streaming_)
      streaming_->sequence_done(index, next, engine_->stream());
    else
      recorder.sequence_done(index, next);
    outcome_.generated.push_back(generated);
    run_passes(recorder, index, *cache);
    keep_for_forks(index, std::move(cache));
  }

  // Samples up to `steps` tokens and feeds all but the last, one at a time; the end of the text ends it early.
  std::vector<std::int32_t> decode(traces::Recorder& recorder, sim::KvCache& cache, std::int64_t index,
                                   std::int64_t first, std::int64_t steps, Array<float, 2>& logits) {
    std::vector<std::int32_t> generated;
    for (std::int64_t step = 0; step < steps; ++step) {
      const std::span<const float> row(logits.data(), static_cast<std::size_t>(logits.extent(1)));
      generated.push_back(sim::sample(row, job_.sampling, index, first + step));
      const bool ends = std::find(config_.eos.begin(), config_.eos.end(), generated.back()) != config_.eos.end();
      if (ends || step + 1 == steps) break;
      logits = feed(recorder, cache, index, first + step, std::span(&generated.back(), 1), true, true);
    }
    return generated;
  }

  Array<float, 2> feed(traces::Recorder& recorder, sim::KvCache& cache, std::int64_t index, std::int64_t first,
                       std::span<const std::int32_t> ids, bool decode, bool wants_last) {
    if (cancel_.cancelled() && streaming_) streaming_->flush(engine_->stream());
    cancel_.throw_if_cancelled();
    sim::Feed feed{.sequence = index,
                   .first = first,
                   .ids = ids,
                   .cache = &cache,
                   .tap = streaming_ ? nullptr : &recorder,
                   .decode = decode,
                   .logits_of = {}};
    if (wants_last) feed.logits_of = {static_cast<std::int64_t>(ids.size()) - 1};
    Array<float, 2> logits = engine_->forward(feed, run_, streaming_);
    if (streaming_ && wants_last)
      streaming_->last_logits({logits.data(), static_cast<std::size_t>(logits.size())}, decode);
    outcome_.rows += static_cast<std::int64_t>(ids.size());
    if (progress_)
      progress_->update("recording tokens", outcome_.rows + outcome_.probe_tokens, total_rows_ + pass_tokens_);
    return logits;
  }

  // A cache lives until the last fork of its sequence has started.
  void keep_for_forks(std::int64_t index, std::unique_ptr<sim::KvCache> cache) {
    caches_[index] = std::move(cache);
    std::erase_if(caches_, [&](const auto& entry) {
      for (std::size_t s = static_cast<std::size_t>(index) + 1; s < job_.sequences.size(); ++s)
        if (job_.sequences[s].parent == entry.first) return false;
      return true;
    });
  }

  const RecordJob& job_;
  Progress* progress_;
  CancelToken cancel_;
  ModelConfig config_;
  sim::RunOptions run_;
  std::optional<Engine> engine_;
  traces::RecordOptions options_;
  DeviceRecorder* streaming_ = nullptr;
  bool began_ = false;
  std::map<std::int64_t, std::unique_ptr<sim::KvCache>> caches_;
  RecordOutcome outcome_;
  std::vector<std::vector<ProbePass>> passes_;  // by sequence; empty: none asked for
  std::int64_t total_rows_ = 0, pass_rows_ = 0, pass_tokens_ = 0, total_passes_ = 0;
};

}  // namespace

RecordOutcome record(const RecordJob& job, Progress* progress, const CancelToken& cancel) {
  std::optional<Run> run;
  std::string fallback;
  try {
    run.emplace(job, progress, cancel);
    return run->go();
  } catch (const Error& error) {
    if (job.device != "auto" || error.category() != Category::unavailable || resolve_device("auto") == "cpu") throw;
    fallback = error.what();
  }
  const bool began = run && run->began();
  run.reset();  // its memory first
  if (began) std::filesystem::remove(job.out.string() + ".part");
  RecordJob again = job;
  again.device = "cpu";
  again.streaming = false;
  if (job.streaming) again.options = device_record_options(job.options, job.extras);
  again.provenance["fallback"] = fallback;
  RecordOutcome out = Run(again, progress, cancel).go();
  out.fallback = std::move(fallback);
  return out;
}

}  // namespace kvgrind::replay
