#include "replay/look/head_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/error.h"

namespace kvgrind::replay {

std::int64_t HeadData::bytes() const {
  return (q.size() + k.size() + static_cast<std::int64_t>(lse.size())) * 4 +
         static_cast<std::int64_t>(position.size()) * 8;
}

void check_head(const RecordedRun& run, std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                const char* doing) {
  const ModelCard& card = run.card();
  (void)find_sequence(run, sequence);
  if (layer >= 0 && layer < card.layers && query_head >= 0 && query_head < card.query_heads) return;
  throw Error(Category::usage,
              {.doing = doing,
               .on = fmt::format("sequence {}", sequence),
               .found = fmt::format("layer {}, query head {}", layer, query_head),
               .expected = fmt::format("layers below {}, query heads below {}", card.layers, card.query_heads)});
}

std::shared_ptr<const HeadData> HeadCache::get(const RecordedRun& run, std::int64_t sequence, std::int64_t layer,
                                               std::int64_t query_head, const CancelToken& cancel) {
  const Key key{sequence, layer, query_head};
  {
    const std::lock_guard lock(mutex_);
    const auto it = std::find_if(used_.begin(), used_.end(), [&](const auto& entry) { return entry.first == key; });
    if (it != used_.end()) {
      used_.splice(used_.begin(), used_, it);
      return used_.front().second;
    }
  }
  check_head(run, sequence, layer, query_head, "reading a head");
  auto data = std::make_shared<HeadData>();
  // The file is read by one thread at a time anyway, and a wait for it must not outlast cancelling.
  const auto read = [&](auto&& piece) {
    std::unique_lock<std::timed_mutex> turn(reading_, std::defer_lock);
    while (!turn.try_lock_for(std::chrono::milliseconds(10))) cancel.throw_if_cancelled();
    cancel.throw_if_cancelled();
    return piece();
  };
  traces::RecordedQueries queries = read([&] { return run.queries(sequence, layer, query_head); });
  data->position = std::move(queries.position);
  data->q = std::move(queries.q);
  data->k = read([&] { return run.keys(sequence, layer, query_head / run.card().group()); });
  const Array<float, 2> all = read([&] { return run.lse(sequence, layer); });
  data->lse.resize(static_cast<std::size_t>(all.extent(0)));
  for (std::int64_t t = 0; t < all.extent(0); ++t) data->lse[static_cast<std::size_t>(t)] = all(t, query_head);

  const std::lock_guard lock(mutex_);
  for (const auto& [other, kept] : used_)
    if (other == key) return kept;  // another caller was faster
  used_.emplace_front(key, std::move(data));
  std::int64_t total = 0;
  for (auto it = used_.begin(); it != used_.end();) {
    total += it->second->bytes();
    it = total > limit_ && it != used_.begin() ? used_.erase(it) : std::next(it);
  }
  return used_.front().second;
}

std::int64_t HeadCache::bytes() const {
  const std::lock_guard lock(mutex_);
  std::int64_t total = 0;
  for (const auto& entry : used_) total += entry.second->bytes();
  return total;
}

}  // namespace kvgrind::replay
