// The parameter by which a budget rounds as its mathematics says or as the released code does.
#pragma once
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {

inline ParamRow rounding_row(const char* help) {
  return {"rounding", ParamType::word, "exact", help, -1e300, 1e300, {"exact", "official"}};
}

}  // namespace kvgrind::sim::budgets
