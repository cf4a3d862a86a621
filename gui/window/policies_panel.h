// Policies: add a line or preset with a budget (completion, validation while typing), choose which are shown.
#pragma once
#include <QWidget>

#include "gui/models/policy_list.h"
#include "gui/window/desk.h"

class QCompleter;
class QLabel;
class QLineEdit;
class QPushButton;
class QStringListModel;
class QTableView;

namespace kvgrind::gui {

class PoliciesPanel final : public QWidget {
  Q_OBJECT
 public:
  explicit PoliciesPanel(Desk& desk, QWidget* parent = nullptr);
  void focus_policy();
  bool valid() const;

 private:
  void check();
  void complete();
  void add();
  void list();

  Desk& desk_;
  PolicyListModel* model_;
  QTableView* table_;
  QLineEdit *policy_, *budget_;
  QLabel* verdict_;
  QPushButton *add_, *remove_;
  QCompleter* completer_;
  QStringListModel* words_;
};

}  // namespace kvgrind::gui
