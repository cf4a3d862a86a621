// kvgrind-record-writer: the process that owns a recording's file. Started by libkvgrind_record, fed through the spool
// on descriptor 3, woken through the socket on descriptor 4; needs no arguments. Exit code: that of the Error it met.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "traces/capi/writer.h"

namespace {

std::atomic<bool> stop_asked{false};

void ask_to_stop(int) { stop_asked = true; }

void set_text(kvgrind::traces::SpoolControl& control, const char* text) {
  std::strncpy(control.text, text, sizeof control.text - 1);
}

}  // namespace

int main() {
  using namespace kvgrind;
  // Ctrl+C goes to the whole group of processes: the host decides, and tells us through the spool.
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGHUP, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGTERM, ask_to_stop);
  (void)setpriority(PRIO_PROCESS, 0, 5);  // the run goes first
  // Nothing of the host's stays open here (its sockets, its devices).
  for (int fd = 5; fd < 65536; ++fd)
    if (close(fd) != 0 && fd > 1024) break;
  if (fcntl(3, F_GETFD) < 0 || fcntl(4, F_GETFD) < 0) {
    std::fprintf(stderr, "kvgrind-record-writer: started by libkvgrind_record only (no spool on descriptor 3)\n");
    return 2;
  }
  try {
    traces::SpoolMemory memory = traces::SpoolMemory::attach(3);
    traces::SpoolControl& control = memory.control();
    traces::SpoolReader reader(memory, 4);
    traces::Writer writer(control);
    int code = 0;
    try {
      while (!writer.ended()) {
        const traces::wire::Header* message = reader.next(stop_asked);
        if (message == nullptr) {
          writer.stop_early();
          code = exit_code(Category::interrupted);
          break;
        }
        if (!writer.take(message)) continue;
        if (reader.idle()) writer.settle();  // whoever waits for us to be done finds it in the file
        reader.release();
      }
      control.state.store(static_cast<std::uint32_t>(traces::WriterState::finished));
      if (code == exit_code(Category::interrupted) && stop_asked) {
        set_text(control, "the writer was asked to end (SIGTERM)");
        control.code.store(code);
        control.state.store(static_cast<std::uint32_t>(traces::WriterState::failed));
      }
    } catch (const Error& error) {
      code = exit_code(error.category());
      set_text(control, error.what());
      control.code.store(code);
      try {
        if (error.category() != Category::write) writer.stop_early();
      } catch (const std::exception&) {
      }
      control.state.store(static_cast<std::uint32_t>(traces::WriterState::failed));
    } catch (const std::exception& error) {
      code = exit_code(Category::unavailable);
      set_text(control, error.what());
      control.code.store(code);
      control.state.store(static_cast<std::uint32_t>(traces::WriterState::failed));
    }
    reader.release();
    return code;
  } catch (const Error& error) {
    std::fprintf(stderr, "kvgrind-record-writer: %s\n", error.what());
    return exit_code(error.category());
  }
}
