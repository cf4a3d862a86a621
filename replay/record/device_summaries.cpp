#include "replay/record/device_summaries.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/logits/logits_cuda.h"
#include "kernels/moments/query_moments_cuda.h"
#include "kernels/rope/rope_cuda.h"
#include "traces/kvt/attention_sums.h"
#include "traces/kvt/query_choice.h"
#include "traces/kvt/query_moments.h"

namespace kvgrind::replay {
namespace {

using kernels::DeviceBuffer;
using kernels::DeviceStream;

constexpr std::int64_t block = 64;  // queries whose probabilities are held at once

// Room for `bytes`; contents are not kept.
void grow(DeviceBuffer& buffer, std::int64_t bytes, const char* what) {
  if (buffer.size_bytes() >= bytes) return;
  buffer = {};  // freeing waits for the device
  buffer = DeviceBuffer(bytes, what);
}

}  // namespace

StreamExtras parse_stream_extras(std::string_view names) {
  StreamExtras out;
  while (!names.empty()) {
    const std::string_view name = names.substr(0, names.find(','));
    names.remove_prefix(std::min(names.size(), name.size() + 1));
    if (name == "maps")
      out.maps = true;
    else if (name == "statistics")
      out.statistics = true;
    else if (name == "top64")
      out.top64 = true;
    else
      throw Error(Category::usage, {.doing = "reading what a streamed recording computes besides",
                                    .on = "",
                                    .found = fmt::format("`{}`", name),
                                    .expected = "maps, statistics or top64, with commas between them"});
  }
  return out;
}

DeviceSummaries::DeviceSummaries(traces::Recorder& recorder, const ModelCard& card,
                                 const std::vector<TokenSequence>& sequences, const StreamExtras& extras,
                                 kernels::CaptureSpool& spool)
    : recorder_(recorder), card_(card), sequences_(sequences), extras_(extras), spool_(spool) {
  if (extras.top64 && card.vocab < kernels::top_logits)
    throw Error(Category::usage, {.doing = "recording predictions on a device",
                                  .on = card.name,
                                  .found = fmt::format("a vocabulary of {}", card.vocab),
                                  .expected = fmt::format("at least {}", kernels::top_logits),
                                  .next = "leave top64 out"});
  if (!extras.any()) return;
  ready_ = kernels::make_event();
  copied_ = kernels::make_event();
  shapes_.resize(static_cast<std::size_t>(card.layers));
}

void DeviceSummaries::start(const TapPass& pass, DeviceStream stream) {
  sequence_ = pass.sequence;
  const TokenSequence& one = sequences_[static_cast<std::size_t>(sequence_)];
  const auto own = static_cast<std::int64_t>(one.ids.size());
  const std::int64_t announced = one.fork_at + own + std::max<std::int64_t>(0, one.decode - 1);
  if (extras_.maps) {
    cell_ = traces::map_cell_tokens(announced);
    stride_ = traces::triangle((announced + cell_ - 1) / cell_);
    const std::int64_t bytes = card_.layers * card_.query_heads * stride_ * 4;
    for (DeviceBuffer* map : {&map_max_, &map_sum_}) {
      grow(*map, bytes, "pooled maps");
      kernels::fill_bytes(map->as(), 0, bytes, stream);
    }
    grow(probabilities_, card_.query_heads * block * announced * 4, "rows of probabilities");
  }
  if (!extras_.statistics) return;
  parts_.clear();
  for (const Segment& segment : traces::recorded_segments_of(one)) parts_.push_back({segment, 0, {}});
  parts_.push_back({{Role::generated, one.fork_at + own, announced}, 0, {}});
  if (!inv_freq_.empty()) return;
  for (const RopeSet& set : card_.rope) {
    const auto bytes = static_cast<std::int64_t>(set.inv_freq.size() * sizeof(float));
    inv_freq_.emplace_back(std::max<std::int64_t>(bytes, 4), "rotary frequencies");
    kernels::copy_to_device(inv_freq_.back().as(), set.inv_freq.data(), bytes, stream);
    tables_.emplace_back();
  }
}

void DeviceSummaries::rotary_tables(std::int64_t first, std::int64_t n, DeviceStream stream) {
  if (!extras_.statistics) return;
  for (std::size_t s = 0; s < tables_.size(); ++s) {
    const std::int64_t half = card_.rope[s].rotary_dim() / 2;
    grow(tables_[s], std::max<std::int64_t>(n * half * 8, 8), "rotary angles");
    kernels::RopeTable a;
    a.inv_freq = inv_freq_[s].as<float>(), a.half = half, a.n = n, a.first = first;
    a.factor = card_.rope[s].attention_factor, a.table = tables_[s].as<float>();
    kernels::rope_table_cuda(a, stream);
  }
}

void DeviceSummaries::begin(const TapPass& pass, DeviceStream stream) {
  if (!extras_.any()) return;
  if (pass.sequence != sequence_) start(pass, stream);
  rows_ = static_cast<std::int64_t>(pass.ids.size());
  rotary_tables(pass.first, rows_, stream);
  if (!extras_.top64) return;
  // What each row should predict; the last row's token may be one that is not chosen yet.
  const TokenSequence& one = sequences_[static_cast<std::size_t>(sequence_)];
  target_.assign(pass.ids.begin() + 1, pass.ids.end());
  const std::int64_t next = pass.first + rows_ - one.fork_at;
  const bool known = next < static_cast<std::int64_t>(one.ids.size());
  target_.push_back(known ? one.ids[static_cast<std::size_t>(next)] : -1);
  last_later_ = !known && one.decode > 0;
  if (predicted_) kernels::wait_event(stream, copied_);  // the last pass's predictions must have been copied
  grow(targets_, rows_ * 4, "predictions");
  grow(nll_, rows_ * 4, "predictions");
  grow(top_id_, rows_ * kernels::top_logits * 4, "predictions");
  grow(top_logp_, rows_ * kernels::top_logits * 4, "predictions");
  kernels::copy_to_device(targets_.as(), target_.data(), rows_ * 4, stream);
}

void DeviceSummaries::logits(const float* logits, std::int64_t first, std::int64_t rows, DeviceStream stream) {
  kernels::LogitSummary a;
  a.logits = logits, a.rows = rows, a.vocab = card_.vocab;
  a.target = targets_.as<std::int32_t>() + first, a.nll = nll_.as<float>() + first;
  a.top_id = top_id_.as<std::int32_t>() + first * kernels::top_logits;
  a.top_logp = top_logp_.as<float>() + first * kernels::top_logits;
  kernels::summarise_logits_cuda(a, stream);
}

void DeviceSummaries::end(DeviceStream stream) {
  if (!extras_.top64) return;
  kernels::record_event(ready_, stream);
  const DeviceStream copy = spool_.copy_stream();
  const std::int64_t list = rows_ * kernels::top_logits * 4;
  std::byte* to = spool_.reserve(2 * list + rows_ * 4);
  kernels::wait_event(copy, ready_);
  kernels::copy_to_host(to, top_id_.as(), list, copy);
  kernels::copy_to_host(to + list, top_logp_.as(), list, copy);
  kernels::copy_to_host(to + 2 * list, nll_.as(), rows_ * 4, copy);
  kernels::record_event(copied_, copy);
  predicted_ = true;
  spool_.submit([this, to, list, later = last_later_] {
    recorder_.next_tokens({.top_id = reinterpret_cast<const std::int32_t*>(to),
                           .top_logp = reinterpret_cast<const float*>(to + list),
                           .nll = reinterpret_cast<const float*>(to + 2 * list),
                           .last_later = later});
  });
}

void DeviceSummaries::layer(const sim::DeviceLayer& layer, DeviceStream stream) {
  if (!extras_.maps && !extras_.statistics) return;
  shapes_[static_cast<std::size_t>(layer.layer)] = layer.shape;
  add(layer.layer, layer.q, layer.lse, layer.first, layer.n, layer.cache(), stream);
}

void DeviceSummaries::add(std::int64_t layer, const void* q, const float* lse, std::int64_t first, std::int64_t n,
                          const kernels::PlainCache& cache, DeviceStream stream) {
  const std::int64_t Hq = card_.query_heads, D = card_.head_dim, width = Hq * D * size_bytes(card_.dtype);
  const auto row = [&](std::int64_t position) { return static_cast<const std::byte*>(q) + (position - first) * width; };
  for (Part& part : parts_) {
    const std::int64_t begin = std::max({first, part.segment.begin, traces::ignored_queries});
    const std::int64_t end = std::min(first + n, part.segment.end);
    if (begin >= end) continue;
    const std::int64_t bytes = card_.layers * moment_values() * 8;
    if (!part.sums) {
      part.sums = DeviceBuffer(bytes, "query statistics");
      kernels::fill_bytes(part.sums.as(), 0, bytes, stream);
    }
    if (layer == 0) part.n += end - begin;
    const auto set = static_cast<std::size_t>(card_.layer[static_cast<std::size_t>(layer)].rope_set);
    kernels::QueryMomentSums a;
    a.dtype = card_.dtype, a.q = row(begin), a.n = end - begin, a.first = begin;
    a.query_heads = Hq, a.head_dim = D, a.half = card_.rope[set].rotary_dim() / 2;
    a.table = tables_[set].as<float>() + (begin - first) * a.half * 2;
    a.mean = part.sums.as<double>() + layer * moment_values();
    a.modulus = a.mean + Hq * D, a.second = a.modulus + Hq * (D / 2);
    kernels::query_moments_cuda(a, stream);
  }
  for (std::int64_t at = first; extras_.maps && at < first + n;) {
    const std::int64_t stop = std::min(first + n, (at / block + 1) * block);
    kernels::AttentionProbabilities a;
    a.shape = shapes_[static_cast<std::size_t>(layer)];
    a.q = row(at), a.n = stop - at, a.first = at, a.slots = stop, a.cache = cache;
    a.lse = lse + (at - first) * Hq, a.p = probabilities_.as<float>();
    kernels::attention_probabilities_cuda(a, stream);
    kernels::PooledMap map;
    map.p = a.p, map.heads = Hq, map.n = a.n, map.first = at, map.slots = stop, map.cell = cell_;
    map.stride = stride_;
    map.max = map_max_.as<float>() + layer * Hq * stride_, map.sum = map_sum_.as<float>() + layer * Hq * stride_;
    kernels::pooled_map_cuda(map, stream);
    at = stop;
  }
}

void DeviceSummaries::steps(const std::byte* q, const float* lse, std::int64_t first, std::int64_t n,
                            const sim::KvCache& cache, DeviceStream stream) {
  if (n == 0 || (!extras_.maps && !extras_.statistics)) return;
  const std::int64_t Hq = card_.query_heads, L = card_.layers, width = Hq * card_.head_dim * size_bytes(card_.dtype);
  rotary_tables(first, n, stream);
  grow(step_q_, n * width, "decode steps");
  grow(step_lse_, n * Hq * 4, "decode steps");
  for (std::int64_t l = 0; l < L; ++l) {
    kernels::copy_rows_on_device(step_q_.as(), width, q + l * width, L * width, width, n, stream);
    kernels::copy_rows_on_device(step_lse_.as(), Hq * 4, lse + l * Hq, L * Hq * 4, Hq * 4, n, stream);
    add(l, step_q_.as(), step_lse_.as<float>(), first, n, sim::device_view(cache, l), stream);
  }
}

void DeviceSummaries::sequence_done(std::int64_t sequence, DeviceStream stream) {
  if (sequence != sequence_ || (!extras_.maps && !extras_.statistics)) return;
  kernels::record_event(ready_, stream);
  const DeviceStream copy = spool_.copy_stream();
  kernels::wait_event(copy, ready_);
  const std::int64_t Hq = card_.query_heads, D = card_.head_dim, cells = Hq * stride_;
  for (std::int64_t l = 0; l < card_.layers; ++l) {
    if (extras_.maps) {
      std::byte* to = spool_.reserve(2 * cells * 4);
      kernels::copy_to_host(to, map_max_.as<float>() + l * cells, cells * 4, copy);
      kernels::copy_to_host(to + cells * 4, map_sum_.as<float>() + l * cells, cells * 4, copy);
      spool_.submit([this, to, sequence, l, cells, Hq, stride = stride_] {
        const auto* maps = reinterpret_cast<const float*>(to);
        recorder_.pooled_map(sequence, l, {maps, {Hq, stride}}, {maps + cells, {Hq, stride}});
      });
    }
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      const Part& part = parts_[p];
      if (part.n == 0) continue;
      std::byte* to = spool_.reserve(moment_values() * 8);
      kernels::copy_to_host(to, part.sums.as<double>() + l * moment_values(), moment_values() * 8, copy);
      const std::int64_t segment = p + 1 == parts_.size() ? -1 : static_cast<std::int64_t>(p);
      spool_.submit([this, to, sequence, l, segment, n = part.n, Hq, D] {
        const auto* mean = reinterpret_cast<const double*>(to);
        const double* modulus = mean + Hq * D;
        recorder_.query_moments(sequence, l, segment, n, mean, modulus, modulus + Hq * (D / 2));
      });
    }
  }
  sequence_ = -1;
}

}  // namespace kvgrind::replay
