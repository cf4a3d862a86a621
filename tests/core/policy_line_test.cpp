// The policy grammar: what it takes, how it prints, and where it points when something is wrong.
#include "core/policy_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "core/error.h"
#include "tests/support/for_all.h"

namespace kvgrind {
namespace {

using testing::HasSubstr;

std::string failure(std::string_view text, bool line) {
  try {
    if (line)
      (void)parse_policy_line(text);
    else
      (void)parse_call(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::usage);
    return error.what();
  }
  ADD_FAILURE() << "no error for " << text;
  return "";
}

TEST(PolicyLine, CallWithEveryKindOfValue) {
  const Call call =
      parse_call("  f( a=1,b=-2.5e-3, c=512t,d=64MiB,e=word-2,f=\"say \\\"hi\\\" \\\\\",g=h(x=1),i=[1,[2],w] ) ");
  EXPECT_EQ(call.name, "f");
  ASSERT_EQ(call.arguments.size(), 8u);
  EXPECT_EQ(call.arguments[0].value.data, (decltype(Value::data){Value::Number{1}}));
  EXPECT_EQ(call.arguments[1].value.data, (decltype(Value::data){Value::Number{-2.5e-3}}));
  EXPECT_EQ(call.arguments[2].value.data, (decltype(Value::data){Value::Unit{512, "t"}}));
  EXPECT_EQ(call.arguments[3].value.data, (decltype(Value::data){Value::Unit{64, "MiB"}}));
  EXPECT_EQ(call.arguments[4].value.data, (decltype(Value::data){Value::Word{"word-2"}}));
  EXPECT_EQ(call.arguments[5].value.data, (decltype(Value::data){Value::String{"say \"hi\" \\"}}));
  EXPECT_EQ(call_text(call), "f(a=1,b=-0.0025,c=512t,d=64MiB,e=word-2,f=\"say \\\"hi\\\" \\\\\",g=h(x=1),i=[1,[2],w])");
}

TEST(PolicyLine, Lines) {
  const PolicyLine line = parse_policy_line("score=chunk_mean(of=window_attention(window=32),chunk=20)  act=drop");
  ASSERT_EQ(line.slots.size(), 2u);
  EXPECT_EQ(line.slots[0].first, "score");
  EXPECT_EQ(call_text(line.slots[0].second), "chunk_mean(of=window_attention(window=32),chunk=20)");
  EXPECT_EQ(line.slots[1].second.name, "drop");
  EXPECT_EQ(
      call_text(
          parse_policy_line("act=classes(of=[exact(share=0.2),code(bits=4,share=0.3),code(bits=2)])").slots[0].second),
      "classes(of=[exact(share=0.2),code(bits=4,share=0.3),code(bits=2)])");
}

TEST(PolicyLine, ABareListIsOf) {
  EXPECT_EQ(call_text(parse_call("classes([exact(share=0.2),code])")), "classes(of=[exact(share=0.2),code])");
}

TEST(PolicyLine, WhatIsALine) {
  EXPECT_TRUE(looks_like_line("score=position"));
  EXPECT_TRUE(looks_like_line("  score = x"));
  EXPECT_FALSE(looks_like_line("snapkv"));
  EXPECT_FALSE(looks_like_line("snapkv(window=32)"));
  EXPECT_FALSE(looks_like_line(""));
}

TEST(PolicyLine, ErrorsPointAtThePlace) {
  EXPECT_THAT(failure("snapkv(window=)", false), HasSubstr("column 15"));
  EXPECT_THAT(failure("snapkv(window=)", false), HasSubstr("\n  snapkv(window=)\n                ^"));
  EXPECT_THAT(failure("scroe=position", true), HasSubstr("did you mean \"score\"?"));
  EXPECT_THAT(failure("score=position score=random", true), HasSubstr("a second time at column 16"));
  EXPECT_THAT(failure("f(a=1,a=2)", false), HasSubstr("\"a\" a second time at column 7"));
  EXPECT_THAT(failure("f(a=5x)", false), HasSubstr("unit \"x\" at column 6"));
  EXPECT_THAT(failure("f(a=1e999)", false), HasSubstr("out of range"));
  EXPECT_THAT(failure("f(a=\"x)", false), HasSubstr("an open string at column 5"));
  EXPECT_THAT(failure("f(a=[1,2)", false), HasSubstr("',' or ']'"));
  EXPECT_THAT(failure("f() g", false), HasSubstr("without parentheses"));
  EXPECT_THAT(failure("f(a=1) g", false), HasSubstr("the end of the text"));
  EXPECT_THAT(failure("score=a(b=1)act=drop", true), HasSubstr("a space before the next slot"));
  EXPECT_THAT(failure("", true), HasSubstr("nothing"));
  EXPECT_THAT(failure("", false), HasSubstr("the end"));
  // A two-byte letter before the fault takes one column of the caret's line.
  EXPECT_THAT(failure("f(a=\"é\",b=)", false), HasSubstr("\n  f(a=\"é\",b=)\n            ^"));
}

TEST(PolicyLine, NestingHasALimit) {
  std::string deep = "1";
  for (int i = 0; i < 15; ++i) deep = "f(x=" + deep + ")";
  EXPECT_NO_THROW((void)parse_call(deep));
  for (int i = 0; i < 3; ++i) deep = "f(x=" + deep + ")";
  EXPECT_THAT(failure(deep, false), HasSubstr("nesting"));
  EXPECT_THAT(failure("f(x=" + std::string(100000, '['), false), HasSubstr("nesting"));
}

TEST(PolicyLine, NumbersPrintShortAndReadBackTheSame) {
  EXPECT_EQ(number_text(0.2), "0.2");
  EXPECT_EQ(number_text(32), "32");
  EXPECT_EQ(number_text(100000), "100000");
  EXPECT_EQ(number_text(1e-05), "1e-05");
  EXPECT_EQ(number_text(-0.0), "0");
  tests::for_all(11, 300, [](std::mt19937_64& rng) {
    double value = 0;
    do {
      const std::uint64_t bits = rng();
      std::memcpy(&value, &bits, sizeof value);
    } while (!std::isfinite(value));
    const Call call = parse_call("f(x=" + number_text(value) + ")");
    EXPECT_EQ(std::get<Value::Number>(call.arguments[0].value.data).value, value);
  });
}

TEST(PolicyLine, PrintIsAFixedPointForRandomCalls) {
  std::function<std::string(std::mt19937_64&, int)> value = [&](std::mt19937_64& rng, int depth) -> std::string {
    switch (rng() % (depth > 3 ? 4 : 6)) {
      case 0:
        return number_text(std::ldexp(static_cast<double>(static_cast<std::int64_t>(rng())), -40));
      case 1:
        return number_text(static_cast<double>(rng() % 1000)) + (rng() % 2 ? "t" : "GiB");
      case 2:
        return "word" + std::to_string(rng() % 9);
      case 3:
        return rng() % 2 ? "\"a \\\\ b\"" : "\"\"";
      case 4:
        return "[" + value(rng, depth + 1) + ", " + value(rng, depth + 1) + "]";
      default:
        return "g( y=" + value(rng, depth + 1) + " ,z=" + value(rng, depth + 1) + ")";
    }
  };
  tests::for_all(12, 200, [&](std::mt19937_64& rng) {
    const std::string once = call_text(parse_call("f(x=" + value(rng, 0) + ")"));
    EXPECT_EQ(call_text(parse_call(once)), once);
  });
}

TEST(PolicyLine, RandomBytesNeverCrash) {
  constexpr std::string_view letters = "score=budget(),[]\"\\ 0123456789.-+eEtMiB\n\xc3\xa9";
  tests::for_all(13, 2000, [&](std::mt19937_64& rng) {
    std::string text;
    for (std::size_t i = rng() % 40; i > 0; --i) text += letters[rng() % letters.size()];
    for (const bool line : {false, true}) {
      try {
        if (line)
          (void)parse_policy_line(text);
        else
          (void)parse_call(text);
      } catch (const Error& error) {
        EXPECT_EQ(error.category(), Category::usage);
      }
    }
  });
}

TEST(PolicyLine, NearestNames) {
  const std::vector<std::string> names{"snapkv", "knorm", "tova", "streamingllm"};
  EXPECT_EQ(nearest_name("snpkv", names), "snapkv");
  EXPECT_EQ(nearest_name("tov", names), "tova");
  EXPECT_EQ(nearest_name("streaming_llm", names), "streamingllm");
  EXPECT_EQ(nearest_name("banana", names), "");
  EXPECT_EQ(nearest_name("", {}), "");
}

}  // namespace
}  // namespace kvgrind
