#include "replay/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>

#include "core/error.h"
#include "replay/look/build_index.h"
#include "replay/sweep/sweep.h"
#include "traces/index/index_file.h"
#include "traces/results/results_file.h"

namespace kvgrind::replay {
namespace {

constexpr std::int64_t max_tile_cells = 4096ll * 4096;
constexpr double slow_tile = 6e8;  // multiply-adds: about 20 ms on two cores
constexpr std::size_t most_maps = 64, most_sequences = 8;
constexpr std::int64_t heads_bytes = 256ll << 20, sequences_bytes = 2ll << 30, most_sequence_bytes = 8ll << 30;

}  // namespace

struct Session::State {
  std::shared_ptr<const RecordedRun> run;
  std::shared_ptr<const traces::Trace> trace;
  std::shared_ptr<const traces::IndexFile> index;
  mutable std::mutex mutex;
  mutable std::vector<std::pair<std::int64_t, std::shared_ptr<const SequenceData>>> data;  // latest last
  mutable std::vector<std::pair<std::array<std::int64_t, 3>, std::shared_ptr<const CoarseMap>>> maps;
  mutable HeadCache heads{heads_bytes};
  std::shared_ptr<const CoarseMap> coarse(std::int64_t sequence, std::int64_t layer, std::int64_t query_head) const;
};

std::shared_ptr<Session> Session::open(const std::filesystem::path& path, bool trust) {
  auto trace = traces::Trace::open(path, {.probe = !trust});
  return std::make_shared<Session>(recorded_run(trace), trace);
}

Session::Session(std::shared_ptr<const RecordedRun> run, std::shared_ptr<const traces::Trace> trace)
    : state_(std::make_unique<State>()) {
  state_->run = std::move(run);
  state_->trace = std::move(trace);
  if (state_->trace) {
    try {
      state_->index = traces::IndexFile::open(traces::index_path(state_->trace->path()), state_->trace->hash());
    } catch (const Error&) {
      state_->index = nullptr;  // of another trace, or damaged: the trace is shown without it
    }
  }
}

Session::~Session() = default;

const RecordedRun& Session::run() const { return *state_->run; }
const traces::Trace* Session::trace() const { return state_->trace.get(); }

std::shared_ptr<const SequenceData> Session::data(std::int64_t sequence) const {
  {
    const std::lock_guard lock(state_->mutex);
    for (auto it = state_->data.begin(); it != state_->data.end(); ++it)
      if (it->first == sequence) {
        std::rotate(it, it + 1, state_->data.end());
        return state_->data.back().second;
      }
  }
  const std::int64_t needed = SequenceData::estimated_bytes(*state_->run, sequence);
  if (needed > most_sequence_bytes)
    throw Error(Category::unavailable,
                {.doing = "loading a sequence to replay policies on",
                 .on = fmt::format("sequence {}", sequence),
                 .found = fmt::format("{:.1f} GB of keys, values and queries", static_cast<double>(needed) / 1e9),
                 .expected = fmt::format("at most {:.0f} GB", static_cast<double>(most_sequence_bytes) / 1e9),
                 .usable = "every view that needs no policy",
                 .next = "replay it with `kvgrind sweep` and open the results file"});
  // Loaded without the lock: two callers may both load, the first one's stays.
  auto loaded = std::make_shared<const SequenceData>(state_->run, sequence);
  const std::lock_guard lock(state_->mutex);
  for (const auto& [id, kept] : state_->data)
    if (id == sequence) return kept;
  state_->data.emplace_back(sequence, std::move(loaded));
  std::int64_t total = 0;
  for (const auto& entry : state_->data) total += entry.second->bytes();
  while (state_->data.size() > 1 && (total > sequences_bytes || state_->data.size() > most_sequences)) {
    total -= state_->data.front().second->bytes();
    state_->data.erase(state_->data.begin());
  }
  return state_->data.back().second;
}

std::shared_ptr<const JobView> Session::replay(const SessionJob& job, const CancelToken& cancel, bool timeline) const {
  SweepJob asked{.typed = job.policy,
                 .policy = sim::bind_policy(job.policy),
                 .amount = sim::parse_amount(job.budget),
                 .protocol = job.protocol,
                 .seed = job.seed,
                 .sequence = job.sequence};
  cancel.throw_if_cancelled();
  const auto sequence = data(job.sequence);
  auto view = std::make_shared<JobView>();
  OpenOptions options{.token_states = true};
  options.on_plan = [&cancel](const sim::GroupPlan&) { cancel.throw_if_cancelled(); };
  if (timeline)
    options.on_tokens = timeline_observer(
        view->timeline, compression_moment(sequence->info().segments, sequence->tokens(), job.protocol),
        sequence->tokens());
  view->outcome = run_open(
      *sequence, {.policy = asked.policy, .amount = asked.amount, .protocol = asked.protocol, .seed = asked.seed},
      options);
  view->row = result_row(*state_->run, asked, view->outcome);
  return view;
}

namespace {

void check_request(const RecordedRun& run, const TileRequest& request) {
  const ModelCard& card = run.card();
  const traces::SequenceInfo& info = find_sequence(run, request.sequence);
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
}

}  // namespace

// The index's map, else the trace's own, decoded once.
std::shared_ptr<const CoarseMap> Session::State::coarse(std::int64_t sequence, std::int64_t layer,
                                                        std::int64_t query_head) const {
  const std::array<std::int64_t, 3> key{sequence, layer, query_head};
  {
    const std::lock_guard lock(mutex);
    for (const auto& [other, map] : maps)
      if (other == key) return map;
  }
  std::shared_ptr<CoarseMap> out;
  if (index) {
    if (auto found = index->map(sequence, layer, query_head))
      out = std::make_shared<CoarseMap>(CoarseMap{.cell = found->cell,
                                                  .max = std::move(found->max),
                                                  .mean = std::move(found->mean),
                                                  .origin = fmt::format("index, cells of {} tokens", found->cell)});
  }
  // A fork's recorded map holds its own queries alone; what came before the fork would look as if nobody had attended.
  if (!out && trace && find_sequence(*run, sequence).fork_at == 0) {
    if (auto found = trace->pooled_map(sequence, layer, query_head))
      out = std::make_shared<CoarseMap>(
          CoarseMap{.cell = found->cell_tokens,
                    .max = std::move(found->max),
                    .mean = std::move(found->mean),
                    .origin = fmt::format("recorded map, cells of {} tokens", found->cell_tokens)});
  }
  const std::lock_guard lock(mutex);
  maps.emplace_back(key, out);
  if (maps.size() > most_maps) maps.erase(maps.begin());
  return out;
}

Tile Session::attention_tile(const TileRequest& request, const CancelToken& cancel) const {
  check_request(*state_->run, request);
  const ModelCard& card = state_->run->card();
  const std::int64_t tokens = find_sequence(*state_->run, request.sequence).tokens;
  const double most_pairs = static_cast<double>(request.query_end - request.query_begin) *
                            static_cast<double>(request.key_end - request.key_begin) *
                            static_cast<double>(card.head_dim);
  // A coarse tile of a large map need not read the head's queries and keys at all.
  if (!request.exact && most_pairs > slow_tile) {
    const auto map = state_->coarse(request.sequence, request.layer, request.query_head);
    if (map && map_serves(*map, request)) return tile_from_map(*map, request, tokens);
  }
  const auto head = state_->heads.get(*state_->run, request.sequence, request.layer, request.query_head, cancel);
  const double cost = tile_cost(card, *head, request);
  const std::int64_t stride =
      request.exact || cost <= slow_tile ? 1 : static_cast<std::int64_t>(std::ceil(cost / slow_tile));
  Tile tile = compute_tile(card, *head, request, stride, cancel);
  if (std::count(tile.recorded.begin(), tile.recorded.end(), 0) == 0 || request.exact) return tile;
  // Rows without a recorded query: from the map, where its cells fit.
  const auto map = state_->coarse(request.sequence, request.layer, request.query_head);
  if (!map || !map_serves(*map, request)) return tile;
  const Tile coarse = tile_from_map(*map, request, tokens);
  for (std::int64_t r = 0; r < tile.value.extent(0); ++r) {
    if (tile.recorded[static_cast<std::size_t>(r)]) continue;
    std::copy_n(&coarse.value(r, 0), tile.value.extent(1), &tile.value(r, 0));
    tile.recorded[static_cast<std::size_t>(r)] = 1;
    tile.source = TileSource::map;
    tile.origin = coarse.origin;
  }
  return tile;
}

Tile Session::thumbnail(std::int64_t sequence, std::int64_t layer, std::int64_t query_head, std::int64_t side,
                        const CancelToken& cancel) const {
  const std::int64_t tokens = find_sequence(*state_->run, sequence).tokens;
  check_head(*state_->run, sequence, layer, query_head, "drawing a head");
  TileRequest request{.sequence = sequence,
                      .layer = layer,
                      .query_head = query_head,
                      .query_end = tokens,
                      .key_end = tokens,
                      .cell = std::max<std::int64_t>(1, (tokens + side - 1) / std::max<std::int64_t>(1, side))};
  const auto map = state_->coarse(sequence, layer, query_head);
  if (map && map->cell <= request.cell) {  // of a short sequence the exact cells are finer, and quick
    request.cell = (request.cell + map->cell - 1) / map->cell * map->cell;
    return tile_from_map(*map, request, tokens);
  }
  return attention_tile(request, cancel);
}

AttentionRow Session::attention_row(std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                                    std::int64_t query) const {
  const auto head = state_->heads.get(*state_->run, sequence, layer, query_head);
  return replay::attention_row(state_->run->card(), *head, layer, query);
}

HeadFacts Session::head_facts(std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                              const CancelToken& cancel) const {
  const auto head = state_->heads.get(*state_->run, sequence, layer, query_head, cancel);
  return replay::head_facts(state_->run->card(), *head, layer, query_head, cancel);
}

SpanMass Session::span_mass(std::int64_t sequence, std::int64_t begin, std::int64_t end, std::int64_t most,
                            const CancelToken& cancel) const {
  const ModelCard& card = state_->run->card();
  const std::int64_t tokens = find_sequence(*state_->run, sequence).tokens;
  if (begin < 0 || begin >= end || end > tokens)
    throw Error(Category::usage, {.doing = "following a span",
                                  .on = fmt::format("sequence {}", sequence),
                                  .found = fmt::format("positions {}:{}", begin, end),
                                  .expected = fmt::format("a range within {} tokens", tokens)});
  SpanMass out;
  const std::int64_t dim = card.head_dim;
  for (std::int64_t l = 0; l < card.layers; ++l) {  // a pass over the whole file: everything is read once, nothing kept
    const std::int64_t window = card.layer[static_cast<std::size_t>(l)].window;
    const Array<float, 2> lse = state_->run->lse(sequence, l);
    Array<float, 2> keys;
    for (std::int64_t h = 0; h < card.query_heads; ++h) {
      cancel.throw_if_cancelled();
      if (h % card.group() == 0) keys = state_->run->keys(sequence, l, h / card.group());
      cancel.throw_if_cancelled();
      const traces::RecordedQueries queries = state_->run->queries(sequence, l, h);
      if (l == 0 && h == 0) {
        const auto first = std::lower_bound(queries.position.begin(), queries.position.end(), end);
        const std::int64_t n = queries.position.end() - first, take = std::min(n, most);
        for (std::int64_t i = 0; i < take; ++i) out.query.push_back(*(first + (n - 1) - (take - 1 - i) * n / take));
        out.mass = Array<float, 2>({card.layers, take});
      }
      for (std::size_t i = 0; i < out.query.size(); ++i) {
        const auto it = std::lower_bound(queries.position.begin(), queries.position.end(), out.query[i]);
        const float* q = queries.q.data() + (it - queries.position.begin()) * dim;
        float mass = 0;
        for (std::int64_t j = begin; j < end; ++j) {
          if (window > 0 && out.query[i] - j >= window) continue;
          float dot = 0;
          for (std::int64_t d = 0; d < dim; ++d) dot += q[d] * keys(j, d);
          float logit = card.scale * dot;
          if (card.softcap > 0) logit = card.softcap * std::tanh(logit / card.softcap);
          mass += std::exp(logit - lse(out.query[i], h));
        }
        float& largest = out.mass(l, static_cast<std::int64_t>(i));
        largest = std::max(largest, mass);
      }
    }
  }
  return out;
}

ChannelFacts Session::channels(std::int64_t sequence, std::int64_t layer, bool values,
                               const CancelToken& cancel) const {
  check_head(*state_->run, sequence, layer, 0, "measuring channels");
  std::vector<Array<float, 2>> heads;
  for (std::int64_t h = 0; h < state_->run->card().kv_heads; ++h) {
    cancel.throw_if_cancelled();
    heads.push_back(values ? state_->run->values(sequence, layer, h) : state_->run->keys(sequence, layer, h));
  }
  return channel_facts(heads, cancel);
}

bool Session::indexed() const { return state_->index != nullptr; }

bool Session::received_mass_is_sampled(std::int64_t sequence, std::int64_t layer) const {
  const ModelCard& card = state_->run->card();
  const double tokens = static_cast<double>(find_sequence(*state_->run, sequence).tokens);
  const double cost = 0.5 * tokens * tokens * static_cast<double>(card.head_dim * card.query_heads);
  return cost > 10 * slow_tile && !state_->run->column_sums(sequence, layer, -1);
}

std::vector<float> Session::received_mass(std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                                          const CancelToken& cancel) const {
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
  if (received_mass_is_sampled(sequence, layer)) {
    const std::int64_t rows = std::max<std::int64_t>(8, 256 / (end - first));
    for (std::int64_t h = first; h < end; ++h) {
      const auto head = state_->heads.get(*state_->run, sequence, layer, h, cancel);
      const auto n = static_cast<std::int64_t>(head->position.size());
      const std::int64_t take = std::min(n, rows);
      for (std::int64_t i = 0; i < take; ++i) {
        cancel.throw_if_cancelled();
        const AttentionRow row = replay::attention_row(
            card, *head, layer, head->position[static_cast<std::size_t>((2 * i + 1) * n / (2 * take))]);
        const float scale = static_cast<float>(n) / static_cast<float>(take * (end - first));
        for (std::size_t j = 0; j < out.size(); ++j) out[j] += row.weight[j] * scale;
      }
    }
    return out;
  }
  for (std::int64_t h = first; h < end; ++h) {
    cancel.throw_if_cancelled();
    const std::vector<float> sums = source.column_sums(layer, h, info.tokens);
    for (std::size_t j = 0; j < out.size(); ++j) out[j] += sums[j] / static_cast<float>(end - first);
  }
  return out;
}

std::vector<std::string> Session::text(std::int64_t sequence) const {
  return state_->trace ? state_->trace->token_bytes(sequence) : std::vector<std::string>{};
}

void index_trace(const std::filesystem::path& path, bool force, Progress* progress, const CancelToken& cancel) {
  (void)build_index(traces::Trace::open(path), force, progress, cancel);
}

std::vector<traces::ResultRow> read_result_rows(const std::filesystem::path& path) {
  return traces::read_results(path).rows;
}

}  // namespace kvgrind::replay
