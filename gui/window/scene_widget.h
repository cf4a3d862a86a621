// One view in the window: follows the desk, builds its scene on a worker, paints it, and turns pointer and keys into
// changes of the selection.
#pragma once
#include <QWidget>
#include <memory>

#include "gui/views/scene.h"
#include "gui/window/desk.h"

namespace kvgrind::gui {

class SceneWidget final : public QWidget {
  Q_OBJECT
 public:
  SceneWidget(const ViewRow& row, Desk& desk, JobRunner& runner, QWidget* parent = nullptr);
  const ViewRow& row() const { return row_; }
  const ScenePtr& scene() const { return scene_; }
  const Look& look() const { return look_; }
  QRectF window() const { return state_.window; }
  const std::vector<HitArea>& hits() const { return hits_; }  // of the last picture
  bool busy() const { return loading_ || fetching_; }
  void zoom(double factor, QPointF at);  // about a point of the widget
  void fit_all();
  void fit_selection();
  void set_locked(bool locked);  // keeps showing what it shows
  bool locked() const { return locked_; }

  QSize sizeHint() const override { return {640, 480}; }
  QSize minimumSizeHint() const override { return {160, 120}; }

 Q_SIGNALS:
  void pointed(const QString& text);    // what lies under the pointer or the cursor
  void activated();                     // Enter, or a double click
  void asked(const std::string& view);  // a click wants another view
  void loaded();
  void failed(const FaultText& fault);

 protected:
  void paintEvent(QPaintEvent*) override;
  void showEvent(QShowEvent*) override;
  void changeEvent(QEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseReleaseEvent(QMouseEvent* event) override;
  void mouseDoubleClickEvent(QMouseEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;

 private:
  void refresh();
  void fetch(std::vector<Wanted> wanted);
  void set_window(QRectF window);
  QPointF data_at(QPointF at) const;
  bool arrow(int key, bool extend);
  void brush();

  const ViewRow& row_;
  Desk& desk_;
  JobRunner& runner_;
  Look look_;
  ScenePtr scene_;
  ViewState state_;
  std::vector<HitArea> hits_;
  QRectF plot_, shown_;
  CancelToken load_token_, fetch_token_;
  unsigned generation_ = 0;
  bool dirty_ = true, loading_ = false, fetching_ = false, locked_ = false;
  QPointF pressed_;
  QRectF pressed_window_, box_;
  bool dragging_ = false, boxing_ = false, brushing_ = false;
};

}  // namespace kvgrind::gui
