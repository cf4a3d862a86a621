// What a recording survives: kills at any moment, a full disk, a rival, a reader that looks on (R1, R2, R3, R11, R12).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>

#include "core/error.h"
#include "core/hash.h"
#include "tests/support/for_all.h"
#include "tests/traces/kvt_compare.h"
#include "tests/traces/kvt_process.h"

namespace kvgrind::tests {
namespace {

using traces::Recorder;
using traces::RecordOptions;
using traces::Trace;

const RecordOptions plain{.column_sums = false, .pooled_maps = false};

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Opens what is left, checks that it is a prefix of what was fed. Returns its rows, −1 when there is no file to open.
std::string not_opened;  // why the last file did not open
std::int64_t expect_prefix(const std::filesystem::path& part, std::int64_t tokens) {
  if (!std::filesystem::exists(part)) return -1;
  std::shared_ptr<const Trace> trace;
  try {
    trace = Trace::open(part, {.probe = false});
  } catch (const Error& error) {
    // Only a file that was killed while its datasets were being created may be no trace yet.
    EXPECT_EQ(error.category(), Category::damaged) << error.what();
    not_opened = error.what();
    return -2;
  }
  expect_equal(killed_driver(tokens), *trace, plain);
  return trace->rows();
}

TEST(KvtCrash, TwoHundredKillsLeaveACommittedPrefix) {
  const TemporaryFolder folder;
  int empty = 0, prefixes = 0, complete = 0, unborn = 0;
  std::int64_t least = 1 << 30, most = 0;
  for_all(20240501, 200, [&](std::mt19937_64& rng) {
    const std::filesystem::path path = folder / "a.kvt", part = folder / "a.kvt.part";
    std::filesystem::remove(part);
    std::filesystem::remove(path);
    Child child(path, {"pause_us=800"});
    // Nine in ten once the file is there, one in ten at any moment from the start.
    const bool ready = rng() % 10 != 0 && child.wait_ready();
    const int wait_us = static_cast<int>(rng() % (ready ? 70000 : 20000));
    std::this_thread::sleep_for(std::chrono::microseconds(wait_us));
    child.kill_now();
    if (std::filesystem::exists(path)) {
      ++complete;
      EXPECT_EQ(expect_prefix(path, 480), 480 + 3 * 4);
      return;
    }
    const std::int64_t rows = expect_prefix(part, 480);
    if (ready) {
      EXPECT_GE(rows, 0) << "a recording that had begun must open: " << not_opened;
    }
    if (rows < 0)
      ++unborn;
    else if (rows == 0)
      ++empty;
    else {
      ++prefixes;
      least = std::min(least, rows);
      most = std::max(most, rows);
    }
  });
  std::printf("200 kills: %d before the file was born, %d empty, %d with %ld to %ld rows, %d complete\n", unborn, empty,
              prefixes, static_cast<long>(least), static_cast<long>(most), complete);
  EXPECT_GT(prefixes, 20);
}

// Killed at chosen calls instead of chosen moments: before a write, and in a write at the page where the kernel would
// stop. A sample of them; all of them with KVGRIND_LONG_TESTS=1.
TEST(KvtCrash, AKillAtAnyWriteLeavesACommittedPrefix) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.kvt", part = folder / "a.kvt.part";
  long long writes = 0;
  {
    Child whole(path, {"count_writes"});
    const std::string said = whole.read_all();
    ASSERT_EQ(std::sscanf(said.c_str(), "ready\n%lld writes", &writes), 1) << said;
    ASSERT_EQ(whole.wait(), 0);
    ASSERT_GT(writes, 100);
  }
  const bool all = std::getenv("KVGRIND_LONG_TESTS") != nullptr;
  const long long stride = all ? 1 : std::max(1ll, writes / 75);
  long long kills = 0;
  std::int64_t most = 0;
  for (int torn = 0; torn < 2; ++torn) {
    std::int64_t last = -2;
    for (long long at = all ? 1 : 1 + writes % stride; at <= writes; at += stride, ++kills) {
      std::filesystem::remove(part);
      std::filesystem::remove(path);
      Child child(path, {"die_at_write=" + std::to_string(at) + "," + std::to_string(torn)});
      const bool ready = child.wait_ready();
      ASSERT_TRUE(WIFSIGNALED(child.wait())) << "write " << at << " of " << writes;
      EXPECT_FALSE(std::filesystem::exists(path));
      const std::int64_t rows = expect_prefix(part, 480);
      if (ready) {
        EXPECT_GE(rows, 0) << "killed at write " << at << " of " << writes << (torn ? ", torn: " : ": ") << not_opened;
      }
      EXPECT_GE(rows, last) << "killed at write " << at << " of " << writes << (torn ? ", torn" : "");
      last = std::max(last, rows);
      most = std::max(most, rows);
    }
  }
  std::printf("%lld kills at %lld writes, up to %ld rows\n", kills, writes, static_cast<long>(most));
  EXPECT_GT(most, 300);
}

TEST(KvtCrash, AFullDiskStopsCleanlyAtAnySize) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.kvt", part = folder / "a.kvt.part";
  int refused = 0;
  std::int64_t last_rows = -1;
  for (long limit = 16 << 10; limit < (8 << 20); limit += limit < (1 << 18) ? 16 << 10 : 64 << 10) {
    std::filesystem::remove(part);
    Child child(path, {"size_limit=" + std::to_string(limit)});
    const int status = child.wait();
    ASSERT_TRUE(WIFEXITED(status)) << "limit " << limit << ": signal " << WTERMSIG(status);
    if (WEXITSTATUS(status) == 0) break;
    EXPECT_EQ(WEXITSTATUS(status), 5) << "limit " << limit;
    EXPECT_FALSE(std::filesystem::exists(path));
    const std::int64_t rows = expect_prefix(part, 480);
    EXPECT_GE(rows, last_rows) << "limit " << limit;
    last_rows = std::max(last_rows, rows);
    ++refused;
  }
  EXPECT_GT(refused, 5);
  EXPECT_GT(last_rows, 0);
  EXPECT_TRUE(std::filesystem::exists(path));
}

