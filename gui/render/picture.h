// A scene as a file: PNG, SVG, PDF, its data as CSV, or its numbers as NPY. PNG and SVG are equal byte for byte for equal input on one machine.
#pragma once
#include <QImage>
#include <QSize>
#include <QString>
#include <map>

#include "gui/views/scene.h"

namespace kvgrind::gui {

struct PictureOptions {
  QSize size{1200, 800};  // device pixels
  double dpi = 96;
  std::map<QString, QString> notes;  // metadata: command, trace, version
  ViewState state = {};              // zoomed to
};

// Paints until every tile is there. GUI thread.
QImage scene_image(const Scene& scene, const Look& look, const PictureOptions& options, const CancelToken& cancel = {});
// By the ending of `path`. Error(usage) for another ending, Error(write) when it cannot be written.
void write_picture(const QString& path, const Scene& scene, const Look& look, const PictureOptions& options,
                   const CancelToken& cancel = {});

}  // namespace kvgrind::gui
