// A text file built into the program.
#pragma once
#include <string_view>
#include <vector>

namespace kvgrind {

struct EmbeddedText {
  std::string_view name;  // file name without its ending
  std::string_view text;
};

const std::vector<EmbeddedText>& embedded_methods();  // sim/methods/*.json

}  // namespace kvgrind
