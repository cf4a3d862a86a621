// View-models against what they show: the reference kernel, plans, the ledger.
#include <gtest/gtest.h>

#include <QAbstractItemModelTester>
#include <QSortFilterProxyModel>
#include <cmath>
#include <cstring>
#include <random>

#include "gui/models/category_raster.h"
#include "gui/models/diff.h"
#include "gui/models/head_order.h"
#include "gui/models/kept.h"
#include "gui/models/matrix.h"
#include "gui/models/memory.h"
#include "gui/models/needle.h"
#include "gui/models/pareto.h"
#include "gui/models/policy_list.h"
#include "gui/models/row_keys.h"
#include "gui/models/text_lines.h"
#include "tests/gui/odd_runs.h"

namespace kvgrind::gui {
namespace {

TEST(Selection, StaysWithinWhatThereIsAndReadsPlaces) {
  const Limits limits{.layers = 4, .query_heads = 8, .kv_heads = 2, .tokens = 100, .sequences = {5, 7}};
  const Selection s =
      within({.sequence = 1, .layer = 9, .query_head = -3, .key = {90, 300}, .query_at = 100, .jobs = {}}, limits);
  EXPECT_EQ(s.sequence, 5);
  EXPECT_EQ(s.layer, 3);
  EXPECT_EQ(s.query_head, 0);
  EXPECT_EQ(s.key, (Range{90, 100}));
  EXPECT_EQ(s.query_at, 99);
  Selection at;
  EXPECT_TRUE(apply_place("L12 q5 k1043", at));
  EXPECT_EQ(place_text(at), "s0 L12 q5 k1043");
  for (const char* bad : {"", "L", "x3", "L3 q", "k-4", "L1x"}) EXPECT_FALSE(apply_place(bad, at)) << bad;
}

TEST(Selection, HistoryGoesBackAndForward) {
  SelectionHistory history;
  for (std::int64_t l = 0; l < 3; ++l) history.visit({.layer = l, .jobs = {}});
  EXPECT_EQ(history.back().layer, 1);
  EXPECT_EQ(history.back().layer, 0);
  EXPECT_FALSE(history.can_back());
  EXPECT_EQ(history.forward().layer, 1);
  history.visit({.layer = 8, .jobs = {}});
  EXPECT_FALSE(history.can_forward());
}

TEST(Labels, ShowEveryByte) {
  EXPECT_EQ(token_label(" a\n"), "␣a⏎");
  EXPECT_EQ(token_label("\xff\xc3\x28\x01"), "\\xFF\\xC3(\\x01");
  EXPECT_EQ(token_label("äö", 1), "ä…");
  EXPECT_EQ((Table{{"a", "b"}, {{"1,2", "q\"q"}}}.csv()), "a,b\n\"1,2\",\"q\"\"q\"\n");
}

TEST(Tiles, EqualTheReferenceKernelAtEveryLevel) {
  const auto run = tests::synthetic_run({.context = 400});
  const auto session = std::make_shared<const replay::Session>(run, nullptr);
  TilePyramid pyramid(session);
  const Array<float, 2> p = run->attention(1, 1, 2);
  const std::int64_t tokens = p.extent(0);
  for (const int level : {0, 1, 3}) {
    const std::int64_t cell = 1ll << level;
    const auto tile = pyramid.load({.sequence = 1, .layer = 1, .query_head = 2, .level = level}, {});
    for (std::int64_t r = 0; r < tile->tile.value.extent(0); r += 5)
      for (std::int64_t c = 0; c < tile->tile.value.extent(1); c += 3) {
        float largest = 0;
        for (std::int64_t i = r * cell; i < std::min(tokens, (r + 1) * cell); ++i)
          for (std::int64_t j = c * cell; j < std::min(tokens, (c + 1) * cell) && j <= i; ++j)
            largest = std::max(largest, p(i, j));
        ASSERT_NEAR(tile->tile.value(r, c), largest, 1e-5) << level << " " << r << " " << c;
      }
  }
  EXPECT_GT(pyramid.bytes(), 0);
}

TEST(Tiles, AColumnOneTokenWideSurvivesZoomingOut) {
  const auto run = tests::synthetic_run({.context = 400});
  const auto session = std::make_shared<const replay::Session>(run, nullptr);
  TilePyramid pyramid(session);
  const TileKey base{.sequence = 1, .layer = 0, .query_head = 0};
  TileKey far = base;
  far.level = 4;
  const auto fine = pyramid.load(base, {}), coarse = pyramid.load(far, {});
  for (std::int64_t r = 0; r < 256; ++r)
    for (std::int64_t c = 0; c <= r; ++c)
      EXPECT_GE(coarse->log_code[std::size_t((r / 16) * coarse->tile.value.extent(1) + c / 16)],
                fine->log_code[std::size_t(r * fine->tile.value.extent(1) + c)]);
}

TEST(Tiles, TheCacheForgetsTheOldest) {
  const auto session = std::make_shared<const replay::Session>(tests::synthetic_run({.context = 400}), nullptr);
  TilePyramid pyramid(session, 500'000);
  for (std::int64_t h = 0; h < 4; ++h) (void)pyramid.load({.sequence = 1, .query_head = h}, {});
  EXPECT_LE(pyramid.bytes(), 500'000);
  EXPECT_EQ(pyramid.find({.sequence = 1, .query_head = 0}), nullptr);
  EXPECT_NE(pyramid.find({.sequence = 1, .query_head = 3}), nullptr);
}

TEST(Jobs, WatchingAJobChangesNoFigure) {
  const auto session = std::make_shared<const replay::Session>(tests::synthetic_run(), nullptr);
  for (const char* policy : {"knorm", "snapkv", "h2o(variant=online)", "window"}) {
    const replay::SessionJob job{.policy = policy, .budget = "0.25", .sequence = 2};
    const auto plain = session->replay(job), watched = session->replay(job, {}, true);
    EXPECT_EQ(json_text(to_json(plain->row)), json_text(to_json(watched->row))) << policy;
    EXPECT_EQ(plain->outcome.k_states, watched->outcome.k_states) << policy;
    EXPECT_GE(watched->timeline.steps.size(), 3u) << policy;
  }
}

TEST(Memory, TotalsAreTheLedgers) {
  for (const char* policy : {"knorm", "snapkv", "h2o(variant=online)", "full"}) {
    const ViewInput input = tests::input_over(tests::synthetic_run(), {policy});
    const MemorySeries series = memory_series(input.jobs[0]);
    const auto& outcome = input.jobs[0].view->outcome;
    ASSERT_FALSE(series.points.empty());
    for (const auto& point : series.points) EXPECT_EQ(point.bytes.total(), point.stored) << policy;
    EXPECT_EQ(series.points.back().stored, outcome.stored_end_bytes) << policy;
    EXPECT_EQ(series.points.back().full, outcome.full_end_bytes) << policy;
    const auto& compressed = input.jobs[0].view->timeline.steps[input.jobs[0].view->timeline.compressed];
    EXPECT_EQ(compressed.stored_bytes, outcome.stored_bytes) << policy;
  }
}

TEST(Memory, DecimationKeepsThePeak) {
  std::vector<MemorySeries::Point> points(1000);
  for (std::size_t i = 0; i < points.size(); ++i) points[i].stored = std::int64_t(i % 7);
  points[613].stored = 999;
  const auto few = decimated(points, 20);
  EXPECT_LE(few.size(), 40u);
  EXPECT_TRUE(std::any_of(few.begin(), few.end(), [](const auto& p) { return p.stored == 999; }));
}

TEST(Kept, TheRasterIsThePlan) {
  const ViewInput input = tests::input_over(tests::synthetic_run(), {"snapkv"});
  const auto& states = input.jobs[0].view->outcome.k_states;
  const std::int64_t tokens = sequence_of(input)->tokens;
  const KeptBand band = kept_band(input.jobs[0], -1, tokens);
  ASSERT_EQ(band.seen, tokens);
  for (std::int64_t l = 0; l < band.layers; ++l)
    for (std::int64_t h = 0; h < band.heads; ++h)
      for (std::int64_t t = 0; t < tokens; ++t)
        ASSERT_EQ(band.state(l * band.heads + h, t), states[std::size_t(l)][std::size_t(h)][std::size_t(t)]);
  const BudgetGrid grid = budget_grid(input.jobs[0]);
  for (const std::int32_t slots : grid.slots) EXPECT_EQ(slots, 30);  // a quarter of 120
  EXPECT_EQ(std::int64_t(kept_table({band}).rows.size()), band.groups() * tokens);
}

TEST(Kept, StepsAreTheTimeline) {
  const ViewInput input = tests::input_over(tests::synthetic_run(), {"h2o(variant=online)"});
  const replay::Timeline& timeline = input.jobs[0].view->timeline;
  const std::int64_t tokens = sequence_of(input)->tokens, query_heads = input.session->run().card().query_heads;
  const StepBand band = step_band(input.jobs[0], 1, 3, query_heads, tokens);
  const std::int64_t group = timeline.heads + 3 * timeline.heads / query_heads;
  std::size_t line = 0;
  for (const replay::TimelineStep& step : timeline.steps) {
    if (!step.k_states) continue;
    ASSERT_LT(line, band.seen.size());
    EXPECT_EQ(band.seen[line], step.seen);
    for (std::int64_t t = 0; t < tokens; ++t)
      ASSERT_EQ(band.state(line, t), t < step.seen ? timeline.state(step, group, t) : 255);
    ++line;
  }
  EXPECT_EQ(line, band.seen.size());
  EXPECT_GT(line, 3u);
  EXPECT_EQ(band.line_of(-1), line - 1);
  EXPECT_EQ(band.line_of(0), 0u);
  for (std::size_t i = 0; i < line; ++i) EXPECT_EQ(band.seen[band.line_of(band.seen[i])], band.seen[i]);
}

TEST(CategoryRaster, CountsAsTheLoopDoes) {
  std::mt19937_64 rng(5);
  const std::int64_t rows = 3, tokens = 1000;
  std::vector<std::uint8_t> all;
  for (std::int64_t i = 0; i < rows * tokens; ++i) {
    const auto kind = rng() % 4;
    all.push_back(kind == 3 ? CategoryRaster::nothing : std::uint8_t(kind * 7));
  }
  const CategoryRaster raster(rows, tokens, all);
  EXPECT_EQ(raster.present(), (std::vector<std::uint8_t>{0, 7, 14}));
  std::vector<std::int64_t> counts;
  for (int i = 0; i < 400; ++i) {
    const auto row = std::int64_t(rng() % rows);
    std::int64_t begin = std::int64_t(rng() % (tokens + 20)) - 10, end = begin + std::int64_t(rng() % 900);
    raster.count(row, begin, end, counts);
    begin = std::max<std::int64_t>(0, begin);
    end = std::min(end, tokens);
    if (end - begin >= 8 * CategoryRaster::block) {  // whole blocks
      begin = begin / CategoryRaster::block * CategoryRaster::block;
      end = std::min(tokens, (end + CategoryRaster::block - 1) / CategoryRaster::block * CategoryRaster::block);
    }
    std::vector<std::int64_t> expected(3, 0);
    for (std::int64_t t = begin; t < end; ++t)
      if (raster.at(row, t) != CategoryRaster::nothing) ++expected[raster.at(row, t) / 7];
    ASSERT_EQ(counts, expected) << row << " " << begin << ":" << end;
  }
  EXPECT_TRUE(CategoryRaster(0, 0, {}).present().empty());
}

TEST(Matrix, IsAFileThatNumPyReads) {
  const std::string bytes = npy_bytes({.shape = {2, 3}, .data = {0, 1, 2, 3, 4, 5.5f}});
  ASSERT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const std::size_t header = std::size_t(std::uint8_t(bytes[8])) + 256 * std::size_t(std::uint8_t(bytes[9]));
  EXPECT_EQ((10 + header) % 64, 0u);
  EXPECT_EQ(bytes[9 + header], '\n');
  EXPECT_NE(bytes.find("'shape': (2, 3, )"), std::string::npos);
  ASSERT_EQ(bytes.size(), 10 + header + 24);
  float last = 0;
  std::memcpy(&last, bytes.data() + bytes.size() - 4, 4);
  EXPECT_EQ(last, 5.5f);
}

TEST(HeadOrder, SortsAndKeepsLayersOnTies) {
  std::vector<replay::HeadFacts> facts(4);
  const double entropy[] = {1, 3, 3, std::numeric_limits<double>::quiet_NaN()};
  for (std::size_t i = 0; i < 4; ++i) {
    facts[i].entropy_bits = entropy[i];
    facts[i].sink_mass = double(i);
  }
  const std::vector<double> recall{0.9, 0.2, 0.9, 0.5};
  using Order = std::vector<std::size_t>;
  EXPECT_EQ(ordered_heads(facts, recall, HeadOrder::layer), (Order{0, 1, 2, 3}));
  EXPECT_EQ(ordered_heads(facts, recall, HeadOrder::entropy), (Order{1, 2, 0, 3}));
  EXPECT_EQ(ordered_heads(facts, recall, HeadOrder::sink), (Order{3, 2, 1, 0}));
  EXPECT_EQ(ordered_heads(facts, recall, HeadOrder::recall), (Order{1, 3, 0, 2}));
  // What a policy keeps of a head: all when nothing is dropped.
  EXPECT_NEAR(head_recall(tests::input_over(tests::synthetic_run(), {"full"}), 0, 0, 8), 1.0, 1e-9);
  const double some = head_recall(tests::input_over(tests::synthetic_run(), {"window"}), 0, 0, 8);
  EXPECT_GT(some, 0);
  EXPECT_LT(some, 1);
  EXPECT_TRUE(std::isnan(head_recall(tests::input_over(tests::synthetic_run()), 0, 0, 8)));
}

TEST(Diff, CountsAddUp) {
  const ViewInput input = tests::input_over(tests::synthetic_run(), {"snapkv", "knorm"});
  const PolicyDiff diff = policy_diff(input, 10, {});
  EXPECT_EQ(diff.both + diff.neither + diff.only_a + diff.only_b, diff.a.groups() * diff.a.seen);
  EXPECT_EQ(diff.only_a, diff.only_b);  // equal budgets
  ASSERT_FALSE(diff.worst.empty());
  for (std::size_t i = 1; i < diff.worst.size(); ++i) EXPECT_GE(diff.worst[i - 1].mass, diff.worst[i].mass);
}

TEST(Pareto, TheHullIsWhatNothingCheaperBeats) {
  std::vector<ParetoSeries> series(2);
  series[0].points = {{0.1, {.value = 0.5}}, {0.3, {.value = 0.2}}};
  series[1].points = {{0.2, {.value = 0.6}}, {0.4, {.value = 0.1}}};
  mark_hull(series, false);
  EXPECT_TRUE(series[0].points[0].hull && series[0].points[1].hull && series[1].points[1].hull);
  EXPECT_FALSE(series[1].points[0].hull);
}

TEST(Row, WeightsAreTheReferencesRow) {
  const auto run = tests::synthetic_run();
  ViewInput input = tests::input_over(run, {"knorm"});
  input.at.query_at = 130;
  const RowKeys row = row_keys(input, 1000);
  const Array<float, 2> p = run->attention(input.at.sequence, 0, 0);
  ASSERT_EQ(row.query, 130);
  for (const RowKey& key : row.keys) EXPECT_NEAR(key.weight, double(p(130, key.key)), 1e-5);
  EXPECT_NEAR(row.keys.back().cumulative, 1.0, 1e-4);
  RowKeysModel model;
  QAbstractItemModelTester tester(&model, QAbstractItemModelTester::FailureReportingMode::Fatal);
  model.set(std::make_shared<const RowKeys>(row));
  EXPECT_EQ(model.rowCount(), 131);
  QSortFilterProxyModel sorted;  // as the inspector shows it
  QAbstractItemModelTester proxy(&sorted, QAbstractItemModelTester::FailureReportingMode::Fatal);
  sorted.setSourceModel(&model);
  sorted.setSortRole(Qt::UserRole);
  sorted.sort(RowKeysModel::key, Qt::DescendingOrder);
  EXPECT_EQ(sorted.index(0, RowKeysModel::key).data().toString(), "130");
  model.set(nullptr);
  EXPECT_EQ(model.rowCount(), 0);
  EXPECT_EQ(sorted.rowCount(), 0);
}

TEST(PolicyList, IsAGoodModelAndReportsItsMarks) {
  PolicyListModel model;
  QAbstractItemModelTester tester(&model, QAbstractItemModelTester::FailureReportingMode::Fatal);
  model.set({{"snapkv", "0.2", "done", true, 0}, {"knorm", "64t", "running", false, 1}});
  int row = -1;
  QObject::connect(&model, &PolicyListModel::toggled, [&](int at, bool shown) { row = shown ? at : -2; });
  EXPECT_TRUE(model.setData(model.index(1, 0), Qt::Checked, Qt::CheckStateRole));
  EXPECT_EQ(row, 1);
  EXPECT_FALSE(model.setData(model.index(1, 1), Qt::Checked, Qt::CheckStateRole));
}

TEST(TextLines, EveryTokenIsInOneLine) {
  const TextLines lines = text_lines(text_widths({"ab", "cd\n", "efgh", "i"}), 5);
  EXPECT_EQ(lines.first, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(lines.line_of(1), 0u);
  EXPECT_EQ(lines.line_of(3), 1u);
  const TextLines long_text = text_lines(text_widths(std::vector<std::string>(1'000'000, " word")), 80);
  EXPECT_EQ(long_text.first.size(), 62'500u);
}

TEST(Completion, OffersPresetsParametersAndSlots) {
  const auto has = [](const std::vector<replay::Completion>& list, const std::string& text) {
    return std::any_of(list.begin(), list.end(), [&](const auto& one) { return one.text == text; });
  };
  EXPECT_TRUE(has(replay::complete_policy("sna"), "snapkv"));
  EXPECT_TRUE(has(replay::complete_policy("snapkv(wi"), "window="));
  EXPECT_TRUE(has(replay::complete_policy("snapkv(kernel="), "avg"));
  EXPECT_TRUE(has(replay::complete_policy("score=key_"), "key_norm"));
  EXPECT_TRUE(replay::policy_fault("snapkv", "0.2").empty());
  EXPECT_NE(replay::policy_fault("snapkvv", "0.2").find("snapkv"), std::string::npos);
  EXPECT_FALSE(replay::policy_fault("snapkv", "lots").empty());
}

}  // namespace
}  // namespace kvgrind::gui
