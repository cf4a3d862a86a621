#include "gui/models/needle.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "gui/models/kept.h"

namespace kvgrind::gui {
namespace {

const Span* choose(const traces::SequenceInfo& info, const Selection& at) {
  const Span* found = nullptr;
  for (const Span& span : info.spans) {
    if (span.begin < 0 || span.end > info.tokens || span.begin >= span.end) continue;
    if (at.key_at >= span.begin && at.key_at < span.end) return &span;
    if (!found || (span.kind == "needle" && found->kind != "needle")) found = &span;
  }
  return found;
}

NeedleJob follow(const ShownJob& job, const Span& span) {
  NeedleJob out{.name = job.name, .verdict = {}, .colour = job.colour, .seen = {}, .kept = {}};
  const replay::Timeline& timeline = job.view->timeline;
  for (const replay::TimelineStep& step : timeline.steps) {
    if (!step.k_states || step.seen < span.end) continue;
    std::vector<float> layers(static_cast<std::size_t>(timeline.layers));
    for (std::int64_t l = 0; l < timeline.layers; ++l)
      for (std::int64_t h = 0; h < timeline.heads; ++h)
        for (std::int64_t t = span.begin; t < span.end; ++t)
          layers[static_cast<std::size_t>(l)] +=
              static_cast<float>(is_kept(timeline.state(step, l * timeline.heads + h, t))) /
              static_cast<float>(timeline.heads * (span.end - span.begin));
    if (!out.seen.empty() && out.seen.back() == step.seen) {
      out.kept.back() = layers;  // just after compression replaces just before
      continue;
    }
    out.seen.push_back(step.seen);
    out.kept.push_back(std::move(layers));
  }
  for (const replay::SpanOutcome& outcome : job.view->outcome.spans)
    if (outcome.span == span) {
      out.first_loss = outcome.first_loss;
      out.verdict = outcome.first_loss < 0
                        ? "whole in every layer and head"
                        : fmt::format("keeps {} of it ({} in the worst head); first loss after {} tokens{}",
                                      percent(outcome.kept_frac), percent(outcome.kept_worst_frac), outcome.first_loss,
                                      outcome.first_loss_everywhere >= 0
                                          ? fmt::format(", lost everywhere after {}", outcome.first_loss_everywhere)
                                          : ", never lost everywhere");
    }
  return out;
}

}  // namespace

NeedleData needle_data(const ViewInput& input, std::int64_t most_queries, const CancelToken& cancel) {
  NeedleData out;
  const traces::SequenceInfo* info = sequence_of(input);
  const Span* span = info ? choose(*info, input.at) : nullptr;
  if (!span) return out;
  out.found = true;
  out.span = *span;
  out.mass = input.session->span_mass(input.at.sequence, span->begin, span->end, most_queries, cancel);
  for (const Span& one : info->spans)
    if (one.kind == span->kind && one.begin >= 0 && one.begin < one.end && one.end <= info->tokens)
      out.all.push_back({one, {}});
  std::stable_sort(out.all.begin(), out.all.end(),
                   [](const SpanFate& a, const SpanFate& b) { return a.span.begin < b.span.begin; });
  for (std::size_t i = 0; i < out.all.size(); ++i)
    if (out.all[i].span == *span) out.chosen = i;
  for (const ShownJob& job : input.jobs) {
    if (!job.view) continue;
    out.jobs.push_back(follow(job, *span));
    for (SpanFate& fate : out.all) {
      fate.kept.push_back(std::numeric_limits<double>::quiet_NaN());
      for (const replay::SpanOutcome& outcome : job.view->outcome.spans)
        if (outcome.span == fate.span) fate.kept.back() = outcome.kept_frac;
    }
  }
  return out;
}

Table needle_table(const NeedleData& data) {
  Table out{.header = {"what", "layer", "at", "value"}, .rows = {}};
  for (std::int64_t l = 0; l < data.mass.mass.extent(0); ++l)
    for (std::size_t i = 0; i < data.mass.query.size(); ++i)
      out.rows.push_back({"attention mass", std::to_string(l), std::to_string(data.mass.query[i]),
                          number(static_cast<double>(data.mass.mass(l, static_cast<std::int64_t>(i))))});
  for (std::size_t i = 0; i < data.all.size(); ++i)
    for (std::size_t j = 0; j < data.all[i].kept.size(); ++j)
      out.rows.push_back({"share kept at the end by " + data.jobs[j].name, "", std::to_string(data.all[i].span.begin),
                          number(data.all[i].kept[j])});
  for (const NeedleJob& job : data.jobs)
    for (std::size_t s = 0; s < job.seen.size(); ++s)
      for (std::size_t l = 0; l < job.kept[s].size(); ++l)
        out.rows.push_back({"kept by " + job.name, std::to_string(l), std::to_string(job.seen[s]),
                            number(static_cast<double>(job.kept[s][l]))});
  return out;
}

}  // namespace kvgrind::gui
