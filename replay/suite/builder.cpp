#include "replay/suite/builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "core/error.h"

namespace kvgrind::replay {
namespace {

constexpr std::array<std::string_view, 40> adjectives = {
    "amber",   "ancient", "bitter", "blue",   "brave",   "bright", "broken", "calm",   "clever", "cold",
    "crimson", "curious", "dark",   "deep",   "distant", "dusty",  "eager",  "early",  "elder",  "empty",
    "faint",   "fierce",  "gentle", "golden", "green",   "hidden", "hollow", "honest", "icy",    "iron",
    "jolly",   "late",    "lonely", "merry",  "misty",   "narrow", "noble",  "pale",   "proud",  "quiet"};
constexpr std::array<std::string_view, 48> noun_list = {
    "anchor",  "apple",  "arrow",  "badger", "beacon", "bell",     "bridge", "candle", "castle",   "cedar",
    "cloud",   "coast",  "crown",  "dancer", "desert", "eagle",    "falcon", "forest", "fountain", "garden",
    "glacier", "hammer", "harbor", "hawk",   "island", "jewel",    "kettle", "ladder", "lantern",  "lemon",
    "lion",    "maple",  "market", "mirror", "moon",   "mountain", "needle", "ocean",  "orchard",  "owl",
    "palace",  "pearl",  "pilot",  "planet", "queen",  "raven",    "ribbon", "river"};

}  // namespace

std::int64_t Chooser::below(std::int64_t n) {
  key_.name = name_;
  return static_cast<std::int64_t>(random_bits(key_, draws_++) % static_cast<std::uint64_t>(n));
}

std::string Chooser::digits(int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += static_cast<char>('0' + below(10));
  return out;
}

std::vector<std::int64_t> Chooser::distinct(std::int64_t n, std::int64_t count) {
  std::set<std::int64_t> chosen;
  while (static_cast<std::int64_t>(chosen.size()) < std::min(n, count)) chosen.insert(below(n));
  return {chosen.begin(), chosen.end()};
}

std::vector<std::string> word_pairs(Chooser& chooser, std::int64_t count, std::string_view joint) {
  std::vector<std::string> out;
  std::set<std::string> seen;
  while (static_cast<std::int64_t>(out.size()) < count) {
    std::string pair = fmt::format("{}{}{}", adjectives[static_cast<std::size_t>(chooser.below(adjectives.size()))],
                                   joint, noun_list[static_cast<std::size_t>(chooser.below(noun_list.size()))]);
    if (seen.insert(pair).second) out.push_back(std::move(pair));
  }
  return out;
}

std::vector<std::string> nouns(Chooser& chooser, std::int64_t count) {
  std::vector<std::string> out;
  std::set<std::int64_t> seen;
  while (static_cast<std::int64_t>(out.size()) < count) {
    const std::int64_t i = chooser.below(noun_list.size());
    if (seen.insert(i).second || seen.size() == noun_list.size())
      out.emplace_back(noun_list[static_cast<std::size_t>(i)]);
  }
  return out;
}

std::vector<std::int32_t> plain_ids(const traces::Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, false);
}

std::vector<std::int32_t> haystack_ids(Chooser& chooser, const traces::Tokenizer& tokenizer, std::string_view haystack,
                                       std::int64_t tokens) {
  if (haystack.size() < 1000)
    throw Error(Category::usage, {.doing = "making a suite",
                                  .found = fmt::format("a haystack of {} bytes", haystack.size()),
                                  .expected = "at least 1000 bytes of running text"});
  auto at = static_cast<std::size_t>(chooser.below(static_cast<std::int64_t>(haystack.size())));
  while (at < haystack.size() && haystack[at] != ' ') ++at;
  std::vector<std::int32_t> out;
  while (static_cast<std::int64_t>(out.size()) < tokens) {
    if (at >= haystack.size()) at = 0;
    // Pieces end before a space, so that joining the ids of pieces equals the ids of the joined text.
    std::size_t end = std::min(haystack.size(), at + static_cast<std::size_t>(tokens) * 6 + 64);
    while (end < haystack.size() && haystack[end] != ' ') ++end;
    const auto piece = plain_ids(tokenizer, haystack.substr(at, end - at));
    out.insert(out.end(), piece.begin(), piece.end());
    at = end;
  }
  out.resize(static_cast<std::size_t>(tokens));
  return out;
}

Mixed mix(Chooser& chooser, const traces::Tokenizer& tokenizer, std::string_view haystack, std::int64_t length,
          const std::vector<Insert>& inserts, bool keep_order) {
  const std::vector<std::int32_t> front = tokenizer.encode("", true);  // bos, where the model has one
  std::int64_t taken = static_cast<std::int64_t>(front.size());
  for (const Insert& insert : inserts) taken += static_cast<std::int64_t>(insert.ids.size());
  if (taken * 5 > length * 4)
    throw Error(Category::usage, {.doing = "making a suite",
                                  .found = fmt::format("{} tokens of inserts in a context of {}", taken, length),
                                  .expected = "at most 80 % of the context",
                                  .next = fmt::format("use a length of at least {}", (taken * 5 + 3) / 4)});
  const std::int64_t text_tokens = length - taken;
  const auto text = haystack_ids(chooser, tokenizer, haystack, text_tokens);
  const auto n = static_cast<std::int64_t>(inserts.size());
  const std::vector<std::int64_t> places = chooser.distinct(text_tokens, n);  // insert before that text token
  std::vector<std::int64_t> order(inserts.size());
  std::iota(order.begin(), order.end(), 0);
  if (!keep_order)
    for (std::int64_t i = n - 1; i > 0; --i)
      std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(chooser.below(i + 1))]);

  Mixed out;
  out.ids = front;
  out.spans.resize(inserts.size());
  std::size_t next = 0;
  for (std::int64_t t = 0; t < text_tokens; ++t) {
    while (next < places.size() && places[next] == t) {
      const auto which = static_cast<std::size_t>(order[next++]);
      const auto begin = static_cast<std::int64_t>(out.ids.size());
      out.ids.insert(out.ids.end(), inserts[which].ids.begin(), inserts[which].ids.end());
      out.spans[which] = {inserts[which].kind, begin, static_cast<std::int64_t>(out.ids.size()), inserts[which].label};
    }
    out.ids.push_back(text[static_cast<std::size_t>(t)]);
  }
  return out;
}

}  // namespace kvgrind::replay
