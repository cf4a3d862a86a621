// What is kept stays as it is: a class of its own among others.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::acts {
namespace {

void act(const ActContext&, GroupPlan&) {}

}  // namespace

extern const ActRow exact;
const ActRow exact = {
    .name = "exact",
    .source = "kvgrind",
    .help = "kept as it is",
    .params = {{"share", ParamType::number, "0",
                "within classes: share of the kept slots, best first; 0 = all that is left", 0, 1}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
