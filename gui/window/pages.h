// The pages before and around the workspace: start, loading, error.
#pragma once
#include <QWidget>

#include "gui/models/fault_text.h"

class QLabel;
class QListWidget;
class QProgressBar;
class QPushButton;
class QVBoxLayout;

namespace kvgrind::gui {

class StartPage final : public QWidget {
  Q_OBJECT
 public:
  explicit StartPage(QWidget* parent = nullptr);
  void set_recent(const QStringList& files);

 Q_SIGNALS:
  void open_asked();
  void example_asked();
  void file_asked(const QString& path);

 private:
  QListWidget* recent_;
  QLabel* recent_title_ = nullptr;
};

class LoadingPage final : public QWidget {
  Q_OBJECT
 public:
  explicit LoadingPage(QWidget* parent = nullptr);
  void begin(const QString& what);

 Q_SIGNALS:
  void cancelled();

 private:
  QLabel* words_;
  QProgressBar* bar_;
};

class ErrorPage final : public QWidget {
  Q_OBJECT
 public:
  explicit ErrorPage(QWidget* parent = nullptr);
  void show_fault(const FaultText& fault);
  QString text() const;

 Q_SIGNALS:
  void left();

 private:
  QLabel *headline_, *parts_;
  QString details_;
};

}  // namespace kvgrind::gui
