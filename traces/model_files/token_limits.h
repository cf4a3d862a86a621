// Bounds on what a tokenizer.json may ask for.
#pragma once
#include <cstddef>
#include <cstdint>

namespace kvgrind::traces {

constexpr std::size_t max_tokenizer_bytes = 64u << 20;
constexpr std::size_t max_tokenizer_depth = 32;
constexpr std::int64_t max_vocab = 2'000'000;  // ids are below this
constexpr std::size_t max_added_token_bytes = 1024;
constexpr const char* other_tokenizers = "give the ids themselves with `--tokens ids.json`";

}  // namespace kvgrind::traces
