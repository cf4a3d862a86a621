// The small docks: where we are (sequence, layer, head), the step with play, one query's keys, running jobs.
#pragma once
#include <QTimer>
#include <QWidget>

#include "gui/models/row_keys.h"
#include "gui/window/desk.h"

class QLabel;
class QListWidget;
class QPushButton;
class QSlider;
class QSortFilterProxyModel;
class QSpinBox;
class QComboBox;
class QTableView;

namespace kvgrind::gui {

class Navigator final : public QWidget {
  Q_OBJECT
 public:
  explicit Navigator(Desk& desk, QWidget* parent = nullptr);

 private:
  void follow();
  Desk& desk_;
  QComboBox* sequence_;
  QSpinBox *layer_, *head_, *query_, *key_;
  QLabel* words_;
};

class StepBar final : public QWidget {
  Q_OBJECT
 public:
  explicit StepBar(Desk& desk, QWidget* parent = nullptr);
  void play_or_pause();
  void step(int by);

 private:
  void follow();
  std::pair<std::int64_t, std::int64_t> range() const;  // tokens seen: compression moment to the end
  Desk& desk_;
  QSlider* slider_;
  QPushButton* play_;
  QLabel* words_;
  QTimer timer_;
};

class Inspector final : public QWidget {
  Q_OBJECT
 public:
  Inspector(Desk& desk, JobRunner& runner, QWidget* parent = nullptr);

 private:
  void refresh();
  void showEvent(QShowEvent*) override { refresh(); }
  Desk& desk_;
  JobRunner& runner_;
  RowKeysModel* model_;
  QSortFilterProxyModel* sorted_;
  QTableView* table_;
  QLabel* words_;
  CancelToken token_;
  unsigned generation_ = 0;
};

class JobsList final : public QWidget {
  Q_OBJECT
 public:
  JobsList(Desk& desk, JobRunner& runner, QWidget* parent = nullptr);

 private:
  QListWidget* list_;
  QPushButton* cancel_;
};

}  // namespace kvgrind::gui
