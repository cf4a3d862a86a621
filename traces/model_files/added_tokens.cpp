#include "traces/model_files/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "traces/model_files/step_keys.h"
#include "traces/model_files/unicode.h"

namespace kvgrind::traces {
namespace {

using unicode::Character;
using unicode::character_at;

// Start of the last character that ends before `end`.
std::size_t before(std::string_view text, std::size_t end) {
  for (std::size_t size = std::min<std::size_t>(4, end); size > 1; --size)  // its tail alone would be stray bytes
    if (character_at(text, end - size).size_bytes == size) return end - size;
  return end - 1;
}

bool word_before(std::string_view text, std::size_t at) {
  return at > 0 && unicode::is_word(character_at(text, before(text, at)).code);
}
bool word_after(std::string_view text, std::size_t at) {
  return at < text.size() && unicode::is_word(character_at(text, at).code);
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const json::value* node, std::string_view what) {
  std::vector<AddedToken> tokens;
  if (node == nullptr || node->is_null()) return tokens;
  static const json::object nothing;
  if (!node->is_array()) ConfigKeys(nothing, what).refuse("added_tokens", "no list", "a list");
  if (node->get_array().size() > 100'000)
    ConfigKeys(nothing, what)
        .refuse("added_tokens", fmt::format("{} tokens", node->get_array().size()), "at most 100000");
  for (const json::value& entry : node->get_array()) {
    const ConfigKeys keys = step_keys(entry, what, "added_tokens");
    AddedToken token;
    token.id = static_cast<std::int32_t>(keys.whole("id", 0, max_vocab - 1));
    const auto content = keys.text("content");
    if (!content || content->size() > max_added_token_bytes)
      keys.refuse("content", content ? fmt::format("{} bytes", content->size()) : "nothing",
                  fmt::format("text of at most {} bytes", max_added_token_bytes));
    token.content = *content;
    token.single_word = keys.boolean_or("single_word", false);
    token.lstrip = keys.boolean_or("lstrip", false);
    token.rstrip = keys.boolean_or("rstrip", false);
    token.special = keys.boolean_or("special", false);
    token.normalized = keys.boolean_or("normalized", !token.special);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized,
                                   const Normalizer& normalizer) {
  std::fill(std::begin(first_), std::end(first_), -1);
  for (const AddedToken& token : tokens) {
    if (token.normalized != normalized) continue;
    tokens_.push_back(token);
    const std::string pattern = normalized ? normalizer.apply(token.content) : token.content;
    if (!pattern.empty()) insert(pattern, static_cast<std::int32_t>(tokens_.size()) - 1);
  }
}

std::int32_t AddedTokenFinder::step(std::int32_t node, unsigned char byte) const {
  if (node == 0) return first_[byte];
  for (const auto& [label, child] : nodes_[static_cast<std::size_t>(node)].next)
    if (label == byte) return child;
  return -1;
}

void AddedTokenFinder::insert(std::string_view pattern, std::int32_t token) {
  std::int32_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<unsigned char>(c);
    std::int32_t child = step(node, byte);
    if (child < 0) {
      child = static_cast<std::int32_t>(nodes_.size());
      nodes_.emplace_back();
      if (node == 0)
        first_[byte] = child;
      else
        nodes_[static_cast<std::size_t>(node)].next.emplace_back(byte, child);
    }
    node = child;
  }
  if (nodes_[static_cast<std::size_t>(node)].token < 0) nodes_[static_cast<std::size_t>(node)].token = token;
}

std::vector<Stretch> AddedTokenFinder::find(std::string_view text) const {
  std::vector<Stretch> found;
  std::size_t done = 0;  // everything before is in `found` or swallowed
  for (std::size_t at = 0; at < text.size();) {
    std::int32_t node = 0, token = -1;
    std::size_t match_end = at;
    for (std::size_t i = at; i < text.size(); ++i) {
      node = step(node, static_cast<unsigned char>(text[i]));
      if (node < 0) break;
      if (nodes_[static_cast<std::size_t>(node)].token >= 0) {
        token = nodes_[static_cast<std::size_t>(node)].token;
        match_end = i + 1;
      }
    }
    if (token < 0) {
      ++at;
      continue;
    }
    const AddedToken& added = tokens_[static_cast<std::size_t>(token)];
    std::size_t begin = at, end = match_end;
    at = match_end;
    if (added.single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (added.lstrip)
      while (begin > done && unicode::is_space(character_at(text, before(text, begin)).code))
        begin = before(text, begin);
    if (added.rstrip)
      while (end < text.size() && unicode::is_space(character_at(text, end).code))
        end += character_at(text, end).size_bytes;
    begin = std::max(begin, done);
    if (begin > done) found.push_back({done, begin, -1});
    found.push_back({begin, end, added.id});
    done = end;
    at = std::max(at, end);
  }
  if (done < text.size()) found.push_back({done, text.size(), -1});
  return found;
}

}  // namespace kvgrind::traces
