#include "gui/window/pages.h"

#include <QApplication>
#include <QClipboard>
#include <QLabel>
#include <QListWidget>
#include <QProgressBar>
#include <QPushButton>
#include <QVBoxLayout>

namespace kvgrind::gui {
namespace {

QVBoxLayout* centred(QWidget* page) {
  auto* whole = new QHBoxLayout(page);
  auto* column = new QVBoxLayout;
  whole->addStretch(1);
  whole->addLayout(column, 2);
  whole->addStretch(1);
  return column;
}

QLabel* heading(const QString& text, QWidget* parent) {
  auto* label = new QLabel(text, parent);
  QFont font = label->font();
  font.setPointSizeF(font.pointSizeF() * 1.6);
  font.setBold(true);
  label->setFont(font);
  label->setWordWrap(true);
  return label;
}

}  // namespace

StartPage::StartPage(QWidget* parent) : QWidget(parent), recent_(new QListWidget(this)) {
  QVBoxLayout* column = centred(this);
  column->addStretch(1);
  column->addWidget(heading("kvgrind", this));
  auto* what = new QLabel(
      "See what a language model's attention did, what each cache policy kept of it, and what that cost.", this);
  what->setWordWrap(true);
  column->addWidget(what);
  auto* example = new QPushButton("Try the built-in &example", this);
  example->setObjectName("example");
  auto* open = new QPushButton("&Open a trace, results or a session…", this);
  open->setObjectName("open");
  for (QPushButton* button : {example, open}) {
    button->setAutoDefault(true);  // Enter presses it, not Space alone
    column->addWidget(button);
  }
  recent_title_ = new QLabel("Recent files", this);
  column->addWidget(recent_title_);
  recent_->setAccessibleName("Recent files");
  recent_->setMaximumHeight(8 * fontMetrics().lineSpacing());
  column->addWidget(recent_);
  auto* commands = new QLabel(
      "kvgrind record --model DIR --prompt FILE -o run.kvt\n"
      "kvgrind sweep run.kvt --policy all --budget 0.5,0.2,0.1 -o results.jsonl\n"
      "kvgrind gui run.kvt results.jsonl",
      this);
  commands->setTextInteractionFlags(Qt::TextSelectableByMouse | Qt::TextSelectableByKeyboard);
  commands->setAccessibleName("Three commands to copy");
  QFont mono("DejaVu Sans Mono");
  mono.setStyleHint(QFont::Monospace);
  commands->setFont(mono);
  column->addWidget(commands);
  auto* help = new QLabel("Files may also be dropped here. F1 explains the view, Ctrl+K finds every action.", this);
  help->setWordWrap(true);
  column->addWidget(help);
  column->addStretch(2);
  set_recent({});
  setTabOrder(example, open);
  setTabOrder(open, recent_);
  setTabOrder(recent_, commands);
  connect(example, &QPushButton::clicked, this, &StartPage::example_asked);
  connect(open, &QPushButton::clicked, this, &StartPage::open_asked);
  connect(recent_, &QListWidget::itemActivated, this,
          [this](const QListWidgetItem* item) { Q_EMIT file_asked(item->text()); });
}

void StartPage::set_recent(const QStringList& files) {
  recent_->clear();
  recent_->addItems(files);
  recent_->setVisible(!files.isEmpty());
  recent_title_->setVisible(!files.isEmpty());
}

LoadingPage::LoadingPage(QWidget* parent) : QWidget(parent), words_(new QLabel(this)), bar_(new QProgressBar(this)) {
  QVBoxLayout* column = centred(this);
  column->addStretch(1);
  column->addWidget(words_);
  column->addWidget(bar_);
  auto* cancel = new QPushButton("&Cancel", this);
  cancel->setObjectName("cancel_loading");
  cancel->setAutoDefault(true);
  column->addWidget(cancel);
  column->addStretch(1);
  words_->setWordWrap(true);
  bar_->setRange(0, 0);
  bar_->setAccessibleName("Progress of opening");
  connect(cancel, &QPushButton::clicked, this, &LoadingPage::cancelled);
}

void LoadingPage::begin(const QString& what) { words_->setText(what); }

ErrorPage::ErrorPage(QWidget* parent) : QWidget(parent), headline_(heading({}, this)), parts_(new QLabel(this)) {
  QVBoxLayout* column = centred(this);
  column->addStretch(1);
  column->addWidget(headline_);
  column->addWidget(parts_);
  auto* copy = new QPushButton("&Copy details", this);
  auto* back = new QPushButton("&Back to the start", this);
  copy->setObjectName("copy_details");
  back->setObjectName("back_to_start");
  for (QPushButton* button : {copy, back}) {
    button->setAutoDefault(true);
    column->addWidget(button);
  }
  column->addStretch(1);
  parts_->setWordWrap(true);
  parts_->setTextFormat(Qt::PlainText);
  headline_->setTextFormat(Qt::PlainText);
  parts_->setAccessibleName("What happened and what to do");
  parts_->setTextInteractionFlags(Qt::TextSelectableByMouse | Qt::TextSelectableByKeyboard);
  connect(copy, &QPushButton::clicked, this, [this] { QApplication::clipboard()->setText(details_); });
  connect(back, &QPushButton::clicked, this, &ErrorPage::left);
}

void ErrorPage::show_fault(const FaultText& fault) {
  headline_->setText(QString::fromStdString(fault.headline));
  QString text;
  for (const auto& [name, part] : fault.parts)
    text += (text.isEmpty() ? "" : "\n\n") + QString::fromStdString(name + ": " + part);
  parts_->setText(text);
  details_ = QString::fromStdString(fault.details);
}

QString ErrorPage::text() const { return headline_->text() + "\n" + parts_->text(); }

}  // namespace kvgrind::gui
