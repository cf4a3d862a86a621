// First look at a file that may be hostile: in a forked child with little time and memory, so that a crash or a hang of
// the HDF5 library becomes an Error.
#pragma once
#include <functional>
#include <string>

namespace kvgrind::traces {

// Runs `look` in a child process (10 s, 5 s of processor time, at most 4 GiB more address space than now). An Error it
// throws is rethrown here; a crash, a hang or lack of memory there is Error(damaged) about `on`. `look` must not start
// threads.
void probe_in_child(const std::string& on, const std::function<void()>& look);

}  // namespace kvgrind::traces
