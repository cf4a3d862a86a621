// KVCrush over blocks, as OpenVINO runs it: whole blocks by score, and others spread over Hamming distance.
//   a slot's bit: 1 in the better half of all scores; a block's signature: its bits; blocks by mean score; the best
//   floor((1 − share) · B / block), then of the others, sorted by Hamming distance to the anchor (ties: position),
//   every (n div r)-th, r = floor(share · B / block); the short last block is kept as long as there is room
//   anchor=mean: the majority at each place of a block; alternating: 0101…
//   source: openvinotoolkit/openvino.genai src/cpp/src/continuous_batching/cache/kvcrush.cpp
#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "kernels/rank/rank.h"
#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

bool anchor_bit(const SelectContext& context, const std::vector<std::uint8_t>& bit, std::int64_t place,
                std::int64_t block, std::int64_t blocks) {
  const std::string& anchor = context.params.word("anchor");
  if (anchor == "ones") return true;
  if (anchor == "zeros") return false;
  if (anchor == "alternating") return place % 2 == 1;
  if (anchor == "random") {
    const RandomKey key{context.facts.seed, context.facts.sequence, static_cast<std::int32_t>(context.layer), -1,
                        "crush_blocks"};
    return random_uniform(key, place) < 0.5f;
  }
  std::int64_t ones = 0;
  for (std::int64_t b = 0; b < blocks; ++b) ones += bit[static_cast<std::size_t>(b * block + place)];
  return 2 * ones > blocks;
}

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), block = context.params.integer("block"), blocks = n / block;
  std::vector<std::int32_t> order = priority_order(context.slots, context.columns.s, {}, context.nan_scores);
  if (n <= context.budget || blocks == 0) return take_first(std::move(order), context.budget);
  std::vector<std::uint8_t> bit(static_cast<std::size_t>(n), 0);
  for (std::int64_t r = 0; r < n / 2; ++r) bit[static_cast<std::size_t>(order[static_cast<std::size_t>(r)])] = 1;
  std::vector<float> mean;
  std::vector<std::int64_t> distance;
  for (std::int64_t b = 0; b < blocks; ++b) {
    double sum = 0;
    std::int64_t far = 0;
    for (std::int64_t i = 0; i < block; ++i) {
      sum += static_cast<double>(context.columns.s[static_cast<std::size_t>(b * block + i)]);
      far += (bit[static_cast<std::size_t>(b * block + i)] != 0) != anchor_bit(context, bit, i, block, blocks);
    }
    mean.push_back(static_cast<float>(sum / static_cast<double>(block)));
    distance.push_back(far);
  }
  const std::int64_t tail = n - blocks * block;
  const std::int64_t tail_kept = std::min(tail, context.budget), room = context.budget - tail_kept;
  const auto spread =
      static_cast<std::int64_t>(std::floor(context.params.number("share") * static_cast<double>(room / block) + 1e-9));
  const std::int64_t best = room / block - spread;
  std::vector<std::int32_t> ranked = kernels::rank_order(mean);
  std::vector<std::int32_t> rest(ranked.begin() + static_cast<std::ptrdiff_t>(best), ranked.end());
  std::sort(rest.begin(), rest.end(), [&](std::int32_t a, std::int32_t b) {
    const auto da = distance[static_cast<std::size_t>(a)], db = distance[static_cast<std::size_t>(b)];
    return da != db ? da < db : a < b;
  });
  ranked.resize(static_cast<std::size_t>(best));
  const auto m = static_cast<std::int64_t>(rest.size());
  for (std::int64_t r = 0; r < spread; ++r)
    ranked.push_back(rest[static_cast<std::size_t>(r * std::max<std::int64_t>(1, m / spread))]);
  Selection out;
  for (std::int64_t j = n - tail_kept; j < n; ++j) out.kept.push_back(static_cast<std::int32_t>(j));
  for (const std::int32_t b : ranked)
    for (std::int64_t j = b * block; j < (b + 1) * block; ++j) out.kept.push_back(static_cast<std::int32_t>(j));
  std::sort(out.kept.begin(), out.kept.end());
  out.order = out.kept;
  for (const std::int32_t slot : order)
    if (!std::binary_search(out.kept.begin(), out.kept.end(), slot)) out.order.push_back(slot);
  return out;
}

}  // namespace

extern const SelectRow crush_blocks;
const SelectRow crush_blocks = {
    .name = "crush_blocks",
    .source = "openvinotoolkit/openvino.genai kvcrush.cpp",
    .help = "the best blocks, and others that stand for the rest by signatures within a block",
    .params = {{"block", ParamType::integer, "32", "slots of a block", 1, 65536},
               {"share", ParamType::number, "0.25", "share of the blocks that stand for the rest", 0, 1},
               {"anchor",
                ParamType::word,
                "mean",
                "signature from which distances are counted",
                -1e300,
                1e300,
                {"mean", "zeros", "ones", "random", "alternating"}}},
    .columns = {},
    .count = CountClass::at_most,
    .select = select,
};

}  // namespace kvgrind::sim::selects
