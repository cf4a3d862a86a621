// Amounts of a budget: 0.2, 20%, 512t, 64MiB.
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "core/error.h"
#include "sim/engine/policy.h"

namespace kvgrind::sim {
namespace {

[[noreturn]] void wrong(std::string_view text, const std::string& expected) {
  throw Error(Category::usage, {.doing = "reading budget",
                                .found = fmt::format("\"{}\"", text),
                                .expected = expected,
                                .next = "a budget is what is kept"});
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

double bytes_of(std::string_view unit) {
  if (unit == "B") return 1;
  if (unit == "KiB") return 1024.0;
  if (unit == "MiB") return 1024.0 * 1024.0;
  if (unit == "GiB") return 1024.0 * 1024.0 * 1024.0;
  if (unit == "KB") return 1e3;
  if (unit == "MB") return 1e6;
  if (unit == "GB") return 1e9;
  return 0;
}

}  // namespace

std::string Amount::text() const {
  switch (kind) {
    case Kind::fraction:
      return number_text(value);
    case Kind::tokens:
      return number_text(value) + "t";
    case Kind::bytes:
      return number_text(value) + "B";
    case Kind::removed:
      return "removed " + number_text(value);
  }
  return "";
}

Amount parse_amount(std::string_view given) {
  const std::string_view text = trimmed(given);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value)) wrong(given, "a share (0.2, 20%), tokens (512t) or bytes (64MiB)");
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (unit.empty() || unit == "%") {
    const double share = unit.empty() ? value : value / 100.0;
    if (!(share > 0 && share <= 1))
      wrong(given, unit.empty() && value >= 1 ? fmt::format("a share from 0 to 1, or tokens: {}t", text)
                                              : std::string("a share above 0 and at most 1"));
    return {Amount::Kind::fraction, share};
  }
  if (unit == "t") {
    if (value < 1 || value != std::floor(value) || value > 1e15) wrong(given, "a whole number of tokens, at least 1");
    return {Amount::Kind::tokens, value};
  }
  const double factor = bytes_of(unit);
  if (factor == 0) wrong(given, "a unit of t, %, B, KiB, MiB, GiB, KB, MB or GB");
  if (!(value > 0) || value * factor > 1e18) wrong(given, "a positive number of bytes");
  return {Amount::Kind::bytes, value * factor};
}

std::vector<Amount> parse_amounts(std::string_view text) {
  std::vector<Amount> out;
  while (true) {
    const std::size_t comma = text.find(',');
    out.push_back(parse_amount(text.substr(0, comma)));
    if (comma == std::string_view::npos) return out;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace kvgrind::sim
