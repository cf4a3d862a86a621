#include "gui/models/policy_list.h"

namespace kvgrind::gui {

void PolicyListModel::set(std::vector<PolicyLine> lines) {
  beginResetModel();
  lines_ = std::move(lines);
  endResetModel();
}

int PolicyListModel::rowCount(const QModelIndex& parent) const {
  return parent.isValid() ? 0 : static_cast<int>(lines_.size());
}

int PolicyListModel::columnCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : columns; }

QVariant PolicyListModel::data(const QModelIndex& index, int role) const {
  if (!index.isValid() || index.row() >= rowCount()) return {};
  const PolicyLine& line = lines_[static_cast<std::size_t>(index.row())];
  if (role == Qt::CheckStateRole && index.column() == policy) return line.shown ? Qt::Checked : Qt::Unchecked;
  if (role == Qt::UserRole) return static_cast<qulonglong>(line.colour);
  if (role == Qt::ToolTipRole && index.column() == state) return line.state;
  if (role != Qt::DisplayRole) return {};
  return index.column() == policy ? line.policy : index.column() == budget ? line.budget : line.state;
}

bool PolicyListModel::setData(const QModelIndex& index, const QVariant& value, int role) {
  if (!index.isValid() || role != Qt::CheckStateRole || index.column() != policy) return false;
  PolicyLine& line = lines_[static_cast<std::size_t>(index.row())];
  line.shown = value.toInt() == Qt::Checked;
  Q_EMIT dataChanged(index, index, {Qt::CheckStateRole});
  Q_EMIT toggled(index.row(), line.shown);
  return true;
}

Qt::ItemFlags PolicyListModel::flags(const QModelIndex& index) const {
  Qt::ItemFlags out = QAbstractTableModel::flags(index);
  if (index.isValid() && index.column() == policy) out |= Qt::ItemIsUserCheckable;
  return out;
}

QVariant PolicyListModel::headerData(int section, Qt::Orientation orientation, int role) const {
  if (orientation != Qt::Horizontal || role != Qt::DisplayRole) return {};
  constexpr const char* names[] = {"policy", "kept", "state"};
  return section >= 0 && section < columns ? QVariant(QString(names[section])) : QVariant();
}

}  // namespace kvgrind::gui
