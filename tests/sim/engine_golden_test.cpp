// Kept sets against NVIDIA/kvpress 0.5.4 on tiny-3m (tests/golden/kept_tiny-3m.h5): a prefill of 1024 tokens, six
// published methods, three ratios removed. Counts are equal; positions may differ where scores tie within fp32.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/sim/model_support.h"
#include "tests/support/h5.h"
#include "tests/support/synthetic_source.h"

namespace kvgrind::tests {
namespace {

// What the model showed, as a recording in memory.
SyntheticData recorded(const LoadedModel& loaded, const std::vector<std::int32_t>& ids) {
  SyntheticData out;
  out.card = loaded.config.card;
  out.tokens = static_cast<std::int64_t>(ids.size());
  out.segments = {{Role::context, 0, out.tokens}};
  KeepingTap tap(out.card.layers);
  (void)whole_pass(*loaded.model, ids, &tap);
  const auto split = [&](const std::vector<float>& rows, std::int64_t heads, std::vector<Array<float, 2>>& to) {
    for (std::int64_t h = 0; h < heads; ++h) {
      Array<float, 2>& x = to.emplace_back(Array<float, 2>::Extents{out.tokens, out.card.head_dim});
      for (std::int64_t t = 0; t < out.tokens; ++t)
        for (std::int64_t d = 0; d < out.card.head_dim; ++d)
          x(t, d) = rows[static_cast<std::size_t>((t * heads + h) * out.card.head_dim + d)];
    }
  };
  for (std::int64_t l = 0; l < out.card.layers; ++l) {
    out.projection.push_back(sim::output_projection(*loaded.model, l));
    split(tap.at(l).q, out.card.query_heads, out.q);
    split(tap.at(l).k, out.card.kv_heads, out.k);
    split(tap.at(l).v, out.card.kv_heads, out.v);
  }
  return out;
}

struct Case {
  const char* method;  // as the file names it
  const char* policy;
  int where =
      0;  // 0: kept_tiny-3m.h5, 1: kept_more_… (tests/golden/make_kept.py), 2: kept_extra_… (make_kept_extra.py)
  // LagKV gives 256 of these 1024 tokens the same best score, so below that count the reference's choice is arbitrary.
  std::vector<const char*> ratios = {"0.5", "0.8", "0.95"};
};

class KeptByKvpress : public testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    for (const char* name : {"kept_tiny-3m.h5", "kept_more_tiny-3m.h5", "kept_extra_tiny-3m.h5"})
      files.push_back(std::make_unique<H5File>(source_dir() / "tests/golden" / name));
    source = new SyntheticSource(recorded(load_model(tiny_3m()), files[0]->read<std::int32_t>("ids").values));
  }
  static void TearDownTestSuite() {
    files.clear();
    delete source;
  }
  static inline std::vector<std::unique_ptr<H5File>> files;
  static inline SyntheticSource* source = nullptr;
};

TEST_P(KeptByKvpress, CountsEqualPositionsAgree) {
  for (const char* ratio : GetParam().ratios) {
    const EngineRun run =
        run_engine(GetParam().policy, *source, {.amount = {sim::Amount::Kind::removed, std::stod(ratio)}});
    std::int64_t kept = 0, same = 0;
    for (std::int64_t layer = 0; layer < source->card().layers; ++layer) {
      const auto want = files[static_cast<std::size_t>(GetParam().where)]->read<std::uint8_t>(
          std::string(GetParam().method) + "/" + ratio + "/L" + std::to_string(layer));
      ASSERT_EQ(want.shape, (std::vector<std::int64_t>{source->card().kv_heads, source->tokens()}));
      for (std::int64_t group = 0; group < source->card().kv_heads; ++group) {
        std::int64_t count = 0;
        for (std::int64_t t = 0; t < source->tokens(); ++t) count += want(group, t);
        const auto positions = run.kept(layer, group);
        EXPECT_EQ(static_cast<std::int64_t>(positions.size()), count) << ratio << " layer " << layer;
        kept += count;
        for (const std::int64_t t : positions) same += want(group, t);
      }
    }
    const double share = static_cast<double>(same) / static_cast<double>(kept);
    EXPECT_TRUE(share >= 0.995) << GetParam().policy << ", removed " << ratio << ": " << share;
    std::printf("%-20s removed %-4s: %lld of %lld kept positions agree\n", GetParam().method, ratio,
                static_cast<long long>(same), static_cast<long long>(kept));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Methods, KeptByKvpress,
    testing::Values(
        Case{"knorm", "knorm(like=kvpress)"}, Case{"tova", "tova(like=kvpress)"},
        Case{"streamingllm", "streamingllm(like=kvpress)"}, Case{"observed", "observed(like=kvpress)"},
        Case{"expected", "expected_attention(like=kvpress)"}, Case{"snapkv", "snapkv(window=32,like=kvpress)"},
        Case{"keydiff", "keydiff(like=kvpress)", 1}, Case{"lagkv", "lagkv(like=kvpress)", 1, {"0.5"}},
        Case{"pyramidkv", "pyramidkv(window=32,like=kvpress)", 1},
        Case{"chunkkv", "chunkkv(window=32,like=kvpress)", 1},
        Case{"criticalkv", "criticalkv(window=32,like=kvpress)", 1}, Case{"adakv", "adakv(window=32,like=kvpress)", 1},
        Case{"critical_adakv", "critical_adakv(window=32,like=kvpress)", 1},
        Case{"expected_ada", "expected_adakv(like=kvpress)", 1}, Case{"cur", "cur(like=kvpress)", 1},
        Case{"cap", "cap(like=kvpress)", 1}, Case{"leverage", "leverage(like=kvpress)", 2},
        Case{"non_causal", "noncausal(like=kvpress)", 2},
        Case{"non_causal_padded", "noncausal(chunk=300,like=kvpress)", 2},
        Case{"compactor", "compactor(like=kvpress)", 2}, Case{"block", "block(of=key_diff,size=128,like=kvpress)", 2},
        Case{"chunk", "chunkwise(size=300,like=kvpress)", 2}),
    [](const auto& test) { return std::string(test.param.method); });

}  // namespace
}  // namespace kvgrind::tests
