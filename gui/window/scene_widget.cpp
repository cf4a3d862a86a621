#include "gui/window/scene_widget.h"

#include <QMouseEvent>
#include <QToolTip>
#include <algorithm>
#include <cmath>

#include "gui/views/qcp.h"

namespace kvgrind::gui {
namespace {

enum Priority { tiles = 8, scenes = 10 };

}  // namespace

SceneWidget::SceneWidget(const ViewRow& row, Desk& desk, JobRunner& runner, QWidget* parent)
    : QWidget(parent), row_(row), desk_(desk), runner_(runner), look_(look_of(palette(), font())) {
  setObjectName(row.name);
  setAccessibleName(row.title);
  setAccessibleDescription(row.help);
  setFocusPolicy(Qt::StrongFocus);
  setMouseTracking(true);
  look_.title = true;
  const auto follow = [this] {
    if (locked_) return;
    dirty_ = true;
    refresh();
  };
  connect(&desk, &Desk::selection_changed, this, follow);
  connect(&desk, &Desk::inputs_changed, this, follow);
  connect(&desk, &Desk::opened, this, [this] {
    scene_ = nullptr;
    hits_.clear();
    state_ = {};
    locked_ = false;
    dirty_ = true;
    update();
  });
}

void SceneWidget::set_locked(bool locked) {
  locked_ = locked;
  dirty_ = dirty_ || !locked;
  refresh();
}

void SceneWidget::refresh() {
  if (!dirty_ || !isVisible() || !desk_.is_open()) return;
  dirty_ = false;
  load_token_.cancel();
  fetch_token_.cancel();
  fetching_ = false;
  loading_ = true;
  const unsigned generation = ++generation_;
  load_token_ = runner_.run(
      row_.title, scenes,
      [this, input = desk_.input(), generation](const CancelToken& cancel, Progress&) {
        ScenePtr scene = load_scene(row_, input, cancel);
        return JobRunner::Finish([this, scene, generation] {
          if (generation != generation_) return;
          loading_ = false;
          scene_ = scene;
          if (scene_->scrolls()) state_ = {};
          setAccessibleDescription(scene_->alt_text());
          update();
          Q_EMIT loaded();
        });
      },
      [this, generation](const FaultText& fault) {
        if (generation != generation_) return;
        loading_ = false;
        QString text = QString::fromStdString(fault.headline);
        for (const auto& [name, part] : fault.parts) text += "\n" + QString::fromStdString(name + ": " + part);
        scene_ = words_scene(row_.title, text);
        update();
        Q_EMIT failed(fault);
      },
      true);
}

void SceneWidget::fetch(std::vector<Wanted> wanted) {
  if (fetching_) return;
  fetching_ = true;
  const unsigned generation = generation_;
  fetch_token_ = runner_.run(
      "tiles", tiles,
      [this, wanted = std::move(wanted), generation](const CancelToken& cancel, Progress&) {
        // A few at a time: the picture sharpens as they come.
        for (std::size_t i = 0; i < std::min<std::size_t>(wanted.size(), 6); ++i) {
          cancel.throw_if_cancelled();
          wanted[i](cancel);
        }
        return JobRunner::Finish([this, generation] {
          if (generation != generation_) return;
          fetching_ = false;
          update();
        });
      },
      [this, generation](const FaultText& fault) {
        if (generation != generation_) return;
        fetching_ = false;
        Q_EMIT failed(fault);
      },
      true);
}

void SceneWidget::paintEvent(QPaintEvent*) {
  QCPPainter painter(this);
  painter.setRenderHint(QPainter::Antialiasing);
  if (!scene_) {
    Canvas canvas{.p = painter, .plots = &painter, .look = look_};
    painter.fillRect(rect(), look_.ground);
    draw_nothing(canvas, rect(), loading_ ? "Loading…" : "");
    return;
  }
  Look look = look_;
  look.device_pixels = std::max(1, int(std::lround(devicePixelRatioF())));
  Canvas canvas{.p = painter, .plots = &painter, .look = look};
  paint_scene(canvas, size(), *scene_, state_);
  hits_ = std::move(canvas.hits);
  plot_ = canvas.plot;
  shown_ = canvas.shown;
  if (boxing_) {
    painter.setPen(QPen(look_.accent, 1, Qt::DashLine));
    painter.setBrush(Qt::NoBrush);
    painter.drawRect(box_);
  }
  if (hasFocus()) {
    painter.setPen(QPen(look_.accent, 1));
    painter.setBrush(Qt::NoBrush);
    painter.drawRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5));
  }
  if (!canvas.wanted.empty()) fetch(std::move(canvas.wanted));
}

void SceneWidget::showEvent(QShowEvent* event) {
  QWidget::showEvent(event);
  refresh();
}

void SceneWidget::changeEvent(QEvent* event) {
  QWidget::changeEvent(event);
  if (event->type() == QEvent::PaletteChange || event->type() == QEvent::FontChange) {
    look_ = look_of(palette(), font());
    update();
  }
}

