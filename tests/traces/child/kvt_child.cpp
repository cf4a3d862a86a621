// A process that records, to be killed, starved or raced by the tests. Prints "ready" once the file is there.
//   kvt_child PATH [force] [tokens=480] [pause_us=0] [size_limit=BYTES] [free_bytes=N,AFTER] [die_at_rename] [fsync]
//             [die_at_write=N,TORN] [count_writes]
// Ends with the exit code of the Error it met, 0 when the recording was closed.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "tests/traces/kvt_driver.h"

namespace {
bool die_at_rename = false;
long long pretended_free = -1, asked = 0, pretend_after = 0;
long long writes = 0, die_at_write = -1, torn = 0;

// Dies at the chosen write: before it, or (torn) after the part that reaches to the last page boundary of the file, as
// the kernel leaves a write that SIGKILL meets.
void count_write(int fd, const void* bytes, size_t n, off_t at) {
  if (++writes != die_at_write) return;
  const off_t boundary = (at + static_cast<off_t>(n)) / 4096 * 4096;
  if (torn != 0 && boundary > at && boundary < at + static_cast<off_t>(n))
    syscall(SYS_pwrite64, fd, bytes, static_cast<size_t>(boundary - at), at);
  raise(SIGKILL);
}
}  // namespace

// In place of the C library's, for HDF5: counted.
extern "C" ssize_t pwrite(int fd, const void* bytes, size_t n, off_t at) {
  count_write(fd, bytes, n, at);
  return syscall(SYS_pwrite64, fd, bytes, n, at);
}
extern "C" int ftruncate(int fd, off_t size) {
  if (++writes == die_at_write) raise(SIGKILL);
  return static_cast<int>(syscall(SYS_ftruncate, fd, size));
}

// In place of the C library's: the process dies in the moment before the rename, or the disk seems full.
extern "C" int renameat2(int, const char* from, int, const char* to, unsigned) {
  if (die_at_rename) raise(SIGKILL);
  return std::rename(from, to);
}
extern "C" int statvfs(const char*, struct statvfs* info) {
  std::memset(info, 0, sizeof *info);
  info->f_frsize = 1;
  info->f_bavail =
      pretended_free >= 0 && ++asked > pretend_after ? static_cast<fsblkcnt_t>(pretended_free) : fsblkcnt_t{1} << 40;
  return 0;
}

int main(int argc, char** argv) {
  using namespace kvgrind;
  if (argc < 2) return 2;
  traces::RecordOptions options;
  options.column_sums = options.pooled_maps = false;
  options.reserve_bytes = 1 << 20;
  bool count_writes = false;
  long long tokens = 480, pause_us = 0, size_limit = -1;
  for (int i = 2; i < argc; ++i) {
    const char* text = argv[i];
    if (std::strcmp(text, "force") == 0) options.force = true;
    if (std::strcmp(text, "die_at_rename") == 0) die_at_rename = true;
    if (std::strcmp(text, "count_writes") == 0) count_writes = true;
    if (std::sscanf(text, "die_at_write=%lld,%lld", &die_at_write, &torn) == 2) continue;
    if (std::strcmp(text, "fsync") == 0) options.fsync = traces::FsyncMode::chunk;
    if (std::sscanf(text, "tokens=%lld", &tokens) == 1) continue;
    if (long long bytes = 0; std::sscanf(text, "segments=%lld", &bytes) == 1) {
      options.segments = true;
      options.segment_bytes = bytes;
      continue;
    }
    if (std::sscanf(text, "pause_us=%lld", &pause_us) == 1) continue;
    if (std::sscanf(text, "size_limit=%lld", &size_limit) == 1) continue;
    if (std::sscanf(text, "free_bytes=%lld,%lld", &pretended_free, &pretend_after) == 2) continue;
  }
  if (size_limit >= 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{static_cast<rlim_t>(size_limit), static_cast<rlim_t>(size_limit)};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  const tests::Driver driver = tests::killed_driver(tokens);
  try {
    traces::Recorder recorder(argv[1], driver.plan(), options);
    std::printf("ready\n");
    std::fflush(stdout);
    for (std::size_t s = 0; s < driver.sequences().size(); ++s) {
      const TokenSequence& one = driver.sequences()[s];
      const std::int64_t id = static_cast<std::int64_t>(s), n = static_cast<std::int64_t>(one.ids.size());
      for (std::int64_t at = 0; at < n; at += 16) {
        driver.pass(recorder, id, at, std::min<std::int64_t>(16, n - at), false, false);
        if (pause_us > 0) usleep(static_cast<useconds_t>(pause_us));
      }
      for (std::int64_t i = 0; i + 1 < one.decode; ++i) driver.pass(recorder, id, n + i, 1, true, false);
      recorder.sequence_done(id);
    }
    recorder.close();
    if (count_writes) std::printf("%lld writes\n", writes);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return exit_code(error.category());
  }
  return 0;
}
