// One view as a snapshot: built on a worker from what is selected, painted at any size by the window and by render.
// Adding a view is one file of views/kinds with one row; the table is generated.
#pragma once
#include <QPointF>
#include <QRectF>
#include <QString>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "gui/models/matrix.h"
#include "gui/models/view_input.h"
#include "gui/views/canvas.h"

namespace kvgrind::gui {

// What a person did to the picture itself, not to the selection.
struct ViewState {
  QRectF window;  // visible data coordinates; empty = all
};

class Scene {
 public:
  virtual ~Scene() = default;
  virtual QString title() const = 0;
  virtual QString subtitle() const { return {}; }
  virtual void paint(Canvas& canvas, const QRectF& area, const ViewState& state) const = 0;
  virtual QRectF extent() const { return {}; }       // data coordinates; not empty: can be zoomed and panned
  virtual bool keys_across() const { return true; }  // of the extent; false: queries
  virtual bool scrolls() const { return false; }     // by lines: ViewState::window.top() is the first
  virtual std::string csv(const ViewState& = {}) const { return {}; }
  virtual Matrix matrix(const ViewState& = {}) const { return {}; }  // the numbers shown, for .npy; empty: none
  virtual std::string json() const { return {}; }                    // of the dashboard; empty: none
  virtual std::string html() const { return {}; }                    // of a text, shaded as shown; empty: no text
  // Arrow keys where the places on the picture are in an order of the scene's own; false: the usual way.
  virtual bool move(int /*right*/, int /*down*/, Selection&) const { return false; }
  virtual QString alt_text() const { return title() + ". " + subtitle(); }
};
using ScenePtr = std::shared_ptr<const Scene>;

enum class Needs : std::uint8_t { trace, jobs, rows };

struct ViewRow {
  const char* name;  // of `render --view`
  const char* title;
  const char* help;
  int place;
  Needs needs;
  ScenePtr (*load)(const ViewInput& input, const CancelToken& cancel);
};

const std::vector<const ViewRow*>& views();  // by place
// Error(usage) with the nearest name.
const ViewRow& view_named(const std::string& name);
// row.load, or words that say what is missing where only results are open.
ScenePtr load_scene(const ViewRow& row, const ViewInput& input, const CancelToken& cancel);

// Ground, title, subtitle and the scene below them.
void paint_scene(Canvas& canvas, const QSizeF& size, const Scene& scene, const ViewState& state);

// A scene of words alone: nothing to show, and why.
ScenePtr words_scene(QString title, QString text);

}  // namespace kvgrind::gui
