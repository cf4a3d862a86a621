// kvgrind doctor: what a bug report should say of the build and the machine.
#include <fmt/format.h>
#include <hdf5.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/parallel.h"
#include "core/version.h"
#include "replay/program/command.h"
#include "replay/program/examples.h"
#include "replay/record/record.h"
#include "sim/engine/policy.h"

namespace kvgrind::program {
namespace {

struct Finding {
  std::string what, value, note;
};

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

std::string file_system(const std::filesystem::path& path) {
  struct statfs facts = {};
  if (statfs(path.c_str(), &facts) != 0) return "unknown";
  switch (static_cast<unsigned long>(facts.f_type)) {
    case 0x6969:
      return "NFS";
    case 0xff534d42:
    case 0xfe534d42:
      return "SMB";
    case 0x0bd00bd0:
      return "Lustre";
    default:
      return "local";
  }
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : "not set";
}

bool starts(const std::string& device) {
  try {
    replay::resolve_device(device);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::vector<Finding> look() {
  std::vector<Finding> out;
  utsname system = {};
  uname(&system);
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  const std::filesystem::path here = std::filesystem::current_path();
  const std::string disk = file_system(here);
  std::error_code failed;
  const std::filesystem::space_info space = std::filesystem::space(here, failed);
  const bool cuda = starts("cuda:0");
  const bool gpu = std::filesystem::exists("/dev/nvidiactl", failed);

  out.push_back({"kvgrind", fmt::format("{} ({})", version(), git_hash()), ""});
  out.push_back({"compiler", fmt::format("{} {}", "g++", __VERSION__), ""});
  out.push_back({"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine), ""});
  out.push_back({"cpu", cpu_model(), ""});
  out.push_back({"threads", fmt::format("{} of {}", thread_count(), std::thread::hardware_concurrency()), ""});
  out.push_back({"memory",
                 bytes_text(static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE))),
                 ""});
  out.push_back({"cuda", cuda ? "built in" : "not built in",
                 cuda  ? ""
                 : gpu ? "there is an NVIDIA device, but this build records on the CPU; build with the CUDA "
                         "toolkit and KVGRIND_CUDA=ON"
                       : "recording runs on the CPU"});
  out.push_back({"hdf5", fmt::format("{}.{}.{}", major, minor, release), ""});
  out.push_back({"hdf5 locking", fmt::format("HDF5_USE_FILE_LOCKING {}", environment("HDF5_USE_FILE_LOCKING")), ""});
  out.push_back(
      {"disk here",
       fmt::format("{}, {} free", disk, failed ? "unknown" : bytes_text(static_cast<double>(space.available))),
       disk == "local" ? "" : "record to a local disk: readers during writing need one"});
  out.push_back({"display",
                 fmt::format("DISPLAY {}, WAYLAND_DISPLAY {}", environment("DISPLAY"), environment("WAYLAND_DISPLAY")),
                 ""});
  const std::filesystem::path gui = sibling_program("kvgrind-gui");
  out.push_back({"kvgrind-gui", gui.empty() ? "not installed beside this program" : gui.string(), ""});
  const std::filesystem::path examples = find_examples();
  out.push_back({"examples", examples.empty() ? "not found" : examples.string(),
                 examples.empty() ? "run from the source tree, or give --examples" : ""});
  out.push_back({"presets", fmt::format("{}", sim::preset_names().size()), ""});
  return out;
}

int run(Console& console) {
  const std::vector<Finding> findings = look();
  if (console.json()) {
    json::object body;
    for (const Finding& finding : findings) {
      json::object entry{{"value", finding.value}};
      if (!finding.note.empty()) entry["note"] = finding.note;
      body[finding.what] = std::move(entry);
    }
    console.document("doctor", std::move(body));
    return 0;
  }
  for (const Finding& finding : findings) {
    console.data(fmt::format("{:<13} {}\n", finding.what, finding.value));
    if (!finding.note.empty()) console.data(fmt::format("{:<13} -> {}\n", "", finding.note));
  }
  return 0;
}

Action declare(Options&) {
  return [](Console& console) { return run(console); };
}

}  // namespace

namespace rows {
extern const Command doctor;
const Command doctor{.name = "doctor",
                     .place = 90,
                     .summary = "versions, devices, disk: ready for a bug report",
                     .text = "",
                     .examples = {"kvgrind doctor", "kvgrind doctor --json"},
                     .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
