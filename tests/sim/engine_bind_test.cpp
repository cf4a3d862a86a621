// Binding: names to rows, parameters with types and ranges, canonical print, presets, amounts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/methods.h"
#include "tests/support/for_all.h"

namespace kvgrind::sim {
namespace {

using testing::HasSubstr;

std::string failure(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::usage);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}
std::string bind_failure(std::string_view text) {
  return failure([&] { (void)bind_policy(text); });
}
std::string canonical(std::string_view text) { return canonical_line(*bind_policy(text)); }

TEST(Bind, CanonicalPrintFillsEverySlotAndParameter) {
  EXPECT_EQ(canonical("select=topk(recent=8) score=window_attention(pool=3)"),
            "score=window_attention(window=32,pool=3,kernel=avg,reduce=mean) budget=uniform(of=stored) "
            "select=topk(sink=0,recent=8,newest=free) act=drop(positions=keep) schedule=prefill_end read=all");
  EXPECT_EQ(canonical("budget=uniform"),
            "score=none budget=uniform(of=stored) select=topk(sink=0,recent=0,newest=free) act=drop(positions=keep) "
            "schedule=prefill_end read=all");
}

TEST(Bind, TheAmountIsNotPartOfTheIdentity) {
  const PolicyPtr with = bind_policy("score=key_norm budget=uniform(keep=0.2)");
  EXPECT_EQ(canonical_line(*with), canonical("score=key_norm"));
  EXPECT_EQ(policy_hash(*with), policy_hash(*bind_policy("score=key_norm")));
  ASSERT_TRUE(amount_in_line(*with).has_value());
  EXPECT_EQ(amount_in_line(*with)->value, 0.2);
  EXPECT_EQ(amount_in_line(*bind_policy("score=key_norm budget=uniform(keep=64MiB)"))->kind, Amount::Kind::bytes);
  EXPECT_FALSE(amount_in_line(*bind_policy("knorm")).has_value());
}

TEST(Bind, CanonicalPrintIsAFixedPointForEveryPresetAndVariant) {
  std::set<std::string> hashes;
  for (const MethodCard& card : method_cards()) {
    const Method method = read_method(card);
    for (const auto& like : method.like) {
      const PolicyPtr policy = bind_policy(card.name + "(like=" + like.name + ")");
      EXPECT_EQ(canonical(canonical_line(*policy)), canonical_line(*policy));
      EXPECT_EQ(policy_hash(*policy).size(), 16u);
      EXPECT_EQ(count_class(*policy), method.count);
      EXPECT_EQ(typed_text(*policy), card.name + "(like=" + like.name + ")");
      hashes.insert(policy_hash(*policy));
    }
    // Every default says what it would be if typed.
    std::string typed;
    for (const auto& parameter : method.parameters)
      typed += (typed.empty() ? "(" : ",") + parameter.name + "=" + parameter.default_text;
    if (!typed.empty() && method.like[0].defaults.empty()) {
      EXPECT_EQ(canonical(card.name + typed + ")"), canonical(card.name));
    }
  }
  EXPECT_GT(hashes.size(), 15u);
}

TEST(Bind, EveryParameterOfAPresetReachesItsLine) {
  for (const MethodCard& card : method_cards()) {
    const Method method = read_method(card);
    for (const auto& parameter : method.parameters) {
      bool used = false;
      for (const auto& line : method.lines)
        used |= line.text.find("{" + parameter.name + "}") != std::string::npos || line.when.contains(parameter.name);
      EXPECT_TRUE(used) << card.name << ": " << parameter.name;
    }
  }
}

TEST(Bind, RandomLinesPrintToAFixedPoint) {
  // Any primitive beside any other.
  tests::for_all(21, 200, [](std::mt19937_64& rng) {
    const auto pick = [&](const auto& rows) { return std::string(rows[rng() % rows.size()]->name); };
    const std::string line = "read=" + pick(read_rows()) + " score=" + pick(score_rows()) + " act=" + pick(act_rows()) +
                             " budget=" + pick(budget_rows()) + " schedule=" + pick(schedule_rows()) +
                             " select=" + pick(select_rows());
    try {
      const std::string once = canonical(line);
      EXPECT_EQ(canonical(once), once);
    } catch (const Error& error) {
      // Only a missing required parameter or column may stop a line of known names.
      EXPECT_THAT(error.what(), testing::AnyOf(HasSubstr("without"), HasSubstr("gives the column")));
    }
  });
}

TEST(Bind, ErrorsNameTheNearestAndTheChoices) {
  EXPECT_THAT(bind_failure("snpkv"), HasSubstr("did you mean \"snapkv\"?"));
  EXPECT_THAT(bind_failure("score=key_nrom"), HasSubstr("did you mean \"key_norm\"?"));
  EXPECT_THAT(bind_failure("score=key_norm(x=1)"), HasSubstr("key_norm takes no parameters"));
  EXPECT_THAT(bind_failure("snapkv(windw=3)"), HasSubstr("did you mean \"window\"?"));
  EXPECT_THAT(bind_failure("snapkv(windw=3)"), HasSubstr("column 8"));
  EXPECT_THAT(bind_failure("snapkv(like=kvpres)"), HasSubstr("did you mean \"kvpress\"?"));
  EXPECT_THAT(bind_failure("snapkv(window=0)"), HasSubstr("a whole number from 1 to 65536"));
  EXPECT_THAT(bind_failure("snapkv(window=1.5)"), HasSubstr("a whole number"));
  EXPECT_THAT(bind_failure("snapkv(window=32t)"), HasSubstr("window=32t"));
  EXPECT_THAT(bind_failure("score=window_attention(pool=4)"), HasSubstr("an odd number from 1 to 1023"));
  EXPECT_THAT(bind_failure("score=window_attention(kernel=mean)"), HasSubstr("one of avg, max"));
  EXPECT_THAT(bind_failure("score=expected_attention(cov=1)"), HasSubstr("on or off"));
  EXPECT_THAT(bind_failure("act=classes(of=3)"), HasSubstr("[list]"));
  EXPECT_THAT(bind_failure("budget=uniform(keep=2)"), HasSubstr("tokens: 2t"));
}

TEST(Bind, Booleans) {
  EXPECT_EQ(canonical("score=expected_attention(cov=false,vnorm=true)"),
            canonical("score=expected_attention(cov=off,vnorm=on)"));
  EXPECT_NE(canonical("expected_attention(cov=off)"), canonical("expected_attention"));
}

TEST(Bind, KvpressVariantsHaveTheFixedParameters) {
  EXPECT_THAT(canonical("snapkv(like=kvpress)"),
              HasSubstr("window_attention(window=64,pool=5,kernel=avg,reduce=mean)"));
  EXPECT_THAT(canonical("snapkv(like=kvpress,window=32)"), HasSubstr("window=32,pool=5,kernel=avg"));
  EXPECT_THAT(canonical("tova(like=kvpress)"), HasSubstr("newest=keep"));
  EXPECT_THAT(canonical("tova(like=kvpress)"), HasSubstr("schedule=prefill_end"));
  EXPECT_THAT(canonical("tova"), HasSubstr("newest=free"));
  EXPECT_THAT(canonical("streamingllm(sinks=2,like=kvpress)"), HasSubstr("sinks_recent(sinks=2)"));
  EXPECT_EQ(canonical("expected_attention(like=kvpress)"), canonical("expected_attention"));
}

TEST(Bind, WhatTheLoopsMustKnow) {
  EXPECT_TRUE(one_shot(*bind_policy("snapkv")));
  EXPECT_FALSE(needs_steps(*bind_policy("snapkv")));
  EXPECT_TRUE(needs_steps(*bind_policy("h2o")));
  EXPECT_FALSE(needs_steps(*bind_policy("h2o(variant=prefill)")));
  EXPECT_TRUE(needs_steps(*bind_policy("oracle_step")));
  EXPECT_FALSE(reads_all(*bind_policy("oracle_step")));
  EXPECT_EQ(wanted_chunk(*bind_policy("keydiff(like=paper)")), 128);
  EXPECT_EQ(wanted_chunk(*bind_policy("keydiff")), 0);
  EXPECT_EQ(cache_granularity(*bind_policy("snapkv(like=official)")), Granularity::query_head);
  EXPECT_EQ(cache_granularity(*bind_policy("snapkv")), Granularity::kv_head);
  EXPECT_THAT(needed_signals(*bind_policy("oracle")), testing::Contains(Signal::future_queries));
  EXPECT_THAT(needed_signals(*bind_policy("knorm")), testing::IsEmpty());
  EXPECT_EQ(count_class(*bind_policy("score=key_norm budget=all")), CountClass::fixed);
  EXPECT_EQ(count_class(*bind_policy("score=key_norm")), CountClass::exact);
}

TEST(Bind, OwnMethodsStandBesideTheBuiltIn) {
  const MethodCard card = parse_method_card(
      R"json({"name":"mine","help":"h","tag":"own","fidelity":"OL","count":"exact","full":"f","source":{},
          "parameters":[{"name":"w","type":"integer","default":"8","min":1,"help":"window"}],
          "like":[{"name":"paper","help":"h"}],"lines":[{"line":"score=window_attention(window={w})"}],
          "deviations":[]
})json",
      "mine.json");
  EXPECT_THAT(canonical_line(*bind_policy("mine(w=4)", {card})), HasSubstr("window=4,"));
  EXPECT_THAT(bind_failure("mine"), HasSubstr("policy \"mine\""));
  EXPECT_THROW((void)parse_method_card("{}", "x.json"), Error);
  EXPECT_THROW((void)parse_method_card(
                   R"json({"name":"x","help":"h","tag":"M","fidelity":"OL","count":"exact","full":"f","source":{},
                       "parameters":[],"like":[{"name":"paper","help":"h"}],"lines":[],"deviations":[]})json",
                   "x.json"),
               Error);  // tag M without the suffix -m
  EXPECT_THROW((void)parse_method_card(
                   R"json({"name":"x","help":"h","tag":"own","fidelity":"OL","count":"exact","full":"f","source":{},
                       "protocol":"guessed","parameters":[],"like":[{"name":"paper","help":"h"}],
                       "lines":[{"line":"score=key_norm"}],"deviations":[]})json",
                   "x.json"),
               Error);
}

