// Tokens that are cut out of the text before anything else sees it: special tokens and words added after training.
//   source: huggingface/tokenizers, tokenizer/added_vocabulary
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "traces/model_files/text_steps.h"

namespace kvgrind::traces {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool single_word = false;             // not within a longer word
  bool lstrip = false, rstrip = false;  // swallow white space to that side
  bool normalized = false;              // looked for in the normalised text
  bool special = false;
};

std::vector<AddedToken> read_added_tokens(const json::value* node, std::string_view what);

// A stretch of text, or (id ≥ 0) an added token in its place.
struct Stretch {
  std::size_t begin = 0, end = 0;
  std::int32_t id = -1;
};

// Finds added tokens: leftmost, then longest, without overlap.
class AddedTokenFinder {
 public:
  // Of `tokens`, those with normalized == `normalized`; these are looked for as `normalizer` writes them.
  AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized, const Normalizer& normalizer);
  // Stretches that cover `text` without holes, except for the white space that a token swallows.
  std::vector<Stretch> find(std::string_view text) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, std::int32_t>> next;  // a few a node; the root is looked up in first_
    std::int32_t token = -1;
  };
  void insert(std::string_view pattern, std::int32_t token);
  std::int32_t step(std::int32_t node, unsigned char byte) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_{1};
  std::int32_t first_[256];
};

}  // namespace kvgrind::traces
