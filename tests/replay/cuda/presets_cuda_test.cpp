// One prompt recorded in fp32 on the CPU and on the device: every embedded preset that needs nothing fitted keeps the
// same tokens of both, up to counted near ties. What bf16 changes is printed. Skips without a device.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "kernels/device/device.h"
#include "tests/replay/kept_presets.h"

namespace kvgrind::replay {
namespace {

class PresetsCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (kernels::device_count() == 0) GTEST_SKIP() << "no CUDA device";
    char pattern[] = "/tmp/kvgrind-presets-XXXXXX";
    folder_ = mkdtemp(pattern);
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  std::unique_ptr<SequenceData> recorded(const std::string& device, DType arithmetic, bool streaming) {
    RecordJob job = tests::agreement_job(
        tests::tiny_folder(), folder_ / (device + std::string(dtype_name(arithmetic)) + (streaming ? "s.kvt" : ".kvt")),
        400);
    job.device = device;
    job.arithmetic = arithmetic;
    job.streaming = streaming;
    (void)record(job, nullptr, CancelToken());
    return std::make_unique<SequenceData>(tests::run_of(job.out), 0);
  }
  static inline const std::vector<double> budgets{0.75, 0.5, 0.3, 0.2, 0.1};
  std::filesystem::path folder_;
};

TEST_F(PresetsCuda, Fp32TracesOfCpuAndDeviceGiveEqualKeptSets) {
  const auto cpu = recorded("cpu", DType::f32, false);
  for (const bool streaming : {false, true}) {
    SCOPED_TRACE(streaming ? "streaming" : "tap");
    const auto device = recorded("cuda:0", DType::f32, streaming);
    const tests::Agreement sum =
        tests::print_agreement(tests::presets_agree(*cpu, *device, streaming ? std::vector<double>{0.3} : budgets),
                               streaming ? "CPU and device, fp32, streaming" : "CPU and device, fp32");
    EXPECT_EQ(sum.others, 0) << sum.worst;
    EXPECT_LE(static_cast<double>(sum.near_ties + sum.rank_ties), 1e-4 * static_cast<double>(sum.slots));
    EXPECT_GT(sum.decisions, 1000);
    EXPECT_LE(sum.largest_metric, 2e-3);
  }
}

TEST_F(PresetsCuda, Bf16AgreementIsReported) {
  const auto cpu = recorded("cpu", DType::f32, false), device = recorded("cuda:0", DType::bf16, false);
  const auto all = tests::presets_agree(*cpu, *device, {0.3});
  const tests::Agreement sum = tests::print_agreement(all, "CPU in fp32 and device in bf16", false);
  const auto share = [](const tests::Agreement& s) {
    return 1.0 - static_cast<double>(s.near_ties + s.rank_ties + s.others) /
                     static_cast<double>(std::max<std::int64_t>(1, s.slots));
  };
  std::vector<std::pair<double, std::string>> worst;
  for (const tests::PresetAgreement& one : all)
    if (one.left_out.empty()) worst.emplace_back(share(one.sum), one.preset);
  std::sort(worst.begin(), worst.end());
  std::printf("slots of equal fate: %.4f; least:", share(sum));
  for (std::size_t i = 0; i < std::min<std::size_t>(6, worst.size()); ++i)
    std::printf(" %s %.3f", worst[i].second.c_str(), worst[i].first);
  std::printf("; median of presets %.4f\n", worst[worst.size() / 2].first);
  EXPECT_GT(share(sum), 0.9);
}

}  // namespace
}  // namespace kvgrind::replay
