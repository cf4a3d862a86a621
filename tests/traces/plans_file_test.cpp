// plans.h5: what is written comes back, only differing V is stored, and the layout is the agreed one.
#include "traces/results/plans_file.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <fstream>

#include "core/error.h"

namespace kvgrind::traces {
namespace {

class PlansFileTest : public ::testing::Test {
 protected:
  PlansFileTest() {
    char pattern[] = "/tmp/kvgrind-plans-XXXXXX";
    folder_ = mkdtemp(pattern);
  }
  ~PlansFileTest() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path at(const std::string& name) const { return folder_ / name; }
  std::filesystem::path folder_;
};

JobPlan plan(bool values) {
  JobPlan out;
  out.policy = "score=random budget=uniform";
  out.preset = "random";
  out.keep = values ? 0.25 : std::nan("");
  out.compress_at = 5;
  out.sequence = 3;
  out.k = {{{0, 1, 2, 17, 33}, {1, 1, 1, 1, 5}}, {{3, 4, 0, 0, 1}, {0, 0, 0, 0, 0}}};
  out.v = out.k;
  if (values) out.v[1][0][0] = 1;
  return out;
}

TEST_F(PlansFileTest, JobsComeBack) {
  PlansFile file(at("plans.h5"), false);
  file.write(0, plan(false));
  file.write(11, plan(true));
  EXPECT_FALSE(std::filesystem::exists(at("plans.h5")));
  file.close();
  EXPECT_TRUE(std::filesystem::exists(at("plans.h5")));
  EXPECT_EQ(list_job_plans(at("plans.h5")), (std::vector<std::int64_t>{0, 11}));
  const JobPlan first = read_job_plan(at("plans.h5"), 0), second = read_job_plan(at("plans.h5"), 11);
  EXPECT_EQ(first.k, plan(false).k);
  EXPECT_TRUE(first.v.empty());
  EXPECT_TRUE(std::isnan(first.keep));
  EXPECT_EQ(second.k, plan(true).k);
  EXPECT_EQ(second.v, plan(true).v);
  EXPECT_EQ(second.keep, 0.25);
  EXPECT_TRUE(std::isnan(second.removed));
  EXPECT_EQ(second.policy, plan(true).policy);
  EXPECT_EQ(second.preset, "random");
  EXPECT_EQ(second.compress_at, 5);
  EXPECT_EQ(second.sequence, 3);
}

TEST_F(PlansFileTest, LayoutIsTheAgreedOneReadPlainly) {
  {
    PlansFile file(at("plans.h5"), false);
    file.write(7, plan(true));
    file.close();
  }
  const hid_t file = H5Fopen(at("plans.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hid_t data = H5Dopen2(file, "/jobs/7/L0", H5P_DEFAULT);
  ASSERT_GE(data, 0);
  const hid_t space = H5Dget_space(data);
  hsize_t extents[2] = {};
  ASSERT_EQ(H5Sget_simple_extent_dims(space, extents, nullptr), 2);
  EXPECT_EQ(extents[0], 2u);
  EXPECT_EQ(extents[1], 5u);
  std::vector<std::uint8_t> states(10);
  ASSERT_GE(H5Dread(data, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, states.data()), 0);
  EXPECT_EQ(states, (std::vector<std::uint8_t>{0, 1, 2, 17, 33, 1, 1, 1, 1, 5}));
  EXPECT_EQ(H5Lexists(file, "/jobs/7/V", H5P_DEFAULT), 1);
  EXPECT_EQ(H5Lexists(file, "/jobs/7/V/L0", H5P_DEFAULT), 0);
  EXPECT_EQ(H5Lexists(file, "/jobs/7/V/L1", H5P_DEFAULT), 1);
  H5Sclose(space);
  H5Dclose(data);
  H5Fclose(file);
}

TEST_F(PlansFileTest, WrongFilesAreRefused) {
  EXPECT_THROW((void)read_job_plan(at("absent"), 0), Error);
  std::ofstream(at("text")) << "not HDF5";
  EXPECT_THROW((void)list_job_plans(at("text")), Error);
  {
    PlansFile file(at("plans.h5"), false);
    file.write(0, plan(false));
    file.close();
  }
  EXPECT_THROW((void)read_job_plan(at("plans.h5"), 1), Error);
  EXPECT_THROW(PlansFile(at("plans.h5"), false), Error);
  PlansFile replaced(at("plans.h5"), true);
  replaced.close();
  EXPECT_TRUE(list_job_plans(at("plans.h5")).empty());
}

}  // namespace
}  // namespace kvgrind::traces
