#include "gui/window/desk.h"

#include <QFileInfo>
#include <QJsonArray>
#include <algorithm>

#include "gui/models/pareto.h"

namespace kvgrind::gui {
namespace {

constexpr std::size_t most_views = 64;
enum Priority { background = 0, replaying = 2, reading = 5 };

}  // namespace

Desk::Desk(JobRunner& runner, QObject* parent) : QObject(parent), runner_(runner) {
  input_.map.follow = false;  // in the window a range is marked, and zoomed to when asked
}

std::int64_t Desk::first_sequence() const {
  const std::vector<std::int64_t> measured = measured_sequences();
  const auto& all = input_.session->run().sequences();
  return !measured.empty() ? measured.front() : all.empty() ? 0 : all.front().id;
}

std::vector<std::int64_t> Desk::measured_sequences() const {
  std::vector<std::int64_t> out;
  for (const traces::SequenceInfo& info : input_.session->run().sequences())
    if (replay::compression_moment(info.segments, info.tokens, replay::Protocol::blind) < info.tokens)
      out.push_back(info.id);
  return out;
}

void Desk::open(std::shared_ptr<const replay::Session> session, const QString& path) {
  close();
  path_ = path;
  input_ = {.session = session, .tiles = std::make_shared<TilePyramid>(session), .map = input_.map};
  input_.at = {.sequence = first_sequence(), .jobs = {}};
  input_.at = within(input_.at, limits());
  history_.visit(input_.at);
  load_text();
  rebuild();
  Q_EMIT opened();
  Q_EMIT selection_changed();
}

void Desk::open_results_alone(const QString& path, std::shared_ptr<const std::vector<traces::ResultRow>> rows) {
  close();
  history_.visit(input_.at);
  open_results(path, std::move(rows));
  Q_EMIT opened();
  Q_EMIT selection_changed();
}

void Desk::set_base(std::shared_ptr<const replay::Session> session, const QString& path) {
  base_path_ = path;
  input_.base = session;
  input_.base_tiles = std::make_shared<TilePyramid>(session);
  input_.base_name = QFileInfo(path).fileName().toStdString();
  input_.map.difference = true;
  base_rows_.clear();
  base_jobs_.clear();
  rebuild();
}

void Desk::set_base(std::shared_ptr<const std::vector<traces::ResultRow>> rows, const QString& path) {
  base_path_ = path;
  input_.base_rows = std::move(rows);
  input_.base_name = QFileInfo(path).fileName().toStdString();
  Q_EMIT inputs_changed();
}

void Desk::close() {
  runner_.cancel_all();
  ++generation_;
  path_.clear();
  results_path_.clear();
  input_ = {.map = input_.map};
  if (!base_path_.isEmpty()) input_.map.difference = false;  // it was on for the base
  base_path_.clear();
  history_ = {};
  policies_.clear();
  views_.clear();
  rows_.clear();
  faults_.clear();
  running_.clear();
  base_rows_.clear();
  base_jobs_.clear();
  file_rows_ = nullptr;
  next_colour_ = 0;
}

void Desk::load_text() {
  input_.text = nullptr;
  if (!sequence_of(input_)) return;
  const std::int64_t sequence = input_.at.sequence;
  runner_.run(
      "reading text", reading,
      [this, session = input_.session, sequence, generation = generation_](const CancelToken&, Progress&) {
        auto text = std::make_shared<const std::vector<std::string>>(session->text(sequence));
        return JobRunner::Finish([this, text, sequence, generation] {
          if (generation != generation_ || input_.at.sequence != sequence) return;
          input_.text = text;
          Q_EMIT inputs_changed();
        });
      },
      [this](const FaultText& fault) { Q_EMIT message(QString::fromStdString(fault.headline)); }, true);
}

void Desk::moved(const Selection& before) {
  if (before == input_.at) return;
  if (before.sequence != input_.at.sequence) {
    load_text();
    rebuild();
  } else if (before.jobs != input_.at.jobs) {
    rebuild();
  }
  Q_EMIT selection_changed();
}

void Desk::select(const std::function<void(Selection&)>& change) {
  if (!is_open() || !change) return;
  const Selection before = input_.at;
  change(input_.at);
  input_.at = within(input_.at, limits());
  if (before.sequence != input_.at.sequence) {  // positions of another sequence mean nothing here
    input_.at.key = input_.at.query = {};
    input_.at.key_at = input_.at.query_at = input_.at.step = -1;
  }
  history_.visit(input_.at);
  moved(before);
}

void Desk::back() {
  const Selection before = input_.at;
  if (is_open()) input_.at = history_.back();
  moved(before);
}

void Desk::forward() {
  const Selection before = input_.at;
  if (is_open()) input_.at = history_.forward();
  moved(before);
}

void Desk::set_map(const MapOptions& map) {
  if (map == input_.map) return;
  input_.map = map;
  Q_EMIT inputs_changed();
}

void Desk::add_policy(const std::string& policy, const std::string& budget) {
  if (!input_.session) return;
  std::erase_if(faults_, [&](const auto& entry) {
    return std::get<0>(entry.first) == policy && std::get<1>(entry.first) == budget;
  });
  policies_.push_back({.policy = policy, .budget = budget, .colour = next_colour_++, .state = {}});
  rebuild();
}

void Desk::cancel_jobs() {
  for (auto& [key, token] : running_) {
    token.cancel();
    faults_[key] = "cancelled";
  }
  running_.clear();
  for (auto& [key, token] : base_jobs_) token.cancel();
  rebuild();
}

// Chosen jobs stand alone in the views; a choice of jobs that are none of ours leaves all there.
bool Desk::chosen(const Policy& policy) const {
  const auto is = [&](const Policy& one) {
    const std::string key = job_key(one.policy, one.budget);
    return std::find(input_.at.jobs.begin(), input_.at.jobs.end(), key) != input_.at.jobs.end();
  };
  return is(policy) || std::none_of(policies_.begin(), policies_.end(), is);
}

void Desk::add_chosen() {
  for (const std::string& key : std::vector<std::string>(input_.at.jobs)) {
    const std::size_t at = key.rfind('@');
    const std::string policy = key.substr(0, at), budget = key.substr(at + 1);
    const auto there = std::find_if(policies_.begin(), policies_.end(),
                                    [&](const Policy& one) { return job_key(one.policy, one.budget) == key; });
    if (there != policies_.end()) continue;
    if (const std::string fault = replay::policy_fault(policy, budget); !fault.empty())
      Q_EMIT message(QString::fromStdString(key + " cannot be replayed here: " + fault));
    else
      add_policy(policy, budget);
  }
}

void Desk::set_axes(const std::string& x, const std::string& y) {
  if (!is_open() || (input_.results_x == x && input_.results_y == y)) return;
  input_.results_x = x;
  input_.results_y = y;
  Q_EMIT inputs_changed();
}

void Desk::remove_policy(std::size_t index) {
  if (index >= policies_.size()) return;
  policies_.erase(policies_.begin() + std::ptrdiff_t(index));
  rebuild();
}

void Desk::show_policy(std::size_t index, bool shown) {
  if (index >= policies_.size() || policies_[index].shown == shown) return;
  policies_[index].shown = shown;
  rebuild();
}

void Desk::open_results(const QString& path, std::shared_ptr<const std::vector<traces::ResultRow>> rows) {
  results_path_ = path;
  file_rows_ = std::move(rows);
  rebuild();
}

void Desk::run(const Policy& policy, std::int64_t sequence) {
  const Key key{policy.policy, policy.budget, sequence};
  if (running_.contains(key) || faults_.contains(key)) return;
  const bool here = sequence == input_.at.sequence;
  const replay::SessionJob asked{.policy = policy.policy, .budget = policy.budget, .sequence = sequence};
  running_[key] = runner_.run(
      QString("%1 on sequence %2").arg(QString::fromStdString(job_name(policy.policy, policy.budget))).arg(sequence),
      here ? replaying : background,
      [this, session = input_.session, asked, key, here, generation = generation_](const CancelToken& cancel,
                                                                                   Progress&) {
        auto view = session->replay(asked, cancel, here);
        return JobRunner::Finish([this, view, key, here, generation] {
          if (generation != generation_) return;
          running_.erase(key);
          rows_[key] = view->row;
          if (here) {
            if (views_.size() >= most_views) views_.clear();
            views_[key] = view;
          }
          rebuild();
        });
      },
      [this, key, generation = generation_](const FaultText& fault) {
        if (generation != generation_) return;
        running_.erase(key);
        const QString why =
            QString::fromStdString(fault.headline + " " + fault.parts.front().second + " " + fault.parts.back().second);
        faults_[key] = why;
        Q_EMIT message(why);
        rebuild();
      });
}

void Desk::run_on_base(const Policy& policy) {
  for (const std::int64_t sequence : measured_sequences()) {
    const Key key{policy.policy, policy.budget, sequence};
    const auto& there = input_.base->run().sequences();
    if (base_jobs_.contains(key) ||
        std::none_of(there.begin(), there.end(), [&](const auto& info) { return info.id == sequence; }))
      continue;
    const replay::SessionJob asked{.policy = policy.policy, .budget = policy.budget, .sequence = sequence};
    base_jobs_[key] = runner_.run(
        QString("%1 on sequence %2 of %3")
            .arg(QString::fromStdString(job_name(policy.policy, policy.budget)))
            .arg(sequence)
            .arg(QString::fromStdString(input_.base_name)),
        background,
        [this, session = input_.base, asked, key, generation = generation_](const CancelToken& cancel, Progress&) {
          const auto view = session->replay(asked, cancel, false);
          return JobRunner::Finish([this, view, session, key, generation] {
            if (generation != generation_ || session != input_.base) return;
            base_rows_[key] = view->row;
            rebuild();
          });
        },
        [this](const FaultText& fault) {
          Q_EMIT message(QString::fromStdString(fault.headline + " " + fault.parts.front().second));
        });
  }
}

void Desk::run_missing() {
  for (const Policy& policy : policies_)
    if (!views_.contains({policy.policy, policy.budget, input_.at.sequence})) run(policy, input_.at.sequence);
  for (const Policy& policy : policies_)
    for (const std::int64_t sequence : measured_sequences())
      if (!rows_.contains({policy.policy, policy.budget, sequence})) run(policy, sequence);
  if (input_.base)
    for (const Policy& policy : policies_) run_on_base(policy);
}

// Jobs and rows of the input from what is there; what is missing is started.
void Desk::rebuild() {
  if (!input_.session) {
    input_.rows = file_rows_;
    Q_EMIT policies_changed();
    Q_EMIT inputs_changed();
    return;
  }
  std::erase_if(running_, [](const auto& entry) { return entry.second.cancelled(); });
  input_.jobs.clear();
  auto rows = std::make_shared<std::vector<traces::ResultRow>>(),
       on_base = std::make_shared<std::vector<traces::ResultRow>>();
  if (file_rows_) *rows = *file_rows_;
  for (Policy& policy : policies_) {
    const Key key{policy.policy, policy.budget, input_.at.sequence};
    const auto view = views_.find(key);
    const auto fault = faults_.find(key);
    policy.state = view != views_.end() ? QString("done") : fault != faults_.end() ? fault->second : QString("running");
    if (!policy.shown) continue;
    if (view != views_.end() && chosen(policy))
      input_.jobs.push_back(
          {.name = job_name(policy.policy, policy.budget),
           .asked = {.policy = policy.policy, .budget = policy.budget, .sequence = input_.at.sequence},
           .view = view->second,
           .colour = policy.colour});
    for (const auto& [at, row] : rows_)
      if (std::get<0>(at) == policy.policy && std::get<1>(at) == policy.budget) rows->push_back(row);
    for (const auto& [at, row] : base_rows_)
      if (std::get<0>(at) == policy.policy && std::get<1>(at) == policy.budget) on_base->push_back(row);
  }
  input_.rows = rows;
  if (input_.base) input_.base_rows = on_base->empty() ? nullptr : on_base;
  Q_EMIT policies_changed();
  Q_EMIT inputs_changed();
  run_missing();
}

QJsonObject Desk::session_json() const {
  const Selection& s = input_.at;
  QJsonArray policies;
  for (const Policy& policy : policies_)
    policies.append(QJsonObject{{"policy", QString::fromStdString(policy.policy)},
                                {"budget", QString::fromStdString(policy.budget)},
                                {"shown", policy.shown}});
  QJsonArray jobs;
  for (const std::string& job : s.jobs) jobs.append(QString::fromStdString(job));
  const auto number = [](std::int64_t value) { return QJsonValue(qint64(value)); };
  return {{"schema", "kvgrind.session.1"},
          {"trace", path_},
          {"results", results_path_},
          {"base", base_path_},
          {"policies", policies},
          {"selection", QJsonObject{{"sequence", number(s.sequence)},
                                    {"layer", number(s.layer)},
                                    {"query_head", number(s.query_head)},
                                    {"query_begin", number(s.query.begin)},
                                    {"query_end", number(s.query.end)},
                                    {"key_begin", number(s.key.begin)},
                                    {"key_end", number(s.key.end)},
                                    {"query_at", number(s.query_at)},
                                    {"key_at", number(s.key_at)},
                                    {"step", number(s.step)},
                                    {"jobs", jobs}}},
          {"axes", QJsonObject{{"x", QString::fromStdString(input_.results_x)},
                               {"y", QString::fromStdString(input_.results_y)}}},
          {"map", QJsonObject{{"pool", int(input_.map.pool)},
                              {"log", input_.map.log},
                              {"colours", input_.map.colours},
                              {"overlay", input_.map.overlay},
                              {"values", input_.map.values},
                              {"steps", input_.map.steps},
                              {"follow", input_.map.follow},
                              {"received", input_.map.received},
                              {"order", int(input_.map.order)}}}};
}

void Desk::restore(const QJsonObject& object) {
  const QJsonObject map = object["map"].toObject(), at = object["selection"].toObject();
  MapOptions options = input_.map;
  options.pool = static_cast<replay::Pool>(std::clamp(map["pool"].toInt(0), 0, 2));
  options.log = map["log"].toBool(true);
  options.colours = std::clamp(map["colours"].toInt(0), 0, colour_maps - 1);
  options.overlay = map["overlay"].toBool(true);
  options.values = map["values"].toBool(false);
  options.steps = map["steps"].toBool(false);
  options.follow = map["follow"].toBool(false);
  options.received = map["received"].toBool(false);
  options.order = static_cast<HeadOrder>(std::clamp(map["order"].toInt(0), 0, head_orders - 1));
  set_map(options);
  const QJsonObject axes = object["axes"].toObject();
  for (const char* cost : pareto_costs)
    if (axes["x"].toString() == cost) set_axes(cost, axes["y"].toString().toStdString());
  const QJsonArray policies = object["policies"].toArray();
  for (const QJsonValue& value : policies) {
    const QJsonObject one = value.toObject();
    const std::string policy = one["policy"].toString().toStdString(), budget = one["budget"].toString().toStdString();
    if (!replay::policy_fault(policy, budget).empty()) continue;
    add_policy(policy, budget);
    show_policy(policies_.size() - 1, one["shown"].toBool(true));
  }
  const auto whole = [&](const char* name, std::int64_t otherwise) {
    return std::int64_t(at[name].toInteger(otherwise));
  };
  select([&](Selection& s) { s.sequence = whole("sequence", s.sequence); });
  select([&](Selection& s) {
    s.layer = whole("layer", 0);
    s.query_head = whole("query_head", 0);
    s.query = {whole("query_begin", 0), whole("query_end", 0)};
    s.key = {whole("key_begin", 0), whole("key_end", 0)};
    s.query_at = whole("query_at", -1);
    s.key_at = whole("key_at", -1);
    s.step = whole("step", -1);
    s.jobs.clear();
    for (const QJsonValue& job : at["jobs"].toArray()) s.jobs.push_back(job.toString().toStdString());
  });
}

}  // namespace kvgrind::gui
