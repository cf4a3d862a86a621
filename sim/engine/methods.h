// A preset as read from its data file, and its expansion to a line.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/policy_line.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim {

struct Method {
  struct Parameter {
    std::string name;
    ParamType type = ParamType::integer;
    std::string default_text, help;
    double min = -1e300, max = 1e300;
    std::vector<std::string> words;
  };
  struct Variant {  // like=…; the first is the default
    std::string name, help;
    std::map<std::string, std::string> defaults;  // that differ from the parameters' own
  };
  struct Line {  // the first whose conditions (parameter or like → value) hold
    std::map<std::string, std::string> when;
    std::string text;  // with {parameter}
  };
  std::string name;
  std::vector<Parameter> parameters;
  std::vector<Variant> like;
  std::vector<Line> lines;
  CountClass count = CountClass::exact;
  std::string open_loop;  // what the open loop approximates, of methods that need the closed one
  std::string identity;   // of a fixed count: parameters that turn the method off ("stride=1"), may be empty
};

Method read_method(const MethodCard& card);  // Error(damaged)
// How a card's "protocol" begins: when the paper's own tables compress, as far as the sources that were read say; what
// follows a colon says by what that is known.
const std::vector<std::string>& protocol_words();
// The line of a call; Error(usage) with a caret in `whole`.
std::string expand(const Method& method, const Call& call, std::string_view whole);

}  // namespace kvgrind::sim
