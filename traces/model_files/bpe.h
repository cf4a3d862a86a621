// Byte-pair encoding: a vocabulary, ranked merges, and how a piece without any is spelt.
//   source: huggingface/tokenizers, models/bpe
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/json.h"

namespace kvgrind::traces {

class Bpe {
 public:
  // The object "model" of tokenizer.json. Throws Error(damaged) naming what is wrong.
  Bpe(const json::object& model, std::string_view what);

  // Appends the ids of a piece. White box: lowest rank first, leftmost on ties, as if merging by hand.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

  std::int32_t find(std::string_view token) const;  // −1 = not in the vocabulary
  std::int64_t max_id() const { return max_id_; }
  const std::unordered_map<std::string, std::int32_t>& vocab() const { return vocab_; }
  bool byte_fallback() const { return byte_fallback_; }

 private:
  struct Merge {
    std::int32_t rank = 0, id = 0;
  };
  void read_vocab(const json::object& model, std::string_view what);
  void read_merges(const json::object& model, std::string_view what);
  void spell(std::string_view piece, std::vector<std::int32_t>& ids) const;
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;

  std::unordered_map<std::string, std::int32_t> vocab_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // left id << 32 | right id
  std::array<std::int32_t, 256> byte_token_{};       // of "<0x00>" … "<0xFF>", −1 = none
  std::int32_t max_id_ = -1, unknown_ = -1;
  bool byte_fallback_ = false, fuse_unknown_ = false, ignore_merges_ = false;
};

}  // namespace kvgrind::traces
