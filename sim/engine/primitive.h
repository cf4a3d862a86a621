// A primitive is a row of a table: name, source, help, parameters, needed signals, function. One file each under
// sim/score, sim/budget, sim/select, sim/act, sim/schedule, sim/read; the tables are generated from the files.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/calibration.h"
#include "core/policy_line.h"
#include "sim/engine/cache_state.h"
#include "sim/engine/plan.h"
#include "sim/engine/policy.h"
#include "sim/engine/signals.h"

namespace kvgrind::sim {

// boolean: on | off. call: a primitive of the slot named in `words`. list: of numbers, or of calls of that slot.
// calibration: a "text" that names what `kvgrind fit` wrote, of one of the methods in `words`; "" = the one given
// beside the line (with_calibrations).
enum class ParamType : std::uint8_t { integer, number, boolean, word, call, list, text, calibration };

struct ParamRow {
  const char* name;
  ParamType type;
  const char* default_text;  // grammar text; null = required
  const char* help;
  double min = -1e300, max = 1e300;
  std::vector<const char*> words = {};  // choices of a word; for a call: the slot it binds in ("score")
  bool odd = false;                     // of an integer
};

struct BoundCall;  // a primitive with all parameters (bound_policy.h)

// Typed access to bound parameters; asking for a name that the row does not declare is our own mistake (assert).
class Params {
 public:
  std::int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;
  bool boolean(std::string_view name) const;
  const std::string& word(std::string_view name) const;
  const BoundCall& call(std::string_view name) const;
  const std::vector<BoundCall>& calls(std::string_view name) const;  // list of calls
  std::vector<double> numbers(std::string_view name) const;          // list of numbers
  const Calibration& calibration(std::string_view name) const;       // Error(usage) when none was given

