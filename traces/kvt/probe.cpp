#include "traces/kvt/probe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>

#include "traces/kvt/hdf5.h"

namespace kvgrind::traces {
namespace {

constexpr int seconds_allowed = 10;
constexpr rlim_t processor_seconds_allowed = 5;
constexpr rlim_t extra_memory = rlim_t{4} << 30;

rlim_t address_space_now() {
  unsigned long long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%llu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

// category, then the fields of the fault, each ended by a NUL.
std::string packed(const Error& error) {
  std::string out(1, static_cast<char>(error.category()));
  const Fault& f = error.fault();
  for (const std::string* text : {&f.doing, &f.on, &f.found, &f.expected, &f.usable, &f.next}) {
    out += text->substr(0, text->find('\0')).substr(0, 4096);
    out.push_back('\0');
  }
  return out;
}

Error unpacked(const std::string& text) {
  Fault f;
  std::size_t at = 1;
  for (std::string* field : {&f.doing, &f.on, &f.found, &f.expected, &f.usable, &f.next}) {
    const std::size_t end = text.find('\0', at);
    if (end == std::string::npos) break;
    *field = text.substr(at, end - at);
    at = end + 1;
  }
  return Error(static_cast<Category>(text[0]), std::move(f));
}

[[noreturn]] void child(int out, rlim_t memory, const std::function<void()>& look) {
  hdf5::after_fork();
  rlimit limit{memory, memory};
  setrlimit(RLIMIT_AS, &limit);
  limit = {processor_seconds_allowed, processor_seconds_allowed};  // an endless loop ends sooner than the clock
  setrlimit(RLIMIT_CPU, &limit);
  limit = {0, 0};
  setrlimit(RLIMIT_CORE, &limit);
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) signal(number, SIG_DFL);
  std::string result = "ok";
  try {
    look();
  } catch (const Error& error) {
    result = packed(error);
  } catch (const std::bad_alloc&) {
    result = "memory";
  } catch (...) {
    result = "fault";
  }
  for (std::size_t at = 0; at < result.size();) {
    const ssize_t n = ::write(out, result.data() + at, result.size() - at);
    if (n <= 0 && errno != EINTR) break;
    if (n > 0) at += static_cast<std::size_t>(n);
  }
  _exit(0);
}

// What the child said; false when the time was up.
bool read_result(int in, std::string& result) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds_allowed);
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) return false;
    pollfd waiting{in, POLLIN, 0};
    const int ready = ::poll(&waiting, 1, static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return true;
    if (ready <= 0) continue;
    std::array<char, 4096> bytes;
    const ssize_t n = ::read(in, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    result.append(bytes.data(), static_cast<std::size_t>(n));
  }
}

}  // namespace

void probe_in_child(const std::string& on, const std::function<void()>& look) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    throw Error(Category::unavailable, {.doing = "probing trace", .on = on, .found = std::strerror(errno)});
  const rlim_t memory = address_space_now() + extra_memory;
  pid_t pid = -1;
  {
    const hdf5::Lock lock;  // no other thread is inside HDF5 while it is copied
    pid = fork();
    if (pid == 0) {
      ::close(ends[0]);
      child(ends[1], memory, look);
    }
  }
  ::close(ends[1]);
  std::string result;
  const bool in_time = pid > 0 && read_result(ends[0], result);
  ::close(ends[0]);
  if (pid < 0)
    throw Error(Category::unavailable,
                {.doing = "probing trace", .on = on, .found = "no child process can be started"});
  if (!in_time) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!in_time)
    throw hdf5::read_fault(on, fmt::format("a file that takes more than {} s to look at", seconds_allowed),
                           "a sound trace");
  if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL))
    throw hdf5::read_fault(on, fmt::format("a file that takes more than {} s to look at", processor_seconds_allowed),
                           "a sound trace");
  if (WIFSIGNALED(status))
    throw hdf5::read_fault(on, fmt::format("a file that crashes the HDF5 library (signal {})", WTERMSIG(status)),
                           "a sound trace");
  if (result == "ok") return;
  if (result == "memory") throw hdf5::read_fault(on, "a file that asks for too much memory", "a sound trace");
  if (result == "fault" || result.empty())
    throw hdf5::read_fault(on, "a file that cannot be looked at", "a sound trace");
  throw unpacked(result);
}

}  // namespace kvgrind::traces
