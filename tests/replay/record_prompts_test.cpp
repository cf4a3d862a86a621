// Texts and token files into sequences: segments, forks, spans, and what is refused.
#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/device/device.h"
#include "replay/record/prompts.h"
#include "replay/record/record.h"

namespace kvgrind::replay {
namespace {

// One token a word, spaces go with the word after them; bos = 0 in front, eos = 1 behind.
class WordTokenizer final : public traces::Tokenizer {
 public:
  std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int32_t> ids;
    if (special) ids.push_back(0);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find(' ', at + 1), text.size());
      ids.push_back(id_of(std::string(text.substr(at, end - at))));
      at = end;
    }
    if (special) ids.push_back(1);
    return ids;
  }
  std::string bytes(std::int32_t id) const override { return words_.at(static_cast<std::size_t>(id)); }
  std::string decode(std::span<const std::int32_t> ids, bool) const override {
    std::string text;
    for (const std::int32_t id : ids) text += bytes(id);
    return text;
  }
  std::int64_t size() const override { return 1000; }
  bool is_special(std::int32_t id) const override { return id < 2; }

 private:
  std::int32_t id_of(const std::string& word) const {
    for (std::size_t i = 2; i < words_.size(); ++i)
      if (words_[i] == word) return static_cast<std::int32_t>(i);
    words_.push_back(word);
    return static_cast<std::int32_t>(words_.size() - 1);
  }
  mutable std::vector<std::string> words_{"<bos>", "<eos>"};
};

std::vector<Segment> context_question_answer(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
  return {{Role::context, a, b}, {Role::question, b, c}, {Role::answer, c, d}};
}

TEST(record_prompts, one_question_makes_one_sequence) {
  const WordTokenizer tokenizer;
  const TextPrompt prompt{.context = "the code is 42 and so on",
                          .spans = {{"needle", 4, 14, "code"}},
                          .questions = {{" what is it", " 42"}}};
  const std::vector<TokenSequence> sequences = sequences_of(prompt, tokenizer, 5);
  ASSERT_EQ(sequences.size(), 1u);
  const TokenSequence& one = sequences[0];
  EXPECT_EQ(one.ids.front(), 0);  // bos before the first segment only
  EXPECT_EQ(std::count(one.ids.begin(), one.ids.end(), 0), 1);
  EXPECT_EQ(std::count(one.ids.begin(), one.ids.end(), 1), 0);  // what the post-processor appends is not text
  EXPECT_EQ(one.segments, context_question_answer(0, 8, 11, 12));
  EXPECT_EQ(one.decode, 5);
  ASSERT_EQ(one.spans.size(), 2u);
  EXPECT_EQ(one.spans[0], (Span{"needle", 2, 5, "code"}));  // " code", " is", " 42"
  EXPECT_EQ(one.spans[1], (Span{"answer", 11, 12, ""}));
  EXPECT_EQ(tokenizer.decode(std::span(one.ids).subspan(2, 3), false), " code is 42");
}

TEST(record_prompts, several_questions_fork) {
  const WordTokenizer tokenizer;
  const TextPrompt prompt{.context = "a b c", .spans = {}, .questions = {{" x", " y z"}, {" w", ""}}};
  const std::vector<TokenSequence> sequences = sequences_of(std::vector<TextPrompt>{prompt, prompt}, tokenizer, 0);
  ASSERT_EQ(sequences.size(), 6u);
  EXPECT_EQ(sequences[0].parent, -1);
  EXPECT_EQ(sequences[1].parent, 0);
  EXPECT_EQ(sequences[4].parent, 3);
  EXPECT_EQ(sequences[1].fork_at, 4);
  EXPECT_EQ(sequences[1].segments, (std::vector<Segment>{{Role::question, 4, 5}, {Role::answer, 5, 7}}));
  EXPECT_EQ(sequences[2].segments, (std::vector<Segment>{{Role::question, 4, 5}}));
  EXPECT_EQ(sequences[3].ids, sequences[0].ids);
}

