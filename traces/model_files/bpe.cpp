#include "traces/model_files/bpe.h"

#include <fmt/format.h>

#include <queue>

#include "traces/model_files/config_keys.h"
#include "traces/model_files/token_limits.h"
#include "traces/model_files/unicode.h"

namespace kvgrind::traces {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

// The two halves of a merge, written "a b" or ["a", "b"].
std::pair<std::string, std::string> halves(const json::value& merge, const ConfigKeys& keys) {
  if (merge.is_array() && merge.get_array().size() == 2 && merge.get_array()[0].is_string() &&
      merge.get_array()[1].is_string())
    return {std::string(merge.get_array()[0].get_string()), std::string(merge.get_array()[1].get_string())};
  if (merge.is_string()) {
    const std::string text(merge.get_string());
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && space > 0 && space + 1 < text.size() &&
        text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  keys.refuse("merges", json_text(merge).substr(0, 60), "\"a b\" or [\"a\", \"b\"]");
}

}  // namespace

Bpe::Bpe(const json::object& model, std::string_view what) {
  const ConfigKeys keys(model, what, "model/");
  const std::string type = keys.text("type").value_or(keys.find("merges") ? "BPE" : "nothing");
  if (type != "BPE") keys.refuse("type", type.substr(0, 60), "BPE", other_tokenizers);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const std::string affix = keys.text(key).value_or(""); !affix.empty())
      keys.refuse(key, affix.substr(0, 60), "none (not supported)", other_tokenizers);
  if (keys.number_or("dropout", 0.0) != 0.0) keys.refuse("dropout", "dropout", "none: encoding must be repeatable");
  byte_fallback_ = keys.boolean_or("byte_fallback", false);
  fuse_unknown_ = keys.boolean_or("fuse_unk", false);
  ignore_merges_ = keys.boolean_or("ignore_merges", false);
  read_vocab(model, what);
  read_merges(model, what);
  if (const auto unknown = keys.text("unk_token")) {
    unknown_ = find(*unknown);
    if (unknown_ < 0) keys.refuse("unk_token", unknown->substr(0, 60), "a token of the vocabulary");
  }
  for (int byte = 0; byte < 256; ++byte)
    byte_token_[static_cast<std::size_t>(byte)] = find(fmt::format("<0x{:02X}>", byte));
}

void Bpe::read_vocab(const json::object& model, std::string_view what) {
  const ConfigKeys keys(model, what, "model/");
  const json::value* vocab = keys.find("vocab");
  if (vocab == nullptr || !vocab->is_object()) keys.refuse("vocab", "no object", "ids by token");
  if (static_cast<std::int64_t>(vocab->get_object().size()) > max_vocab)
    keys.refuse("vocab", fmt::format("{} tokens", vocab->get_object().size()), fmt::format("at most {}", max_vocab));
  std::vector<bool> taken(static_cast<std::size_t>(max_vocab), false);
  vocab_.reserve(vocab->get_object().size());
  for (const auto& [key, id] : vocab->get_object()) {
    const std::string token(key);
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= max_vocab)
      keys.refuse("vocab/" + token.substr(0, 60), json_text(id).substr(0, 60),
                  fmt::format("an id below {}", max_vocab));
    const auto number = static_cast<std::int32_t>(id.get_int64());
    if (taken[static_cast<std::size_t>(number)])
      keys.refuse("vocab/" + token.substr(0, 60), fmt::format("id {} a second time", number), "one token an id");
    taken[static_cast<std::size_t>(number)] = true;
    vocab_.emplace(token, number);
    max_id_ = std::max(max_id_, number);
  }
}

void Bpe::read_merges(const json::object& model, std::string_view what) {
  const ConfigKeys keys(model, what, "model/");
  const json::value* merges = keys.find("merges");
  if (merges == nullptr || !merges->is_array()) keys.refuse("merges", "no list", "pairs of tokens");
  merges_.reserve(merges->get_array().size());
  std::int32_t rank = 0;
  for (const json::value& merge : merges->get_array()) {
    const auto [left, right] = halves(merge, keys);
    const std::int32_t l = find(left), r = find(right), whole = find(left + right);
    if (l < 0 || r < 0 || whole < 0)
      keys.refuse(fmt::format("merges/{}", rank), fmt::format("{} + {}", left.substr(0, 60), right.substr(0, 60)),
                  "both halves and the whole in the vocabulary");
    merges_.insert_or_assign(pair_key(l, r), Merge{rank, whole});
    ++rank;
  }
}

std::int32_t Bpe::find(std::string_view token) const {
  const auto found = vocab_.find(std::string(token));
  return found == vocab_.end() ? -1 : found->second;
}

const Bpe::Merge* Bpe::find_merge(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// One id a character; characters outside the vocabulary become their bytes' tokens, or the unknown token (a run of
// them one token when fused), or nothing where the file has neither.
void Bpe::spell(std::string_view piece, std::vector<std::int32_t>& ids) const {
  bool last_unknown = false;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t size = unicode::character_at(piece, at).size_bytes;
    const std::string_view character = piece.substr(at, size);
    at += size;
    if (const std::int32_t id = find(character); id >= 0) {
      ids.push_back(id);
      last_unknown = false;
      continue;
    }
    if (byte_fallback_) {
      bool all = true;
      for (const char c : character) all = all && byte_token_[static_cast<unsigned char>(c)] >= 0;
      if (all) {
        for (const char c : character) ids.push_back(byte_token_[static_cast<unsigned char>(c)]);
        last_unknown = false;
        continue;
      }
    }
    if (unknown_ >= 0 && !(last_unknown && fuse_unknown_)) ids.push_back(unknown_);
    last_unknown = true;
  }
}

void Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (ignore_merges_)
    if (const std::int32_t id = find(piece); id >= 0) {
      ids.push_back(id);
      return;
    }
  struct Symbol {
    std::int32_t id, previous, next;  // neighbours by index, −1 = none; id −1 = merged away
  };
  struct Candidate {
    std::int32_t rank, left, id;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
  };
  std::vector<std::int32_t> spelt;
  spell(piece, spelt);
  const auto n = static_cast<std::int32_t>(spelt.size());
  std::vector<Symbol> symbols(spelt.size());
  for (std::int32_t i = 0; i < n; ++i)
    symbols[static_cast<std::size_t>(i)] = {spelt[static_cast<std::size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1};
  const auto symbol = [&](std::int32_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::int32_t left) {
    if (left < 0 || symbol(left).next < 0) return;
    if (const Merge* merge = find_merge(symbol(left).id, symbol(symbol(left).next).id))
      queue.push({merge->rank, left, merge->id});
  };
  for (std::int32_t i = 0; i + 1 < n; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbol(best.left);
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbol(left.next);
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;  // stale: one side has changed since
    left.id = best.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbol(left.next).previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (const Symbol& s : symbols)
    if (s.id >= 0) ids.push_back(s.id);
}

}  // namespace kvgrind::traces
