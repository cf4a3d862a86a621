// The diff view over result rows: differences of one figure with their intervals, a line a policy and budget.
#pragma once
#include "gui/views/scene.h"

namespace kvgrind::gui {

// Of input.rows against input.base_rows; without those, of every policy against the leader of its list.
ScenePtr metric_diff_scene(const ViewInput& input);

}  // namespace kvgrind::gui
