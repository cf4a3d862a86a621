#include "gui/models/row_keys.h"

#include <algorithm>
#include <numeric>

#include "gui/models/kept.h"

namespace kvgrind::gui {

RowKeys row_keys(const ViewInput& input, std::size_t most) {
  RowKeys out{.layer = input.at.layer, .query_head = input.at.query_head};
  const traces::SequenceInfo* info = sequence_of(input);
  if (!info || info->tokens == 0) return out;
  const std::int64_t wanted = input.at.query_at >= 0 ? input.at.query_at : info->tokens - 1;
  const replay::AttentionRow row =
      input.session->attention_row(input.at.sequence, input.at.layer, input.at.query_head, wanted);
  out.query = row.query;
  if (row.query < 0) return out;
  const auto token = [&](std::int64_t t) {
    return input.text && t < static_cast<std::int64_t>(input.text->size())
               ? token_label((*input.text)[static_cast<std::size_t>(t)])
               : std::string();
  };
  out.query_token = token(row.query);
  std::vector<KeptBand> bands;
  std::vector<std::int64_t> groups;
  for (const ShownJob& job : input.jobs) {
    if (!job.view) continue;
    bands.push_back(kept_band(job, input.at.step, info->tokens));
    const std::int64_t heads = std::max<std::int64_t>(1, bands.back().heads);
    groups.push_back(input.at.layer * heads + input.at.query_head * heads / input.session->run().card().query_heads);
    out.jobs.push_back(job.name);
    out.colours.push_back(job.colour);
  }
  out.job_recall.assign(bands.size(), 0.0);
  std::vector<std::int64_t> order(static_cast<std::size_t>(row.query + 1));
  std::iota(order.begin(), order.end(), 0);
  const auto weight = [&](std::int64_t t) { return row.weight[static_cast<std::size_t>(t)]; };
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return weight(a) > weight(b); });
  double sum = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double w = static_cast<double>(weight(order[i]));
    sum += w;
    RowKey key{.rank = static_cast<std::int64_t>(i) + 1,
               .key = order[i],
               .token = {},
               .weight = w,
               .cumulative = sum,
               .kept = {}};
    for (std::size_t b = 0; b < bands.size(); ++b) {
      const bool kept = order[i] < bands[b].seen && is_kept(bands[b].state(groups[b], order[i]));
      key.kept.push_back(kept);
      out.job_recall[b] += kept ? w : 0.0;
    }
    if (i >= most) continue;
    key.token = token(order[i]);
    out.keys.push_back(std::move(key));
  }
  return out;
}

Table row_table(const RowKeys& row) {
  Table out{.header = {"rank", "key", "token", "weight", "cumulative"}, .rows = {}};
  for (const std::string& job : row.jobs) out.header.push_back("kept by " + job);
  for (const RowKey& key : row.keys) {
    std::vector<std::string> cells{std::to_string(key.rank), std::to_string(key.key), key.token, number(key.weight),
                                   number(key.cumulative)};
    for (const bool kept : key.kept) cells.emplace_back(kept ? "1" : "0");
    out.rows.push_back(std::move(cells));
  }
  return out;
}

void RowKeysModel::set(std::shared_ptr<const RowKeys> row) {
  beginResetModel();
  row_ = std::move(row);
  endResetModel();
}

const RowKey* RowKeysModel::at(int row_index) const {
  return row_ && row_index >= 0 && row_index < rowCount() ? &row_->keys[static_cast<std::size_t>(row_index)] : nullptr;
}

int RowKeysModel::rowCount(const QModelIndex& parent) const {
  return parent.isValid() || !row_ ? 0 : static_cast<int>(row_->keys.size());
}

int RowKeysModel::columnCount(const QModelIndex& parent) const {
  return parent.isValid() ? 0 : first_job + (row_ ? static_cast<int>(row_->jobs.size()) : 0);
}

QVariant RowKeysModel::data(const QModelIndex& index, int role) const {
  const RowKey* one = index.isValid() ? at(index.row()) : nullptr;
  if (!one || (role != Qt::DisplayRole && role != Qt::UserRole)) return {};
  const bool shown = role == Qt::DisplayRole;
  switch (index.column()) {
    case rank:
      return static_cast<qlonglong>(one->rank);
    case key:
      return static_cast<qlonglong>(one->key);
    case token:
      return QString::fromStdString(one->token);
    case weight:
      return shown ? QVariant(QString::fromStdString(short_number(one->weight))) : QVariant(one->weight);
    case cumulative:
      return shown ? QVariant(QString::fromStdString(percent(one->cumulative))) : QVariant(one->cumulative);
    default: {
      const auto job = static_cast<std::size_t>(index.column() - first_job);
      if (job >= one->kept.size()) return {};
      return shown ? QVariant(QString(one->kept[job] ? "kept" : "dropped")) : QVariant(one->kept[job] ? 1 : 0);
    }
  }
}

QVariant RowKeysModel::headerData(int section, Qt::Orientation orientation, int role) const {
  if (orientation != Qt::Horizontal || role != Qt::DisplayRole || section < 0) return {};
  constexpr const char* names[] = {"rank", "key", "token", "weight", "sum"};
  if (section < first_job) return QString(names[section]);
  const auto job = static_cast<std::size_t>(section - first_job);
  return row_ && job < row_->jobs.size() ? QVariant(QString::fromStdString(row_->jobs[job])) : QVariant();
}

}  // namespace kvgrind::gui
