// Where the built-in example lies: beside an installed program, or in the source tree.
#pragma once
#include <QString>

namespace kvgrind::gui {

QString example_trace();  // empty: nowhere

}  // namespace kvgrind::gui
