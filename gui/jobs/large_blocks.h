// Memory of large arrays goes back to the system when they are freed.
#pragma once

namespace kvgrind::gui {

// glibc learns from the first large arrays to keep their like for reuse; a window over many heads would grow by what
// lies between. For the whole process, before threads start.
void return_large_blocks();

}  // namespace kvgrind::gui
