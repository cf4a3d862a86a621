#include "gui/window/policies_panel.h"

#include <QAbstractItemView>
#include <QCompleter>
#include <QFormLayout>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QLabel>
#include <QLineEdit>
#include <QPushButton>
#include <QStringListModel>
#include <QTableView>
#include <QVBoxLayout>

namespace kvgrind::gui {

PoliciesPanel::PoliciesPanel(Desk& desk, QWidget* parent)
    : QWidget(parent),
      desk_(desk),
      model_(new PolicyListModel(this)),
      table_(new QTableView(this)),
      policy_(new QLineEdit(this)),
      budget_(new QLineEdit("0.2", this)),
      verdict_(new QLabel(this)),
      add_(new QPushButton("&Add", this)),
      remove_(new QPushButton("&Remove", this)),
      words_(new QStringListModel(this)) {
  policy_->setObjectName("policy");
  budget_->setObjectName("budget");
  add_->setObjectName("add_policy");
  remove_->setObjectName("remove_policy");
  table_->setObjectName("policies");
  policy_->setPlaceholderText("snapkv(window=32), or score=… act=…");
  policy_->setAccessibleName("Policy");
  policy_->setAccessibleDescription(
      "A preset or a line of slots; completion offers names, parameters and their ranges");
  budget_->setAccessibleName("Budget: what is kept");
  budget_->setToolTip("What is kept: 0.2, 20%, 512t, 64MiB");
  table_->setAccessibleName("Policies");
  verdict_->setAccessibleName("Whether the policy can run");
  verdict_->setWordWrap(true);
  verdict_->setTextInteractionFlags(Qt::TextSelectableByMouse);
  verdict_->setAlignment(Qt::AlignTop);
  verdict_->setMinimumHeight(3 * fontMetrics().height());

  completer_ = new QCompleter(words_, this);
  completer_->setWidget(policy_);
  completer_->setCompletionMode(QCompleter::PopupCompletion);
  completer_->setModelSorting(QCompleter::UnsortedModel);

  table_->setModel(model_);
  table_->setSelectionBehavior(QAbstractItemView::SelectRows);
  table_->setSelectionMode(QAbstractItemView::SingleSelection);
  table_->verticalHeader()->hide();
  table_->verticalHeader()->setDefaultSectionSize(fontMetrics().height() + 8);
  table_->horizontalHeader()->setSectionResizeMode(PolicyListModel::policy, QHeaderView::Stretch);
  table_->horizontalHeader()->setSectionResizeMode(PolicyListModel::budget, QHeaderView::ResizeToContents);
  table_->horizontalHeader()->setSectionResizeMode(PolicyListModel::state, QHeaderView::ResizeToContents);
  table_->setTabKeyNavigation(false);

  auto* form = new QFormLayout;
  form->addRow("&Policy", policy_);
  form->addRow("&Kept", budget_);
  auto* buttons = new QHBoxLayout;
  buttons->addWidget(add_);
  buttons->addWidget(remove_);
  auto* whole = new QVBoxLayout(this);
  whole->addLayout(form);
  whole->addWidget(verdict_);
  whole->addLayout(buttons);
  whole->addWidget(table_, 1);

  connect(policy_, &QLineEdit::textEdited, this, [this] {
    check();
    complete();
  });
  connect(policy_, &QLineEdit::textChanged, this, &PoliciesPanel::check);
  connect(budget_, &QLineEdit::textChanged, this, &PoliciesPanel::check);
  connect(policy_, &QLineEdit::returnPressed, this, &PoliciesPanel::add);
  connect(budget_, &QLineEdit::returnPressed, this, &PoliciesPanel::add);
  connect(add_, &QPushButton::clicked, this, &PoliciesPanel::add);
  connect(remove_, &QPushButton::clicked, this, [this] {
    const QModelIndex at = table_->currentIndex();
    if (at.isValid()) desk_.remove_policy(std::size_t(at.row()));
  });
  connect(completer_, qOverload<const QString&>(&QCompleter::activated), this, [this](const QString& offer) {
    const QString word = offer.section("  ", 0, 0), text = policy_->text();
    int begin = policy_->cursorPosition();
    const int end = begin;
    while (begin > 0 && (text[begin - 1].isLetterOrNumber() || text[begin - 1] == '_' || text[begin - 1] == '-'))
      --begin;
    policy_->setText(text.left(begin) + word + text.mid(end));
    policy_->setCursorPosition(begin + int(word.size()));
  });
  connect(model_, &PolicyListModel::toggled, this, [this](int row, bool shown) {
    QMetaObject::invokeMethod(
        this, [this, row, shown] { desk_.show_policy(std::size_t(row), shown); }, Qt::QueuedConnection);
  });
  connect(&desk, &Desk::policies_changed, this, &PoliciesPanel::list);
  check();
}

void PoliciesPanel::focus_policy() { policy_->setFocus(Qt::ShortcutFocusReason); }

bool PoliciesPanel::valid() const { return add_->isEnabled(); }

void PoliciesPanel::check() {
  const QString text = policy_->text().trimmed();
  if (text.isEmpty()) {
    verdict_->setText("Type a preset or a line; names complete as you type.");
    add_->setEnabled(false);
    return;
  }
  const std::string fault = replay::policy_fault(text.toStdString(), budget_->text().trimmed().toStdString());
  verdict_->setText(fault.empty() ? QString("✓ can run") : "✗ " + QString::fromStdString(fault));
  add_->setEnabled(fault.empty());
}

void PoliciesPanel::complete() {
  const auto offers = replay::complete_policy(policy_->text().left(policy_->cursorPosition()).toStdString());
  QStringList lines;
  for (const replay::Completion& offer : offers)
    lines << QString::fromStdString(offer.text + (offer.help.empty() ? "" : "  " + offer.help));
  words_->setStringList(lines);
  if (lines.isEmpty()) {
    completer_->popup()->hide();
    return;
  }
  completer_->setCompletionPrefix("");
  QRect place = policy_->rect();
  place.setWidth(std::max(place.width(), 420));
  completer_->complete(place);
}

void PoliciesPanel::add() {
  if (!valid() || !desk_.input().session) return;
  desk_.add_policy(policy_->text().trimmed().toStdString(), budget_->text().trimmed().toStdString());
  policy_->selectAll();
}

void PoliciesPanel::list() {
  const int row = table_->currentIndex().row();
  std::vector<PolicyLine> lines;
  for (const Desk::Policy& one : desk_.policies())
    lines.push_back(
        {QString::fromStdString(one.policy), QString::fromStdString(one.budget), one.state, one.shown, one.colour});
  model_->set(std::move(lines));
  if (row >= 0 && row < model_->rowCount()) table_->setCurrentIndex(model_->index(row, 0));
}

}  // namespace kvgrind::gui