QPointF SceneWidget::data_at(QPointF at) const {
  return {shown_.left() + (at.x() - plot_.left()) / plot_.width() * shown_.width(),
          shown_.top() + (at.y() - plot_.top()) / plot_.height() * shown_.height()};
}

void SceneWidget::set_window(QRectF window) {
  if (!scene_) return;
  const QRectF all = scene_->extent();
  window.setWidth(std::clamp(window.width(), std::min(8.0, all.width()), all.width()));
  window.setHeight(std::clamp(window.height(), std::min(8.0, all.height()), all.height()));
  window.moveLeft(std::clamp(window.left(), all.left(), std::max(all.left(), all.right() - window.width())));
  window.moveTop(std::clamp(window.top(), all.top(), std::max(all.top(), all.bottom() - window.height())));
  state_.window = window == all ? QRectF() : window;
  fetch_token_.cancel();
  fetching_ = false;
  ++generation_;
  if (loading_) {  // the snapshot on its way would be taken for an old one
    loading_ = false;
    dirty_ = true;
    refresh();
  }
  update();
}

void SceneWidget::zoom(double factor, QPointF at) {
  if (!scene_ || scene_->extent().isEmpty() || plot_.isEmpty()) return;
  if (!plot_.contains(at)) at = plot_.center();
  const QPointF fixed = data_at(at);
  QRectF window = shown_;
  window.setSize(window.size() / factor);
  window.moveLeft(fixed.x() - (fixed.x() - shown_.left()) / factor);
  window.moveTop(fixed.y() - (fixed.y() - shown_.top()) / factor);
  set_window(window);
}

void SceneWidget::fit_all() {
  if (scene_) set_window(scene_->extent());
}

void SceneWidget::fit_selection() {
  if (!scene_ || scene_->extent().isEmpty()) return;
  const Selection& s = desk_.at();
  QRectF window = scene_->extent();
  const auto fit = [](Range range, std::int64_t at, double& begin, double& end) {
    if (!range.empty()) {
      begin = double(range.begin);
      end = double(range.end);
    } else if (at >= 0) {
      begin = double(at) - 16;
      end = double(at) + 17;
    }
  };
  double x0 = window.left(), x1 = window.right(), y0 = window.top(), y1 = window.bottom();
  const bool keys = scene_->keys_across();
  fit(keys ? s.key : s.query, keys ? s.key_at : s.query_at, x0, x1);
  if (window.height() > 1) fit(s.query, s.query_at, y0, y1);
  set_window(QRectF(QPointF(x0, y0), QPointF(x1, y1)));
}

void SceneWidget::mouseMoveEvent(QMouseEvent* event) {
  const QPointF at = event->position();
  if (boxing_) {
    box_ = QRectF(pressed_, at).normalized().intersected(plot_);
    update();
    return;
  }
  if ((event->buttons() & Qt::LeftButton) && !plot_.isEmpty() && !pressed_window_.isEmpty() &&
      (dragging_ || (at - pressed_).manhattanLength() > 6)) {
    dragging_ = true;
    QRectF window = pressed_window_;
    window.translate(-(at.x() - pressed_.x()) / plot_.width() * window.width(),
                     -(at.y() - pressed_.y()) / plot_.height() * window.height());
    set_window(window);
    return;
  }
  for (auto it = hits_.rbegin(); it != hits_.rend(); ++it)
    if (it->area.contains(at))
      if (const auto hit = it->at(at)) {
        Q_EMIT pointed(hit->text);
        QToolTip::showText(event->globalPosition().toPoint() + QPoint(12, 12), hit->text, this);
        return;
      }
  Q_EMIT pointed(QString());
  QToolTip::hideText();
}

void SceneWidget::mousePressEvent(QMouseEvent* event) {
  setFocus(Qt::MouseFocusReason);
  if (event->button() != Qt::LeftButton) return;
  pressed_ = event->position();
  dragging_ = false;
  const bool zoomable = scene_ && !scene_->extent().isEmpty() && plot_.contains(pressed_);
  brushing_ = zoomable && (event->modifiers() & Qt::ControlModifier);
  boxing_ = zoomable && (brushing_ || (event->modifiers() & Qt::ShiftModifier));
  pressed_window_ = zoomable && !boxing_ ? shown_ : QRectF();
  box_ = {};
}

