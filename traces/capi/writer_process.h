// Starting and ending the writer program. The child gets the spool as descriptor 3 and its socket as descriptor 4.
#pragma once
#include <string>

#include "traces/capi/shared_spool.h"

namespace kvgrind::traces {

// $KVGRIND_RECORD_WRITER, or kvgrind-record-writer beside this library or program; Error(missing).
std::string find_writer(const char* given);

class WriterProcess {
 public:
  WriterProcess(const std::string& program, const SpoolMemory& spool);  // Error(unavailable)
  ~WriterProcess();  // closes the socket and waits: the writer ends what it can by itself
  WriterProcess(const WriterProcess&) = delete;
  WriterProcess& operator=(const WriterProcess&) = delete;

  int socket() const { return socket_.get(); }
  int pid() const { return pid_; }
  // How it ended, in words; empty while it runs. Waits at most `timeout_ms` for its end.
  std::string ending(int timeout_ms);

 private:
  SpoolDescriptor socket_;
  int pid_ = -1;
  bool reaped_ = false;
  std::string ending_;
};

}  // namespace kvgrind::traces
