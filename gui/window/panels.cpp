#include "gui/window/panels.h"

#include <QComboBox>
#include <QFormLayout>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QLabel>
#include <QListWidget>
#include <QPushButton>
#include <QSignalBlocker>
#include <QSlider>
#include <QSortFilterProxyModel>
#include <QSpinBox>
#include <QTableView>
#include <QVBoxLayout>

namespace kvgrind::gui {

Navigator::Navigator(Desk& desk, QWidget* parent)
    : QWidget(parent),
      desk_(desk),
      sequence_(new QComboBox(this)),
      layer_(new QSpinBox(this)),
      head_(new QSpinBox(this)),
      query_(new QSpinBox(this)),
      key_(new QSpinBox(this)),
      words_(new QLabel(this)) {
  sequence_->setAccessibleName("Sequence");
  sequence_->setObjectName("sequence");
  auto* form = new QFormLayout(this);
  form->addRow("&Sequence", sequence_);
  const auto spin = [&](const char* label, const char* name, QSpinBox* box, auto change) {
    box->setAccessibleName(name);
    box->setObjectName(QString(name).toLower().replace(' ', '_'));
    form->addRow(label, box);
    connect(box, &QSpinBox::valueChanged, this,
            [this, change](int value) { desk_.select([&](Selection& s) { change(s, value); }); });
  };
  spin("&Layer", "Layer", layer_, [](Selection& s, int v) { s.layer = v; });
  spin("Query &head", "Query head", head_, [](Selection& s, int v) { s.query_head = v; });
  spin("&Query", "Query position", query_, [](Selection& s, int v) { s.query_at = v; });
  spin("&Key", "Key position", key_, [](Selection& s, int v) { s.key_at = v; });
  query_->setSpecialValueText("none");
  key_->setSpecialValueText("none");
  words_->setWordWrap(true);
  words_->setAccessibleName("Where we are");
  form->addRow(words_);
  connect(sequence_, &QComboBox::currentIndexChanged, this, [this](int index) {
    if (index >= 0) desk_.select([&](Selection& s) { s.sequence = sequence_->itemData(index).toLongLong(); });
  });
  connect(&desk, &Desk::opened, this, [this] {
    const QSignalBlocker quiet(sequence_);
    sequence_->clear();
    setEnabled(desk_.input().session != nullptr);
    if (!desk_.input().session) return words_->setText("results alone");
    for (const traces::SequenceInfo& info : desk_.input().session->run().sequences())
      sequence_->addItem(QString("%1 (%2 tokens)").arg(info.id).arg(info.tokens), qlonglong(info.id));
    follow();
  });
  connect(&desk, &Desk::selection_changed, this, &Navigator::follow);
}

void Navigator::follow() {
  if (!desk_.input().session) return;
  const Selection& s = desk_.at();
  const Limits limits = desk_.limits();
  const QSignalBlocker quiet[] = {QSignalBlocker(sequence_), QSignalBlocker(layer_), QSignalBlocker(head_),
                                  QSignalBlocker(query_), QSignalBlocker(key_)};
  sequence_->setCurrentIndex(sequence_->findData(qlonglong(s.sequence)));
  const auto set = [](QSpinBox* box, std::int64_t low, std::int64_t high, std::int64_t value) {
    box->setRange(int(low), int(std::max(low, high)));
    box->setValue(int(value));
  };
  set(layer_, 0, limits.layers - 1, s.layer);
  set(head_, 0, limits.query_heads - 1, s.query_head);
  set(query_, -1, limits.tokens - 1, s.query_at);
  set(key_, -1, limits.tokens - 1, s.key_at);
  words_->setText(QString::fromStdString(place_text(s)));
}

StepBar::StepBar(Desk& desk, QWidget* parent)
    : QWidget(parent),
      desk_(desk),
      slider_(new QSlider(Qt::Horizontal, this)),
      play_(new QPushButton("Play", this)),
      words_(new QLabel(this)) {
  slider_->setAccessibleName("Step: tokens seen");
  slider_->setObjectName("step");
  play_->setAccessibleName("Play or pause the steps");
  words_->setAccessibleName("Tokens seen");
  words_->setMinimumWidth(fontMetrics().horizontalAdvance("after 000000 of 000000 tokens"));
  auto* row = new QHBoxLayout(this);
  row->addWidget(play_);
  row->addWidget(slider_, 1);
  row->addWidget(words_);
  setMaximumHeight(3 * fontMetrics().height() + 12);
  timer_.setInterval(150);
  connect(&timer_, &QTimer::timeout, this, [this] {
    if (desk_.at().step < 0 || desk_.at().step >= range().second)
      play_or_pause();
    else
      step(1);
  });
  connect(play_, &QPushButton::clicked, this, &StepBar::play_or_pause);
  connect(slider_, &QSlider::valueChanged, this, [this](int value) {
    const std::int64_t end = range().second;
    desk_.select([&](Selection& s) { s.step = value >= end ? -1 : value; });
  });
  connect(&desk, &Desk::selection_changed, this, &StepBar::follow);
  connect(&desk, &Desk::inputs_changed, this, &StepBar::follow);
}

std::pair<std::int64_t, std::int64_t> StepBar::range() const {
  std::int64_t end = desk_.limits().tokens, begin = end;
  for (const ShownJob& job : desk_.input().jobs)
    if (!job.view->timeline.steps.empty()) begin = std::min(begin, job.view->timeline.compress_at);
  return {begin, end};
}

void StepBar::follow() {
  const auto [begin, end] = range();
  const std::int64_t at = desk_.at().step < 0 ? end : desk_.at().step;
  const QSignalBlocker quiet(slider_);
  slider_->setRange(int(begin), int(end));
  slider_->setValue(int(at));
  slider_->setEnabled(begin < end);
  play_->setEnabled(begin < end);
  words_->setText(QString("after %1 of %2 tokens").arg(at).arg(end));
}

void StepBar::step(int by) {
  const auto [begin, end] = range();
  const std::int64_t now = desk_.at().step < 0 ? end : desk_.at().step;
  const std::int64_t next = std::clamp(now + by, begin, end);
  desk_.select([&](Selection& s) { s.step = next >= end ? -1 : next; });
}

void StepBar::play_or_pause() {
  if (timer_.isActive()) {
    timer_.stop();
    play_->setText("Play");
    return;
  }
  const auto [begin, end] = range();
  if (begin >= end) return;
  if (desk_.at().step < 0) desk_.select([&, first = begin](Selection& s) { s.step = first; });
  timer_.start();
  play_->setText("Pause");
}

Inspector::Inspector(Desk& desk, JobRunner& runner, QWidget* parent)
    : QWidget(parent),
      desk_(desk),
      runner_(runner),
      model_(new RowKeysModel(this)),
      sorted_(new QSortFilterProxyModel(this)),
      table_(new QTableView(this)),
      words_(new QLabel(this)) {
  sorted_->setSourceModel(model_);
  sorted_->setSortRole(Qt::UserRole);
  table_->setModel(sorted_);
  table_->setSortingEnabled(true);
  table_->sortByColumn(RowKeysModel::rank, Qt::AscendingOrder);
  table_->setAccessibleName("Keys of the query");
  table_->setSelectionBehavior(QAbstractItemView::SelectRows);
  table_->verticalHeader()->hide();
  table_->verticalHeader()->setDefaultSectionSize(fontMetrics().height() + 6);
  table_->setTabKeyNavigation(false);
  words_->setWordWrap(true);
  words_->setAccessibleName("The query looked at");
  auto* whole = new QVBoxLayout(this);
  whole->addWidget(words_);
  whole->addWidget(table_, 1);
  connect(table_, &QTableView::activated, this, [this](const QModelIndex& index) {
    if (const RowKey* key = model_->at(sorted_->mapToSource(index).row()))
      desk_.select([at = key->key](Selection& s) { s.key_at = at; });
  });
  connect(&desk, &Desk::selection_changed, this, &Inspector::refresh);
  connect(&desk, &Desk::inputs_changed, this, &Inspector::refresh);
}

void Inspector::refresh() {
  if (!isVisible() || !desk_.input().session) return;
  token_.cancel();
  const unsigned generation = ++generation_;
  token_ = runner_.run(
      "row", 6,
      [this, input = desk_.input(), generation](const CancelToken&, Progress&) {
        auto row = std::make_shared<const RowKeys>(row_keys(input, 200));
        return JobRunner::Finish([this, row, generation] {
          if (generation != generation_) return;
          model_->set(row);
          table_->resizeColumnsToContents();
          words_->setText(row->query < 0 ? QString("no query of this head was recorded")
                                         : QString("query %1 %2, layer %3, q%4")
                                               .arg(row->query)
                                               .arg(QString::fromStdString(row->query_token))
                                               .arg(row->layer)
                                               .arg(row->query_head));
        });
      },
      [this, generation](const FaultText& fault) {
        if (generation == generation_) words_->setText(QString::fromStdString(fault.headline));
      },
      true);
}

JobsList::JobsList(Desk& desk, JobRunner& runner, QWidget* parent)
    : QWidget(parent), list_(new QListWidget(this)), cancel_(new QPushButton("&Cancel all", this)) {
  list_->setAccessibleName("Running jobs");
  auto* whole = new QVBoxLayout(this);
  whole->addWidget(list_, 1);
  whole->addWidget(cancel_);
  cancel_->setEnabled(false);
  connect(cancel_, &QPushButton::clicked, &desk, &Desk::cancel_jobs);
  connect(&runner, &JobRunner::changed, this, [this, &runner] {
    list_->clear();
    for (const auto& job : runner.jobs())
      list_->addItem(job->total > 0
                         ? QString("%1: %2 %3 of %4").arg(job->what, job->phase).arg(job->done).arg(job->total)
                         : job->what);
    cancel_->setEnabled(!runner.jobs().empty());
  });
}

}  // namespace kvgrind::gui
