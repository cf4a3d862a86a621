// A QApplication for all tests; offscreen unless a platform is asked for.
#include <gtest/gtest.h>

#include <QApplication>

int main(int argc, char** argv) {
  if (!qEnvironmentVariableIsSet("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication app(argc, argv);
  QApplication::setApplicationName("kvgrind-test");
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
