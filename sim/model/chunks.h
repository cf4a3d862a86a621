// A long feed in chunks. They end at absolute multiples of 64 tokens, so that blocks of 64 queries stay whole wherever
// the feed starts; the logits are those of one pass.
#pragma once
#include <algorithm>
#include <cassert>

#include "sim/model/runtime.h"

namespace kvgrind::sim {

// run(const Feed&) gives the logits of one part [wanted, vocab].
template <class Run>
Array<float, 2> run_in_chunks(const Feed& feed, std::int64_t chunk, std::int64_t vocab, Run&& run) {
  assert(chunk > 0);
  chunk = (chunk + 63) / 64 * 64;
  const auto n = static_cast<std::int64_t>(feed.ids.size());
  Array<float, 2> logits({static_cast<std::int64_t>(feed.logits_of.size()), vocab});
  for (std::int64_t begin = 0; begin < n;) {
    const std::int64_t end = std::min(n, ((feed.first + begin) / chunk + 1) * chunk - feed.first);
    Feed part = feed;
    part.first = feed.first + begin;
    part.ids = feed.ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    part.logits_of.clear();
    std::vector<std::int64_t> into;
    for (std::size_t i = 0; i < feed.logits_of.size(); ++i)
      if (feed.logits_of[i] >= begin && feed.logits_of[i] < end) {
        part.logits_of.push_back(feed.logits_of[i] - begin);
        into.push_back(static_cast<std::int64_t>(i));
      }
    const Array<float, 2> got = run(part);
    for (std::size_t i = 0; i < into.size(); ++i)
      std::copy_n(got.data() + static_cast<std::int64_t>(i) * vocab, vocab, logits.data() + into[i] * vocab);
    begin = end;
  }
  return logits;
}

}  // namespace kvgrind::sim
