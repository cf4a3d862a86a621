// The rounding of a run must not decide what is kept: recordings made at two instruction-set levels lead every preset
// to the same kept sets, up to near ties.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "kernels/isa/isa.h"
#include "tests/replay/kept_presets.h"

namespace kvgrind::replay {
namespace {

TEST(KeptSets, OfEveryPresetAreThoseOfAnotherInstructionSet) {
  const std::vector<kernels::Isa> levels = kernels::available_isas();
  if (levels.size() < 2) GTEST_SKIP() << "one instruction-set level only";
  char pattern[] = "/tmp/kvgrind-levels-XXXXXX";
  const std::filesystem::path folder = mkdtemp(pattern);
  const kernels::Isa own = kernels::current_isa();
  std::vector<std::unique_ptr<SequenceData>> data;
  for (const kernels::Isa level : {levels.front(), levels.back()}) {
    kernels::set_isa(level);
    const RecordJob job =
        tests::agreement_job(tests::tiny_folder(), folder / (std::string(kernels::isa_name(level)) + ".kvt"), 160);
    (void)record(job, nullptr, CancelToken());
    kernels::set_isa(own);
    data.push_back(std::make_unique<SequenceData>(tests::run_of(job.out), 0));
  }
  bool same = true;
  for (std::int64_t l = 0; l < data[0]->card().layers; ++l)
    same = same && std::equal(data[0]->keys(l).data(), data[0]->keys(l).data() + data[0]->keys(l).size(),
                              data[1]->keys(l).data());
  EXPECT_FALSE(same) << "two levels that round alike prove nothing";
  const tests::Agreement sum =
      tests::print_agreement(tests::presets_agree(*data[0], *data[1], {0.5, 0.2}), "two instruction sets");
  EXPECT_EQ(sum.others, 0);
  EXPECT_GT(sum.decisions, 1000);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace kvgrind::replay
