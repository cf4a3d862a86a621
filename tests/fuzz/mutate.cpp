#include "tests/fuzz/mutate.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "tests/support/for_all.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;  // their shadow memory takes terabytes of address space
#else
constexpr bool sanitized = false;
#endif

namespace kvgrind::tests {
namespace {

const char* const nasty[] = {"1e999",
                             "-1",
                             "0",
                             "18446744073709551615",
                             "9223372036854775807",
                             "4294967296",
                             "1e-5",
                             "2.5",
                             "null",
                             "\"\"",
                             "[]",
                             "{}",
                             "true",
                             "\"\\u0000\"",
                             "\"\\ud800\"",
                             "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
                             "\"a\":1,\"a\":2",
                             "NaN",
                             "\"../../x\"",
                             ",",
                             ":",
                             "}",
                             "]",
                             "\xff\xfe",
                             "\xe2\x96\x81"};

std::size_t below(std::size_t n, std::mt19937_64& rng) { return n == 0 ? 0 : rng() % n; }

void replace_number(std::string& file, std::mt19937_64& rng) {
  const std::size_t from = below(file.size(), rng);
  const std::size_t begin = file.find_first_of("0123456789", from);
  if (begin == std::string::npos) return;
  const std::size_t end = std::min(file.size(), file.find_first_not_of("0123456789.eE+-", begin));
  file.replace(begin, end - begin, nasty[below(std::size(nasty), rng)]);
}

void edit(std::string& file, const std::string& other, std::mt19937_64& rng) {
  const std::size_t at = below(file.size() + 1, rng);
  const std::size_t n = below(std::min<std::size_t>(file.size() - at, 1 + below(64, rng)) + 1, rng);
  switch (rng() % 10) {
    case 0:
    case 1:
      if (at < file.size()) file[at] = static_cast<char>(file[at] ^ (1 << rng() % 8));
      break;
    case 2:
      if (at < file.size()) file[at] = static_cast<char>(rng());
      break;
    case 3:
      file.erase(at, n);
      break;
    case 4:
      file.insert(at, file.substr(at, n));
      break;
    case 5:
      file.insert(at, nasty[below(std::size(nasty), rng)]);
      break;
    case 6:
    case 7:
      replace_number(file, rng);
      break;
    case 8:
      file.insert(at, other.substr(below(other.size(), rng), 1 + below(200, rng)));
      break;
    case 9:
      if (rng() % 4 == 0)
        file.resize(at);
      else if (n > 0)
        std::rotate(file.begin() + static_cast<std::ptrdiff_t>(at),
                    file.begin() + static_cast<std::ptrdiff_t>(at + n / 2),
                    file.begin() + static_cast<std::ptrdiff_t>(at + n));
      break;
  }
}

// What a child leaves behind for its parent, in shared memory.
struct Note {
  volatile int current;
  char text[200];
};

// In the child: 0 = all well, 1 = something other than Error was thrown.
int run_child(std::uint64_t seed, int first, int last, const std::vector<std::string>& corpus,
              const std::function<void(const std::string&)>& read,
              const std::function<std::string(const std::string&)>& repair, Note* note) {
  if (!sanitized) {
    rlimit limit{3ull << 30, 3ull << 30};
    ::setrlimit(RLIMIT_AS, &limit);
  }
  rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  for (int i = first; i < last; ++i) {
    note->current = i;
    std::mt19937_64 rng(seed * 1000003u + static_cast<std::uint64_t>(i));
    std::string file = mutated(corpus[below(corpus.size(), rng)], corpus[below(corpus.size(), rng)], rng);
    if (repair && rng() % 2 == 0) file = repair(file);
    ::alarm(10);
    try {
      read(file);
    } catch (const Error& error) {
      if (std::string(error.what()).empty()) return 1;
    } catch (const std::exception& other) {
      std::snprintf(note->text, sizeof note->text, "%s", other.what());
      return 1;
    }
    ::alarm(0);
  }
  return 0;
}

}  // namespace

std::string mutated(std::string file, const std::string& other, std::mt19937_64& rng) {
  for (std::size_t edits = 1 + below(6, rng); edits > 0; --edits) edit(file, other, rng);
  return file;
}

void fuzz(const char* name, const std::vector<std::string>& corpus, const std::function<void(const std::string&)>& read,
          const std::function<std::string(const std::string&)>& repair) {
  for (const std::string& file : corpus) ASSERT_NO_THROW(read(file)) << name << ": the corpus itself must be readable";
  const char* wanted = std::getenv("KVGRIND_FUZZ_MUTATIONS");
  const int count = wanted ? std::max(1, std::atoi(wanted)) : 300;
  const std::uint64_t seed = base_seed(2024);
  void* shared = ::mmap(nullptr, sizeof(Note), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* note = static_cast<Note*>(shared);
  for (int first = 0; first < count;) {
    const int last = std::min(count, first + 500);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) ::_exit(run_child(seed, first, last, corpus, read, repair, note));
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    const bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    EXPECT_TRUE(well) << name << ": mutation " << note->current << " of KVGRIND_TEST_SEED=" << seed
                      << (WIFSIGNALED(status) ? std::string(": signal ") + strsignal(WTERMSIG(status))
                                              : std::string(": not an Error: ") + note->text);
    first = well ? last : note->current + 1;  // go on behind the one that failed
  }
  ::munmap(shared, sizeof(Note));
}

}  // namespace kvgrind::tests
