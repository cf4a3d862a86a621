// Recordings in segment files: the same file in the end, and a prefix after a kill.
#include <chrono>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "tests/support/for_all.h"
#include "tests/traces/kvt_compare.h"
#include "tests/traces/kvt_process.h"
#include "traces/kvt/segments.h"

namespace kvgrind::tests {
namespace {

using traces::Recorder;
using traces::RecordOptions;
using traces::Trace;

const RecordOptions plain{.column_sums = false, .pooled_maps = false};

void expect_category(Category category, const std::string& word, const std::function<void()>& work) {
  try {
    work();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), category) << error.what();
    EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
  }
}

TEST(KvtSegments, JoinedTheyAreTheFileOfAnyOtherRecording) {
  const TemporaryFolder folder;
  for_all(20240611, 6, [&](std::mt19937_64& rng) {
    const Driver driver = killed_driver(200 + static_cast<std::int64_t>(rng() % 200));
    RecordOptions options;
    std::vector<std::string> hashes;
    const std::int64_t piece = 8 + static_cast<std::int64_t>(rng() % 60);
    for (const bool segments : {false, true}) {
      const std::filesystem::path path = folder / (segments ? "s.kvt" : "w.kvt");
      std::filesystem::remove(path);
      options.segments = segments;
      options.segment_bytes = 1 + static_cast<std::int64_t>(rng() % 60000);
      Recorder recorder(path, driver.plan(), options);
      for (std::size_t s = 0; s < driver.sequences().size(); ++s)
        driver.feed(recorder, static_cast<std::int64_t>(s), piece);
      if (segments) {
        EXPECT_GT(traces::read_segment_index(folder / "s.kvt.part").size(), 2u);
        expect_category(Category::damaged, "repair", [&] { (void)Trace::open(folder / "s.kvt.part"); });
      }
      recorder.close();
      EXPECT_FALSE(std::filesystem::exists(path.string() + ".part"));
      const auto trace = Trace::open(path, {.probe = false});
      expect_equal(driver, *trace, options);
      EXPECT_TRUE(traces::check_trace(path, true).ok);
      EXPECT_EQ(trace->state(), traces::TraceState::complete);
      hashes.push_back(trace->hash());
    }
    EXPECT_EQ(hashes[0], hashes[1]);
  });
}

TEST(KvtSegments, KillsLeaveTheClosedOnes) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.kvt", part = folder / "a.kvt.part", saved = folder / "saved.kvt";
  int unborn = 0, empty = 0, prefixes = 0, complete = 0;
  for_all(20240612, 40, [&](std::mt19937_64& rng) {
    std::filesystem::remove_all(part);
    for (const std::filesystem::path& old : {path, saved}) std::filesystem::remove(old);
    Child child(path, {"pause_us=800", "segments=20000"});
    const bool ready = child.wait_ready();
    std::this_thread::sleep_for(std::chrono::microseconds(rng() % 120000));
    child.kill_now();
    if (std::filesystem::exists(path)) {
      ++complete;
      expect_equal(killed_driver(480), *Trace::open(path, {.probe = false}), plain);
      return;
    }
    if (!ready) {
      ++unborn;
      return;
    }
    ASSERT_TRUE(traces::is_segment_folder(part)) << "a recording that had begun must be there";
    const std::size_t closed = traces::read_segment_index(part).size();
    const json::object report = traces::repair_trace(part, saved, false);
    EXPECT_EQ(report.at("segments").to_number<std::size_t>(), closed);
    EXPECT_TRUE(report.at("lost").as_array().empty());
    const auto trace = Trace::open(saved, {.probe = false});
    expect_equal(killed_driver(480), *trace, plain);
    EXPECT_FALSE(std::filesystem::exists(saved.string() + ".joined"));
    ++(trace->rows() > 0 ? prefixes : empty);
    if (closed > 2) {
      EXPECT_GT(trace->rows(), 0);
    }
  });
  std::printf("40 kills in segments: %d unborn, %d empty, %d prefixes, %d complete\n", unborn, empty, prefixes,
              complete);
  EXPECT_GT(prefixes, 5);
}

TEST(KvtSegments, DamagedOnesEndWhatIsJoined) {
  const TemporaryFolder folder;
  const std::filesystem::path part = folder / "a.kvt.part", saved = folder / "saved.kvt";
  {
    Child child(folder / "a.kvt", {"pause_us=2000", "segments=20000"});
    ASSERT_TRUE(child.wait_ready());
    while (traces::read_segment_index(part).size() < 6) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    child.kill_now();
  }
  (void)traces::repair_trace(part, saved, true);
  const std::int64_t whole = Trace::open(saved, {.probe = false})->rows();
  std::filesystem::resize_file(part / "0003.h5", std::filesystem::file_size(part / "0003.h5") / 2);
  const json::object report = traces::repair_trace(part, saved, true);
  EXPECT_EQ(report.at("segments").to_number<int>(), 3);
  EXPECT_EQ(report.at("lost").as_array().size(), 1u);
  const auto trace = Trace::open(saved, {.probe = false});
  EXPECT_LT(trace->rows(), whole);
  EXPECT_GT(trace->rows(), 0);
  expect_equal(killed_driver(480), *trace, plain);

  std::filesystem::resize_file(part / "0000.h5", 100);
  expect_category(Category::damaged, "0000.h5", [&] { (void)traces::repair_trace(part, saved, true); });
  std::ofstream(part / "index") << "kvgrind-segments 1\n../../etc/passwd 5\n";
  expect_category(Category::damaged, "passwd", [&] { (void)traces::repair_trace(part, saved, true); });
  std::ofstream(part / "index") << "something else\n";
  expect_category(Category::damaged, "index", [&] { (void)traces::repair_trace(part, saved, true); });

  // A recording of that name is refused while the folder is there, and replaces it with force.
  const Driver driver = killed_driver(100);
  RecordOptions options = plain;
  expect_category(Category::write, "unfinished recording", [&] { Recorder(folder / "a.kvt", driver.plan(), options); });
  options.force = true;
  Recorder recorder(folder / "a.kvt", driver.plan(), options);
  for (std::size_t s = 0; s < driver.sequences().size(); ++s)
    driver.feed(recorder, static_cast<std::int64_t>(s), 16, false);
  recorder.close();
  EXPECT_EQ(Trace::open(folder / "a.kvt")->state(), traces::TraceState::complete);
}

}  // namespace
}  // namespace kvgrind::tests
