// The diff view over two traces (`--diff`): how far each head's attention lies apart.
#pragma once
#include "gui/views/scene.h"

namespace kvgrind::gui {

ScenePtr trace_diff_scene(const ViewInput& input, const CancelToken& cancel);

}  // namespace kvgrind::gui
