#include "sim/engine/base_amount.h"

#include <algorithm>
#include <cmath>

namespace kvgrind::sim {

BaseAmount base_amount(const Amount& amount, std::int64_t tokens, const ModelCard& card, std::int64_t heads) {
  const auto n = static_cast<double>(tokens);
  BaseAmount out;
  switch (amount.kind) {
    case Amount::Kind::fraction:
      out.real = n * amount.value;
      out.tokens = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(out.real + 1e-9)));
      break;
    case Amount::Kind::removed:
      out.real = n * (1 - amount.value);
      out.tokens = static_cast<std::int64_t>(out.real);
      break;
    case Amount::Kind::tokens:
      out.real = amount.value;
      out.tokens = static_cast<std::int64_t>(amount.value);
      break;
    case Amount::Kind::bytes: {
      const double token_bytes = static_cast<double>(card.kv_bytes_per_token_group());
      out.real = amount.value / (token_bytes * static_cast<double>(card.layers * heads));
      out.tokens = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(out.real + 1e-9)));
      break;
    }
  }
  return out;
}

}  // namespace kvgrind::sim
