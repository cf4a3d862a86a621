#include "gui/models/trace_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/parallel.h"

namespace kvgrind::gui {
namespace {

constexpr std::int64_t side = 96;

double decades_between(const replay::Tile& a, const replay::Tile& b) {
  double sum = 0;
  std::int64_t n = 0;
  for (std::int64_t r = 0; r < std::min(a.value.extent(0), b.value.extent(0)); ++r)
    for (std::int64_t c = 0; c <= std::min({r, a.value.extent(1) - 1, b.value.extent(1) - 1}); ++c) {
      const float x = a.value(r, c), y = b.value(r, c);
      if (std::isnan(x) || std::isnan(y)) continue;
      sum += std::abs(std::log10(std::max(double(x), double(attention_low))) -
                      std::log10(std::max(double(y), double(attention_low))));
      ++n;
    }
  return n > 0 ? sum / double(n) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

TraceDiff trace_diff(const ViewInput& input, const CancelToken& cancel) {
  const replay::RecordedRun &a = input.base->run(), &b = input.session->run();
  const ModelCard &card_a = a.card(), &card_b = b.card();
  const auto refuse = [&](const std::string& found, const std::string& expected) {
    return Error(Category::usage, {.doing = "comparing two traces",
                                   .on = input.base_name,
                                   .found = found,
                                   .expected = expected,
                                   .usable = "both traces on their own",
                                   .next = "open traces of one model shape"});
  };
  if (card_a.layers != card_b.layers || card_a.query_heads != card_b.query_heads)
    throw refuse(fmt::format("{} layers of {} query heads", card_a.layers, card_a.query_heads),
                 fmt::format("{} layers of {}", card_b.layers, card_b.query_heads));
  const auto has = std::any_of(a.sequences().begin(), a.sequences().end(),
                               [&](const traces::SequenceInfo& info) { return info.id == input.at.sequence; });
  if (!has) throw refuse(fmt::format("no sequence {}", input.at.sequence), "the sequence looked at");
  TraceDiff out{.a = input.base_name, .b = "the trace open here", .sequence = input.at.sequence, .of = {}};
  out.layers = card_b.layers;
  out.heads = card_b.query_heads;
  out.tokens_a = replay::find_sequence(a, out.sequence).tokens;
  out.tokens_b = replay::find_sequence(b, out.sequence).tokens;
  const std::vector<std::int32_t> ids_a = a.tokens(out.sequence), ids_b = b.tokens(out.sequence);
  const auto part =
      std::mismatch(ids_a.begin(), ids_a.begin() + std::ptrdiff_t(std::min(ids_a.size(), ids_b.size())), ids_b.begin());
  if (part.first != ids_a.begin() + std::ptrdiff_t(std::min(ids_a.size(), ids_b.size())))
    out.first_other_token = part.first - ids_a.begin();
  if (card_a.name != card_b.name) out.other_models.push_back(fmt::format("model {} and {}", card_a.name, card_b.name));
  if (card_a.dtype != card_b.dtype) out.other_models.emplace_back("another data type");
  out.of.resize(std::size_t(out.layers * out.heads));
  parallel_for(out.layers * out.heads, [&](std::int64_t i) {
    cancel.throw_if_cancelled();
    HeadDiff& one = out.of[std::size_t(i)];
    one.layer = i / out.heads;
    one.query_head = i % out.heads;
    one.decades = std::numeric_limits<double>::quiet_NaN();
    if (out.tokens_a == 0 || out.tokens_b == 0) return;
    one.a = input.base->head_facts(out.sequence, one.layer, one.query_head, cancel);
    one.b = input.session->head_facts(out.sequence, one.layer, one.query_head, cancel);
    if (out.tokens_a == out.tokens_b)
      one.decades = decades_between(input.base->thumbnail(out.sequence, one.layer, one.query_head, side, cancel),
                                    input.session->thumbnail(out.sequence, one.layer, one.query_head, side, cancel));
  });
  return out;
}

Table trace_diff_table(const TraceDiff& diff) {
  Table out{.header = {"layer", "query_head", "kind_a", "kind_b", "sink_mass_a", "sink_mass_b", "local_mass_a",
                       "local_mass_b", "entropy_bits_a", "entropy_bits_b", "map_decades_apart"},
            .rows = {}};
  for (const HeadDiff& one : diff.of)
    out.rows.push_back({std::to_string(one.layer), std::to_string(one.query_head), one.a.kind, one.b.kind,
                        number(one.a.sink_mass), number(one.b.sink_mass), number(one.a.local_mass),
                        number(one.b.local_mass), number(one.a.entropy_bits), number(one.b.entropy_bits),
                        number(one.decades)});
  return out;
}

}  // namespace kvgrind::gui
