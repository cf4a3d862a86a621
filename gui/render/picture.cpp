#include "gui/render/picture.h"

#include <QBuffer>
#include <QGuiApplication>
#include <QPdfWriter>
#include <QSaveFile>
#include <QScreen>
#include <QSvgGenerator>
#include <cmath>

#include "core/error.h"
#include "gui/views/qcp.h"

namespace kvgrind::gui {
namespace {

double screen_dpi() {
  const QScreen* screen = QGuiApplication::primaryScreen();
  return screen ? screen->logicalDotsPerInch() : 96.0;
}

// The tiles that a picture of this size wants, loaded before it is painted for good.
void complete(const Scene& scene, const Look& look, const QSizeF& size, const ViewState& state,
              const CancelToken& cancel) {
  for (int round = 0; round < 8; ++round) {
    QImage image(4, 4, QImage::Format_RGB32);
    QCPPainter painter(&image);
    Canvas canvas{.p = painter, .plots = &painter, .look = look};
    paint_scene(canvas, size, scene, state);
    if (canvas.wanted.empty()) return;
    for (const Wanted& work : canvas.wanted) work(cancel);
  }
}

void paint(QPaintDevice& device, const Scene& scene, const Look& look, const QSizeF& size, const ViewState& state,
           double scale = 1) {
  QCPPainter painter(&device);
  painter.setRenderHint(QPainter::Antialiasing);
  painter.setRenderHint(QPainter::TextAntialiasing);
  if (scale != 1) painter.scale(scale, scale);
  Canvas canvas{.p = painter, .plots = &painter, .look = look};
  paint_scene(canvas, size, scene, state);
}

void write_bytes(const QString& path, const QByteArray& bytes) {
  QSaveFile file(path);
  if (file.open(QIODevice::WriteOnly) && file.write(bytes) == bytes.size() && file.commit()) return;
  throw Error(Category::write, {.doing = "writing",
                                .on = path.toStdString(),
                                .found = file.errorString().toStdString(),
                                .expected = "a place that can be written to"});
}

QByteArray svg_bytes(const Scene& scene, const Look& look, const QSizeF& size, const PictureOptions& options) {
  QByteArray out;
  QBuffer buffer(&out);
  QSvgGenerator svg;
  svg.setOutputDevice(&buffer);
  svg.setResolution(int(std::lround(screen_dpi())));
  svg.setSize(size.toSize());
  svg.setViewBox(QRectF(QPointF(), size));
  svg.setTitle(look.own_title.isEmpty() ? scene.title() : look.own_title);
  QString description = scene.alt_text();
  for (const auto& [key, value] : options.notes) description += "\n" + key + ": " + value;
  svg.setDescription(description.toHtmlEscaped());
  paint(svg, scene, look, size, options.state);
  return out;
}

QByteArray pdf_bytes(const Scene& scene, const Look& look, const QSizeF& size, const PictureOptions& options) {
  QByteArray out;
  QBuffer buffer(&out);
  buffer.open(QIODevice::WriteOnly);
  QPdfWriter pdf(&buffer);
  pdf.setResolution(int(std::lround(screen_dpi())));
  pdf.setPageSize(QPageSize(size * 72.0 / screen_dpi(), QPageSize::Point));
  pdf.setPageMargins(QMarginsF());
  pdf.setTitle(scene.title());
  pdf.setCreator("kvgrind " + options.notes.at("Version"));
  paint(pdf, scene, look, size, options.state);
  return out;
}

}  // namespace

QImage scene_image(const Scene& scene, const Look& asked, const PictureOptions& options, const CancelToken& cancel) {
  const double scale = options.dpi / 96.0;
  Look look = asked;
  look.device_pixels = std::max(1, int(std::lround(scale)));
  const QSizeF size = QSizeF(options.size) / scale;
  complete(scene, look, size, options.state, cancel);
  QImage image(options.size, QImage::Format_RGB32);
  const int dots = int(std::lround(screen_dpi() / 0.0254));
  image.setDotsPerMeterX(dots);  // fonts are measured on the screen: painted at the same
  image.setDotsPerMeterY(dots);
  paint(image, scene, look, size, options.state, scale);
  image.setDotsPerMeterX(int(std::lround(options.dpi / 0.0254)));
  image.setDotsPerMeterY(int(std::lround(options.dpi / 0.0254)));
  return image;
}

void write_picture(const QString& path, const Scene& scene, const Look& look, const PictureOptions& options,
                   const CancelToken& cancel) {
  const QString ending = path.section('.', -1).toLower();
  if (ending == "npy") {
    const Matrix matrix = scene.matrix(options.state);
    if (matrix.empty())
      throw Error(Category::usage, {.doing = "exporting an array",
                                    .on = scene.title().toStdString(),
                                    .found = "a view without one",
                                    .expected = "attention, heads, kept, memory, budget, diff, text, needle, row or "
                                                "channels with something in it",
                                    .next = "export .csv instead"});
    return write_bytes(path, QByteArray::fromStdString(npy_bytes(matrix)));
  }
  if (ending == "html") {
    const std::string page = scene.html();
    if (page.empty())
      throw Error(Category::usage, {.doing = "exporting a page",
                                    .on = scene.title().toStdString(),
                                    .found = "a view without text",
                                    .expected = "the text view of a trace that holds the text of its tokens",
                                    .next = "export .svg or .csv instead"});
    return write_bytes(path, QByteArray::fromStdString(page));
  }
  if (ending == "json") {
    const std::string text = scene.json();
    if (text.empty())
      throw Error(Category::usage, {.doing = "exporting JSON",
                                    .on = scene.title().toStdString(),
                                    .found = "a view without it",
                                    .expected = "the dashboard",
                                    .next = "export .csv instead"});
    return write_bytes(path, QByteArray::fromStdString(text));
  }
  if (ending == "csv") {
    const std::string text = scene.csv(options.state);
    if (text.empty())
      throw Error(Category::usage, {.doing = "exporting data",
                                    .on = scene.title().toStdString(),
                                    .found = "nothing in it",
                                    .expected = "a view with data",
                                    .next = "add a policy, or choose another view"});
    return write_bytes(path, QByteArray::fromStdString(text));
  }
  const QSizeF size = QSizeF(options.size) * 96.0 / options.dpi;
  if (ending == "png") {
    QImage image = scene_image(scene, look, options, cancel);
    image.setText("Title", scene.title());
    image.setText("Description", scene.alt_text());
    for (const auto& [key, value] : options.notes) image.setText(key, value);
    QByteArray out;
    QBuffer buffer(&out);
    buffer.open(QIODevice::WriteOnly);
    image.save(&buffer, "PNG");
    return write_bytes(path, out);
  }
  if (ending == "svg" || ending == "pdf") {
    Look fine = look;
    fine.device_pixels = 2;  // images in it stay sharp when enlarged
    complete(scene, fine, size, options.state, cancel);
    return write_bytes(path,
                       ending == "svg" ? svg_bytes(scene, fine, size, options) : pdf_bytes(scene, fine, size, options));
  }
  throw Error(Category::usage,
              {.doing = "choosing a format",
               .on = path.toStdString(),
               .found = "the ending ." + ending.toStdString(),
               .expected = ".png, .svg, .pdf, .csv, .npy, .html of the text, or .json of the dashboard"});
}

}  // namespace kvgrind::gui
