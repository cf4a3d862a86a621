#include "core/json.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <string>

#include "core/error.h"
#include "tests/support/for_all.h"

namespace kvgrind {
namespace {

std::string error_of(std::string_view text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "the test", limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::damaged);
    EXPECT_NE(std::string(error.what()).find("the test"), std::string::npos) << error.what();
    return error.what();
  }
  return "accepted";
}

bool says(const std::string& message, std::string_view part) { return message.find(part) != std::string::npos; }

TEST(Json, ReadsEveryKind) {
  const json::value v = parse_json(
      R"( {"a":[1,-2,2.5,true,false,null,"x\u00e9\ud83d\ude00"],"b":{},"c":18446744073709551615} )", "the test");
  const json::array& a = v.at("a").as_array();
  EXPECT_EQ(a[0].as_int64(), 1);
  EXPECT_EQ(a[1].as_int64(), -2);
  EXPECT_EQ(a[2].as_double(), 2.5);
  EXPECT_TRUE(a[3].as_bool());
  EXPECT_TRUE(a[5].is_null());
  EXPECT_EQ(a[6].as_string(), "xé😀");
  EXPECT_TRUE(v.at("b").as_object().empty());
  EXPECT_EQ(v.at("c").as_uint64(), std::numeric_limits<std::uint64_t>::max());
}

TEST(Json, RefusesDuplicateKeysAtAnyDepth) {
  EXPECT_TRUE(says(error_of(R"({"a":1,"b":2,"a":3})"), "(/a)"));
  const std::string deep = error_of("{\"x\":[1,{\"y\":{\"k\":1,\n\"k\":1}}]}");
  EXPECT_TRUE(says(deep, "/x/1/y/k")) << deep;
  EXPECT_TRUE(says(deep, "line 2")) << deep;
  EXPECT_TRUE(says(deep, "twice")) << deep;
  EXPECT_TRUE(says(error_of("{\"\\u0061\":1,\"a\":2}"), "twice"));  // equal after unescaping
  EXPECT_EQ(error_of(R"({"a":{"k":1},"b":{"k":1},"c":[{"k":1},{"k":2}]})"), "accepted");
  EXPECT_EQ(error_of(R"({"a":1,"a":2})", {.reject_duplicate_keys = false}), "accepted");
}

TEST(Json, RefusesWhatNoDoubleHolds) {
  EXPECT_TRUE(says(error_of("[1e999]"), "1e999"));
  EXPECT_TRUE(says(error_of("[0,-1e400]"), "/1"));
  EXPECT_NE(error_of("[NaN]"), "accepted");
  EXPECT_NE(error_of("[Infinity]"), "accepted");
  EXPECT_NE(error_of("[" + std::string(400, '9') + "]"), "accepted");
  EXPECT_EQ(error_of("[1e-999]"), "accepted");  // underflow is zero, as in every reader
  EXPECT_EQ(parse_json("1e-999", "the test").as_double(), 0.0);
  EXPECT_EQ(parse_json("1.7976931348623157e308", "the test").as_double(), std::numeric_limits<double>::max());
}

TEST(Json, RefusesBadText) {
  EXPECT_NE(error_of(""), "accepted");
  EXPECT_TRUE(says(error_of(" \n "), "blanks"));
  EXPECT_TRUE(says(error_of("{\"a\":"), "end of the text"));
  EXPECT_TRUE(says(error_of("{} {}"), "more text"));
  EXPECT_TRUE(says(error_of("{}x"), "more text"));
  EXPECT_TRUE(says(error_of("\xef\xbb\xbf{}"), "0xef"));
  EXPECT_TRUE(says(error_of("{\"a\":'b'}"), "'''"));
  for (const char* text :
       {"[01]", "[1.]", "[.5]", "[+1]", "[1,]", "{\"a\":1,}", "// c\n1", "[\"\t\"]", "\"\\x\"", "nul"})
    EXPECT_NE(error_of(text), "accepted") << text;
}

