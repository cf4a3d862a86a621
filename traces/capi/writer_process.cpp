#include "traces/capi/writer_process.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>

#include "core/error.h"

extern char** environ;

namespace kvgrind::traces {
namespace {

std::filesystem::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code failed;
  return std::filesystem::canonical(info.dli_fname, failed).parent_path();
}

// The two descriptors where the child looks for them, whatever their numbers are here.
struct Actions {
  posix_spawn_file_actions_t value;
  Actions() { posix_spawn_file_actions_init(&value); }
  ~Actions() { posix_spawn_file_actions_destroy(&value); }
};

}  // namespace

std::string find_writer(const char* given) {
  std::string path;
  if (given != nullptr && *given != '\0')
    path = given;
  else if (const char* named = std::getenv("KVGRIND_RECORD_WRITER"))
    path = named;
  else
    path = own_folder() / "kvgrind-record-writer";
  if (access(path.c_str(), X_OK) != 0)
    throw Error(Category::missing, {.doing = "starting the trace writer",
                                    .on = path,
                                    .found = std::strerror(errno),
                                    .expected = "the program kvgrind-record-writer",
                                    .next = "build the target kvgrind_record, or set KVGRIND_RECORD_WRITER"});
  return path;
}

WriterProcess::WriterProcess(const std::string& program, const SpoolMemory& spool) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw Error(Category::unavailable,
                {.doing = "starting the trace writer", .on = program, .found = std::strerror(errno)});
  socket_.reset(ends[0]);
  const SpoolDescriptor theirs(ends[1]);
  // dup2 onto itself would keep close-on-exec, and 3 may be one of the two: go through numbers that are free.
  const SpoolDescriptor memory_copy(fcntl(spool.descriptor(), F_DUPFD_CLOEXEC, 10));
  const SpoolDescriptor socket_copy(fcntl(theirs.get(), F_DUPFD_CLOEXEC, 10));
  Actions actions;
  posix_spawn_file_actions_adddup2(&actions.value, memory_copy.get(), 3);
  posix_spawn_file_actions_adddup2(&actions.value, socket_copy.get(), 4);
  std::string name = program;
  char* arguments[] = {name.data(), nullptr};
  pid_t pid = -1;
  const int failed = posix_spawn(&pid, program.c_str(), &actions.value, nullptr, arguments, environ);
  if (failed != 0)
    throw Error(Category::unavailable,
                {.doing = "starting the trace writer", .on = program, .found = std::strerror(failed)});
  pid_ = pid;
}

WriterProcess::~WriterProcess() {
  socket_.reset();
  if (!reaped_) ending(-1);
}

std::string WriterProcess::ending(int timeout_ms) {
  for (int waited = 0; !reaped_; waited += 5) {
    int status = 0;
    const pid_t got = waitpid(pid_, &status, timeout_ms < 0 ? 0 : WNOHANG);
    if (got == pid_ || (got < 0 && errno == ECHILD)) {
      reaped_ = true;
      if (got < 0)
        ending_ = "it ended";  // somebody else waits for all children here
      else if (WIFSIGNALED(status))
        ending_ = fmt::format("it was ended by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
      else
        ending_ = fmt::format("it ended with exit code {}", WEXITSTATUS(status));
      break;
    }
    if (got < 0 && errno == EINTR) continue;
    if (waited >= timeout_ms) break;
    const timespec pause{0, 5'000'000};
    nanosleep(&pause, nullptr);
  }
  return ending_;
}

}  // namespace kvgrind::traces
