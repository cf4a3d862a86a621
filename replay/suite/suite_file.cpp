#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "core/error.h"
#include "replay/suite/suite.h"

namespace kvgrind::replay {
namespace {

[[noreturn]] void fail(std::string_view what, std::string place, std::string found, std::string expected) {
  throw Error(Category::damaged, {.doing = "reading suite",
                                  .on = std::string(what) + (place.empty() ? "" : ": " + place),
                                  .found = std::move(found),
                                  .expected = std::move(expected)});
}

class Reader {
 public:
  Reader(std::string_view what, std::int64_t vocab) : what_(what), vocab_(vocab) {}

  Suite read(const json::value& document) const {
    Suite suite;
    const auto* top = document.if_object();
    if (!top) fail(what_, "", "no object", "{\"prompts\":[…]}");
    const auto* prompts = top->if_contains("prompts");
    if (!prompts || !prompts->is_array()) fail(what_, "", "no list `prompts`", "{\"prompts\":[…]}");
    if (const auto* name = top->if_contains("name"); name && name->is_string())
      suite.name = std::string(name->get_string());
    std::size_t index = 0;
    for (const auto& entry : prompts->get_array()) suite.prompts.push_back(prompt(entry, index++));
    if (suite.prompts.empty()) fail(what_, "prompts", "an empty list", "at least one prompt");
    return suite;
  }

 private:
  std::int64_t integer(const json::value& value, const std::string& place) const {
    if (value.is_int64()) return value.get_int64();
    fail(what_, place, "something else than an integer", "an integer");
  }

  std::vector<std::int32_t> ids(const json::value* value, const std::string& place) const {
    if (!value || !value->is_array()) fail(what_, place, "no list", "a list of token ids");
    std::vector<std::int32_t> out;
    out.reserve(value->get_array().size());
    for (const auto& entry : value->get_array()) {
      const std::int64_t id = integer(entry, place);
      if (id < 0 || id > 0x7fffffff || (vocab_ > 0 && id >= vocab_))
        fail(what_, place, fmt::format("token id {}", id), fmt::format("an id below {}", vocab_));
      out.push_back(static_cast<std::int32_t>(id));
    }
    return out;
  }

  Span span(const json::value& value, std::int64_t tokens, const std::string& place) const {
    Span out{.kind = "needle", .begin = 0, .end = 0, .label = ""};
    if (const auto* pair = value.if_array(); pair && pair->size() == 2) {
      out.begin = integer((*pair)[0], place);
      out.end = integer((*pair)[1], place);
    } else if (const auto* object = value.if_object()) {
      const auto* begin = object->if_contains("begin");
      const auto* end = object->if_contains("end");
      if (!begin || !end) fail(what_, place, "a span without begin or end", "{\"begin\":…,\"end\":…}");
      out.begin = integer(*begin, place);
      out.end = integer(*end, place);
      if (const auto* kind = object->if_contains("kind"); kind && kind->is_string()) out.kind = kind->get_string();
      if (const auto* label = object->if_contains("label"); label && label->is_string())
        out.label = label->get_string();
    } else {
      fail(what_, place, "neither a pair nor an object", "[begin, end]");
    }
    if (out.begin < 0 || out.end < out.begin || out.end > tokens)
      fail(what_, place, fmt::format("span [{}, {})", out.begin, out.end), fmt::format("within [0, {})", tokens));
    return out;
  }

  SuitePrompt prompt(const json::value& value, std::size_t index) const {
    const std::string place = fmt::format("prompts[{}]", index);
    const auto* object = value.if_object();
    if (!object) fail(what_, place, "no object", "{\"ids\":[…],\"qa\":[…]}");
    SuitePrompt out;
    out.task = "needle";
    if (const auto* task = object->if_contains("task"); task && task->is_string()) out.task = task->get_string();
    out.context = ids(object->if_contains("ids"), place + ".ids");
    if (out.context.empty()) fail(what_, place + ".ids", "an empty context", "at least one token");
    const auto tokens = static_cast<std::int64_t>(out.context.size());
    if (const auto* spans = object->if_contains("spans"); spans && spans->is_array())
      for (const auto& entry : spans->get_array()) out.spans.push_back(span(entry, tokens, place + ".spans"));
    const auto* questions = object->if_contains("qa");
    if (!questions || !questions->is_array() || questions->get_array().empty())
      fail(what_, place, "no list `qa`", "at least one {\"q\":[…],\"a\":[…]}");
    for (const auto& entry : questions->get_array()) {
      const auto* qa = entry.if_object();
      if (!qa) fail(what_, place + ".qa", "no object", "{\"q\":[…],\"a\":[…]}");
      SuiteQuestion question;
      question.question = ids(qa->if_contains("q"), place + ".qa.q");
      question.answer = ids(qa->if_contains("a"), place + ".qa.a");
      if (question.answer.empty()) fail(what_, place + ".qa.a", "an empty answer", "at least one token");
      if (const auto* needle = qa->if_contains("needle"); needle && !needle->is_null())
        question.evidence = span(*needle, tokens, place + ".qa.needle");
      out.questions.push_back(std::move(question));
    }
    return out;
  }

  std::string_view what_;
  std::int64_t vocab_;
};

json::array id_list(const std::vector<std::int32_t>& ids) {
  json::array out;
  out.reserve(ids.size());
  for (const std::int32_t id : ids) out.emplace_back(id);
  return out;
}

}  // namespace

Suite parse_suite(std::string_view text, std::string_view what, std::int64_t vocab) {
  return Reader(what, vocab).read(parse_json(text, what));
}

Suite read_suite(const std::filesystem::path& path, std::int64_t vocab) {
  std::error_code code;
  if (!std::filesystem::is_regular_file(path, code))
    throw Error(Category::missing,
                {.doing = "reading suite",
                 .on = path.string(),
                 .found = std::filesystem::exists(path, code) ? "not a regular file" : "no such file",
                 .expected = "a JSON suite",
                 .next = "`kvgrind eval --help` names the built-in suites"});
  if (std::filesystem::file_size(path, code) > (256u << 20))
    fail(path.string(), "", "more than 256 MiB", "a JSON suite");
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in)
    throw Error(Category::missing, {.doing = "reading suite", .on = path.string(), .found = "an unreadable file"});
  Suite suite = parse_suite(text.str(), path.string(), vocab);
  if (suite.name.empty()) suite.name = path.stem().string();
  return suite;
}

json::value suite_json(const Suite& suite) {
  json::array prompts;
  for (const SuitePrompt& prompt : suite.prompts) {
    json::array spans, questions;
    for (const Span& span : prompt.spans)
      spans.push_back(
          json::object{{"kind", span.kind}, {"begin", span.begin}, {"end", span.end}, {"label", span.label}});
    for (const SuiteQuestion& question : prompt.questions) {
      json::object qa{{"q", id_list(question.question)}, {"a", id_list(question.answer)}};
      if (question.evidence) qa["needle"] = json::array{question.evidence->begin, question.evidence->end};
      questions.push_back(std::move(qa));
    }
    prompts.push_back(json::object{{"task", prompt.task},
                                   {"ids", id_list(prompt.context)},
                                   {"spans", std::move(spans)},
                                   {"qa", std::move(questions)}});
  }
  return json::object{{"name", suite.name}, {"prompts", std::move(prompts)}};
}

}  // namespace kvgrind::replay
