// One job and its outcome as a result row.
#include <cmath>

#include "core/hash.h"
#include "core/version.h"
#include "replay/sweep/sweep.h"

namespace kvgrind::replay {
namespace {

traces::ResultRow asked(const RecordedRun& run, const SweepJob& job) {
  traces::ResultRow row;
  row.loop = "open";
  row.job = job.number;
  row.trace = run.hash();
  row.sequence = job.sequence;
  row.context = root_sequence(run, job.sequence);
  row.policy = sim::canonical_line(*job.policy);
  row.hash = sim::policy_hash(*job.policy);
  row.preset = job.typed;
  row.budget_asked = job.amount.text();
  if (job.amount.kind == sim::Amount::Kind::fraction) row.budget_keep = job.amount.value;
  if (job.amount.kind == sim::Amount::Kind::removed) row.budget_removed = job.amount.value;
  row.protocol = protocol_name(job.protocol);
  row.seed = job.seed;
  row.more["provenance"] = provenance_id(run);
  if (!sim::approximated(*job.policy).empty()) row.more["approximated"] = sim::approximated(*job.policy);
  return row;
}

void put_counts(json::object& out, const std::string& name, const CountSummary& counts) {
  out[name + "_tokens_mean"] = counts.mean;
  out[name + "_tokens_min"] = counts.min;
  out[name + "_tokens_max"] = counts.max;
}

json::value position_or_null(std::int64_t position) {
  return position < 0 ? json::value(nullptr) : json::value(position);
}

}  // namespace

std::string provenance_id(const RecordedRun& run) {
  return hex(hash_text(std::string(version()) + " " + git_hash() + " " + run.hash()));
}

traces::ResultRow result_row(const RecordedRun& run, const SweepJob& job, const OpenOutcome& outcome) {
  traces::ResultRow row = asked(run, job);
  row.kept_tokens_mean = outcome.kept_at_moment.mean;
  row.kept_tokens_min = outcome.kept_at_moment.min;
  row.kept_tokens_max = outcome.kept_at_moment.max;
  row.kept_frac = outcome.kept_frac;
  row.stored_frac = outcome.stored_frac();
  row.touched_frac = outcome.touched_frac();
  row.metrics = outcome.metrics;
  json::object& more = row.more;
  more["compress_at"] = outcome.compress_at;
  put_counts(more, "requested", outcome.requested);
  put_counts(more, "effective", outcome.effective);
  put_counts(more, "kept_end", outcome.kept_at_end);
  more["stored_bytes"] = outcome.stored_bytes;
  more["ideal_bytes"] = outcome.ideal_bytes;
  more["full_bytes"] = outcome.full_bytes;
  more["stored_end_bytes"] = outcome.stored_end_bytes;
  more["full_end_bytes"] = outcome.full_end_bytes;
  more["touched_bytes"] = outcome.touched_bytes;
  more["moved_bytes"] = outcome.moved_bytes;
  more["slots_called"] = outcome.slots_called;
  more["nan_scores"] = outcome.nan_scores;
  if (!outcome.spans.empty()) {
    json::array spans;
    for (const SpanOutcome& span : outcome.spans)
      spans.push_back(json::object{{"kind", span.span.kind},
                                   {"label", span.span.label},
                                   {"begin", span.span.begin},
                                   {"end", span.span.end},
                                   {"kept_frac", span.kept_frac},
                                   {"kept_worst_frac", span.kept_worst_frac},
                                   {"kept_somewhere_frac", span.kept_somewhere_frac},
                                   {"first_loss", position_or_null(span.first_loss)},
                                   {"first_loss_everywhere", position_or_null(span.first_loss_everywhere)}});
    more["spans"] = std::move(spans);
  }
  if (!outcome.not_measured.empty()) {
    json::array sentences;
    for (const std::string& sentence : outcome.not_measured) sentences.emplace_back(sentence);
    more["not_measured"] = std::move(sentences);
  }
  return row;
}

traces::ResultRow error_row(const RecordedRun& run, const SweepJob& job, const std::string& message) {
  traces::ResultRow row = asked(run, job);
  row.status = "error";
  row.message = message;
  return row;
}

}  // namespace kvgrind::replay