TEST(Bind, CardsSayWhereTheyComeFrom) {
  const std::vector<std::string> names = preset_names();
  ASSERT_EQ(names.size(), method_cards().size());
  for (std::size_t i = 0; i < names.size(); ++i) EXPECT_EQ(names[i], method_cards()[i].name);
  for (const MethodCard& card : method_cards()) {
    const auto& source = card.data.at("source").as_object();
    for (const char* key : {"title", "arxiv", "bibtex", "repository", "file"})
      ASSERT_TRUE(source.contains(key)) << card.name << ": " << key;
    // When the paper's own tables compress; a claim says by what it is known.
    ASSERT_TRUE(card.data.contains("protocol")) << card.name;
    const std::string protocol(card.data.at("protocol").as_string());
    const std::string word = protocol.substr(0, protocol.find(':'));
    EXPECT_THAT(protocol_words(), testing::Contains(word)) << card.name;
    EXPECT_TRUE(word == "not stated" || protocol.size() > word.size() + 2) << card.name;
    if (!source.at("arxiv").as_string().empty()) {
      EXPECT_THAT(std::string(source.at("bibtex").as_string()), HasSubstr(std::string(source.at("arxiv").as_string())));
    }
  }
}

TEST(Amounts, TextAndBack) {
  EXPECT_EQ(parse_amount("0.2").text(), "0.2");
  EXPECT_EQ(parse_amount("20%").value, 0.2);
  EXPECT_EQ(parse_amount("512t").text(), "512t");
  EXPECT_EQ(parse_amount("64MiB").text(), "67108864B");
  EXPECT_EQ(parse_amount("1GB").value, 1e9);
  EXPECT_EQ((Amount{Amount::Kind::removed, 0.8}).text(), "removed 0.8");
  EXPECT_EQ(parse_amounts("0.2, 512t,64MiB").size(), 3u);
  for (const char* bad : {"", "x", "0", "-1", "1.5", "0t", "1.5t", "5q", "1 2", "0.2,", "nan", "120%", "-5MiB"})
    EXPECT_THROW((void)parse_amounts(bad), Error) << bad;
}