TEST(record_prompts, texts_are_checked) {
  const std::vector<TextPrompt> good = parse_text_prompts(
      R"([{"context":"abc","spans":[{"kind":"needle","begin":0,"end":3}],"questions":[{"question":"q","answer":"a"}]}])",
      "t.json");
  ASSERT_EQ(good.size(), 1u);
  EXPECT_EQ(good[0].questions[0].answer, "a");
  for (const char* bad : {R"({"context":1})", R"({"contxt":"a"})", R"([3])", R"("a")",
                          R"({"context":"abc","spans":[{"kind":"needle","begin":1,"end":4}]})",
                          R"({"context":"abc","spans":[{"kind":"needle","begin":-1,"end":2}]})",
                          R"({"context":"abc","spans":[{"kind":"needle","begin":2,"end":2}]})",
                          R"({"context":"abc","spans":[{"kind":"needle","begin":0.5,"end":2}]})",
                          R"({"context":"abc","questions":{}})"}) {
    try {
      parse_text_prompts(bad, "t.json");
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::damaged) << bad;
      EXPECT_NE(std::string(error.what()).find("t.json"), std::string::npos) << error.what();
    }
  }
}

TEST(record_prompts, token_files_give_sequences) {
  const std::vector<TokenSequence> sequences = parse_token_sequences(
      R"([{"ids":[1,2,3],"spans":[{"kind":"needle","begin":0,"end":1,"label":"x"}]},
          {"ids":[4],"parent":0,"fork_at":2,"decode":3,"segments":[{"role":"question","begin":2,"end":3}]}])",
      "t.json");
  ASSERT_EQ(sequences.size(), 2u);
  EXPECT_EQ(sequences[0].segments, (std::vector<Segment>{{Role::context, 0, 3}}));  // without segments: context
  EXPECT_EQ(sequences[0].spans[0], (Span{"needle", 0, 1, "x"}));
  EXPECT_EQ(sequences[1].fork_at, 2);
  EXPECT_EQ(sequences[1].decode, 3);
}

ModelConfig small_config() {
  ModelConfig config;
  config.card.vocab = 10;
  config.card.max_positions = 8;
  return config;
}

bool accepted(const std::vector<TokenSequence>& sequences, const ModelConfig& config = small_config()) {
  try {
    check_sequences(config, sequences);
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::usage);
    return false;
  }
}

TEST(record_check, sequences_must_fit_the_model) {
  const TokenSequence good{.ids = {1, 2, 3}, .segments = {{Role::context, 0, 3}}};
  EXPECT_TRUE(accepted({good}));
  EXPECT_FALSE(accepted({}));
  EXPECT_FALSE(accepted({{.ids = {}}}));
  EXPECT_FALSE(accepted({{.ids = {10}}}));
  EXPECT_FALSE(accepted({{.ids = {-1}}}));
  EXPECT_FALSE(accepted({{.ids = {1}, .segments = {{Role::context, 0, 2}}}}));
  EXPECT_FALSE(accepted({{.ids = {1, 2}, .segments = {{Role::context, 0, 2}, {Role::answer, 1, 2}}}}));
  EXPECT_FALSE(accepted({{.ids = {1}, .spans = {{"needle", 0, 2, ""}}}}));
  EXPECT_FALSE(accepted({{.ids = {1}, .fork_at = 1}}));
  EXPECT_FALSE(accepted({{.ids = {1}, .parent = 0}}));
  EXPECT_TRUE(accepted({good, {.ids = {4}, .segments = {{Role::question, 3, 4}}, .parent = 0, .fork_at = 3}}));
  EXPECT_TRUE(accepted({good, {.ids = {4}, .segments = {{Role::question, 2, 3}}, .parent = 0, .fork_at = 2}}));
  EXPECT_FALSE(accepted({good, {.ids = {4}, .parent = 0, .fork_at = 4}}));
  EXPECT_FALSE(accepted({good, {.ids = {4}, .parent = 0, .fork_at = 0}}));
}

TEST(record_check, positions_end_except_for_dynamic_rope) {
  const TokenSequence nine{.ids = std::vector<std::int32_t>(9, 1)};
  EXPECT_FALSE(accepted({nine}));
  EXPECT_FALSE(accepted({{.ids = {1, 2}, .decode = 7}}));
  EXPECT_TRUE(accepted({{.ids = {1, 2}, .decode = 6}}));
  ModelConfig dynamic = small_config();
  dynamic.rope.push_back({.type = "dynamic"});
  EXPECT_TRUE(accepted({nine}, dynamic));
}

TEST(record_check, devices_by_name) {
  EXPECT_EQ(resolve_device("auto"), kernels::device_count() > 0 ? "cuda:0" : "cpu");
  EXPECT_EQ(resolve_device("cpu"), "cpu");
  EXPECT_THROW(resolve_device("tpu"), Error);
}

}  // namespace
}  // namespace kvgrind::replay
