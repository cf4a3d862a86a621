#include "replay/record/pressure.h"

#include <fmt/format.h>

#include "core/error.h"

namespace kvgrind::replay {
namespace {

constexpr std::string_view names[] = {"block", "drop", "shrink"};

}  // namespace

std::string_view on_full_name(OnFull choice) { return names[static_cast<std::size_t>(choice)]; }

OnFull on_full_from_name(std::string_view name) {
  for (const OnFull one : {OnFull::block, OnFull::drop, OnFull::shrink})
    if (name == on_full_name(one)) return one;
  throw Error(Category::usage, {.doing = "choosing what a full spool means",
                                .on = "",
                                .found = std::string(name),
                                .expected = "block, drop or shrink"});
}

std::int64_t Pressure::every(const kernels::CaptureSpool& spool) const {
  if (choice_ != OnFull::shrink) return 1;
  const std::int64_t all = spool.capacity_bytes(), free = spool.free_bytes();
  return free > all / 2 ? 1 : free > all / 4 ? 4 : 0;
}

bool Pressure::gives_up(const kernels::CaptureSpool& spool, std::int64_t size_bytes) const {
  return choice_ == OnFull::drop && !spool.has_room(size_bytes);
}

std::vector<std::string> Pressure::remarks() const {
  std::vector<std::string> out;
  if (steps_ > 0)
    out.push_back(fmt::format(
        "queries, LSE, norms and predictions of {} steps: dropped, the spool was full (on-full drop); their K and V are there",
        steps_));
  if (prompt_ > 0)
    out.push_back(fmt::format("queries: {} of prompt passes dropped, the spool was full (on-full drop)", prompt_));
  if (shrunk_ > 0)
    out.push_back(
        fmt::format("queries: {} of {} passes left out, the spool was filling (on-full shrink)", shrunk_, passes_));
  return out;
}

}  // namespace kvgrind::replay
