#include "traces/model_files/byte_level.h"
#include "traces/model_files/step_keys.h"
#include "traces/model_files/text_steps.h"
#include "traces/model_files/unicode.h"

namespace kvgrind::traces {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

// The text before each `mark` apart from it: "a▁b▁c" → "a", "▁b", "▁c".
void split_before(const std::string& text, const std::string& mark, std::vector<std::string>& out) {
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t next = text.find(mark, begin == 0 && !text.starts_with(mark) ? 0 : begin + mark.size());
    out.push_back(text.substr(begin, next - begin));
    if (next == std::string::npos) break;
    begin = next;
  }
}

void split_digits(const std::string& text, bool individual, std::vector<std::string>& out) {
  bool last_number = false;
  for (std::size_t at = 0; at < text.size();) {
    const unicode::Character c = unicode::character_at(text, at);
    const bool number = unicode::is_number(c.code);
    if (at == 0 || number != last_number || (number && individual)) out.emplace_back();
    out.back().append(text, at, c.size_bytes);
    last_number = number;
    at += c.size_bytes;
  }
}

}  // namespace

PreTokenizer::PreTokenizer(const json::value& node, std::string_view what) {
  if (!node.is_null()) add(node, what);
}

void PreTokenizer::add(const json::value& node, std::string_view what) {
  const ConfigKeys keys = step_keys(node, what, "pre_tokenizer");
  const std::string type = keys.text("type").value_or("nothing");
  if (type == "Sequence") {
    for_steps(keys, "pretokenizers", [&](const json::value& child) { add(child, what); });
  } else if (type == "ByteLevel") {
    steps_.emplace_back(ByteLevel{keys.boolean_or("add_prefix_space", true), keys.boolean_or("use_regex", true)});
  } else if (type == "Digits") {
    steps_.emplace_back(Digits{keys.boolean_or("individual_digits", false)});
  } else if (type == "Split") {
    const auto pattern = keys.object("pattern");
    const auto regex = pattern ? pattern->text("Regex") : std::nullopt;
    if (!regex) keys.refuse("pattern", "no Regex", "the pattern of GPT-2, Llama-3 or Qwen-2", other_tokenizers);
    const auto known = split_pattern_from_text(*regex);
    if (!known)
      keys.refuse("pattern", regex->substr(0, 200), "the pattern of GPT-2, Llama-3 or Qwen-2", other_tokenizers);
    // These patterns match everything: keeping the matches and dropping what lies between are the same.
    const std::string behavior = keys.text("behavior").value_or("nothing");
    const bool invert = keys.boolean_or("invert", false);
    if (!(behavior == "Isolated" || (behavior == "Removed" && invert)))
      keys.refuse("behavior", behavior.substr(0, 60), "Isolated, or Removed with invert", other_tokenizers);
    steps_.emplace_back(Pattern{*known});
  } else if (type == "Metaspace") {
    const std::string mark = keys.text("replacement").value_or("▁");
    if (mark.empty()) keys.refuse("replacement", "nothing", "a character");
    // Files before 2024 say add_prefix_space instead of prepend_scheme.
    const std::string scheme =
        keys.text("prepend_scheme").value_or(keys.boolean_or("add_prefix_space", true) ? "always" : "never");
    if (scheme != "first" && scheme != "always" && scheme != "never")
      keys.refuse("prepend_scheme", scheme.substr(0, 60), "first, always or never");
    steps_.emplace_back(Metaspace{mark, scheme == "first", scheme == "never", keys.boolean_or("split", true)});
  } else {
    refuse_type(keys, type, "Sequence, ByteLevel, Split, Digits or Metaspace");
  }
}

bool PreTokenizer::byte_level() const {
  for (const auto& step : steps_)
    if (std::holds_alternative<ByteLevel>(step)) return true;
  return false;
}

std::vector<std::string> PreTokenizer::apply(std::string_view text, bool at_start) const {
  std::vector<std::string> pieces;
  if (!text.empty()) pieces.emplace_back(text);
  for (const auto& step : steps_) {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const std::string& piece = pieces[i];
      std::visit(Overloaded{[&](const Pattern& s) {
                              std::vector<std::string_view> parts;
                              split(s.pattern, piece, parts);
                              out.insert(out.end(), parts.begin(), parts.end());
                            },
                            [&](const ByteLevel& s) {
                              const std::string spaced =
                                  s.prefix_space && !piece.starts_with(' ') ? " " + piece : piece;
                              std::vector<std::string_view> parts;
                              if (s.use_pattern)
                                split(SplitPattern::gpt2, spaced, parts);
                              else
                                parts.push_back(spaced);
                              for (const std::string_view part : parts) out.push_back(to_byte_alphabet(part));
                            },
                            [&](const Digits& s) { split_digits(piece, s.individual, out); },
                            [&](const Metaspace& s) {
                              std::string marked = replaced(piece, " ", s.mark);
                              if (!s.never && !(s.first_only && !(at_start && i == 0)) && !marked.starts_with(s.mark))
                                marked = s.mark + marked;
                              if (s.split)
                                split_before(marked, s.mark, out);
                              else
                                out.push_back(std::move(marked));
                            }},
                 step);
    }
    pieces = std::move(out);
  }
  return pieces;
}

}  // namespace kvgrind::traces
