// Seeded mutation of files, and a reader run over many of them: whatever comes in, it must give a value or throw Error,
// within 10 seconds and bounded memory. Runs in a child process, so that a crash names its seed instead of ending the
// tests. KVGRIND_FUZZ_MUTATIONS sets how many (300 without it).
#pragma once
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace kvgrind::tests {

// 1 to 6 edits: flipped bits, bytes and numbers replaced, stretches cut, doubled, moved or taken from `other`, the end
// cut off.
std::string mutated(std::string file, const std::string& other, std::mt19937_64& rng);

// Calls read(file) for mutations of every file in `corpus`; `repair` may make a mutation look right again (a length
// field, say) for half of them. Reports failures through GoogleTest.
void fuzz(const char* name, const std::vector<std::string>& corpus, const std::function<void(const std::string&)>& read,
          const std::function<std::string(const std::string&)>& repair = nullptr);

}  // namespace kvgrind::tests
