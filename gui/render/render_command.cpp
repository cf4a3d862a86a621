#include "gui/render/render_command.h"

#include <fmt/format.h>

#include <QCommandLineParser>
#include <QFileInfo>
#include <algorithm>
#include <cstdio>
#include <set>

#include "core/error.h"
#include "core/version.h"
#include "gui/models/table.h"
#include "gui/render/picture.h"

namespace kvgrind::gui {
namespace {

Error usage(const std::string& on, const std::string& found, const std::string& expected) {
  return Error(Category::usage, {.doing = "reading the command line",
                                 .on = "kvgrind render",
                                 .found = on + " " + found,
                                 .expected = expected,
                                 .next = "`kvgrind render --help` lists what there is"});
}

std::int64_t whole(const QCommandLineParser& parser, const QString& name, std::int64_t otherwise) {
  if (!parser.isSet(name)) return otherwise;
  bool good = false;
  const qlonglong value = parser.value(name).toLongLong(&good);
  if (!good || value < 0) throw usage("--" + name.toStdString(), parser.value(name).toStdString(), "a whole number");
  return value;
}

double real(const QCommandLineParser& parser, const QString& name, double otherwise, double low, double high) {
  if (!parser.isSet(name)) return otherwise;
  bool good = false;
  const double value = parser.value(name).toDouble(&good);
  if (!good || !(value >= low && value <= high))
    throw usage("--" + name.toStdString(), parser.value(name).toStdString(),
                fmt::format("a number from {} to {}", low, high));
  return value;
}

Range range(const QCommandLineParser& parser, const QString& name) {
  if (!parser.isSet(name)) return {};
  const QStringList ends = parser.value(name).split(':');
  bool a = false, b = false;
  const Range out = ends.size() == 2 ? Range{ends[0].toLongLong(&a), ends[1].toLongLong(&b)} : Range{};
  if (!a || !b || out.empty() || out.begin < 0)
    throw usage("--" + name.toStdString(), parser.value(name).toStdString(), "a range a:b with a < b");
  return out;
}

void declare(QCommandLineParser& parser) {
  parser.setApplicationDescription("Draws a view of a trace or a results file into a file, without a display.");
  parser.addHelpOption();
  parser.addPositionalArgument("file", "a trace (.kvt) or results (.jsonl)");
  const auto add = [&](const char* name, const QString& help, const char* value = "") {
    QString first = name;
    parser.addOption({first.split(','), help, value});
  };
  QStringList names;
  for (const ViewRow* view : views()) names << view->name;
  add("view", "one of " + names.join(", "), "name");
  add("o,out", "the picture, table or array: .png, .svg, .pdf, .csv, .npy; .html of text, .json of the dashboard",
      "file");
  add("layer", "layer, from 0", "n");
  add("head", "query head, from 0", "n");
  add("seq", "sequence; default: the first with something after its context", "n");
  add("query", "query positions a:b", "a:b");
  add("key", "key positions a:b", "a:b");
  add("at", "one query (row inspector) and key, as in \"r1100 k52\"", "place");
  add("step", "tokens seen", "n");
  add("policy", "replay this policy; may be repeated", "policy");
  add("budget", "what is kept, a comma list", "list");
  add("job", "a policy at its own budget, as in 'snapkv@0.1'; may be repeated", "policy@kept");
  add("protocol", "blind or aware", "name");
  add("results", "a results file for the Pareto view and the dashboard", "file");
  add("jobs", "replay these job numbers of the results file, a comma list", "list");
  add("x", "Pareto axis: stored_frac, kept_frac or touched_frac", "name");
  add("y", "Pareto metric; default: the headline of the report", "name");
  add("choose", "Pareto: a job to stand out, as in 'snapkv@0.1'; may be repeated", "policy@kept");
  add("pool", "max, mean or sum", "name");
  add("scale", "log or linear", "name");
  add("colours", "viridis, ember or ink", "name");
  add("values", "channels of V instead of K");
  add("received", "text: shaded by received attention even when policies are shown");
  add("difference", "budget: second policy minus the first; attention: this trace against --diff");
  add("diff", "a trace or results that the file is held against", "file");
  add("lines", "kept: heads (a line per layer and head) or steps (of one head)", "name");
  add("sort", "heads: layer, entropy, sink or recall", "name");
  add("size", "pixels, as in 1600x1000", "WxH");
  add("dpi", "dots per inch; text grows with it", "n");
  add("theme", "light, dark or paper", "name");
  add("font-size", "points", "n");
  add("title", "in place of the view's own", "text");
  add("no-title", "no title");
  add("seed", "of policies that draw random numbers", "n");
  add("trust", "skip the first open in a child process");
}

std::string choice(const QCommandLineParser& parser, const QString& name, const std::vector<std::string>& choices) {
  if (!parser.isSet(name)) return choices.front();
  const std::string value = parser.value(name).toStdString();
  std::string all;
  for (const std::string& one : choices) {
    if (one == value) return value;
    all += (all.empty() ? "" : ", ") + one;
  }
  throw usage("--" + name.toStdString(), value, "one of " + all);
}

std::int64_t first_sequence(const replay::RecordedRun& run) {
  for (const traces::SequenceInfo& info : run.sequences())
    if (replay::compression_moment(info.segments, info.tokens, replay::Protocol::blind) < info.tokens) return info.id;
  return run.sequences().empty() ? 0 : run.sequences().front().id;
}

void add_job(ViewInput& input, const replay::SessionJob& asked) {
  ShownJob job{
      .name = job_name(asked.policy, asked.budget), .asked = asked, .view = nullptr, .colour = input.jobs.size()};
  job.view = input.session->replay(asked, {}, true);
  input.jobs.push_back(std::move(job));
}

void add_jobs(ViewInput& input, const QCommandLineParser& parser) {
  replay::SessionJob asked{.policy = {},
                           .protocol = replay::protocol_from_name(choice(parser, "protocol", {"blind", "aware"})),
                           .sequence = input.at.sequence,
                           .seed = static_cast<std::uint64_t>(whole(parser, "seed", 0))};
  if (parser.isSet("jobs")) {
    std::set<std::int64_t> wanted;
    for (const QString& one : parser.value("jobs").split(',')) wanted.insert(one.toLongLong());
    for (const traces::ResultRow& row : *input.rows) {
      if (!wanted.contains(row.job)) continue;
      asked = {.policy = row.preset,
               .budget = row.budget_asked,
               .protocol = replay::protocol_from_name(row.protocol),
               .sequence = input.at.sequence,
               .seed = row.seed};
      add_job(input, asked);
    }
  }
  for (const QString& job : parser.values("job")) {
    if (!job.contains('@')) throw usage("--job", job.toStdString(), "POLICY@KEPT");
    asked.policy = job.section('@', 0, -2).toStdString();
    asked.budget = job.section('@', -1).toStdString();
    add_job(input, asked);
  }
  for (const QString& policy : parser.values("policy"))
    for (const QString& budget : (parser.isSet("budget") ? parser.value("budget") : QString("0.2")).split(',')) {
      asked.policy = policy.toStdString();
      asked.budget = budget.toStdString();
      add_job(input, asked);
    }
}

ViewInput read_input(const QCommandLineParser& parser) {
  ViewInput input;
  const QString file = parser.positionalArguments().front();
  const bool results = file.endsWith(".jsonl") || file.endsWith(".json");
  const QString rows = parser.isSet("results") ? parser.value("results") : results ? file : QString();
  if (!rows.isEmpty())
    input.rows = std::make_shared<const std::vector<traces::ResultRow>>(replay::read_result_rows(rows.toStdString()));
  if (!results) {
    input.session = replay::Session::open(file.toStdString(), parser.isSet("trust"));
    input.tiles = std::make_shared<TilePyramid>(input.session);
    const replay::RecordedRun& run = input.session->run();
    input.at = {.sequence = whole(parser, "seq", first_sequence(run)),
                .layer = whole(parser, "layer", 0),
                .query_head = whole(parser, "head", 0),
                .query = range(parser, "query"),
                .key = range(parser, "key"),
                .step = whole(parser, "step", -1),
                .jobs = {}};
    (void)replay::find_sequence(run, input.at.sequence);
    if (parser.isSet("at") && !apply_place(parser.value("at").toStdString(), input.at))
      throw usage("--at", parser.value("at").toStdString(), "a place such as \"r1100 k52\"");
    const Selection asked = input.at;
    input.at = within(asked, limits_of(input));
    if (asked.layer != input.at.layer || asked.query_head != input.at.query_head)
      throw usage("--layer and --head", fmt::format("{} and {}", asked.layer, asked.query_head),
                  fmt::format("below {} and {}", run.card().layers, run.card().query_heads));
    if (asked.key != input.at.key || asked.query != input.at.query)
      throw usage("--query or --key", "outside of the sequence",
                  fmt::format("ranges within {} tokens", limits_of(input).tokens));
    input.text = std::make_shared<const std::vector<std::string>>(input.session->text(input.at.sequence));
  }
  for (const QString& job : parser.values("choose")) input.at.jobs.push_back(job.toStdString());
  const std::string pool = choice(parser, "pool", {"max", "mean", "sum"});
  input.map.pool = pool == "max" ? replay::Pool::max : pool == "mean" ? replay::Pool::mean : replay::Pool::sum;
  input.map.log = choice(parser, "scale", {"log", "linear"}) == "log";
  const std::string colours = choice(parser, "colours", {"viridis", "ember", "ink"});
  for (int map = 0; map < colour_maps; ++map)
    if (colours == colour_map_name(map)) input.map.colours = map;
  if (!parser.isSet("colours") && parser.value("theme") == "paper") input.map.colours = 2;
  input.map.values = parser.isSet("values");
  input.map.received = parser.isSet("received");
  input.map.difference = parser.isSet("difference");
  input.map.steps = choice(parser, "lines", {"heads", "steps"}) == "steps";
  const std::string order = choice(parser, "sort", {"layer", "entropy", "sink", "recall"});
  for (int i = 0; i < head_orders; ++i)
    if (order == head_order_name(static_cast<HeadOrder>(i))) input.map.order = static_cast<HeadOrder>(i);
  input.results_x = choice(parser, "x", {"stored_frac", "kept_frac", "touched_frac"});
  input.results_y = parser.value("y").toStdString();
  return input;
}

void read_base(ViewInput& input, const QCommandLineParser& parser) {
  if (!parser.isSet("diff")) return;
  const QString file = parser.value("diff");
  input.base_name = QFileInfo(file).fileName().toStdString();
  if (file.endsWith(".jsonl") || file.endsWith(".json")) {
    input.base_rows =
        std::make_shared<const std::vector<traces::ResultRow>>(replay::read_result_rows(file.toStdString()));
  } else {
    input.base = replay::Session::open(file.toStdString(), parser.isSet("trust"));
    input.base_tiles = std::make_shared<TilePyramid>(input.base);
  }
}

// The same policies on the trace held against, where it has the sequence.
void replay_on_base(ViewInput& input) {
  const auto& there = input.base->run().sequences();
  if (std::none_of(there.begin(), there.end(), [&](const auto& info) { return info.id == input.at.sequence; })) return;
  auto rows = std::make_shared<std::vector<traces::ResultRow>>();
  for (const ShownJob& job : input.jobs) rows->push_back(input.base->replay(job.asked, {}, false)->row);
  if (!rows->empty()) input.base_rows = rows;
}

QSize size_of(const QCommandLineParser& parser) {
  if (!parser.isSet("size")) return {1200, 800};
  const QStringList sides = parser.value("size").split('x');
  const QSize out = sides.size() == 2 ? QSize(sides[0].toInt(), sides[1].toInt()) : QSize();
  if (out.width() < 50 || out.height() < 50 || out.width() > 20000 || out.height() > 20000)
    throw usage("--size", parser.value("size").toStdString(), "WIDTHxHEIGHT, each from 50 to 20000");
  return out;
}

void run(const QStringList& words) {
  QCommandLineParser parser;
  declare(parser);
  if (!parser.parse(QStringList("kvgrind render") + words))
    throw usage("", parser.errorText().toStdString(), "known options");
  if (parser.isSet("help")) {
    std::fputs(parser.helpText().toUtf8().constData(), stdout);
    return;
  }
  if (parser.positionalArguments().size() != 1)
    throw usage("the line", "has not one file", "kvgrind render FILE --view NAME -o OUT");
  if (!parser.isSet("view")) throw usage("--view", "is missing", "a view");
  if (!parser.isSet("out")) throw usage("-o", "is missing", "the file to write");
  const ViewRow& view = view_named(parser.value("view").toStdString());
  Look look = look_of(parser.isSet("theme") ? parser.value("theme") : "light", real(parser, "font-size", 0, 4, 72));
  look.title = !parser.isSet("no-title");
  look.own_title = parser.value("title");
  PictureOptions options{.size = size_of(parser), .dpi = real(parser, "dpi", 96, 24, 1200), .notes = {}};
  ViewInput input = read_input(parser);
  if (!input.session && view.needs != Needs::rows)
    throw usage("--view " + std::string(view.name), "of a results file",
                "a trace; a results file has dashboard, pareto, budget and diff");
  read_base(input, parser);
  if (input.session) add_jobs(input, parser);
  if (input.base) replay_on_base(input);
  if (!input.rows && !input.jobs.empty()) {
    auto rows = std::make_shared<std::vector<traces::ResultRow>>();
    for (const ShownJob& job : input.jobs) rows->push_back(job.view->row);
    input.rows = rows;
  }
  options.notes = {{"Software", "kvgrind"},
                   {"Version", QString::fromStdString(fmt::format("{} ({})", version(), git_hash()))},
                   {"Command", "kvgrind render " + words.join(' ')}};
  if (input.session) options.notes["Trace"] = QString::fromStdString(input.session->run().hash());
  const ScenePtr scene = load_scene(view, input, {});
  write_picture(parser.value("out"), *scene, look, options);
}

}  // namespace

int render_command(const QStringList& words) {
  try {
    run(words);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "kvgrind: %s\n", error.what());
    return exit_code(error.category());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "kvgrind: not enough memory for this picture\n");
    return exit_code(Category::unavailable);
  }
}

}  // namespace kvgrind::gui
