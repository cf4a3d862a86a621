// `kvgrind gui [FILE…]`: the window.
#pragma once
#include <QStringList>

namespace kvgrind::gui {

int gui_command(const QStringList& words);

}  // namespace kvgrind::gui
