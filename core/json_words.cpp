#include "core/json_words.h"

namespace kvgrind {

std::string json_words(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "true or false";
    case json::kind::string:
      return "a text";
    case json::kind::array:
      return "a list";
    case json::kind::object:
      return "an object";
    default:
      return "the number " + json_text(value);
  }
}

}  // namespace kvgrind
