#include "kernels/isa/isa.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "core/error.h"

namespace kvgrind::kernels {
namespace {

bool has(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("x86-64-v3");
    case Isa::avx512:
      return __builtin_cpu_supports("x86-64-v4");
  }
  return false;
}

Isa choose() {
  const std::vector<Isa> isas = available_isas();
  const char* asked = std::getenv("KVGRIND_ISA");
  if (!asked || !*asked) return isas.back();
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (isa_name(isa) != asked) continue;
    if (has(isa)) return isa;
    throw Error(Category::unavailable, {.doing = "choosing CPU kernels",
                                        .on = "KVGRIND_ISA",
                                        .found = std::string(asked) + ", which this processor lacks",
                                        .expected = "at most " + std::string(isa_name(isas.back()))});
  }
  throw Error(Category::usage, {.doing = "choosing CPU kernels",
                                .on = "KVGRIND_ISA",
                                .found = "\"" + std::string(asked) + "\"",
                                .expected = "baseline, avx2 or avx512"});
}

std::atomic<int> chosen{-1};

}  // namespace

std::string_view isa_name(Isa isa) { return isa == Isa::baseline ? "baseline" : isa == Isa::avx2 ? "avx2" : "avx512"; }

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
    if (has(isa)) isas.push_back(isa);
  return isas;
}

Isa current_isa() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa < 0) {
    isa = static_cast<int>(choose());
    chosen.store(isa, std::memory_order_relaxed);
  }
  return static_cast<Isa>(isa);
}

void set_isa(Isa isa) { chosen.store(static_cast<int>(isa), std::memory_order_relaxed); }

const KernelTable& kernels_of(Isa isa) {
  return isa == Isa::baseline ? baseline_kernels : isa == Isa::avx2 ? avx2_kernels : avx512_kernels;
}

}  // namespace kvgrind::kernels