// A real file system that is really full (the check of free space before each chunk is told that all is well).
TEST(KvtCrash, ARealFullFileSystemStopsCleanly) {
  const TemporaryFolder folder;
  std::int64_t last = -2, most = 0;
  for (int kib = 256; kib <= 4096; kib += 128) {
    const std::filesystem::path disk = folder / ("disk" + std::to_string(kib));
    std::filesystem::create_directory(disk);
    if (mount("tmpfs", disk.c_str(), "tmpfs", 0, ("size=" + std::to_string(kib) + "k").c_str()) != 0)
      GTEST_SKIP() << "mounting a small file system needs more rights";
    {
      Child child(disk / "a.kvt", {"tokens=6000"});
      const int status = child.wait();
      EXPECT_TRUE(WIFEXITED(status)) << kib << " KiB: signal " << WTERMSIG(status);
      EXPECT_EQ(WEXITSTATUS(status), 5) << kib << " KiB";
      EXPECT_FALSE(std::filesystem::exists(disk / "a.kvt"));
      const std::int64_t rows = expect_prefix(disk / "a.kvt.part", 6000);
      EXPECT_GE(rows, last) << kib << " KiB";
      last = std::max(last, rows);
      most = std::max(most, rows);
    }
    umount2(disk.c_str(), MNT_DETACH);
  }
  EXPECT_GT(most, 50);
}

TEST(KvtCrash, TooLittleSpaceIsSeenBeforeItIsUsed) {
  const TemporaryFolder folder;
  Child child(folder / "a.kvt", {"free_bytes=2000,11"});
  const int status = child.wait();
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 5);
  const auto trace = Trace::open(folder / "a.kvt.part");
  EXPECT_EQ(trace->state(), traces::TraceState::truncated_disk_full);
  EXPECT_GT(trace->rows(), 0);
  expect_equal(killed_driver(480), *trace, plain);
  const traces::CheckReport report = traces::check_trace(folder / "a.kvt.part", true);
  EXPECT_FALSE(report.ok);
  EXPECT_NE(report.findings[0].find("truncated_disk_full"), std::string::npos) << report.findings[0];
}

