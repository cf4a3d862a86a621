#include "core/sequence.h"

#include <array>

namespace kvgrind {
namespace {
constexpr std::array<std::string_view, 5> names = {"system", "context", "question", "answer", "generated"};
}
std::string_view role_name(Role role) { return names[static_cast<std::size_t>(role)]; }
std::optional<Role> role_from_name(std::string_view name) {
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<Role>(i);
  return std::nullopt;
}
}  // namespace kvgrind
