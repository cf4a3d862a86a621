#include "core/progress.h"

#include "core/error.h"

namespace kvgrind {

void CancelToken::throw_if_cancelled() const {
  if (cancelled())
    throw Error(Category::interrupted,
                {.doing = "interrupted", .usable = "what was finished is kept", .next = "run the same command again to go on"});
}

}  // namespace kvgrind