TEST(KvtCrash, AKillBeforeTheRenameLeavesAWholePartAndNoFile) {
  const TemporaryFolder folder;
  Child child(folder / "a.kvt", {"die_at_rename"});
  EXPECT_TRUE(WIFSIGNALED(child.wait()));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.kvt"));
  EXPECT_EQ(expect_prefix(folder / "a.kvt.part", 480), 480 + 3 * 4);
  try {
    Trace::open(folder / "a.kvt");
    FAIL() << "there is no such file";
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::missing);
    EXPECT_NE(std::string(error.what()).find("a.kvt.part"), std::string::npos) << error.what();
  }
}

TEST(KvtCrash, TheOldFileSurvivesAForcedRecordingThatDies) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.kvt";
  EXPECT_EQ(Child(path, {}).wait(), 0);
  const std::string before = bytes_of(path);
  ASSERT_GT(before.size(), 1000u);
  {
    Child refused(path, {});
    const int status = refused.wait();
    EXPECT_EQ(WEXITSTATUS(status), 5);
  }
  for (const char* how : {"die_at_rename", "pause_us=3000"}) {
    Child child(path, {"force", how});
    child.wait_ready();
    if (std::string(how) != "die_at_rename")
      child.kill_now();
    else
      child.wait();
    EXPECT_EQ(bytes_of(path), before);
  }
  EXPECT_EQ(Child(path, {"force"}).wait(), 0);
  EXPECT_EQ(expect_prefix(path, 480), 480 + 3 * 4);
}

TEST(KvtCrash, TheSecondWriterIsRefusedAndADeadOnesLockIsNot) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.kvt";
  const Driver driver = killed_driver(30);
  const auto attempt = [&](bool force) {
    RecordOptions options = plain;
    options.force = force;
    Recorder recorder(path, driver.plan(), options);
    driver.feed(recorder, 0, 64, false);
    recorder.close();
  };
  const auto refusal = [&](bool force) -> std::string {
    try {
      attempt(force);
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::write);
      return error.what();
    }
    return "";
  };
  {
    Child child(path, {"pause_us=100000"});
    ASSERT_TRUE(child.wait_ready());
    EXPECT_NE(refusal(false).find("another process"), std::string::npos);
    EXPECT_NE(refusal(true).find("another process"), std::string::npos);  // force does not break a live lock
    child.kill_now();
  }
  EXPECT_TRUE(std::filesystem::exists(folder / "a.kvt.part.lock"));
  EXPECT_NE(refusal(false).find("unfinished recording"), std::string::npos);
  attempt(true);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.kvt.part.lock"));
  std::filesystem::remove(path);
  std::ofstream(folder / "a.kvt.part.lock") << "";  // stale lock alone
  attempt(false);
  EXPECT_EQ(Trace::open(path)->rows(), 30);
}

TEST(KvtCrash, AReaderWhileWritingSeesCommitsGrow) {
  const TemporaryFolder folder;
  const std::filesystem::path part = folder / "a.kvt.part";
  constexpr std::int64_t tokens = 60000;
  std::optional<Child> child;
  std::int64_t commits = 0, rows = 0, grew = 0, recordings = 0;
  for (int i = 0; i < 1000; ++i) {
    if (!std::filesystem::exists(part)) {  // the first, or the last one came to its end: on a busy machine we are slow
      child.reset();
      std::filesystem::remove(folder / "a.kvt");
      child.emplace(folder / "a.kvt", std::vector<std::string>{"tokens=60000", "pause_us=3000"});
      ASSERT_TRUE(child->wait_ready());
      commits = rows = 0;
      ++recordings;
    }
    std::shared_ptr<const Trace> trace;
    try {
      trace = Trace::open(part, {.probe = false});
    } catch (const Error&) {
      ASSERT_FALSE(std::filesystem::exists(part)) << "refresh " << i << ": unreadable while it is written";
      continue;
    }
    ASSERT_GE(trace->commits(), commits) << "refresh " << i;
    ASSERT_GE(trace->rows(), rows);
    if (trace->rows() > rows) ++grew;
    commits = trace->commits();
    rows = trace->rows();
    EXPECT_TRUE(trace->state() == traces::TraceState::unfinished || rows == tokens);
    if (i % 100 != 99 || trace->sequences().empty()) continue;
    // The newest sequence, every number of one head.
    const Driver driver = killed_driver(tokens);
    const traces::SequenceInfo& last = trace->sequences().back();
    const Array<float, 2> k = trace->keys(last.id, 1, 0);
    for (std::int64_t t = 0; t < last.tokens; ++t)
      for (std::int64_t d = 0; d < 8; ++d) ASSERT_EQ(k(t, d), fed("k", last.id, t, 1, d));
  }
  EXPECT_GT(grew, 3);
  child->kill_now();
  std::printf("1000 refreshes of %ld live files: %ld rows, %ld commits, grew %ld times\n",
              static_cast<long>(recordings), static_cast<long>(rows), static_cast<long>(commits),
              static_cast<long>(grew));
}

