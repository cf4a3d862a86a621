#include "sim/engine/score_store.h"

namespace kvgrind::sim {
namespace {

std::int64_t bytes_of(const std::vector<Columns>& scores) {
  std::int64_t values = 0;
  for (const Columns& one : scores) {
    values += static_cast<std::int64_t>(one.s.size());
    for (const auto& [name, column] : one.extra) values += static_cast<std::int64_t>(column.size());
  }
  return values * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

ScoreStore::Scores ScoreStore::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto it = places_.find(key);
  if (it == places_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, it->second);
  return it->second->scores;
}

void ScoreStore::keep(const std::string& key, std::vector<Columns> scores) {
  const std::int64_t bytes = bytes_of(scores);
  if (bytes > limit_bytes_) return;
  auto shared = std::make_shared<const std::vector<Columns>>(std::move(scores));
  const std::lock_guard lock(mutex_);
  if (places_.contains(key)) return;
  while (bytes_ + bytes > limit_bytes_) {
    bytes_ -= entries_.back().bytes;
    places_.erase(entries_.back().key);
    entries_.pop_back();
  }
  entries_.push_front({key, std::move(shared), bytes});
  places_.emplace(key, entries_.begin());
  bytes_ += bytes;
}

std::int64_t ScoreStore::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace kvgrind::sim
