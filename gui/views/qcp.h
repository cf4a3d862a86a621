// QCustomPlot's header needs Qt's keywords, which are off in this program (`slots` is a name of ours): they are on
// while it is read.
#pragma once
#include <QtGlobal>

// clang-format off
#define signals public
#define slots
#define emit
#define foreach Q_FOREACH
#include <qcustomplot.h>
#undef signals
#undef slots
#undef emit
#undef foreach
// clang-format on
