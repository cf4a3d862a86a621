#include "replay/record/prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "core/error.h"
#include "replay/record/fields.h"

namespace kvgrind::replay {
namespace {

// What the tokenizer puts before a text (bos and the like): found by comparing with and without.
std::vector<std::int32_t> opening_ids(const traces::Tokenizer& tokenizer) {
  const std::vector<std::int32_t> plain = tokenizer.encode("a", false), special = tokenizer.encode("a", true);
  return {special.begin(), std::search(special.begin(), special.end(), plain.begin(), plain.end())};
}

// Token range that covers the bytes [begin, end) of the text that `ids` stand for.
Span token_span(const TextSpan& span, const traces::Tokenizer& tokenizer, const std::vector<std::int32_t>& ids,
                std::int64_t text_bytes, std::int64_t first_position) {
  std::int64_t total = 0;
  for (const std::int32_t id : ids) total += static_cast<std::int64_t>(tokenizer.bytes(id).size());
  std::int64_t at = text_bytes - total;  // below 0 when the tokenizer put a space in front
  Span out{.kind = span.kind, .begin = -1, .end = -1, .label = span.label};
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t next = at + static_cast<std::int64_t>(tokenizer.bytes(ids[i]).size());
    if (next > span.begin && at < span.end) {
      if (out.begin < 0) out.begin = first_position + static_cast<std::int64_t>(i);
      out.end = first_position + static_cast<std::int64_t>(i) + 1;
    }
    at = next;
  }
  return out;
}

void append_segment(TokenSequence& sequence, Role role, const std::vector<std::int32_t>& ids) {
  if (ids.empty()) return;
  const std::int64_t begin = sequence.fork_at + static_cast<std::int64_t>(sequence.ids.size());
  const std::int64_t end = begin + static_cast<std::int64_t>(ids.size());
  sequence.ids.insert(sequence.ids.end(), ids.begin(), ids.end());
  sequence.segments.push_back({.role = role, .begin = begin, .end = end});
  if (role == Role::answer) sequence.spans.push_back({.kind = "answer", .begin = begin, .end = end, .label = ""});
}

void append_question(TokenSequence& sequence, const TextQuestion& question, const traces::Tokenizer& tokenizer) {
  append_segment(sequence, Role::question, tokenizer.encode(question.question, false));
  append_segment(sequence, Role::answer, tokenizer.encode(question.answer, false));
}

std::vector<Span> parse_spans(const json::value& value, const std::string& where, std::string_view what) {
  std::vector<Span> spans;
  for (const auto& [entry, place] : list_entries(value, where, what)) {
    const Fields fields(entry, place, what, {"kind", "begin", "end", "label"});
    spans.push_back({.kind = fields.text("kind"),
                     .begin = fields.integer("begin"),
                     .end = fields.integer("end"),
                     .label = fields.text("label", "")});
  }
  return spans;
}

TokenSequence parse_one_sequence(const json::value& value, const std::string& where, std::string_view what) {
  const Fields fields(value, where, what, {"ids", "segments", "spans", "parent", "fork_at", "decode"});
  TokenSequence sequence;
  sequence.ids = fields.ids("ids");
  sequence.parent = fields.integer("parent", -1);
  sequence.fork_at = fields.integer("fork_at", 0);
  sequence.decode = fields.integer("decode", 0);
  if (const json::value* segments = fields.find("segments")) {
    for (const auto& [entry, place] : list_entries(*segments, where + ".segments", what)) {
      const Fields segment(entry, place, what, {"role", "begin", "end"});
      const std::string name = segment.text("role");
      const std::optional<Role> role = role_from_name(name);
      if (!role) throw segment.fault("role", "\"" + name + "\"", "system, context, question, answer or generated");
      sequence.segments.push_back({*role, segment.integer("begin"), segment.integer("end")});
    }
  } else {
    const std::int64_t n = static_cast<std::int64_t>(sequence.ids.size());
    if (n > 0) sequence.segments.push_back({Role::context, sequence.fork_at, sequence.fork_at + n});
  }
  if (const json::value* spans = fields.find("spans")) sequence.spans = parse_spans(*spans, where + ".spans", what);
  return sequence;
}

TextPrompt parse_one_prompt(const json::value& value, const std::string& where, std::string_view what) {
  const Fields fields(value, where, what, {"context", "spans", "questions"});
  TextPrompt prompt;
  prompt.context = fields.text("context");
  if (const json::value* spans = fields.find("spans")) {
    for (const Span& span : parse_spans(*spans, where + ".spans", what)) {
      if (span.begin < 0 || span.end <= span.begin || span.end > static_cast<std::int64_t>(prompt.context.size()))
        throw fields.fault("spans", fmt::format("[{}, {})", span.begin, span.end),
                           fmt::format("a range within the context's {} bytes", prompt.context.size()));
      prompt.spans.push_back({span.kind, span.begin, span.end, span.label});
    }
  }
  if (const json::value* questions = fields.find("questions")) {
    for (const auto& [entry, place] : list_entries(*questions, where + ".questions", what)) {
      const Fields question(entry, place, what, {"question", "answer"});
      prompt.questions.push_back({question.text("question", ""), question.text("answer", "")});
    }
  }
  return prompt;
}

}  // namespace

