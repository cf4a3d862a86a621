// kvt_child: a process that records, to be killed.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

namespace kvgrind::tests {

// The recording process; its output is swallowed.
class Child {
 public:
  Child(const std::filesystem::path& path, std::vector<std::string> options) {
    int out[2];
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    std::vector<std::string> words = {KVT_CHILD, path.string()};
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char*> argv;
    for (std::string& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    pid_ = vfork();
    if (pid_ == 0) {
      dup2(out[1], 1);
      const int none = ::open("/dev/null", O_WRONLY);
      dup2(none, 2);
      execv(argv[0], argv.data());
      _exit(127);
    }
    ::close(out[1]);
    out_ = out[0];
  }
  ~Child() {
    if (pid_ > 0) kill_now();
    ::close(out_);
  }
  // Waits for "ready" or the end; true when ready.
  bool wait_ready() {
    char text[8];
    return ::read(out_, text, sizeof text) > 0;
  }
  // All that it prints until it ends.
  std::string read_all() {
    std::string all;
    char text[64];
    for (ssize_t n; (n = ::read(out_, text, sizeof text)) > 0;) all.append(text, static_cast<std::size_t>(n));
    return all;
  }
  int wait() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }
  void kill_now() {
    ::kill(pid_, SIGKILL);
    wait();
  }

 private:
  pid_t pid_ = -1;
  int out_ = -1;
};

}  // namespace kvgrind::tests
