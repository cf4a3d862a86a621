// The closed loop against other people's code: answers under NVIDIA/kvpress (tests/golden/make_closed.py).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>

#include "core/json.h"
#include "core/parallel.h"
#include "replay/closed_loop/closed_loop.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::replay {
namespace {

const std::filesystem::path golden = std::filesystem::path(KVGRIND_SOURCE_DIR) / "tests/golden";

struct Row {
  std::string press;
  double ratio = 0, accuracy = 0, nll = 0;
  std::string key() const { return press + " removed " + std::to_string(ratio); }
};

std::vector<Row> rows_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  std::vector<Row> rows;
  const json::value golden_file = parse_json(text.str(), path.string());
  for (const json::value& entry : golden_file.at("rows").as_array())
    rows.push_back({std::string(entry.at("press").as_string()), entry.at("ratio").to_number<double>(),
                    entry.at("acc").to_number<double>(), entry.at("nll").to_number<double>()});
  return rows;
}

// Ours for each of theirs; random has its own draw and is left out.
const std::map<std::string, std::string> presets = {
    {"streamingllm", "streamingllm(sinks=4,like=kvpress)"},
    {"knorm", "knorm(like=kvpress)"},
    {"snapkv", "snapkv(window=32,pool=5,kernel=avg,like=kvpress)"},
    {"tova", "tova(like=kvpress)"},
    {"observed", "observed(like=kvpress)"},
    {"expected", "expected_attention(future=512,sinks=4,cov=on,vnorm=on,eps=0,like=kvpress)"},
    {"keydiff", "keydiff(like=kvpress)"},
    {"pyramidkv", "pyramidkv(window=32,like=kvpress)"},
    {"chunkkv", "chunkkv(window=32,like=kvpress)"},
    {"criticalkv", "criticalkv(window=32,like=kvpress)"},
    {"adakv", "adakv(window=32,like=kvpress)"},
    {"critical_adakv", "critical_adakv(window=32,like=kvpress)"},
    {"cur", "cur(like=kvpress)"},
    {"cap", "cap(like=kvpress)"}};

struct Sum {
  double right = 0, nll = 0, tokens = 0;
  void add(const std::vector<QuestionOutcome>& questions) {
    for (const QuestionOutcome& question : questions)
      for (const AnswerToken& token : question.tokens) {
        right += token.right;
        nll += token.nll;
        ++tokens;
      }
  }
};

// Answer tokens within 3 of all, mean NLL within 3 % or 0.005 nats; the full cache within 1e-4 nats. Rows compared.
int expect_agreement(const std::filesystem::path& model_folder, const Suite& suite, const std::vector<Row>& rows) {
  const traces::ModelFolder folder = traces::read_model_folder(model_folder);
  const auto model = sim::build_model(folder.config, folder.weights);
  std::map<std::string, Sum> sums;
  std::mutex mutex;
  for (std::size_t p = 0; p < suite.prompts.size(); ++p) {
    const ClosedPrompt prompt(model, suite.prompts[p], static_cast<std::int64_t>(p), {.kl = false});
    sums["full"].add(prompt.run_full().questions);
    parallel_for(static_cast<std::int64_t>(rows.size()), [&](std::int64_t r) {
      const Row& row = rows[static_cast<std::size_t>(r)];
      const auto preset = presets.find(row.press);
      if (preset == presets.end()) return;
      const JobOutcome outcome =
          prompt.run({sim::bind_policy(preset->second), {sim::Amount::Kind::removed, row.ratio}, 0});
      const std::lock_guard lock(mutex);
      sums[row.key()].add(outcome.questions);
    });
  }
  int compared = 0;
  for (const Row& row : rows) {
    if (row.press == "none") {
      EXPECT_NEAR(sums["full"].nll / sums["full"].tokens, row.nll, 1e-4);
    }
    if (!presets.contains(row.press)) continue;
    const Sum& sum = sums.at(row.key());
    const double nll = sum.nll / sum.tokens;
    EXPECT_LE(std::abs(sum.right - row.accuracy * sum.tokens), 3.0) << row.key();
    EXPECT_LE(std::abs(nll - row.nll), std::max(0.03 * row.nll, 0.005)) << row.key() << ": " << nll;
    ++compared;
  }
  return compared;
}

const char* const tiny = KVGRIND_SOURCE_DIR "/traces/examples/tiny-3m";

TEST(ClosedGolden, ReferenceRowsOfTheExampleModel) {
  const Suite suite = read_suite(golden / "closed_loop_tiny-3m.json", 4096);
  EXPECT_EQ(expect_agreement(tiny, suite, rows_of(golden / "closed_loop_tiny-3m.json")), 18);
}

TEST(ClosedGolden, FurtherMethodsOnTheSamePrompts) {
  const Suite suite = read_suite(golden / "closed_loop_tiny-3m.json", 4096);
  EXPECT_EQ(expect_agreement(tiny, suite, rows_of(golden / "closed_more_tiny-3m.json")), 24);
}

// Half a minute of two cores, and a model that is not in the repository: KVGRIND_LAB_MODEL names its folder.
TEST(ClosedGolden, ABiggerModelAt4096Tokens) {
  const char* lab = std::getenv("KVGRIND_LAB_MODEL");
  if (!lab) GTEST_SKIP() << "KVGRIND_LAB_MODEL is not set";
  const Suite suite = read_suite(golden / "closed_lab-23m.json", 4096);
  EXPECT_EQ(expect_agreement(lab, suite, rows_of(golden / "closed_lab-23m.json")), 27);
}

}  // namespace
}  // namespace kvgrind::replay
