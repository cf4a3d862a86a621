// A policy bound to primitives: every name resolved, every parameter with a value, canonical print and hash.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/calibration.h"
#include "core/json.h"
#include "core/policy_line.h"
#include "sim/engine/signals.h"
#include "sim/engine/slots.h"

namespace kvgrind::sim {

// exact: every group keeps what the amount says. at_most: no more than that. threshold: the method's own rule decides,
// the count may lie on either side of the amount. fixed: the amount is not used.
enum class CountClass : std::uint8_t { exact, at_most, threshold, fixed };
std::string_view count_class_name(CountClass count);

// How much is kept. `removed` hands the ratio to upstream's arithmetic: kept = int(n · (1 − ratio)) in binary64.
struct Amount {
  enum class Kind : std::uint8_t { fraction, tokens, bytes, removed } kind = Kind::fraction;
  double value = 1.0;
  std::string text() const;  // "0.2", "512t", "67108864B"; removed: "removed 0.8"
};
// "0.2", "512t", "64MiB", "20%". Error(usage) otherwise.
Amount parse_amount(std::string_view text);
std::vector<Amount> parse_amounts(std::string_view comma_separated);

struct MethodCard {  // one file of sim/methods; its keys are described in sim/engine/README.md
  std::string name;
  json::object data;  // source, tag, fidelity, count, full, deviations, parameters, like variants
};
// Checks the keys; `where` names the file. Error(damaged).
MethodCard parse_method_card(std::string_view text, std::string_view where);

class BoundPolicy;  // see sim/engine/bound_policy.h for its inside
using PolicyPtr = std::shared_ptr<const BoundPolicy>;

// `text` is a line or a preset call ("snapkv(window=32,like=kvpress)"). Error(usage) with the column, the nearest
// name and the choices.
PolicyPtr bind_policy(std::string_view text);
PolicyPtr bind_policy(std::string_view text, const std::vector<MethodCard>& own_methods);  // and users' own presets

// The policy with what was fitted for it. `find(method, name)` is asked for every calibrated parameter (name: the text
// in the line, may be empty) and may return null. A calibration's hash takes the place of its name in the canonical
// line.
using FindCalibration =
    std::function<std::shared_ptr<const Calibration>(const std::string& method, const std::string& name)>;
PolicyPtr with_calibrations(const PolicyPtr& policy, const FindCalibration& find);
std::vector<std::string> needed_calibrations(const BoundPolicy& policy);  // methods of kvgrind fit
// Error(usage): one is missing, or was fitted for another model.
void check_calibrations(const BoundPolicy& policy, const ModelCard& card);

const std::string& canonical_line(const BoundPolicy& policy);  // the identity; without amount and seed
std::string policy_hash(const BoundPolicy& policy);            // 16 hex digits of the canonical line
const std::string& typed_text(const BoundPolicy& policy);      // as typed
CountClass count_class(const BoundPolicy& policy);
// Of a preset that needs the closed loop: what the open loop approximates. Empty otherwise.
const std::string& approximated(const BoundPolicy& policy);
std::vector<Signal> needed_signals(const BoundPolicy& policy);
bool one_shot(const BoundPolicy& policy);                         // decides once, at the compression moment
bool needs_steps(const BoundPolicy& policy);                      // must see every later token one at a time
bool reads_all(const BoundPolicy& policy);                        // every query reads every slot
std::int64_t wanted_chunk(const BoundPolicy& policy);             // tokens of a prefill chunk it must see; 0 = any
Granularity cache_granularity(const BoundPolicy& policy);         // of the CacheState that it needs
std::optional<Amount> amount_in_line(const BoundPolicy& policy);  // budget=uniform(keep=0.2); not part of the identity

std::vector<MethodCard> method_cards();  // all presets, by name
std::vector<std::string> preset_names();

}  // namespace kvgrind::sim
