#include "replay/probe/probe_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "core/error.h"
#include "core/policy_line.h"
#include "replay/open_loop/protocol.h"

namespace kvgrind::replay {
namespace {

constexpr std::int64_t turns_of_window = 4;

[[noreturn]] void refuse(std::string_view found, const std::string& near) {
  throw Error(Category::usage,
              {.doing = "reading --probes",
               .found = fmt::format("`{}`", found),
               .expected = "repeat, repeat=512 (tokens a part), reread, episode=4 (episodes), by commas",
               .next = near.empty() ? "" : fmt::format("did you mean `{}`?", near)});
}

void append(std::vector<std::int32_t>& to, std::span<const std::int32_t> more) {
  to.insert(to.end(), more.begin(), more.end());
}

void add_repeats(const ProbedContext& context, const ProbePlan& plan, std::vector<ProbePass>& out) {
  const auto end = static_cast<std::int64_t>(context.ids.size());
  for (std::int64_t begin = context.begin, number = 0; begin < end; begin += plan.chunk, ++number) {
    const std::int64_t stop = std::min(end, begin + plan.chunk);
    ProbePass pass{.kind = ProbeKind::repeat,
                   .number = number,
                   .begin = begin,
                   .end = stop,
                   .sinks = std::max(plan.sinks, context.begin),
                   .first = end};
    append(pass.ids, number == 0 ? plan.text.first : plan.text.next);
    if (number > 0) {
      const std::int64_t tail = std::min(plan.tail, begin - context.begin);
      append(pass.ids, context.ids.subspan(static_cast<std::size_t>(begin - tail), static_cast<std::size_t>(tail)));
    }
    append(pass.ids, plan.text.suffix);
    pass.lead = static_cast<std::int64_t>(pass.ids.size());
    append(pass.ids, context.ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(stop - begin)));
    out.push_back(std::move(pass));
  }
}

// Windows of text that episodes are made of: four turns each where turns are marked, else a number of tokens.
std::vector<std::pair<std::int64_t, std::int64_t>> windows_of(const ProbedContext& context, std::int64_t tokens) {
  const auto end = static_cast<std::int64_t>(context.ids.size());
  std::vector<std::pair<std::int64_t, std::int64_t>> turns, out;
  for (const Span& span : context.spans)
    if (span.kind == "turn" && span.begin >= context.begin && span.end <= end && span.begin < span.end)
      turns.emplace_back(span.begin, span.end);
  std::sort(turns.begin(), turns.end());
  for (std::size_t i = 0; i < turns.size(); i += turns_of_window)
    out.emplace_back(turns[i].first, turns[std::min(turns.size(), i + turns_of_window) - 1].second);
  if (!out.empty()) return out;
  for (std::int64_t begin = context.begin; begin < end; begin += tokens)
    out.emplace_back(begin, std::min(end, begin + tokens));
  return out;
}

void add_episodes(const ProbedContext& context, const ProbePlan& plan, std::vector<ProbePass>& out) {
  if (!plan.episodes.embed)
    throw Error(Category::usage, {.doing = "planning passes over episodes",
                                  .found = "nothing that tells texts apart",
                                  .expected = "token embeddings of the model"});
  const auto windows = windows_of(context, plan.episodes.window);
  std::vector<std::vector<float>> vectors;
  const auto ids_of = [&](std::size_t w) {
    return context.ids.subspan(static_cast<std::size_t>(windows[w].first),
                               static_cast<std::size_t>(windows[w].second - windows[w].first));
  };
  for (std::size_t w = 0; w < windows.size(); ++w) vectors.push_back(plan.episodes.embed(ids_of(w)));
  const auto end = static_cast<std::int64_t>(context.ids.size());
  for (const std::vector<std::size_t>& chosen : episodes_of(vectors, plan.episodes.episodes, plan.episodes.medoids)) {
    ProbePass pass{.kind = ProbeKind::episode, .number = 0, .begin = 0, .end = end, .sinks = 0, .first = end};
    pass.number = out.empty() || out.back().kind != ProbeKind::episode ? 0 : out.back().number + 1;
    append(pass.ids, plan.text.first);
    append(pass.ids, plan.text.suffix);
    pass.lead = static_cast<std::int64_t>(pass.ids.size());
    for (const std::size_t w : chosen) append(pass.ids, ids_of(w));
    out.push_back(std::move(pass));
  }
}

}  // namespace

std::optional<ProbeKind> probe_kind(sim::Signal signal) {
  switch (signal) {
    case sim::Signal::repeat_probe:
      return ProbeKind::repeat;
    case sim::Signal::reread_probe:
      return ProbeKind::reread;
    case sim::Signal::episode_probe:
      return ProbeKind::episode;
    default:
      return std::nullopt;
  }
}

ProbeText probe_text(const traces::Tokenizer& tokenizer) {
  return {.first = tokenizer.encode("\n\nRepeat the previous context exactly.", false),
          .next = tokenizer.encode("\n\nRepeat the part of the previous context exactly, starting with", false),
          .suffix = tokenizer.encode("\n", false)};
}

ProbePlan parse_probes(std::string_view text) {
  ProbePlan out;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    const std::string_view one = text.substr(0, comma);
    text.remove_prefix(std::min(text.size(), comma + 1));
    const std::size_t equals = std::min(one.find('='), one.size());
    const std::string_view name = one.substr(0, equals);
    std::int64_t number = 0;
    if (equals < one.size()) {
      const std::string_view digits = one.substr(equals + 1);
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
      if (error != std::errc() || end != digits.data() + digits.size() || number < 1 || number > (1 << 30))
        refuse(one, "");
    }
    if (name == "repeat") {
      out.repeat = true;
      if (number > 0) out.chunk = number;
    } else if (name == "reread" && number == 0) {
      out.reread = true;
    } else if (name == "episode") {
      out.episode = true;
      if (number > 0) out.episodes.episodes = number;
    } else {
      refuse(one, nearest_name(name, {"repeat", "reread", "episode"}));
    }
  }
  return out;
}

std::vector<ProbePass> plan_probes(const ProbedContext& context, const ProbePlan& plan) {
  std::vector<ProbePass> out;
  if (context.begin >= static_cast<std::int64_t>(context.ids.size())) return out;
  if (plan.repeat) add_repeats(context, plan, out);
  if (plan.reread)
    out.push_back({.kind = ProbeKind::reread,
                   .number = 0,
                   .begin = 0,
                   .end = static_cast<std::int64_t>(context.ids.size()),
                   .sinks = 0,
                   .first = static_cast<std::int64_t>(context.ids.size()),
                   .lead = 0,
                   .fed = 0,
                   .ids = {context.ids.begin(), context.ids.end()}});
  if (plan.episode) add_episodes(context, plan, out);
  for (ProbePass& pass : out) pass.fed = static_cast<std::int64_t>(pass.ids.size());
  return out;
}

std::pair<std::int64_t, std::int64_t> probed_range(const std::vector<Segment>& segments, std::int64_t tokens) {
  const std::int64_t end = compression_moment(segments, tokens, Protocol::blind);
  std::int64_t begin = 0;
  for (const Segment& segment : segments)
    if (segment.role == Role::system && segment.begin <= begin && segment.end <= end)
      begin = std::max(begin, segment.end);
  return {begin, end};
}

}  // namespace kvgrind::replay
