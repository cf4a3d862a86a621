#include "replay/record/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/error.h"

namespace kvgrind::replay {
namespace {

// The first `tokens` tokens of a plain cache, as a cache of its own.
std::unique_ptr<sim::KvCache> fork_cache(const ModelCard& card, const sim::KvCache& from, std::int64_t tokens) {
  std::unique_ptr<sim::KvCache> out = sim::full_cache(card);
  Array<float, 3> k({tokens, card.kv_heads, card.head_dim}), v({tokens, card.kv_heads, card.head_dim});
  for (std::int64_t layer = 0; layer < card.layers; ++layer) {
    for (std::int64_t head = 0; head < card.kv_heads; ++head) {
      const sim::GroupView group = from.read(layer, head);
      for (std::int64_t t = 0; t < tokens; ++t) {
        std::copy_n(&group.k(t, 0), card.head_dim, &k(t, head, 0));
        std::copy_n(&group.v(t, 0), card.head_dim, &v(t, head, 0));
      }
    }
    out->append(layer, 0, k, v);
  }
  return out;
}

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
    model_ = sim::build_model(config_, job.model->weights);
  }

  RecordOutcome go() {
    traces::Recorder recorder(job_.out, recording_plan(), job_.options);
    try {
      for (std::size_t s = 0; s < job_.sequences.size(); ++s) record_sequence(recorder, static_cast<std::int64_t>(s));
    } catch (const Error& error) {
      if (error.category() != Category::interrupted) throw;  // the recorder abandons the file: its prefix is readable
      recorder.interrupt();
      const std::string part = job_.out.string() + ".part";
      throw Error(Category::interrupted,
                  {.doing = "recording",
                   .on = job_.out.string(),
                   .found = fmt::format("an interruption after {} of {} tokens", outcome_.rows, total_rows_),
                   .usable = fmt::format("what was committed before, in {}", part),
                   .next = fmt::format("`kvgrind repair {} -o {}` keeps that part; or record again with --force", part,
                                       job_.out.string())});
    }
    recorder.close();
    return std::move(outcome_);
  }

 private:
  traces::Recorder::Plan recording_plan() const {
    traces::Recorder::Plan plan;
    plan.card = config_.card;
    plan.sequences = job_.sequences;
    plan.provenance = job_.provenance;
    plan.provenance["device"] = outcome_.device;
    plan.provenance["chunk"] = job_.chunk;
    plan.provenance["temperature"] = job_.sampling.temperature;
    plan.provenance["top_p"] = job_.sampling.top_p;
    plan.provenance["top_k"] = job_.sampling.top_k;
    plan.provenance["seed"] = job_.sampling.seed;
    plan.output_projection = [model = model_](std::int64_t layer) { return sim::output_projection(*model, layer); };
    if (const auto tokenizer = job_.model->tokenizer)
      plan.token_bytes = [tokenizer](std::int32_t id) { return tokenizer->bytes(id); };
    return plan;
  }

  void record_sequence(traces::Recorder& recorder, std::int64_t index) {
    const TokenSequence& sequence = job_.sequences[static_cast<std::size_t>(index)];
    std::unique_ptr<sim::KvCache> cache =
        sequence.parent < 0 ? sim::full_cache(config_.card)
                            : fork_cache(config_.card, *caches_.at(sequence.parent), sequence.fork_at);
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
    recorder.sequence_done(index, generated.empty() ? -1 : generated.back());
    outcome_.generated.push_back(generated);
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
    cancel_.throw_if_cancelled();
    sim::Feed feed{.sequence = index,
                   .first = first,
                   .ids = ids,
                   .cache = &cache,
                   .tap = &recorder,
                   .decode = decode,
                   .logits_of = {}};
    if (wants_last) feed.logits_of = {static_cast<std::int64_t>(ids.size()) - 1};
    std::vector<Array<float, 2>> logits = sim::forward(*model_, std::span(&feed, 1), run_);
    outcome_.rows += static_cast<std::int64_t>(ids.size());
    if (progress_) progress_->update("recording tokens", outcome_.rows, total_rows_);
    return std::move(logits[0]);
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
  std::shared_ptr<const sim::Model> model_;
  std::map<std::int64_t, std::unique_ptr<sim::KvCache>> caches_;
  RecordOutcome outcome_;
  std::int64_t total_rows_ = 0;
};

}  // namespace

RecordOutcome record(const RecordJob& job, Progress* progress, const CancelToken& cancel) {
  return Run(job, progress, cancel).go();
}

}  // namespace kvgrind::replay
