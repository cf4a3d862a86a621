// Every query reads every slot.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::reads {

extern const ReadRow all;
const ReadRow all = {
    .name = "all",
    .source = "kvgrind",
    .help = "every query reads every slot",
    .params = {},
    .needs = {},
    .reads_all = true,
    .read = nullptr,
};

}  // namespace kvgrind::sim::reads
