// Kept sets of NVIDIA/kvpress 0.5.4's KVzip and KVCompose on the example model (tests/golden/make_kept_probes.py).
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>

#include "replay/closed_loop/compression.h"
#include "replay/closed_loop/probe_store.h"
#include "tests/replay/closed_support.h"
#include "tests/support/h5.h"

namespace kvgrind::tests {
namespace {

struct Case {
  const char* method;  // as the file names it
  const char* policy;
  std::int64_t part = 2048;
};

class KeptAfterProbes : public testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    file_ = std::make_unique<H5File>(std::filesystem::path(KVGRIND_SOURCE_DIR) / "tests/golden/kept_probes_tiny-3m.h5");
    prompt_.context = file_->read<std::int32_t>("ids").values;
    prompt_.questions = {{.question = {5}, .answer = {6, 7}, .evidence = {}}};
  }
  static void TearDownTestSuite() { file_.reset(); }
  static inline std::unique_ptr<H5File> file_;
  static inline replay::SuitePrompt prompt_;
};

TEST_P(KeptAfterProbes, CountsEqualPositionsAgree) {
  replay::ClosedOptions options;
  options.probes.text = replay::probe_text(*tiny_folder().tokenizer);
  options.probes.chunk = GetParam().part;
  const replay::ClosedPrompt closed(tiny(), prompt_, 0, options);
  for (const char* ratio : {"0.5", "0.8", "0.95"}) {
    std::int64_t want = 0, found = 0, same = 0, off = 0;
    replay::ClosedObservers observers;
    observers.on_plan = [&](const sim::GroupPlan& plan) {
      const auto kept =
          file_->read<std::uint8_t>(std::string(GetParam().method) + "/" + ratio + "/L" + std::to_string(plan.layer));
      std::int64_t here = 0, there = 0;
      for (std::size_t t = 0; t < plan.keep.size(); ++t) {
        const bool theirs = kept(plan.group, static_cast<std::int64_t>(t)) != 0, ours = plan.keep[t] != 0;
        there += theirs;
        here += ours;
        same += theirs && ours;
      }
      want += there;
      found += here;
      off = std::max(off, std::abs(here - there));
    };
    (void)closed.run_observed({sim::bind_policy(GetParam().policy), {sim::Amount::Kind::removed, std::stod(ratio)}, 0},
                              observers);
    const double share = static_cast<double>(same) / static_cast<double>(want);
    EXPECT_EQ(found, want) << ratio;
    EXPECT_LE(off, 1) << ratio << ": a group's count";  // pools decide by scores of all groups, rounded otherwise
    EXPECT_TRUE(share >= 0.995) << ratio << ": " << share;
    std::printf("%-16s removed %-4s: %lld of %lld kept positions agree, counts of groups within %lld\n",
                GetParam().method, ratio, static_cast<long long>(same), static_cast<long long>(want),
                static_cast<long long>(off));
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, KeptAfterProbes,
                         testing::Values(Case{"kvzip", "kvzip(like=kvpress)"},
                                         Case{"kvzip_parts", "kvzip(like=kvpress)", 200},
                                         Case{"kvzip_layer", "kvzip(over=layer,like=kvpress)"},
                                         Case{"kvzip_plus", "kvzip(plus=on,like=kvpress)"},
                                         Case{"kvcompose", "kvcompose(like=kvpress)"},
                                         Case{"kvcompose_free", "kvcompose(structured=off,like=kvpress)"}),
                         [](const auto& test) { return std::string(test.param.method); });

}  // namespace
}  // namespace kvgrind::tests
