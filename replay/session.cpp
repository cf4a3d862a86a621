#include "replay/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "core/error.h"
#include "replay/sweep/sweep.h"

namespace kvgrind::replay {
namespace {

constexpr std::int64_t max_tile_cells = 4096ll * 4096;

}  // namespace

struct Session::State {
  std::shared_ptr<const RecordedRun> run;
  std::shared_ptr<const traces::Trace> trace;
  mutable std::mutex mutex;
  std::map<std::int64_t, std::shared_ptr<const SequenceData>> data;
};

std::shared_ptr<Session> Session::open(const std::filesystem::path& path, bool trust) {
  auto trace = traces::Trace::open(path, {.probe = !trust});
  return std::make_shared<Session>(recorded_run(trace), trace);
}

Session::Session(std::shared_ptr<const RecordedRun> run, std::shared_ptr<const traces::Trace> trace)
    : state_(std::make_unique<State>()) {
  state_->run = std::move(run);
  state_->trace = std::move(trace);
}

Session::~Session() = default;

const RecordedRun& Session::run() const { return *state_->run; }
const traces::Trace* Session::trace() const { return state_->trace.get(); }

std::shared_ptr<const SequenceData> Session::data(std::int64_t sequence) const {
  {
    const std::lock_guard lock(state_->mutex);
    if (const auto it = state_->data.find(sequence); it != state_->data.end()) return it->second;
  }
  // Loaded without the lock: two callers may both load, the first one's stays.
  auto loaded = std::make_shared<const SequenceData>(state_->run, sequence);
  const std::lock_guard lock(state_->mutex);
  return state_->data.emplace(sequence, std::move(loaded)).first->second;
}

std::shared_ptr<const JobView> Session::replay(const SessionJob& job, const CancelToken& cancel) const {
  SweepJob asked{.typed = job.policy,
                 .policy = sim::bind_policy(job.policy),
                 .amount = sim::parse_amount(job.budget),
                 .protocol = job.protocol,
                 .seed = job.seed,
                 .sequence = job.sequence};
  cancel.throw_if_cancelled();
  const auto sequence = data(job.sequence);
  OpenOptions options{.token_states = true};
  options.on_plan = [&cancel](const sim::GroupPlan&) { cancel.throw_if_cancelled(); };
  auto view = std::make_shared<JobView>();
  view->outcome = run_open(
      *sequence, {.policy = asked.policy, .amount = asked.amount, .protocol = asked.protocol, .seed = asked.seed},
      options);
  view->row = result_row(*state_->run, asked, view->outcome);
  return view;
}

Tile Session::attention_tile(const TileRequest& request) const {
  const ModelCard& card = state_->run->card();
  const traces::SequenceInfo& info = find_sequence(*state_->run, request.sequence);
  const std::int64_t queries = request.query_end - request.query_begin, keys = request.key_end - request.key_begin;
  if (request.layer < 0 || request.layer >= card.layers || request.query_head < 0 ||
      request.query_head >= card.query_heads || request.query_begin < 0 || queries <= 0 ||
      request.query_end > info.tokens || request.key_begin < 0 || keys <= 0 || request.key_end > info.tokens ||
      request.cell < 1)
    throw Error(
        Category::usage,
        {.doing = "computing an attention tile",
         .on = fmt::format("sequence {}, layer {}, query head {}", request.sequence, request.layer, request.query_head),
         .found = fmt::format("queries [{}, {}), keys [{}, {}), cell {}", request.query_begin, request.query_end,
                              request.key_begin, request.key_end, request.cell),
         .expected = fmt::format("ranges within {} tokens, {} layers, {} heads, cell ≥ 1", info.tokens, card.layers,
                                 card.query_heads)});
  const std::int64_t rows = (queries + request.cell - 1) / request.cell,
                     columns = (keys + request.cell - 1) / request.cell;
  if (rows > max_tile_cells / columns)
    throw Error(Category::usage, {.doing = "computing an attention tile",
                                  .found = fmt::format("{} × {} cells", rows, columns),
                                  .expected = fmt::format("at most {}", max_tile_cells),
                                  .next = "use a larger cell"});
  const auto q = state_->run->queries(request.sequence, request.layer, request.query_head);
  const auto k = state_->run->keys(request.sequence, request.layer, request.query_head / card.group());
  const auto lse = state_->run->lse(request.sequence, request.layer);
  const std::int64_t window = card.layer[static_cast<std::size_t>(request.layer)].window;

  Tile tile{.value = Array<float, 2>({rows, columns})};
  Array<float, 2> count({rows, columns});
  std::vector<std::uint8_t> recorded(static_cast<std::size_t>(rows), 0);
  std::int64_t found = 0;
  const auto first = std::lower_bound(q.position.begin(), q.position.end(), request.query_begin);
  for (auto it = first; it != q.position.end() && *it < request.query_end; ++it, ++found) {
    const float* query = q.q.data() + (it - q.position.begin()) * card.head_dim;
    const std::int64_t row = (*it - request.query_begin) / request.cell;
    recorded[static_cast<std::size_t>(row)] = 1;
    const float sum_log = lse(*it, request.query_head);
    for (std::int64_t j = request.key_begin; j < std::min(request.key_end, *it + 1); ++j) {
      if (window > 0 && *it - j >= window) continue;
      const float* key = k.data() + j * card.head_dim;
      double dot = 0;
      for (std::int64_t d = 0; d < card.head_dim; ++d)
        dot += static_cast<double>(query[d]) * static_cast<double>(key[d]);
      double logit = static_cast<double>(card.scale) * dot;
      if (card.softcap > 0)
        logit = static_cast<double>(card.softcap) * std::tanh(logit / static_cast<double>(card.softcap));
      const auto p = static_cast<float>(std::exp(logit - static_cast<double>(sum_log)));
      const std::int64_t column = (j - request.key_begin) / request.cell;
      float& cell = tile.value(row, column);
      cell = request.pool == Pool::max ? std::max(cell, p) : cell + p;
      count(row, column) += 1.0f;
    }
  }
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) {
      if (!recorded[static_cast<std::size_t>(r)])
        tile.value(r, c) = std::numeric_limits<float>::quiet_NaN();
      else if (request.pool == Pool::mean && count(r, c) > 0)
        tile.value(r, c) /= count(r, c);
    }
  tile.exact = found == queries;
  return tile;
}

std::vector<float> Session::received_mass(std::int64_t sequence, std::int64_t layer, std::int64_t query_head) const {
  const ModelCard& card = state_->run->card();
  const traces::SequenceInfo& info = find_sequence(*state_->run, sequence);
  if (layer < 0 || layer >= card.layers || query_head >= card.query_heads)
    throw Error(Category::usage, {.doing = "summing received attention",
                                  .found = fmt::format("layer {}, query head {}", layer, query_head),
                                  .expected = fmt::format("below {} and {}", card.layers, card.query_heads)});
  const OpenSource source(state_->run, sequence);
  const std::int64_t first = std::max<std::int64_t>(0, query_head),
                     end = query_head < 0 ? card.query_heads : query_head + 1;
  std::vector<float> out(static_cast<std::size_t>(info.tokens), 0.0f);
  for (std::int64_t h = first; h < end; ++h) {
    const std::vector<float> sums = source.column_sums(layer, h, info.tokens);
    for (std::size_t j = 0; j < out.size(); ++j) out[j] += sums[j] / static_cast<float>(end - first);
  }
  return out;
}

std::vector<std::string> Session::text(std::int64_t sequence) const {
  return state_->trace ? state_->trace->token_bytes(sequence) : std::vector<std::string>{};
}

}  // namespace kvgrind::replay