void SceneWidget::mouseReleaseEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton) return;
  if (boxing_) {
    boxing_ = false;
    if (brushing_)
      brush();
    else if (box_.width() > 4 && box_.height() > 4)
      set_window(QRectF(data_at(box_.topLeft()), data_at(box_.bottomRight())));
    update();
    return;
  }
  if (dragging_) return;
  const QPointF at = event->position();
  const bool query = event->modifiers() & Qt::AltModifier, more = event->modifiers() & Qt::ShiftModifier;
  for (auto it = hits_.rbegin(); it != hits_.rend(); ++it)
    if (it->area.contains(at))
      if (const auto hit = it->at(at)) {
        if (hit->select)
          desk_.select([&](Selection& s) {
            const std::int64_t before = s.key_at;
            const std::vector<std::string> jobs = s.jobs;
            hit->select(s);
            if (more && s.jobs != jobs)
              for (const std::string& job : jobs)
                if (std::find(s.jobs.begin(), s.jobs.end(), job) == s.jobs.end()) s.jobs.push_back(job);
            if (query) {
              s.query_at = s.key_at;
              s.key_at = before;
            }
          });
        if (!hit->view.empty()) Q_EMIT asked(hit->view);
        return;
      }
}

void SceneWidget::mouseDoubleClickEvent(QMouseEvent* event) {
  if (event->button() == Qt::LeftButton) Q_EMIT activated();
}

// The keys (and, of a map, the queries) under the box become the selected range.
void SceneWidget::brush() {
  if (box_.width() < 2) return;
  const QPointF a = data_at(box_.topLeft()), b = data_at(box_.bottomRight());
  const bool map = scene_->extent().height() > 1;
  desk_.select([&](Selection& s) {
    (scene_->keys_across() ? s.key : s.query) = {std::int64_t(a.x()), std::int64_t(std::ceil(b.x()))};
    if (map && box_.height() > 2) s.query = {std::int64_t(a.y()), std::int64_t(std::ceil(b.y()))};
  });
}

void SceneWidget::wheelEvent(QWheelEvent* event) {
  if (!scene_) return;
  const double steps = event->angleDelta().y() / 120.0;
  if (scene_->scrolls()) {
    state_.window = QRectF(0, std::max(0.0, shown_.top() - 3 * steps), 1, 1);
    update();
  } else if (!scene_->extent().isEmpty()) {
    zoom(std::pow(1.25, steps), event->position());
  } else {
    event->ignore();
    return;
  }
  event->accept();
}

// Cells of a map, heads of the grid, keys elsewhere.
bool SceneWidget::arrow(int key, bool extend) {
  const int dx = key == Qt::Key_Right ? 1 : key == Qt::Key_Left ? -1 : 0;
  const int dy = key == Qt::Key_Down ? 1 : key == Qt::Key_Up ? -1 : 0;
  const std::string name = row_.name;
  const Limits limits = desk_.limits();
  if (scene_ && scene_->scrolls() && dy && name != "text") {  // lists of lines
    state_.window = QRectF(0, std::max(0.0, shown_.top() + dy), 1, 1);
    update();
    return true;
  }
  bool moved = false;
  if (scene_ && !extend) desk_.select([&](Selection& s) { moved = scene_->move(dx, dy, s); });
  if (moved) return true;
  if (limits.tokens == 0) return false;
  desk_.select([&](Selection& s) {
    if (name == "heads" || name == "budget") {
      const std::int64_t step = name == "budget" ? std::max<std::int64_t>(1, limits.query_heads / limits.kv_heads) : 1;
      s.query_head += dx * step;
      s.layer += dy;
      return;
    }
    const std::int64_t step = plot_.isEmpty() || shown_.isEmpty()
                                  ? 1
                                  : std::max<std::int64_t>(1, std::int64_t(shown_.width() / plot_.width()));
    const std::int64_t key_before = std::max<std::int64_t>(0, s.key_at),
                       query_before = std::max<std::int64_t>(0, s.query_at);
    if (dx) s.key_at = key_before + dx * step;
    if (dy && name == "text") s.key_at = key_before + dy * 10;
    if (dy && name != "text") s.query_at = s.query_at < 0 ? limits.tokens - 1 : query_before + dy * step;
    s.key_at = std::min(s.key_at, limits.tokens - 1);
    if (dx && s.key_at < 0) s.key_at = 0;
    if (!extend) return;
    if (dx) {
      if (s.key.empty()) s.key = {key_before, key_before + 1};
      s.key = {std::min(s.key.begin, s.key_at), std::max(s.key.end, s.key_at + 1)};
    }
    if (dy && name != "text") {
      if (s.query.empty()) s.query = {query_before, query_before + 1};
      s.query = {std::min(s.query.begin, s.query_at), std::max(s.query.end, s.query_at + 1)};
    }
  });
  return true;
}

void SceneWidget::keyPressEvent(QKeyEvent* event) {
  switch (event->key()) {
    case Qt::Key_Left:
    case Qt::Key_Right:
    case Qt::Key_Up:
    case Qt::Key_Down:
      if (!(event->modifiers() & ~(Qt::ShiftModifier | Qt::KeypadModifier)) &&
          arrow(event->key(), event->modifiers() & Qt::ShiftModifier))
        return;
      break;
    case Qt::Key_Return:
    case Qt::Key_Enter:
      Q_EMIT activated();
      return;
    default:
      break;
  }
  QWidget::keyPressEvent(event);
}

}  // namespace kvgrind::gui
