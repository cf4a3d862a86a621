// What may be typed next in a policy: presets, their parameters, slots, primitives, words.
#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "replay/session.h"
#include "sim/engine/methods.h"
#include "sim/engine/primitive.h"

namespace kvgrind::replay {
namespace {

// The name being typed at the end, and the call it stands in ("" outside of parentheses).
struct Place {
  std::string call, key, word, slot;
};

bool name_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-'; }

std::string name_before(const std::string& text, std::size_t end) {
  std::size_t begin = end;
  while (begin > 0 && name_char(text[begin - 1])) --begin;
  return text.substr(begin, end - begin);
}

Place place_of(const std::string& before) {
  Place out;
  std::size_t at = before.size();
  out.word = name_before(before, at);
  at -= out.word.size();
  if (at > 0 && before[at - 1] == '=') out.key = name_before(before, at - 1);
  int depth = 0;
  for (std::size_t i = at; i-- > 0;) {
    if (before[i] == ')') ++depth;
    if (before[i] == '(' && depth-- == 0) {
      out.call = name_before(before, i);
      const std::size_t name = i - out.call.size();
      if (name > 0 && before[name - 1] == '=') out.slot = name_before(before, name - 1);
      break;
    }
  }
  return out;
}

class Offers {
 public:
  explicit Offers(std::string word) : word_(std::move(word)) {}
  void add(std::string text, std::string help) {
    if (text.size() >= word_.size() && text.compare(0, word_.size(), word_) == 0)
      found_.push_back({std::move(text), std::move(help)});
  }
  std::vector<Completion> take() { return std::move(found_); }

 private:
  std::string word_;
  std::vector<Completion> found_;
};

std::string range_text(double low, double high) {
  if (low <= -1e299 && high >= 1e299) return "";
  if (high >= 1e299) return ", at least " + number_text(low);
  if (low <= -1e299) return ", at most " + number_text(high);
  return ", " + number_text(low) + " to " + number_text(high);
}

template <class Row>
void add_rows(Offers& offers, const std::vector<const Row*>& rows) {
  for (const Row* row : rows) offers.add(row->name, row->help);
}

void add_primitives(Offers& offers, const std::string& slot) {
  if (slot == "score") add_rows(offers, sim::score_rows());
  if (slot == "budget") add_rows(offers, sim::budget_rows());
  if (slot == "select") add_rows(offers, sim::select_rows());
  if (slot == "act") add_rows(offers, sim::act_rows());
  if (slot == "schedule") add_rows(offers, sim::schedule_rows());
  if (slot == "read") add_rows(offers, sim::read_rows());
}

void add_parameters(Offers& offers, const std::vector<sim::ParamRow>& params, const std::string& key) {
  for (const sim::ParamRow& row : params) {
    if (key.empty())
      offers.add(std::string(row.name) + "=", row.help + range_text(row.min, row.max));
    else if (key == row.name)
      for (const char* word : row.words) offers.add(word, row.help);
  }
}

template <class Row>
void add_parameters_of(Offers& offers, const std::vector<const Row*>& rows, const std::string& call,
                       const std::string& key) {
  for (const Row* row : rows)
    if (call == row->name) add_parameters(offers, row->params, key);
}

}  // namespace

std::string policy_fault(const std::string& policy, const std::string& budget) {
  try {
    (void)sim::bind_policy(policy);
    (void)sim::parse_amount(budget);
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

std::vector<Completion> complete_policy(const std::string& before) {
  const Place place = place_of(before);
  Offers offers(place.word);
  if (place.call.empty()) {
    if (place.key.empty()) {
      if (before.find('=') == std::string::npos)
        for (const sim::MethodCard& card : sim::method_cards()) {
          const json::value* help = card.data.if_contains("help");
          offers.add(card.name, help && help->is_string() ? std::string(help->get_string()) : "");
        }
      for (const char* slot : {"score", "budget", "select", "act", "schedule", "read"})
        if (before.find(std::string(slot) + "=") == std::string::npos)
          offers.add(std::string(slot) + "=", "slot of a line");
    } else {
      add_primitives(offers, place.key);
    }
    return offers.take();
  }
  for (const sim::MethodCard& card : sim::method_cards()) {
    if (card.name != place.call) continue;
    const sim::Method method = sim::read_method(card);
    for (const sim::Method::Parameter& parameter : method.parameters) {
      if (place.key.empty())
        offers.add(parameter.name + "=",
                   parameter.help + " (" + parameter.default_text + range_text(parameter.min, parameter.max) + ")");
      else if (place.key == parameter.name)
        for (const std::string& word : parameter.words) offers.add(word, parameter.help);
    }
    if (place.key.empty() && !method.like.empty()) offers.add("like=", "whose released form");
    if (place.key == "like")
      for (const sim::Method::Variant& variant : method.like) offers.add(variant.name, variant.help);
  }
  add_parameters_of(offers, sim::score_rows(), place.call, place.key);
  add_parameters_of(offers, sim::budget_rows(), place.call, place.key);
  add_parameters_of(offers, sim::select_rows(), place.call, place.key);
  add_parameters_of(offers, sim::act_rows(), place.call, place.key);
  add_parameters_of(offers, sim::schedule_rows(), place.call, place.key);
  add_parameters_of(offers, sim::read_rows(), place.call, place.key);
  return offers.take();
}

}  // namespace kvgrind::replay
