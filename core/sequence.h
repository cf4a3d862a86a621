// Tokens with roles: what is fed to a model, and what a trace says of it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvgrind {

enum class Role : std::uint8_t { system, context, question, answer, generated };
std::string_view role_name(Role role);
std::optional<Role> role_from_name(std::string_view name);

// Token positions [begin, end).
struct Segment {
  Role role = Role::context;
  std::int64_t begin = 0, end = 0;
  bool operator==(const Segment&) const = default;
};

struct Span {
  std::string kind;   // needle | sentence | turn | answer | …
  std::int64_t begin = 0, end = 0;
  std::string label;  // free text, may be empty
  bool operator==(const Span&) const = default;
};

// One sequence as given to a recorder or an evaluation. A fork continues its parent's cache at `fork_at`: its own ids
// begin at that position. Positions in segments and spans are absolute.
struct TokenSequence {
  std::vector<std::int32_t> ids;  // own tokens only
  std::vector<Segment> segments;
  std::vector<Span> spans;
  std::int64_t parent = -1;       // index of the parent sequence, −1 = none
  std::int64_t fork_at = 0;       // position of ids[0]; 0 without a parent
  std::int64_t decode = 0;        // tokens to generate after ids
};

}  // namespace kvgrind
