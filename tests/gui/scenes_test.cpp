// Every view painted on ordinary and odd recordings, light and dark; files equal byte for byte.
#include <gtest/gtest.h>

#include <QFile>
#include <QTemporaryDir>
#include <algorithm>

#include "core/error.h"
#include "gui/render/picture.h"
#include "tests/gui/odd_runs.h"

namespace kvgrind::gui {
namespace {

int colours_of(const QImage& image) {
  std::vector<QRgb> seen;
  for (int y = 0; y < image.height(); y += 3)
    for (int x = 0; x < image.width(); x += 3) seen.push_back(image.pixel(x, y));
  std::sort(seen.begin(), seen.end());
  return int(std::unique(seen.begin(), seen.end()) - seen.begin());
}

void draw_all(const ViewInput& input, const char* what) {
  for (const ViewRow* row : views())
    for (const char* theme : {"light", "dark", "paper"}) {
      const ScenePtr scene = row->load(input, {});
      const Look look = look_of(theme, 0);
      for (const QSize size : {QSize(900, 600), QSize(120, 90)}) {
        const QImage image = scene_image(*scene, look, {.size = size, .notes = {}});
        EXPECT_GT(colours_of(image), 1) << what << ": " << row->name << " " << theme;
      }
      EXPECT_FALSE(scene->alt_text().isEmpty());
      (void)scene->csv();
      const Matrix matrix = scene->matrix();
      std::int64_t size = matrix.empty() ? 0 : 1;
      for (const std::int64_t extent : matrix.shape) size *= extent;
      EXPECT_EQ(std::int64_t(matrix.data.size()), size) << what << ": " << row->name;
    }
}

TEST(Scenes, DrawAnOrdinaryRecording) {
  draw_all(tests::input_over(tests::synthetic_run(), {"snapkv", "knorm", "h2o(variant=online)"}), "ordinary");
}
TEST(Scenes, DrawEveryOptionOfTheMap) {
  ViewInput input = tests::input_over(tests::synthetic_run(), {"snapkv", "h2o(variant=online)"});
  input.map = {.pool = replay::Pool::sum, .log = false, .colours = 1, .overlay = false, .values = true};
  input.map.difference = input.map.steps = true;
  input.map.order = HeadOrder::recall;
  input.at.step = sequence_of(input)->tokens - 3;
  draw_all(input, "every option");
}
TEST(Scenes, ArraysAreWhatIsShown) {
  const ViewInput input = tests::input_over(tests::synthetic_run(), {"snapkv", "knorm"});
  for (const char* name :
       {"heads", "attention", "kept", "memory", "budget", "diff", "text", "needle", "row", "channels"})
    EXPECT_FALSE(view_named(name).load(input, {})->matrix().empty()) << name;
  ViewState zoomed;
  zoomed.window = QRectF(10, 20, 30, 40);
  const Matrix map = view_named("attention").load(input, {})->matrix(zoomed);
  EXPECT_EQ(map.shape, (std::vector<std::int64_t>{40, 30}));
  const auto run = tests::synthetic_run();
  EXPECT_NEAR(map.data[5 * 30 + 4], run->attention(input.at.sequence, 0, 0)(25, 14), 1e-5);
  const Matrix kept = view_named("kept").load(input, {})->matrix();
  EXPECT_EQ(kept.shape[0], 2);
  EXPECT_EQ(kept.data[7], float(input.jobs[0].view->outcome.k_states[0][0][7]));
}
TEST(Scenes, TheTextIsAPage) {
  ViewInput input = tests::input_over(tests::synthetic_run());
  input.text = std::make_shared<const std::vector<std::string>>(
      std::vector<std::string>(std::size_t(sequence_of(input)->tokens), "<b>&"));
  const std::string page = view_named("text").load(input, {})->html();
  EXPECT_NE(page.find("&lt;b&gt;&amp;</span>"), std::string::npos);
  EXPECT_EQ(page.find("<b>"), std::string::npos);
  EXPECT_TRUE(view_named("heads").load(input, {})->html().empty());
}
TEST(Scenes, DrawWithoutPolicies) { draw_all(tests::input_over(tests::synthetic_run()), "no policies"); }
TEST(Scenes, DrawAnEmptyRecording) {
  draw_all(tests::input_over(std::make_shared<tests::EmptyRun>(tests::synthetic_run())), "empty");
}
TEST(Scenes, DrawOneToken) {
  draw_all(tests::input_over(std::make_shared<tests::OneTokenRun>(tests::synthetic_run())), "one token");
}
TEST(Scenes, DrawOneHead) {
  draw_all(tests::input_over(tests::synthetic_run({.layers = 1, .query_heads = 1, .kv_heads = 1}), {"knorm", "window"}),
           "one head");
}
TEST(Scenes, DrawNaN) {
  const ViewInput input = tests::input_over(std::make_shared<tests::NanRun>(tests::synthetic_run()));
  draw_all(input, "NaN");
  const QImage image =
      scene_image(*view_named("attention").load(input, {}), look_of("light", 0), {.size = {900, 700}, .notes = {}});
  bool magenta = false;
  for (int y = 0; y < image.height(); ++y)
    for (int x = 0; x < image.width(); ++x) magenta |= image.pixel(x, y) == nan_colour;
  EXPECT_TRUE(magenta);
}
TEST(Scenes, DrawFewRecordedQueries) {
  draw_all(tests::input_over(tests::synthetic_run({.recorded_every = 4}), {"knorm"}), "few queries");
}

TEST(Scenes, FilesAreEqualByteForByte) {
  const ViewInput input = tests::input_over(tests::synthetic_run(), {"snapkv", "knorm"});
  QTemporaryDir folder;
  for (const ViewRow* row : views())
    for (const char* ending : {"png", "svg"}) {
      QByteArray bytes[2];
      for (QByteArray& one : bytes) {
        const QString path = folder.filePath(QString("a.") + ending);
        write_picture(path, *row->load(input, {}), look_of("paper", 0),
                      {.size = {700, 500}, .notes = {{"Version", "1"}, {"Command", "render"}}});
        QFile file(path);
        ASSERT_TRUE(file.open(QIODevice::ReadOnly));
        one = file.readAll();
      }
      EXPECT_GT(bytes[0].size(), 500) << row->name;
      EXPECT_EQ(bytes[0], bytes[1]) << row->name << " " << ending;
    }
  EXPECT_THROW(
      write_picture(folder.filePath("a.bmp"), *views().front()->load(input, {}), look_of("light", 0), {.notes = {}}),
      Error);
  EXPECT_THROW(
      write_picture("/no/such/folder/a.png", *views().front()->load(input, {}), look_of("light", 0), {.notes = {}}),
      Error);
}

TEST(Scenes, UnknownNamesAreRefusedWithTheNearest) {
  try {
    (void)view_named("atention");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("\"attention\""), std::string::npos);
  }
}

}  // namespace
}  // namespace kvgrind::gui
