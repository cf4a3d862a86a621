// The list of policies as a Qt table: shown or not, policy, budget, state.
#pragma once
#include <QAbstractTableModel>
#include <QString>
#include <vector>

namespace kvgrind::gui {

struct PolicyLine {
  QString policy, budget, state;
  bool shown = true;
  std::size_t colour = 0;
};

class PolicyListModel final : public QAbstractTableModel {
  Q_OBJECT
 public:
  enum Column { policy, budget, state, columns };
  using QAbstractTableModel::QAbstractTableModel;
  void set(std::vector<PolicyLine> lines);
  int rowCount(const QModelIndex& parent = {}) const override;
  int columnCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;
  bool setData(const QModelIndex& index, const QVariant& value, int role) override;  // the check mark
  Qt::ItemFlags flags(const QModelIndex& index) const override;
  QVariant headerData(int section, Qt::Orientation orientation, int role) const override;

 Q_SIGNALS:
  void toggled(int row, bool shown);

 private:
  std::vector<PolicyLine> lines_;
};

}  // namespace kvgrind::gui