TEST(Json, RefusesNulLoneSurrogatesAndBadUtf8) {
  EXPECT_TRUE(says(error_of(R"(["\u0000"])"), "NUL"));
  EXPECT_TRUE(says(error_of(R"({"a\u0000b":1})"), "NUL"));
  EXPECT_NE(error_of(std::string("[\"\0\"]", 5)), "accepted");
  EXPECT_NE(error_of(std::string("[1]\0", 4)), "accepted");
  for (const char* text :
       {R"(["\ud800"])", R"(["\udc00"])", R"(["\ud800x"])", R"(["\ud800\u0041"])", R"({"\udfff":1})"})
    EXPECT_NE(error_of(text), "accepted") << text;
  for (const char* text :
       {"[\"\x80\"]", "[\"\xc0\xaf\"]", "[\"\xed\xa0\x80\"]", "[\"\xf4\x90\x80\x80\"]", "[\"\xe4\xbd\"]"})
    EXPECT_NE(error_of(text), "accepted") << text;
}

TEST(Json, LimitsBytesAndDepth) {
  EXPECT_TRUE(says(error_of("[1,2,3]", {.max_bytes = 6}), "at most 6"));
  EXPECT_EQ(error_of("[1,2,3]", {.max_bytes = 7}), "accepted");
  EXPECT_EQ(error_of("[1,2,[]]", {.max_values = 4}), "accepted");
  EXPECT_TRUE(says(error_of("[1,2,[]]", {.max_values = 3}), "more values"));
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(error_of(nested(64)), "accepted");
  EXPECT_TRUE(says(error_of(nested(65)), "deeper than 64"));
  EXPECT_TRUE(says(error_of(std::string(100000, '[')), "deeper than 64"));
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  EXPECT_TRUE(says(error_of(objects), "deeper than 64"));
  EXPECT_TRUE(says(error_of(nested(4), {.max_depth = 3}), "deeper than 3"));
}

TEST(Json, TimeIsLinear) {
  // One large object, then many small ones at its depth: neither detection of duplicates nor reuse of its memory may
  // cost more than a pass. A quadratic reader takes minutes here.
  std::string text = "[{";
  for (int i = 0; i < 200000; ++i) text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":0";
  text += "}";
  for (int i = 0; i < 200000; ++i) text += ",{\"a\":1}";
  text += "]";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(parse_json(text, "the test").as_array().size(), 200001u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST(Json, WritesCompactTextInOrder) {
  json::object object;
  object["z"] = 1;
  object["a"] = json::array{2.5, "q\"\\\n\x01é", nullptr, true};
  object["m"] = json::object{};
  EXPECT_EQ(json_text(object), "{\"z\":1,\"a\":[2.5,\"q\\\"\\\\\\n\\u0001é\",null,true],\"m\":{}}");
  EXPECT_EQ(json_text(json::value(std::int64_t{-9007199254740993})), "-9007199254740993");
  EXPECT_EQ(json_text(json::value(std::numeric_limits<std::uint64_t>::max())), "18446744073709551615");
}

TEST(Json, WritesShortestDoubles) {
  EXPECT_EQ(json_text(json::value(0.1)), "0.1");
  EXPECT_EQ(json_text(json::value(3.0)), "3.0");
  EXPECT_EQ(json_text(json::value(-0.0)), "-0.0");
  EXPECT_EQ(json_text(json::value(1e22)), "1e+22");
  EXPECT_EQ(json_text(json::value(5e-324)), "5e-324");
  EXPECT_EQ(json_text(json::value(std::nan(""))), "null");
  EXPECT_EQ(json_text(json::value(-std::numeric_limits<double>::infinity())), "null");
}

TEST(Json, EveryDoubleSurvivesTheRoundTrip) {
  tests::for_all(11, 20000, [](std::mt19937_64& rng) {
    const double value = std::bit_cast<double>(rng());
    if (!std::isfinite(value)) return;
    const std::string text = json_text(json::value(value));
    const json::value back = parse_json(text, text);
    ASSERT_TRUE(back.is_double()) << text;
    ASSERT_EQ(std::bit_cast<std::uint64_t>(back.as_double()), std::bit_cast<std::uint64_t>(value)) << text;
  });
}

TEST(Json, ValuesSurviveTheRoundTrip) {
  const std::string text =
      R"({"b":[1,-5,0.25,[],{}],"a":"ü\u001f\"","n":null,"t":true,"f":false,"big":9223372036854775808})";
  const json::value value = parse_json(text, "the test");
  EXPECT_EQ(parse_json(json_text(value), "the test"), value);
  EXPECT_EQ(json_text(value), text);
}

}  // namespace
}  // namespace kvgrind
