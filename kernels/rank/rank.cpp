#include "kernels/rank/rank.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace kvgrind::kernels {
namespace {

constexpr std::uint32_t nan_key = 0xffffffffu;

// Ascending keys = descending scores. −0 and +0 are one score; every NaN is the largest key.
std::uint32_t descending_key(float score) {
  if (std::isnan(score)) return nan_key;
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0f);
  return (bits & 0x80000000u) ? bits : ~(bits | 0x80000000u);
}

std::vector<std::uint32_t> keys_of(std::span<const float> score, std::int64_t* nan_count) {
  assert(score.size() <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()));
  std::vector<std::uint32_t> key(score.size());
  std::int64_t nans = 0;
  for (std::size_t i = 0; i < score.size(); ++i) {
    key[i] = descending_key(score[i]);
    nans += key[i] == nan_key;
  }
  if (nan_count) *nan_count = nans;
  return key;
}

constexpr int digit_bits[3] = {11, 11, 10};
constexpr int digit_shift[3] = {0, 11, 22};
constexpr std::size_t bins = 2048;

std::size_t digit(std::uint32_t key, int pass) { return (key >> digit_shift[pass]) & ((1u << digit_bits[pass]) - 1u); }

struct Entry {
  std::uint32_t key;
  std::int32_t index;
};

// Least significant digit first, three stable passes; stability is what orders ties by index.
void radix_sort(std::vector<Entry>& entries) {
  std::vector<std::array<std::uint32_t, bins>> count(3);
  for (const Entry& entry : entries)
    for (int pass = 0; pass < 3; ++pass) ++count[static_cast<std::size_t>(pass)][digit(entry.key, pass)];
  std::vector<Entry> other(entries.size());
  for (int pass = 0; pass < 3; ++pass) {
    auto& place = count[static_cast<std::size_t>(pass)];
    if (std::find(place.begin(), place.end(), entries.size()) != place.end()) continue;  // all in one bin
    std::uint32_t sum = 0;
    for (std::uint32_t& bin : place) sum += std::exchange(bin, sum);
    for (const Entry& entry : entries) other[place[digit(entry.key, pass)]++] = entry;
    entries.swap(other);
  }
}

// The k-th smallest key (k ≥ 1) and how many keys are below it: most significant digit first, by histogram.
struct Threshold {
  std::uint32_t key = 0;
  std::int64_t below = 0;
};
Threshold kth_key(const std::vector<std::uint32_t>& key, std::int64_t k) {
  Threshold found;
  std::uint32_t mask = 0;
  for (int pass = 2; pass >= 0; --pass) {
    std::array<std::uint32_t, bins> count{};
    for (const std::uint32_t value : key)
      if ((value & mask) == found.key) ++count[digit(value, pass)];
    std::size_t bin = 0;
    while (found.below + count[bin] < k) found.below += count[bin++];
    found.key |= static_cast<std::uint32_t>(bin) << digit_shift[pass];
    mask |= ((1u << digit_bits[pass]) - 1u) << digit_shift[pass];
  }
  return found;
}

}  // namespace

std::vector<std::int32_t> rank_order(std::span<const float> score, std::int64_t* nan_count) {
  const std::vector<std::uint32_t> key = keys_of(score, nan_count);
  std::vector<Entry> entries(key.size());
  for (std::size_t i = 0; i < key.size(); ++i) entries[i] = {key[i], static_cast<std::int32_t>(i)};
  if (entries.size() < 512) {  // below this, clearing the histograms costs more than comparing
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return a.key != b.key ? a.key < b.key : a.index < b.index; });
  } else {
    radix_sort(entries);
  }
  std::vector<std::int32_t> order(entries.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = entries[i].index;
  return order;
}

std::vector<std::int32_t> top_k(std::span<const float> score, std::int64_t k, std::int64_t* nan_count) {
  const std::vector<std::uint32_t> key = keys_of(score, nan_count);
  k = std::clamp<std::int64_t>(k, 0, static_cast<std::int64_t>(key.size()));
  if (k == 0) return {};
  const Threshold threshold = kth_key(key, k);
  std::int64_t ties = k - threshold.below;  // the first so many of those that equal the threshold
  std::vector<std::int32_t> kept;
  kept.reserve(static_cast<std::size_t>(k));
  for (std::size_t i = 0; i < key.size(); ++i)
    if (key[i] < threshold.key || (key[i] == threshold.key && ties-- > 0)) kept.push_back(static_cast<std::int32_t>(i));
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
