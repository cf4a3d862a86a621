// What a JSON value is, in the words of messages.
#pragma once
#include <string>

#include "core/json.h"

namespace kvgrind {

std::string json_words(const json::value& value);  // "a text", "the number 3", "null"

}  // namespace kvgrind
