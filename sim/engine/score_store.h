// Scores of a cache that no policy has touched: the same whatever the amount, so the runs of one sequence share them.
// Thread-safe. What was not used for longest goes first when the limit is passed.
#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

class ScoreStore {
 public:
  using Scores = std::shared_ptr<const std::vector<Columns>>;  // [L · heads]

  static constexpr std::int64_t usual_limit_bytes = 64ll << 20;
  explicit ScoreStore(std::int64_t limit_bytes = usual_limit_bytes) : limit_bytes_(limit_bytes) {}

  Scores find(const std::string& key);  // null when not there
  // The first to come stays; what alone passes the limit is not kept.
  void keep(const std::string& key, std::vector<Columns> scores);
  std::int64_t bytes() const;

 private:
  struct Entry {
    std::string key;
    Scores scores;
    std::int64_t bytes = 0;
  };
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // last used in front
  std::unordered_map<std::string, std::list<Entry>::iterator> places_;
  std::int64_t limit_bytes_, bytes_ = 0;
};

}  // namespace kvgrind::sim
