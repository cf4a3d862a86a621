#include "gui/models/view_input.h"

#include "core/error.h"
#include "gui/models/table.h"

namespace kvgrind::gui {

const char* head_order_name(HeadOrder order) {
  constexpr const char* names[] = {"layer", "entropy", "sink", "recall"};
  return names[static_cast<std::size_t>(order)];
}

std::string job_name(const std::string& policy, const std::string& budget) {
  try {
    const sim::Amount amount = sim::parse_amount(budget);
    if (amount.kind == sim::Amount::Kind::fraction) return policy + ", " + number(100 * amount.value) + " % kept";
  } catch (const Error&) {
  }
  return policy + ", " + budget + " kept";
}

std::string job_key(const std::string& policy, const std::string& budget) {
  try {
    return policy + "@" + sim::parse_amount(budget).text();
  } catch (const Error&) {  // such as "removed 0.8" of a result
    return policy + "@" + budget;
  }
}

const traces::SequenceInfo* sequence_of(const ViewInput& input) {
  if (!input.session) return nullptr;
  for (const traces::SequenceInfo& info : input.session->run().sequences())
    if (info.id == input.at.sequence) return &info;
  return nullptr;
}

Limits limits_of(const ViewInput& input) {
  Limits out;
  if (!input.session) return out;
  const ModelCard& card = input.session->run().card();
  out.layers = card.layers;
  out.query_heads = card.query_heads;
  out.kv_heads = card.kv_heads;
  for (const traces::SequenceInfo& info : input.session->run().sequences()) {
    out.sequences.push_back(info.id);
    if (info.id == input.at.sequence) out.tokens = info.tokens;
  }
  return out;
}

}  // namespace kvgrind::gui
