// A preset as its card says that it does nothing at full budget: those of a fixed size by parameters of their own.
#pragma once
#include <string>

#include "sim/engine/methods.h"
#include "sim/engine/policy.h"

namespace kvgrind::tests {

inline std::string turned_off(const sim::MethodCard& card) {
  const std::string identity = sim::read_method(card).identity;
  return identity.empty() ? card.name : card.name + "(" + identity + ")";
}

}  // namespace kvgrind::tests
