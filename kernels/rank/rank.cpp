#include "kernels/rank/rank.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/isa/scratch.h"

namespace kvgrind::kernels {
namespace {

constexpr std::uint32_t nan_key = 0xffffffffu;

// Ascending keys = descending scores. −0 and +0 are one score; every NaN is the largest key. No branches: the signs of
// scores are not predictable.
std::uint32_t descending_key(float score) {
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0f);
  const std::uint32_t negative = 0u - (bits >> 31);
  const std::uint32_t nan = 0u - static_cast<std::uint32_t>((bits & 0x7fffffffu) > 0x7f800000u);
  return (bits ^ (0x7fffffffu & ~negative)) | nan;
}

constexpr int digit_bits[3] = {11, 11, 10};
constexpr int digit_shift[3] = {0, 11, 22};
constexpr std::size_t bins = 2048;
using Histogram = std::array<std::uint32_t, bins>;

std::size_t digit(std::uint32_t key, int pass) { return (key >> digit_shift[pass]) & ((1u << digit_bits[pass]) - 1u); }

// Keys of all scores; `see` gets each one on the way.
template <class See>
std::uint32_t* keys_of(std::span<const float> score, std::int64_t* nan_count, Scratch& memory, See see) {
  assert(score.size() <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()));
  memory.grow(static_cast<std::int64_t>(score.size() * sizeof(std::uint32_t)));
  auto* key = memory.as<std::uint32_t>();
  std::int64_t nans = 0;
  for (std::size_t i = 0; i < score.size(); ++i) {
    key[i] = descending_key(score[i]);
    nans += key[i] == nan_key;
    see(key[i]);
  }
  if (nan_count) *nan_count = nans;
  return key;
}

struct Entry {
  std::uint32_t key;
  std::int32_t index;
};

// Least significant digit first in at most three stable passes; stability is what orders ties by index. The first pass
// reads the keys in place, the last writes the indices alone, and a digit that all keys share is left out.
std::vector<std::int32_t> radix_order(const std::uint32_t* key, std::size_t n, std::array<Histogram, 3>& count) {
  std::vector<std::int32_t> order(n);
  int passes[3], n_passes = 0;
  for (int pass = 0; pass < 3; ++pass)
    if (count[static_cast<std::size_t>(pass)][digit(key[0], pass)] != n) passes[n_passes++] = pass;
  if (n_passes == 0) std::iota(order.begin(), order.end(), 0);

  const auto size_bytes = static_cast<std::int64_t>(n * sizeof(Entry));
  const Scratch first(n_passes > 1 ? size_bytes : 0), second(n_passes > 2 ? size_bytes : 0);
  const Entry* from = nullptr;
  for (int i = 0; i < n_passes; ++i) {
    const int pass = passes[i];
    Histogram& place = count[static_cast<std::size_t>(pass)];
    std::uint32_t sum = 0;
    for (std::uint32_t& bin : place) sum += std::exchange(bin, sum);
    Entry* to = i == 0 ? first.as<Entry>() : second.as<Entry>();
    const bool last = i + 1 == n_passes;
    for (std::size_t e = 0; e < n; ++e) {
      const Entry entry = from ? from[e] : Entry{key[e], static_cast<std::int32_t>(e)};
      const std::uint32_t at = place[digit(entry.key, pass)]++;
      if (last)
        order[at] = entry.index;
      else
        to[at] = entry;
    }
    from = to;
  }
  return order;
}

// The k-th smallest key (k ≥ 1) and how many keys are below it.
struct Threshold {
  std::uint32_t key = 0;
  std::int64_t below = 0;
};

// `count` is the histogram of the most significant digit; only the keys of the k-th one's bin are looked at again.
Threshold kth_key(const std::uint32_t* key, std::size_t n, std::int64_t k, const Histogram& count) {
  Threshold found;
  std::size_t bin = 0;
  while (found.below + count[bin] < k) found.below += count[bin++];
  const Scratch memory((static_cast<std::int64_t>(count[bin]) + 1) * static_cast<std::int64_t>(sizeof(std::uint32_t)));
  auto* inside = memory.as<std::uint32_t>();
  std::size_t size = 0;
  for (std::size_t i = 0; i < n; ++i) {
    inside[size] = key[i];
    size += static_cast<std::size_t>(digit(key[i], 2) == bin) & static_cast<std::size_t>(size < count[bin]);
  }
  std::uint32_t* kth = inside + (k - found.below - 1);
  std::nth_element(inside, kth, inside + size);
  found.key = *kth;
  for (std::size_t i = 0; i < size; ++i) found.below += inside[i] < found.key;
  return found;
}

}  // namespace

std::vector<std::int32_t> rank_order(std::span<const float> score, std::int64_t* nan_count) {
  Scratch memory;
  if (score.size() < 512) {  // below this, clearing the histograms costs more than comparing
    const std::uint32_t* key = keys_of(score, nan_count, memory, [](std::uint32_t) {});
    std::array<std::uint64_t, 512> ranked;  // key, then index
    for (std::size_t i = 0; i < score.size(); ++i) ranked[i] = std::uint64_t{key[i]} << 32 | i;
    const auto end = ranked.begin() + static_cast<std::ptrdiff_t>(score.size());
    std::sort(ranked.begin(), end);
    std::vector<std::int32_t> order(score.size());
    std::transform(ranked.begin(), end, order.begin(),
                   [](std::uint64_t one) { return static_cast<std::int32_t>(one); });
    return order;
  }
  std::array<Histogram, 3> count{};
  const std::uint32_t* key = keys_of(score, nan_count, memory, [&](std::uint32_t value) {
    for (int pass = 0; pass < 3; ++pass) ++count[static_cast<std::size_t>(pass)][digit(value, pass)];
  });
  return radix_order(key, score.size(), count);
}

std::vector<std::int32_t> top_k(std::span<const float> score, std::int64_t k, std::int64_t* nan_count) {
  k = std::clamp<std::int64_t>(k, 0, static_cast<std::int64_t>(score.size()));
  Histogram count{};
  Scratch memory;
  const std::uint32_t* key = keys_of(score, nan_count, memory, [&](std::uint32_t value) { ++count[digit(value, 2)]; });
  if (k == 0) return {};
  const Threshold threshold = kth_key(key, score.size(), k, count);
  std::int64_t ties = k - threshold.below;  // the first so many of those that equal the threshold
  std::vector<std::int32_t> kept(static_cast<std::size_t>(k) + 1);  // one more: every index is written, few advance
  std::size_t size = 0;
  for (std::size_t i = 0; i < score.size(); ++i) {
    const bool tie = key[i] == threshold.key;
    kept[size] = static_cast<std::int32_t>(i);
    size += static_cast<std::size_t>(key[i] < threshold.key) | static_cast<std::size_t>(tie & (ties > 0));
    ties -= tie;
  }
  kept.resize(static_cast<std::size_t>(k));
  return kept;
}

std::vector<std::int32_t> rank_order_ref(std::span<const float> score) {
  std::vector<std::int32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    const float left = score[static_cast<std::size_t>(a)], right = score[static_cast<std::size_t>(b)];
    if (std::isnan(left) || std::isnan(right)) return !std::isnan(left) && std::isnan(right);
    return left > right;
  });
  return order;
}

std::vector<std::int32_t> top_k_ref(std::span<const float> score, std::int64_t k) {
  std::vector<std::int32_t> order = rank_order_ref(score);
  order.resize(static_cast<std::size_t>(std::clamp<std::int64_t>(k, 0, static_cast<std::int64_t>(order.size()))));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace kvgrind::kernels
