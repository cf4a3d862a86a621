// The one error type. Thrown where a fault is found, caught at the program, job and C borders only.
#pragma once
#include <source_location>
#include <stdexcept>
#include <string>

namespace kvgrind {

// What kind of fault; each has one exit code (see exit_code).
enum class Category {
  jobs_failed,  // 1 some jobs failed, the rest is there
  usage,        // 2 wrong argument, policy line, key
  missing,      // 3 input missing or unreadable
  damaged,      // 4 input damaged or of a kind this build does not support
  write,        // 5 cannot write, disk full
  threshold,    // 6 a check or threshold failed
  unavailable,  // 7 device, display or memory unavailable
  interrupted,  // 130 Ctrl+C, SIGTERM
};

int exit_code(Category category);
const char* category_name(Category category);

// The parts of a message, all plain words; leave empty what does not apply.
struct Fault {
  std::string doing;     // "reading trace"
  std::string on;        // "run.kvt: /layers/3/k"
  std::string found;     // "rank 3"
  std::string expected;  // "rank 4 [token, layer, head, dim]"
  std::string usable;    // what is still usable: "the first 1920 tokens"
  std::string next;      // what to do next: "run `kvgrind repair run.kvt -o fixed.kvt`"
};

class Error : public std::runtime_error {
 public:
  Error(Category category, Fault fault, std::source_location where = std::source_location::current());
  Category category() const { return category_; }
  const Fault& fault() const { return fault_; }
  const std::source_location& where() const { return where_; }

 private:
  Category category_;
  Fault fault_;
  std::source_location where_;
};

// "doing on: found X, expected Y; usable; next" with the empty parts left out.
std::string message_text(const Fault& fault);

}  // namespace kvgrind
