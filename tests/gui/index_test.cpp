// The pyramid base: written, read back, served to coarse tiles; foreign and damaged ones are refused or left aside.
#include <gtest/gtest.h>

#include <QFile>
#include <QTemporaryDir>
#include <filesystem>

#include "core/error.h"
#include "gui/window/example.h"
#include "replay/look/build_index.h"
#include "replay/session.h"

namespace kvgrind::gui {
namespace {

TEST(Index, HoldsThePooledMapsOfTheTrace) {
  QTemporaryDir folder;
  const std::string path = folder.filePath("example.kvt").toStdString();
  std::filesystem::copy_file(example_trace().toStdString(), path);
  const auto trace = traces::Trace::open(path);
  EXPECT_FALSE(replay::Session::open(path)->indexed());
  const replay::IndexOutcome outcome = replay::build_index(trace, false, nullptr, {});
  const ModelCard& card = trace->card();
  EXPECT_EQ(outcome.maps, std::int64_t(trace->sequences().size()) * card.layers * card.query_heads);
  EXPECT_LT(outcome.bytes, std::int64_t(std::filesystem::file_size(path)) / 3);  // of short sequences: small
  EXPECT_THROW((void)replay::build_index(trace, false, nullptr, {}), Error);
  const auto session = replay::Session::open(path);
  EXPECT_TRUE(session->indexed());
  const auto index = traces::IndexFile::open(outcome.path, trace->hash());
  const std::int64_t tokens = trace->sequences()[0].tokens;
  const auto map = index->map(trace->sequences()[0].id, 2, 3);
  ASSERT_TRUE(map);
  const replay::Tile tile = session->attention_tile({.sequence = trace->sequences()[0].id,
                                                     .layer = 2,
                                                     .query_head = 3,
                                                     .query_end = tokens,
                                                     .key_end = tokens,
                                                     .cell = map->cell,
                                                     .exact = true});
  for (std::int64_t r = 0; r < map->max.extent(0); r += 7)
    for (std::int64_t c = 0; c <= r; c += 5)  // 253 steps over six decades: within 3 % of each value
      EXPECT_NEAR(map->max(r, c), tile.value(r, c), 0.03 * double(tile.value(r, c)) + 2e-6);

  // Another trace's, cut short, flipped: never shown.
  EXPECT_THROW((void)traces::IndexFile::open(outcome.path, "0123456789abcdef"), Error);
  QFile file(QString::fromStdString(outcome.path.string()));
  ASSERT_TRUE(file.open(QIODevice::ReadWrite));
  const qint64 size = file.size();
  file.seek(size - 20);
  file.write("x");
  file.flush();
  const std::int64_t last = trace->sequences().back().id;
  EXPECT_THROW(
      (void)traces::IndexFile::open(outcome.path, trace->hash())->map(last, card.layers - 1, card.query_heads - 1),
      Error);
  file.resize(size / 2);
  file.close();
  EXPECT_THROW((void)traces::IndexFile::open(outcome.path, trace->hash()), Error);
  EXPECT_FALSE(replay::Session::open(path)->indexed());
}

TEST(Index, CancellingLeavesNothing) {
  QTemporaryDir folder;
  const std::string path = folder.filePath("example.kvt").toStdString();
  std::filesystem::copy_file(example_trace().toStdString(), path);
  CancelToken cancel;
  cancel.cancel();
  EXPECT_THROW((void)replay::build_index(traces::Trace::open(path), false, nullptr, cancel), Error);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path().toStdString()), {}), 1);
}

}  // namespace
}  // namespace kvgrind::gui
