// The evaluation of a suite: interrupted and resumed equals uninterrupted.
#include "replay/eval/eval.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "traces/model_files/model_folder.h"

namespace kvgrind::replay {
namespace {

class Folder {
 public:
  Folder() {
    char pattern[] = "/tmp/kvgrind-eval-XXXXXX";
    path_ = mkdtemp(pattern);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

const traces::ModelFolder& folder() {
  static const traces::ModelFolder model = traces::read_model_folder(KVGRIND_SOURCE_DIR "/traces/examples/tiny-3m");
  return model;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<std::string> result_lines(const std::filesystem::path& path) {
  std::vector<std::string> out;
  std::istringstream in(text_of(path));
  for (std::string line; std::getline(in, line);)
    if (line.find("\"type\":\"result\"") != std::string::npos) out.push_back(line);
  std::sort(out.begin(), out.end());
  return out;
}

Suite small_suite() {
  const std::string haystack = text_of(KVGRIND_SOURCE_DIR "/traces/examples/prompts/adventures.txt");
  return make_suite("needle", {.seed = 5, .prompts = 3, .length = 200, .questions = 2}, *folder().tokenizer, haystack);
}

TEST(Eval, ResumedEqualsUninterrupted) {
  const Folder here;
  EvalRequest request;
  request.model = sim::build_model(folder().config, folder().weights);
  request.suite = small_suite();
  request.policies = {"snapkv", "tova", "random"};
  request.amounts = {{sim::Amount::Kind::fraction, 0.5}, {sim::Amount::Kind::fraction, 0.2}};
  request.out = here / "whole.jsonl";
  EXPECT_EQ(run_eval(request, nullptr, CancelToken()).done, 18);
  const std::string whole = text_of(request.out);
  const auto expected = result_lines(request.out);
  ASSERT_EQ(expected.size(), 18u);
  for (const double share : {0.0, 0.3, 0.55, 0.9}) {  // cut anywhere, as a kill would
    request.out = here / "cut.jsonl";
    std::ofstream(request.out, std::ios::binary)
        << whole.substr(0, static_cast<std::size_t>(share * static_cast<double>(whole.size())));
    request.resume = true;
    const EvalOutcome outcome = run_eval(request, nullptr, CancelToken());
    EXPECT_EQ(outcome.done + outcome.skipped, 18);
    EXPECT_EQ(result_lines(request.out), expected) << share;
  }
}

}  // namespace
}  // namespace kvgrind::replay
