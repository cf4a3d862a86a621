#include "gui/views/look.h"

#include "core/error.h"

namespace kvgrind::gui {
namespace {

void colour(Look& look) {
  look.ground = look.paper ? QColor(Qt::white) : look.dark ? QColor(0x1B, 0x1C, 0x20) : QColor(0xFC, 0xFC, 0xFD);
  look.ink = look.dark ? QColor(0xE8, 0xE8, 0xEC) : look.paper ? QColor(Qt::black) : QColor(0x1E, 0x20, 0x26);
  look.faint = look.dark ? QColor(0xA4, 0xA6, 0xB0) : QColor(0x5C, 0x60, 0x6C);
  look.grid = look.dark ? QColor(0x3A, 0x3C, 0x44) : QColor(0xDD, 0xDF, 0xE5);
  look.panel = look.paper ? QColor(Qt::white) : look.dark ? QColor(0x25, 0x27, 0x2D) : QColor(0xF1, 0xF2, 0xF6);
  look.accent = look.dark ? QColor(0xFF, 0x9F, 0x45) : QColor(0xC8, 0x4B, 0x00);
}

}  // namespace

QFont Look::bold(double scale) const {
  QFont out = font;
  out.setBold(true);
  out.setPointSizeF(font.pointSizeF() * scale);
  return out;
}

QFont Look::small() const {
  QFont out = font;
  out.setPointSizeF(font.pointSizeF() * 0.88);
  return out;
}

Look look_of(const QString& theme, double points) {
  Look look;
  if (theme != "light" && theme != "dark" && theme != "paper")
    throw Error(Category::usage,
                {.doing = "choosing a theme", .found = theme.toStdString(), .expected = "light, dark or paper"});
  look.dark = theme == "dark";
  look.paper = theme == "paper";
  look.font = QFont("DejaVu Sans");
  look.font.setPointSizeF(points > 0 ? points : look.paper ? 8.0 : 9.5);
  colour(look);
  return look;
}

Look look_of(const QPalette& palette, const QFont& font) {
  Look look;
  look.dark = palette.color(QPalette::Window).lightness() < 128;
  look.font = font;
  if (look.font.pointSizeF() <= 0) look.font.setPointSizeF(9.5);
  colour(look);
  return look;
}

}  // namespace kvgrind::gui