  struct Entry;
  const Entry& entry(std::string_view name) const;
  std::vector<std::shared_ptr<const Entry>> entries;  // declared order
};

// Named float columns keyed by position that live as long as the run (running sums, ages …), one set per group: what is
// kept of a token does not move when slots do.
using Memory = std::map<std::string, std::vector<float>, std::less<>>;

// When something is decided.
struct Moment {
  enum class Kind : std::uint8_t { layer, chunk, step, segment } kind = Kind::segment;
  std::int64_t tokens = 0;         // positions [0, tokens) have been seen
  std::int64_t queries_begin = 0;  // queries since scores last ran: [queries_begin, tokens)
  bool compress = false;           // the protocol's compression moment
  Role role = Role::context;       // of the segment that ended
};

struct RunFacts {
  std::uint64_t seed = 0;
  std::int64_t sequence = 0;
  const ModelCard* card = nullptr;
  const Amount* amount = nullptr;
};

// ---- score -------------------------------------------------------------------------------------------------------
struct ScoreContext {
  const Params& params;
  const RunFacts& facts;
  const Moment& moment;
  const SignalSource& signals;
  const CacheState& cache;
  std::int64_t layer = 0, group = 0;
  Memory& memory;
  const GroupSlots* part = nullptr;  // slots to score instead of the group's own (some of them)
  const GroupSlots& slots() const { return part ? *part : cache.group(layer, group); }
  // What the amount alone gives the group.
  std::int64_t base_tokens() const;
  // Query heads that read this group: [first, first + count).
  std::int64_t first_query_head() const;
  std::int64_t query_heads() const;
  std::int64_t window() const;  // of the layer, 0 = none
  // Attention rows of query head h for queries [first, first + n) over the slots, as they are, of the group that this
  // head reads (any group of the layer); causal: [n, slots].
  Array<float, 2> attention(std::int64_t query_head, std::int64_t first, std::int64_t n,
                            std::vector<float>* lse = nullptr) const;
  // The same summed over the queries, in double: [slots].
  std::vector<double> attention_sum(std::int64_t query_head, std::int64_t first, std::int64_t n) const;
  // Runs a nested score call on the same group.
  void evaluate(const BoundCall& call, struct Columns& out) const;
};
// s = +inf protects a slot: always kept as long as the budget allows, newest first.
struct Columns {
  std::vector<float> s;  // [slots] higher = keep
  std::map<std::string, std::vector<float>, std::less<>> extra;
  std::map<std::string, double, std::less<>> figures;  // of the group as a whole
};
// What a join sees: all groups that were scored at this firing, layer by layer.
struct JoinGroup {
  std::int64_t layer = 0, group = 0;
  const GroupSlots* slots = nullptr;
  Columns* columns = nullptr;
};
struct JoinContext {
  const Params& params;
  const RunFacts& facts;
  const Moment& moment;
  std::span<const JoinGroup> groups;
};
struct ScoreRow {
  const char* name;
  const char* source;
  const char* help;
  std::vector<ParamRow> params;
  std::vector<Signal> needs;
  void (*score)(const ScoreContext&, Columns&);
  // Extra columns and figures that it fills; "*" = s and extras of its nested score pass through it.
  std::vector<const char*> gives = {};
  // Optional: runs once a firing when every group has its own scores, to join heads or layers. Such a score stands
  // outermost, or within one that passes its nested score through.
  void (*join)(const JoinContext&) = nullptr;
  // Asks what the amount gives (base_tokens, facts.amount). Others are not shown it: their scores serve every amount.
  bool by_amount = false;
};

// ---- budget ------------------------------------------------------------------------------------------------------
enum class Scope : std::uint8_t { group, layer, model };
struct BudgetGroup {
  std::int64_t layer = 0, group = 0;
  std::int64_t tokens = 0;   // tokens seen within the window's reach: what a fraction is of
  std::int64_t visible = 0;  // slots there now
  std::int64_t base = 0;     // what the amount alone gives this group
  double base_real = 0;      // the same before rounding
  std::span<const float> scores;
  std::int64_t kept = 0;             // out
  const Columns* columns = nullptr;  // scores and their extra columns
};
struct BudgetContext {
  const Params& params;
  const RunFacts& facts;
  const Moment& moment;
  const SignalSource& signals;
  const Amount& amount;
  std::vector<BudgetGroup>& groups;  // all groups of the scope
  Memory& memory;                    // of the run
};
struct BudgetRow {
  const char* name;
  const char* source;
  const char* help;
  std::vector<ParamRow> params;
  std::vector<Signal> needs;
  Scope scope;
  CountClass count;
  void (*allocate)(const BudgetContext&);
  std::vector<const char*> columns = {};  // extra columns and figures it needs of the score
};

// ---- select ------------------------------------------------------------------------------------------------------
struct SelectContext {
  const Params& params;
  const RunFacts& facts;
  const Moment& moment;
  const GroupSlots& slots;
  const Columns& columns;
  std::int64_t layer = 0, group = 0;
  std::int64_t budget = 0;
  std::int64_t& nan_scores;
  Memory& memory;
  View<const float, 2> keys = {}, values = {};  // [slots, D]
};
struct Selection {
  std::vector<std::int32_t> kept;   // slot indices, ascending
  std::vector<std::int32_t> order;  // all slots by priority, those kept in front (for graded acts)
  // Optional, one a slot: the kept slot that a dropped one should be merged into; −1 = none.
  std::vector<std::int32_t> into = {};
};
struct SelectRow {
  const char* name;
  const char* source;
  const char* help;
  std::vector<ParamRow> params;
  std::vector<const char*> columns;  // extra columns it needs
  CountClass count;
  Selection (*select)(const SelectContext&);
};

// ---- act ---------------------------------------------------------------------------------------------------------
struct ActContext {
  const Params& params;
  const RunFacts& facts;
  const Moment& moment;
  const SignalSource& signals;
  const CacheState& cache;
  const Columns& columns;
  const Selection& selection;
  std::int64_t layer = 0, group = 0;
  Memory& memory;
  std::shared_ptr<const void> layer_state = nullptr;  // what `prepare` returned for the layer
  const GroupSlots& slots() const { return cache.group(layer, group); }
};
struct ActRow {
  const char* name;
  const char* source;
  const char* help;
  std::vector<ParamRow> params;
  std::vector<Signal> needs;
  // Fills a plan whose `keep` is the selection.
  void (*act)(const ActContext&, GroupPlan&);
  // Optional: sees all groups of a layer first (a codec fitted over the heads of a layer).
  std::shared_ptr<const void> (*prepare)(std::span<const ActContext>) = nullptr;
  // A boolean parameter "count_bias" that is on adds log count to the logits of merged slots.
};

// ---- schedule ----------------------------------------------------------------------------------------------------
struct ScheduleContext {
  const Params& params;
  const Moment& moment;
  std::int64_t since_last = 0;  // tokens since it last fired; −1 = never fired
};
struct ScheduleRow {
  const char* name;
  const char* source;
  const char* help;
  std::vector<ParamRow> params;
  bool one_shot;  // fires at the compression moment only; later tokens are kept and not counted
  bool steps;     // must see single steps; the budget holds in all
  bool (*fires)(const ScheduleContext&);
  bool layers = false;  // may fire when single layers are done
};

// ---- read --------------------------------------------------------------------------------------------------------
struct ReadContext {
  const Params& params;
  const RunFacts& facts;
  const SignalSource& signals;
  const CacheState& cache;
  const Amount& amount;
  std::int64_t layer = 0, group = 0;
  std::int64_t first = 0;           // position of the first query
  std::int64_t compressed_at = -1;  // tokens at the compression moment; −1 = not yet
  View<const float, 3> q;           // [n, Hq, D]
  Memory& memory;
  // Query heads that read this group: [first, first + count).
  std::int64_t first_query_head() const { return group * query_heads(); }
  std::int64_t query_heads() const { return facts.card->query_heads / cache.heads(); }
};
struct ReadRow {
  const char* name;
  const char* source;
  const char* help;
  std::vector<ParamRow> params;
  std::vector<Signal> needs;
  bool reads_all;
  void (*read)(const ReadContext&, std::vector<std::vector<std::int32_t>>& slots_of_query);  // null when reads_all
  // Bytes read beside the chosen slots' K and V, of one query and group (page summaries, codes); null = none.
  std::int64_t (*metadata_bytes)(const ReadContext&) = nullptr;
};

const std::vector<const ScoreRow*>& score_rows();
const std::vector<const BudgetRow*>& budget_rows();
const std::vector<const SelectRow*>& select_rows();
const std::vector<const ActRow*>& act_rows();
const std::vector<const ScheduleRow*>& schedule_rows();
const std::vector<const ReadRow*>& read_rows();

}  // namespace kvgrind::sim
