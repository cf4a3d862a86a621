// The policy grammar (text level only): lines, calls, values. What names mean is bound by sim/engine/policy.h.
//   line = slot { slot }        slot = key "=" call        key = score|budget|select|act|schedule|read
//   call = name [ "(" [ arg { "," arg } ] ")" ]            arg = key "=" value; a bare [list] is of=[list]
//   value = number | unit | word | string | call | "[" value { "," value } "]"     unit = 512t | 64MiB | 0.2
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace kvgrind {

struct Call;

struct Value {
  struct Number { double value; bool operator==(const Number&) const = default; };
  struct Unit { double value; std::string unit; bool operator==(const Unit&) const = default; };  // t, B, KiB, MiB, GiB, KB, MB, GB
  struct Word { std::string text; bool operator==(const Word&) const = default; };                // bare word
  struct String { std::string text; bool operator==(const String&) const = default; };            // "quoted"
  using List = std::vector<Value>;

  std::variant<Number, Unit, Word, String, List, std::shared_ptr<const Call>> data;
  std::size_t column = 0;  // where it stood, for messages

  bool operator==(const Value& other) const;
};

struct Argument {
  std::string key;
  Value value;
  std::size_t column = 0;
};

struct Call {
  std::string name;
  std::vector<Argument> arguments;
  std::size_t column = 0;
};

struct PolicyLine {
  std::vector<std::pair<std::string, Call>> slots;  // key, call; as written
};

// One call ("snapkv(window=32)") or a whole line; Error(usage) with the column and a caret on what is wrong.
Call parse_call(std::string_view text);
PolicyLine parse_policy_line(std::string_view text);
bool looks_like_line(std::string_view text);  // has a top-level "key="; else a preset call

// Shortest round-trip text of a number: 0.2, 32, 1e-05.
std::string number_text(double value);
std::string value_text(const Value& value);
std::string call_text(const Call& call);

// "\n  text\n     ^" with the caret below the byte at `column` (from 0), for messages.
std::string caret_text(std::string_view text, std::size_t column);

// Nearest of `names` by edit distance, empty if none is near: for "did you mean".
std::string nearest_name(std::string_view name, const std::vector<std::string>& names);

}  // namespace kvgrind
