// What validate measured, beside open-loop claims.
#include "replay/report/trust.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "core/error.h"

namespace kvgrind::replay {
namespace {

constexpr const char* block = R"({"schema":"kvgrind.trust/1","model":"m","model_hash":"00000000000000aa",
 "headline":"D.answer","null":"removed_bytes","measured":"2026-01-02","tasks":[
 {"task":"needle","prompts":50,"cells":9,"ceiling":1,"trust":"D.answer","figures":[
  {"figure":"D.answer","spearman":0.97,"lo":0.95,"hi":0.98,"informative":0.9,"most_given_away":0.01}]},
 {"task":"prose","prompts":50,"cells":9,"ceiling":1,"trust":"E.answer","figures":[
  {"figure":"D.answer","spearman":0.9,"lo":null,"hi":null,"informative":0.9,"most_given_away":0.01},
  {"figure":"E.answer","spearman":0.98,"lo":0.96,"hi":0.99,"informative":0.9,"most_given_away":0.01}]}]})";

Trust some() { return trust_from_json(parse_json(block, "block"), "block"); }

TEST(Trust, SaysHowWellTheFigureRankedAndWhatRanksBetter) {
  const auto lines = trust_lines(some(), "D.answer");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0],
            "On m D.answer ranked methods with Spearman 0.97 [0.95, 0.98] on needle, 0.90 on prose; measured with "
            "kvgrind validate on 2026-01-02.");
  EXPECT_EQ(lines[1], "Better there: E.answer on prose (0.98).");
  EXPECT_NE(trust_lines(some(), "recall.all")[0].find("was not among"), std::string::npos);
  EXPECT_NE(no_trust_lines("D.answer")[1].find("kvgrind validate"), std::string::npos);
}

TEST(Trust, IsFoundForTheSameWeightsOnlyAndTheLatestWins) {
  char pattern[] = "/tmp/kvgrind-trust-XXXXXX";
  const std::filesystem::path folder = mkdtemp(pattern);
  const auto put = [&](const char* place, std::string text, const char* date) {
    text.replace(text.find("2026-01-02"), 10, date);
    std::filesystem::create_directories((folder / place).parent_path());
    std::ofstream(folder / place) << text;
  };
  EXPECT_FALSE(find_trust(folder, "00000000000000aa"));
  put("trust.json", block, "2026-01-02");
  put("later/trust.json", block, "2026-03-01");
  std::filesystem::create_directories(folder / "noise");
  std::ofstream(folder / "noise/trust.json") << "{}";  // somebody else's
  const auto found = find_trust(folder, "00000000000000aa");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->measured, "2026-03-01");
  EXPECT_FALSE(find_trust(folder, "00000000000000bb"));
  EXPECT_THROW((void)read_trust(folder / "noise/trust.json"), Error);
  EXPECT_THROW((void)read_trust(folder / "nothing.json"), Error);
  std::filesystem::remove_all(folder);
}

TEST(Trust, DamagedBlocksAreRefused) {
  for (const auto& [from, to] :
       {std::pair("kvgrind.trust/1", "kvgrind.trust/9"), std::pair("\"tasks\":[", "\"task\":["),
        std::pair("\"spearman\":0.97", "\"spearman\":\"high\"")}) {
    std::string text = block;
    text.replace(text.find(from), std::string(from).size(), to);
    EXPECT_THROW((void)trust_from_json(parse_json(text, "block"), "block"), Error) << to;
  }
}

}  // namespace
}  // namespace kvgrind::replay
