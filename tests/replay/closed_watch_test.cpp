// What a prompt's policies announce saves work and changes nothing; nor does feeding answers token by token.
#include <gtest/gtest.h>

#include "core/error.h"
#include "sim/engine/policy.h"
#include "tests/replay/closed_support.h"

namespace kvgrind::replay {
namespace {

using tests::closed_presets;
using tests::losses;
using tests::small_prompt;
using tests::tiny;

constexpr sim::Amount some{sim::Amount::Kind::fraction, 0.4};

TEST(ClosedWatch, AnnouncedPoliciesEndTheSame) {
  for (const Turns turns : {Turns::blind, Turns::aware}) {
    const SuitePrompt prompt = small_prompt(100, 1);
    const ClosedPrompt any(tiny(), prompt, 0, {.turns = turns, .prefill_chunk = 64, .kl = false});
    const std::vector<std::string> few{"observed", "snapkv", "expected_attention", "tova"};
    for (const std::string& preset : turns == Turns::blind ? closed_presets() : few) {
      SCOPED_TRACE(preset);
      const EvalJob job{tests::closed_policy(preset), some, 0};
      const ClosedPrompt one(tiny(), prompt, 0,
                             {.turns = turns, .prefill_chunk = 64, .kl = false, .policies = {job.policy}});
      EXPECT_EQ(losses(one.run(job)), losses(any.run(job)));
    }
  }
}

TEST(ClosedWatch, WhatWasNotAnnouncedIsRefused) {
  const ClosedPrompt closed(tiny(), small_prompt(100, 1), 0, {.policies = {sim::bind_policy("knorm")}});
  EXPECT_FALSE(losses(closed.run({sim::bind_policy("streamingllm"), some, 0})).empty());
  EXPECT_THROW(closed.run({sim::bind_policy("snapkv"), some, 0}), Error);
}

TEST(ClosedWatch, AnswersTokenByTokenAreAnswersAtOnce) {
  for (const Turns turns : {Turns::blind, Turns::multi}) {
    const ClosedPrompt closed(tiny(), small_prompt(200, 2), 0, {.turns = turns});
    EXPECT_EQ(losses(closed.run_full(true)), losses(closed.run_full(false)));
  }
}

}  // namespace
}  // namespace kvgrind::replay
