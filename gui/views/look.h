// How things are drawn: colours of the ground and ink, font, and whether there is a title.
#pragma once
#include <QColor>
#include <QFont>
#include <QPalette>

namespace kvgrind::gui {

struct Look {
  bool dark = false;
  bool paper = false;  // white, no chrome
  bool title = true;
  QString own_title;  // in place of the view's
  QColor ground, ink, faint, grid, panel, accent;
  QFont font;
  int device_pixels = 1;  // of a logical pixel, at least

  QFont bold(double scale = 1.0) const;
  QFont small() const;
};

// Themes by name: light, dark, paper. Error(usage) for another.
Look look_of(const QString& theme, double points);
Look look_of(const QPalette& palette, const QFont& font);  // dark by the lightness of the window colour

}  // namespace kvgrind::gui
