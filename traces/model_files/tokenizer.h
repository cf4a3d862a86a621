// tokenizer.json: byte-level BPE (GPT-2, Llama-3, Qwen2 patterns) and SentencePiece-BPE with byte fallback (Llama-2).
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvgrind::traces {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Ids of `text`; special = run the post-processor (bos in front and the like).
  virtual std::vector<std::int32_t> encode(std::string_view text, bool special) const = 0;
  // The bytes a token stands for in running text (may be half a character); added tokens give their content, unknown
  // ids nothing.
  virtual std::string bytes(std::int32_t id) const = 0;
  // Text of ids by the file's decoder; invalid UTF-8 becomes U+FFFD.
  virtual std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const = 0;
  virtual std::int64_t size() const = 0;  // number of ids
  virtual bool is_special(std::int32_t id) const = 0;
};

// `text` is the file's content, `what` names it in errors.
std::shared_ptr<const Tokenizer> parse_tokenizer(std::string_view text, std::string_view what);

}  // namespace kvgrind::traces
