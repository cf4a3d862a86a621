// One query's keys by weight, with running sum and what each policy did to them; as values and as a Qt table.
#pragma once
#include <QAbstractTableModel>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gui/models/table.h"
#include "gui/models/view_input.h"

namespace kvgrind::gui {

struct RowKey {
  std::int64_t rank = 0, key = 0;
  std::string token;
  double weight = 0, cumulative = 0;
  std::vector<bool> kept;  // per job
};
struct RowKeys {
  std::int64_t layer = 0, query_head = 0, query = -1;
  std::string query_token;
  std::vector<std::string> jobs;
  std::vector<std::size_t> colours;
  std::vector<RowKey> keys;        // by weight, then position
  std::vector<double> job_recall;  // weight on what each job kept
};
// The query at query_at, else the last recorded one.
RowKeys row_keys(const ViewInput& input, std::size_t most);
Table row_table(const RowKeys& row);

class RowKeysModel final : public QAbstractTableModel {
 public:
  enum Column { rank, key, token, weight, cumulative, first_job };
  using QAbstractTableModel::QAbstractTableModel;
  void set(std::shared_ptr<const RowKeys> row);
  const RowKey* at(int row_index) const;
  int rowCount(const QModelIndex& parent = {}) const override;
  int columnCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;  // Qt::UserRole: what to sort by
  QVariant headerData(int section, Qt::Orientation orientation, int role) const override;

 private:
  std::shared_ptr<const RowKeys> row_;
};

}  // namespace kvgrind::gui
