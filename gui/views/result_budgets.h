// The budget view where only results are there: a line per policy, a column per budget asked, what was stored of it.
#pragma once
#include "gui/views/scene.h"

namespace kvgrind::gui {

ScenePtr result_budgets_scene(const ViewInput& input);

}  // namespace kvgrind::gui
