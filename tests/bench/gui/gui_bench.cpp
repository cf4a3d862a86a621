// Scripts the window on one trace and prints what user-visible waits there are: first paint, pan and zoom with cached
// tiles, an exact tile, cancelling, memory. It makes the trace too: real shape (32 query and 8 KV heads of 128, bf16),
// made-up values.
//   kvgrind_gui_bench --make FILE.kvt TOKENS LAYERS      12.4 kB a token and layer
//   kvgrind_gui_bench FILE.kvt
#include <QApplication>
#include <QElapsedTimer>
#include <QImage>
#include <QTest>
#include <QTimer>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include "gui/window/main_window.h"
#include "traces/kvt/recorder.h"

namespace {

using namespace kvgrind;
using namespace kvgrind::gui;

double ms(const QElapsedTimer& timer) { return static_cast<double>(timer.nsecsElapsed()) * 1e-6; }

double resident_mib() {
  std::ifstream file("/proc/self/statm");
  double size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096 / 1048576;
}

void print(const char* what, std::vector<double> values, double target, const char* unit) {
  std::sort(values.begin(), values.end());
  const double median = values[values.size() / 2], worst = values.back();
  std::printf("%-44s median %8.1f, worst %8.1f %s (target %.0f) %s\n", what, median, worst, unit, target,
              worst <= target    ? "holds"
              : median <= target ? "median holds"
                                 : "missed");
}

int index_of(MainWindow& window, const char* name) {
  for (int i = 0; i < window.tabs().count(); ++i)
    if (std::string(window.view(i).row().name) == name) return i;
  return 0;
}

// Rows of a pool of noise at changing places. Logits of such vectors are close to normal with variance 1:
// LSE = log(t + 1) + 1/2.
void make(const char* path, std::int64_t tokens, std::int64_t layers) {
  constexpr std::int64_t query_heads = 32, kv_heads = 8, dim = 128, piece = 1024, pool_rows = 2 * piece + 61;
  traces::Recorder::Plan plan;
  plan.card.family = "llama";
  plan.card.name = "made-up-32x8";
  plan.card.layers = layers;
  plan.card.query_heads = query_heads;
  plan.card.kv_heads = kv_heads;
  plan.card.head_dim = dim;
  plan.card.hidden = query_heads * dim;
  plan.card.dtype = DType::bf16;
  plan.card.scale = 1 / std::sqrt(float(dim));
  plan.card.layer.resize(std::size_t(layers));
  plan.card.model_hash = "0123456789abcdef";
  plan.sequences.resize(1);
  TokenSequence& sequence = plan.sequences[0];
  for (std::int64_t t = 0; t < tokens; ++t) sequence.ids.push_back(std::int32_t(t % 7));
  sequence.segments = {
      {Role::context, 0, tokens - 64}, {Role::question, tokens - 64, tokens - 32}, {Role::answer, tokens - 32, tokens}};
  sequence.spans = {{"needle", tokens / 3, tokens / 3 + 12, "made up"}};
  plan.token_bytes = [](std::int32_t id) {
    const char* words[] = {" the", " cache", " keeps", " what", " it", " needs", ".\n"};
    return std::string(words[id % 7]);
  };
  traces::RecordOptions options;
  options.column_sums = options.query_statistics = options.pooled_maps = options.logits_top64 = false;
  options.output_projection = false;
  options.fsync = traces::FsyncMode::never;
  options.force = true;
  std::mt19937_64 rng(1);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> pool(std::size_t(pool_rows * query_heads * dim));
  for (std::uint16_t& x : pool) x = to_bf16(normal(rng));
  const std::vector<std::int32_t> ids = sequence.ids;
  traces::Recorder out(path, std::move(plan), options);
  for (std::int64_t first = 0; first < tokens; first += piece) {
    const std::int64_t n = std::min(piece, tokens - first);
    std::vector<float> lse(std::size_t(n * query_heads));
    for (std::int64_t i = 0; i < n * query_heads; ++i)
      lse[std::size_t(i)] = std::log(float(first + i / query_heads + 1)) + 0.5f;
    out.begin({.sequence = 0,
               .first = first,
               .ids = std::span<const std::int32_t>(ids).subspan(std::size_t(first), std::size_t(n)),
               .decode = false});
    for (std::int64_t l = 0; l < layers; ++l) {
      const auto rows = [&](std::int64_t heads) {
        const std::int64_t place = std::int64_t(rng() % std::uint64_t(pool_rows - piece));
        return TapRows{.dtype = DType::bf16,
                       .data = pool.data() + place * heads * dim,
                       .row_stride = heads * dim,
                       .head_stride = dim};
      };
      out.layer({.layer = l,
                 .q = {},
                 .q_pre = {},
                 .k = {},
                 .v = {},
                 .lse = View<const float, 2>(lse.data(), {n, query_heads}),
                 .input = {},
                 .attn_in = {},
                 .attn_out = {},
                 .rows_q = rows(query_heads),
                 .rows_k = rows(kv_heads),
                 .rows_v = rows(kv_heads)});
    }
    out.end({});
  }
  out.sequence_done(0);
  out.close();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && std::strcmp(argv[1], "--make") == 0) {
    make(argv[2], std::atoll(argv[3]), std::atoll(argv[4]));
    return 0;
  }
  if (argc != 2) return std::fputs("usage: kvgrind_gui_bench FILE.kvt, or --make FILE.kvt TOKENS LAYERS\n", stderr), 2;
  if (!qEnvironmentVariableIsSet("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication app(argc, argv);
  MainWindow window(true);
  window.show();

  QElapsedTimer timer;
  timer.start();
  window.open_file(argv[1]);
  (void)QTest::qWaitFor([&] { return window.page() == MainWindow::workspace && window.current()->scene(); }, 60000);
  window.current()->grab();
  print("first paint after open", {ms(timer)}, 1000, "ms");

  timer.restart();
  window.go_to_view(index_of(window, "attention"));
  SceneWidget& map = *window.current();
  (void)QTest::qWaitFor([&] { return map.scene() != nullptr; }, 60000);
  map.grab();
  std::printf("%-44s %8.1f ms\n", "attention map: first picture", ms(timer));
  (void)QTest::qWaitFor([&] { return !map.busy(); }, 120000);
  std::printf("%-44s %8.1f ms\n", "attention map: all tiles of the whole map", ms(timer));

  // An exact tile of a head that is in memory.
  const auto session = window.desk().input().session;
  const std::int64_t tokens = window.desk().limits().tokens;
  (void)session->attention_tile({.query_end = 256, .key_end = 256});
  std::vector<double> tiles;
  for (std::int64_t i = 0; i < 20; ++i) {
    const std::int64_t at = (tokens - 256) * i / 20;
    timer.restart();
    (void)session->attention_tile(
        {.query_begin = tokens - 256, .query_end = tokens, .key_begin = at, .key_end = at + 256});
    tiles.push_back(ms(timer));
  }
  print("exact 256 × 256 tile", tiles, 50, "ms");

  // Panning and zooming: every frame is a full repaint; what is missing is fetched meanwhile.
  std::vector<double> frames;
  for (int i = 0; i < 60; ++i) {
    map.zoom(i % 20 < 10 ? 1.2 : 1 / 1.2, QPointF(map.width() * (0.3 + 0.005 * i), map.height() * 0.6));
    if (i >= 20) {  // the levels have been seen once
      QImage image(map.size(), QImage::Format_RGB32);
      timer.restart();
      map.render(&image);
      frames.push_back(ms(timer));
    }
    (void)QTest::qWaitFor([&] { return !map.busy(); }, 20000);
  }
  print("pan and zoom frame", frames, 33, "ms");

  // Every other view that needs no policy: until its first picture, and the longest the window stood still meanwhile.
  for (const char* name : {"text", "needle", "row", "channels"}) {
    QElapsedTimer turn;
    std::int64_t longest = 0;
    QTimer heart;
    QObject::connect(&heart, &QTimer::timeout, &heart,
                     [&] { longest = std::max<std::int64_t>(longest, turn.restart()); });
    heart.start(2);
    turn.start();
    timer.restart();
    window.go_to_view(index_of(window, name));
    (void)QTest::qWaitFor([&] { return window.current()->scene() && !window.current()->busy(); }, 120000);
    std::printf("%-44s %8.1f ms, longest silence %lld ms\n", name, ms(timer),
                static_cast<long long>(std::max<std::int64_t>(longest, turn.elapsed())));
  }

  // Cancel while many heads are read: until no worker is at it any more.
  std::vector<double> cancels;
  for (const int wait : {150, 400, 700, 1100, 1600}) {
    window.go_to_view(index_of(window, "row"));
    window.go_to_view(index_of(window, "heads"));
    window.desk().select([&](Selection& s) { ++s.layer; });  // the grid is made anew
    QTest::qWait(wait);
    timer.restart();
    window.runner().cancel_all();
    (void)QTest::qWaitFor([&] { return window.runner().idle(); }, 60000);
    cancels.push_back(ms(timer));
  }
  print("cancel", cancels, 200, "ms");
  print("resident memory", {resident_mib()}, 512 + 300, "MiB");
  return 0;
}