std::vector<TokenSequence> sequences_of(const TextPrompt& prompt, const traces::Tokenizer& tokenizer,
                                        std::int64_t decode) {
  const std::vector<std::int32_t> opening = opening_ids(tokenizer);
  const std::vector<std::int32_t> text = tokenizer.encode(prompt.context, false);
  std::vector<std::int32_t> ids = opening;
  ids.insert(ids.end(), text.begin(), text.end());

  std::vector<TokenSequence> out(1);
  append_segment(out[0], Role::context, ids);
  for (const TextSpan& span : prompt.spans)
    out[0].spans.push_back(token_span(span, tokenizer, text, static_cast<std::int64_t>(prompt.context.size()),
                                      static_cast<std::int64_t>(opening.size())));
  if (prompt.questions.size() <= 1) {
    if (!prompt.questions.empty()) append_question(out[0], prompt.questions[0], tokenizer);
    out[0].decode = decode;
    return out;
  }
  for (const TextQuestion& question : prompt.questions) {
    TokenSequence fork{.ids = {},
                       .segments = {},
                       .spans = {},
                       .parent = 0,
                       .fork_at = static_cast<std::int64_t>(ids.size()),
                       .decode = decode};
    append_question(fork, question, tokenizer);
    out.push_back(std::move(fork));
  }
  return out;
}

std::vector<TokenSequence> sequences_of(const std::vector<TextPrompt>& prompts, const traces::Tokenizer& tokenizer,
                                        std::int64_t decode) {
  std::vector<TokenSequence> all;
  for (const TextPrompt& prompt : prompts) {
    const std::int64_t offset = static_cast<std::int64_t>(all.size());
    for (TokenSequence& sequence : sequences_of(prompt, tokenizer, decode)) {
      if (sequence.parent >= 0) sequence.parent += offset;
      all.push_back(std::move(sequence));
    }
  }
  return all;
}

std::vector<TextPrompt> parse_text_prompts(std::string_view text, std::string_view what) {
  const json::value root = parse_json(text, what);
  std::vector<TextPrompt> prompts;
  if (!root.is_array()) return {parse_one_prompt(root, "top level", what)};
  for (const auto& [entry, place] : list_entries(root, "prompts", what))
    prompts.push_back(parse_one_prompt(entry, place, what));
  return prompts;
}

std::vector<TokenSequence> parse_token_sequences(std::string_view text, std::string_view what) {
  const json::value root = parse_json(text, what);
  std::vector<TokenSequence> sequences;
  if (!root.is_array()) return {parse_one_sequence(root, "top level", what)};
  for (const auto& [entry, place] : list_entries(root, "sequences", what))
    sequences.push_back(parse_one_sequence(entry, place, what));
  return sequences;
}

std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  std::error_code failed;
  const std::filesystem::file_status status = std::filesystem::status(path, failed);
  const auto refuse = [&](const std::string& found, const std::string& expected) {
    return Error(Category::missing, {.doing = "reading", .on = path.string(), .found = found, .expected = expected});
  };
  if (!std::filesystem::exists(status)) throw refuse("no such file", "a text file");
  if (!std::filesystem::is_regular_file(status)) throw refuse("not a regular file", "a text file");
  const std::uintmax_t bytes = std::filesystem::file_size(path, failed);
  if (failed) throw refuse(failed.message(), "a readable file");
  if (bytes > static_cast<std::uintmax_t>(max_bytes))
    throw refuse(fmt::format("{} bytes", bytes), fmt::format("at most {} bytes", max_bytes));
  std::ifstream in(path, std::ios::binary);
  std::string text(static_cast<std::size_t>(bytes), '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(bytes))) throw refuse("cannot be read", "a readable file");
  return text;
}

}  // namespace kvgrind::replay