TEST(KvtCrash, RepairOfAKilledRecordingIsClean) {
  const TemporaryFolder folder;
  const std::filesystem::path part = folder / "a.kvt.part";
  std::int64_t rows = 0;
  for (int i = 0; i < 20 && rows < 100; ++i) {  // each lives twice as long, up to seconds, however busy the machine
    std::filesystem::remove(part);
    Child child(folder / "a.kvt", {"tokens=60000", "pause_us=2000", "fsync"});
    ASSERT_TRUE(child.wait_ready());
    std::this_thread::sleep_for(std::chrono::milliseconds(30 << std::min(i, 8)));
    child.kill_now();
    ASSERT_TRUE(std::filesystem::exists(part));
    rows = Trace::open(part)->rows();
  }
  ASSERT_GE(rows, 100);
  const std::string before = bytes_of(part);
  const json::object report = traces::repair_trace(part, folder / "fixed.kvt", false);
  EXPECT_EQ(bytes_of(part), before) << "repair never edits in place";
  EXPECT_EQ(report.at("kept_tokens").as_int64(), rows);
  const auto fixed = Trace::open(folder / "fixed.kvt"), broken = Trace::open(part);
  EXPECT_EQ(fixed->state(), traces::TraceState::interrupted);
  EXPECT_EQ(fixed->hash(), broken->hash());
  expect_equal(killed_driver(60000), *fixed, plain);
  EXPECT_THROW(traces::repair_trace(part, part, true), Error);
}

TEST(KvtCrash, AnInterruptKeepsWhatIsComplete) {
  const TemporaryFolder folder;
  const Driver driver = killed_driver(200);
  {
    Recorder recorder(folder / "a.kvt", driver.plan(), plain);
    driver.feed(recorder, 0, 64, false);
    driver.pass(recorder, 1, 0, 20, false, false);
    // In the middle of a pass: its rows are not complete.
    const std::vector<std::int32_t> ids = {driver.token(1, 20)};
    recorder.begin({.sequence = 1, .first = 20, .ids = ids, .decode = false});
    recorder.interrupt();
  }
  const auto trace = Trace::open(folder / "a.kvt.part");
  EXPECT_EQ(trace->state(), traces::TraceState::interrupted);
  EXPECT_EQ(trace->rows(), 95);
  expect_equal(driver, *trace, plain);
  {
    Recorder recorder(folder / "b.kvt", driver.plan(), plain);
    for (std::int64_t s = 0; s < 3; ++s) driver.feed(recorder, s, 64, false);
    recorder.interrupt();  // nothing is missing
  }
  EXPECT_EQ(Trace::open(folder / "b.kvt")->state(), traces::TraceState::complete);
  {
    Recorder recorder(folder / "c.kvt", driver.plan(), plain);
    driver.feed(recorder, 0, 64, false);
  }  // neither closed nor interrupted
  EXPECT_EQ(Trace::open(folder / "c.kvt.part")->rows(), 75);
  EXPECT_EQ(Trace::open(folder / "c.kvt.part")->state(), traces::TraceState::unfinished);
}

}  // namespace
}  // namespace kvgrind::tests
