#include "replay/report/trust.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "replay/record/prompts.h"

namespace kvgrind::replay {
namespace {

constexpr std::string_view schema = "kvgrind.trust/1";
constexpr std::int64_t largest_bytes = 16 << 20;
constexpr double clearly_better = 0.02;  // Spearman: from here on another figure is worth naming

[[noreturn]] void damaged(std::string_view where, std::string found, std::string expected) {
  throw Error(Category::damaged, {.doing = "reading a trust file",
                                  .on = std::string(where),
                                  .found = std::move(found),
                                  .expected = std::move(expected),
                                  .next = "kvgrind validate writes one"});
}

const json::value& at(const json::object& from, const char* key, std::string_view where) {
  const json::value* value = from.if_contains(key);
  if (!value) damaged(where, fmt::format("no key {}", key), "it");
  return *value;
}

std::string text(const json::object& from, const char* key, std::string_view where) {
  const json::value& value = at(from, key, where);
  if (!value.is_string()) damaged(where, fmt::format("{}: {}", key, json_text(value)), "a text");
  return std::string(value.as_string());
}

double number(const json::object& from, const char* key, std::string_view where) {
  const json::value& value = at(from, key, where);
  if (value.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (!value.is_number()) damaged(where, fmt::format("{}: {}", key, json_text(value)), "a number or null");
  return value.to_number<double>();
}

const json::object& object(const json::value& value, std::string_view where) {
  if (!value.is_object()) damaged(where, json_text(value).substr(0, 40), "an object");
  return value.get_object();
}

const json::array& list(const json::object& from, const char* key, std::string_view where) {
  const json::value& value = at(from, key, where);
  if (!value.is_array()) damaged(where, fmt::format("{} that is no list", key), "a list");
  return value.get_array();
}

const TrustFigure* find(const TrustTask& task, std::string_view figure) {
  for (const TrustFigure& one : task.figures)
    if (one.figure == figure && !std::isnan(one.spearman)) return &one;
  return nullptr;
}

std::string with_interval(const TrustFigure& figure) {
  if (std::isnan(figure.lo) || std::isnan(figure.hi)) return fmt::format("{:.2f}", figure.spearman);
  return fmt::format("{:.2f} [{:.2f}, {:.2f}]", figure.spearman, figure.lo, figure.hi);
}

}  // namespace

Trust trust_from_json(const json::value& block, std::string_view where) {
  const json::object& top = object(block, where);
  const std::string found = text(top, "schema", where);
  if (found != schema) damaged(where, fmt::format("schema {}", found), std::string(schema));
  Trust out;
  out.model = text(top, "model", where);
  out.model_hash = text(top, "model_hash", where);
  if (top.contains("measured")) out.measured = text(top, "measured", where);
  for (const json::value& entry : list(top, "tasks", where)) {
    const json::object& from = object(entry, where);
    TrustTask task{.task = text(from, "task", where),
                   .prompts = static_cast<std::int64_t>(number(from, "prompts", where)),
                   .best = text(from, "trust", where),
                   .figures = {}};
    for (const json::value& row : list(from, "figures", where)) {
      const json::object& figure = object(row, where);
      task.figures.push_back({text(figure, "figure", where), number(figure, "spearman", where),
                              number(figure, "lo", where), number(figure, "hi", where)});
    }
    out.tasks.push_back(std::move(task));
  }
  out.block = block;
  return out;
}

Trust read_trust(const std::filesystem::path& file) {
  return trust_from_json(parse_json(read_text_file(file, largest_bytes), file.string()), file.string());
}

std::optional<Trust> find_trust(const std::filesystem::path& folder, std::string_view model_hash) {
  std::error_code ignored;
  const std::filesystem::path here = folder.empty() ? std::filesystem::path(".") : folder;
  std::vector<std::filesystem::path> files = {here / "trust.json"};
  for (std::filesystem::directory_iterator it(here, ignored), end; !ignored && it != end; it.increment(ignored))
    if (it->is_directory(ignored)) files.push_back(it->path() / "trust.json");
  std::sort(files.begin() + 1, files.end());
  std::optional<Trust> out;
  for (const std::filesystem::path& file : files) {
    if (!std::filesystem::is_regular_file(file, ignored)) continue;
    try {
      Trust trust = read_trust(file);
      if (trust.model_hash == model_hash && (!out || trust.measured > out->measured)) out = std::move(trust);
    } catch (const Error&) {  // another program's trust.json says nothing here
    }
  }
  return out;
}

std::vector<std::string> trust_lines(const Trust& trust, std::string_view headline) {
  const std::string when = trust.measured.empty() ? std::string{} : " on " + trust.measured;
  std::vector<std::string> told, better;
  for (const TrustTask& task : trust.tasks) {
    const TrustFigure* own = find(task, headline);
    const TrustFigure* best = find(task, task.best);
    if (own) told.push_back(fmt::format("{} on {}", with_interval(*own), task.task));
    if (best && best->figure != headline && (!own || best->spearman > own->spearman + clearly_better))
      better.push_back(fmt::format("{} on {} ({:.2f})", best->figure, task.task, best->spearman));
  }
  std::vector<std::string> out;
  if (told.empty())
    out.push_back(fmt::format("How well {} ranks on {} was not among what kvgrind validate measured{}.", headline,
                              trust.model, when));
  else
    out.push_back(fmt::format("On {} {} ranked methods with Spearman {}; measured with kvgrind validate{}.",
                              trust.model, headline, fmt::join(told, ", "), when));
  if (!better.empty()) out.push_back(fmt::format("Better there: {}.", fmt::join(better, ", ")));
  return out;
}

std::vector<std::string> no_trust_lines(std::string_view headline) {
  return {fmt::format("How well {} ranks methods on this model has not been measured.", headline),
          "kvgrind validate --model DIR … -o trust measures it; found beside the results, or with --trust-file "
          "trust/trust.json."};
}

}  // namespace kvgrind::replay
