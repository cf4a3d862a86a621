// The stages of a tokenizer.json around its model, each a list of small steps read from the file. Unknown kinds are
// refused by name.
//   source: huggingface/tokenizers, normalizers, pre_tokenizers, decoders
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.h"
#include "traces/model_files/split_patterns.h"

namespace kvgrind::traces {

// Text as the model sees it: form C, or a mark in front and instead of blanks.
class Normalizer {
 public:
  Normalizer() = default;
  Normalizer(const json::value& node, std::string_view what);  // null = changes nothing
  std::string apply(std::string_view text) const;

 private:
  struct Nfc {};
  struct Prepend {
    std::string mark;
  };
  struct Replace {
    std::string pattern, content;
  };
  void add(const json::value& node, std::string_view what);
  std::vector<std::variant<Nfc, Prepend, Replace>> steps_;
};

// Text cut into the pieces that are encoded one by one.
class PreTokenizer {
 public:
  PreTokenizer() = default;
  PreTokenizer(const json::value& node, std::string_view what);  // null = one piece
  // `at_start`: the text begins where the whole input does.
  std::vector<std::string> apply(std::string_view text, bool at_start) const;
  bool byte_level() const;

 private:
  struct Pattern {
    SplitPattern pattern;
  };
  struct ByteLevel {
    bool prefix_space, use_pattern;
  };
  struct Digits {
    bool individual;
  };
  struct Metaspace {
    std::string mark;
    bool first_only, never, split;
  };
  void add(const json::value& node, std::string_view what);
  std::vector<std::variant<Pattern, ByteLevel, Digits, Metaspace>> steps_;
};

// Tokens back to text.
class Decoder {
 public:
  Decoder() = default;
  Decoder(const json::value& node, std::string_view what);  // null = tokens joined by blanks
  // Valid UTF-8 text of `tokens` as the vocabulary spells them.
  std::string apply(std::vector<std::string> tokens) const;
  // The bytes of one token within running text.
  std::string bytes(std::string_view token) const;
  bool byte_level() const;

 private:
  struct ByteLevel {};
  struct ByteFallback {};
  struct Fuse {};
  struct Replace {
    std::string pattern, content;
  };
  struct Strip {
    std::string content;
    std::int64_t start, stop;
  };
  struct Metaspace {
    std::string mark;
    bool strip_first;
  };
  void add(const json::value& node, std::string_view what);
  std::vector<std::variant<ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace>> steps_;
};

// `text` with every occurrence of `pattern` replaced, from the left.
std::string replaced(std::string_view text, std::string_view pattern, std::string_view content);

}  // namespace kvgrind::traces