TEST(Amounts, Rounding) {
  ModelCard card;
  card.layers = 2;
  card.kv_heads = 2;
  card.query_heads = 4;
  card.head_dim = 8;
  card.dtype = DType::bf16;
  const auto kept = [&](Amount amount, std::int64_t n) { return base_amount(amount, n, card, 2).tokens; };
  const auto removed = [](double ratio) { return Amount{Amount::Kind::removed, ratio}; };
  // Upstream's binary64 arithmetic, then ours.
  EXPECT_EQ(kept(removed(0.9), 10), 0);
  EXPECT_EQ(kept(removed(0.9), 100), 9);
  EXPECT_EQ(kept(removed(0.8), 10), 1);
  EXPECT_EQ(kept(parse_amount("0.2"), 10), 2);
  EXPECT_EQ(kept(parse_amount("0.1"), 100), 10);
  EXPECT_EQ(kept(parse_amount("0.01"), 10), 1);
  EXPECT_EQ(kept(parse_amount("0.29"), 100), 29);
  EXPECT_EQ(kept(parse_amount("512t"), 10), 512);
  // 32 bytes of K and V a token and group, 4 groups.
  EXPECT_EQ(kept(parse_amount("1280B"), 100), 10);
  EXPECT_EQ(kept(parse_amount("1407B"), 100), 10);
  EXPECT_EQ(kept(parse_amount("1B"), 100), 1);
  EXPECT_EQ(base_amount(parse_amount("1280B"), 100, card, 4).tokens, 5);  // a cache per query head
}

}  // namespace
}  // namespace kvgrind::sim
