#include "sim/engine/cache_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "core/array.h"
#include "kernels/rope/rope.h"

namespace kvgrind::sim {
namespace {

// Stretches of what stays move as a whole.
template <class T>
void keep_entries(std::vector<T>& values, const std::vector<std::uint8_t>& keep, std::size_t width) {
  std::size_t to = 0;
  for (std::size_t from = 0; from < keep.size();) {
    const bool stays = keep[from] != 0;
    std::size_t end = from + 1;
    while (end < keep.size() && (keep[end] != 0) == stays) ++end;
    if (stays) {
      if (to != from)
        std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(from * width), (end - from) * width,
                    values.begin() + static_cast<std::ptrdiff_t>(to * width));
      to += end - from;
    }
    from = end;
  }
  values.resize(to * width);
}

void append_row(View<const float, 1> row, std::vector<float>& out) {
  const std::size_t old = out.size();
  out.resize(old + static_cast<std::size_t>(row.extent(0)));
  if (row.stride(0) == 1)
    std::copy_n(row.data(), row.extent(0), out.begin() + static_cast<std::ptrdiff_t>(old));
  else
    for (std::int64_t d = 0; d < row.extent(0); ++d) out[old + static_cast<std::size_t>(d)] = row(d);
}

void require(bool good, const GroupPlan& plan, const char* what) {
  if (!good) throw std::logic_error(fmt::format("plan of layer {}, group {}: {}", plan.layer, plan.group, what));
}

}  // namespace

CacheState::CacheState(const ModelCard& card, Granularity granularity, std::int64_t page)
    : card_(card),
      granularity_(granularity),
      page_(page),
      groups_(static_cast<std::size_t>(card.layers * heads())),
      tokens_(static_cast<std::size_t>(card.layers), 0),
      last_read_(static_cast<std::size_t>(card.layers)) {
  assert(page >= 1 && static_cast<std::int64_t>(card.layer.size()) == card.layers);
  for (Group& group : groups_) group.slots.head_dim = card.head_dim;
}

CacheState::CacheState(const CacheState& other, Granularity granularity) : CacheState(other) {
  if (granularity == other.granularity_) return;
  if (granularity == Granularity::kv_head) throw std::logic_error("query heads' slots cannot be joined");
  granularity_ = granularity;
  groups_.clear();
  for (const Group& group : other.groups_)
    for (std::int64_t copy = 0; copy < card_.group(); ++copy) groups_.push_back(group);
}

CacheState CacheState::with_room(std::int64_t room) const {
  CacheState out(card_, granularity_, page_);
  out.count_bias_ = count_bias_;
  out.tokens_ = tokens_;
  out.last_read_ = last_read_;
  out.codecs_ = codecs_;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const Group& from = groups_[g];
    Group& to = out.groups_[g];
    const auto reserve = [room](auto& list, const auto& like, std::int64_t width) {
      list.reserve(like.size() + static_cast<std::size_t>(room * width));
    };
    reserve(to.slots.position, from.slots.position, 1);
    reserve(to.slots.rotary, from.slots.rotary, 1);
    reserve(to.slots.count, from.slots.count, 1);
    reserve(to.slots.k_state, from.slots.k_state, 1);
    reserve(to.slots.v_state, from.slots.v_state, 1);
    reserve(to.slots.k, from.slots.k, card_.head_dim);
    reserve(to.slots.v, from.slots.v, card_.head_dim);
    reserve(to.gone, from.gone, 1);
    to = from;  // into the memory reserved
  }
  return out;
}

std::int64_t CacheState::heads() const {
  return granularity_ == Granularity::kv_head ? card_.kv_heads : card_.query_heads;
}

const CacheState::Group& CacheState::at(std::int64_t layer, std::int64_t head) const {
  assert(layer >= 0 && layer < card_.layers && head >= 0 && head < heads());
  return groups_[static_cast<std::size_t>(layer * heads() + head)];
}
CacheState::Group& CacheState::at(std::int64_t layer, std::int64_t head) {
  return const_cast<Group&>(std::as_const(*this).at(layer, head));
}

std::int64_t CacheState::tokens(std::int64_t layer) const { return tokens_[static_cast<std::size_t>(layer)]; }

std::int64_t CacheState::reach(std::int64_t layer) const {
  const std::int64_t window = card_.layer[static_cast<std::size_t>(layer)].window;
  return window > 0 ? std::min(tokens(layer), window - 1) : tokens(layer);
}

const GroupSlots& CacheState::group(std::int64_t layer, std::int64_t head) const { return at(layer, head).slots; }

void CacheState::append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) {
  std::int64_t& seen = tokens_[static_cast<std::size_t>(layer)];
  assert(first == seen && k.extent(1) == card_.kv_heads && k.extent(2) == card_.head_dim);
  expire(layer, first);
  const std::int64_t n = k.extent(0), copies = heads() / card_.kv_heads;
  for (std::int64_t head = 0; head < heads(); ++head) {
    Group& group = at(layer, head);
    GroupSlots& slots = group.slots;
    for (std::int64_t i = 0; i < n; ++i) {
      slots.position.push_back(first + i);
      slots.rotary.push_back(first + i);
      slots.count.push_back(1.0f);
      slots.k_state.emplace_back();
      slots.v_state.emplace_back();
      append_row(k[i][head / copies], slots.k);
      append_row(v[i][head / copies], slots.v);
      if (count_bias_) group.log_count.push_back(0.0f);
    }
    group.gone.resize(static_cast<std::size_t>(first + n), Content::exact);
  }
  seen = first + n;
}

GroupView CacheState::read(std::int64_t layer, std::int64_t head) const {
  const Group& group = at(layer, head);
  return {group.slots.keys(), group.slots.values(), group.slots.position,
          count_bias_ ? group.log_count.data() : nullptr};
}

void CacheState::set_count_bias(bool on) {
  count_bias_ = on;
  for (Group& group : groups_) refresh_log_count(group);
}

void CacheState::refresh_log_count(Group& group) const {
  group.log_count.clear();
  if (count_bias_)
    for (const float count : group.slots.count) group.log_count.push_back(std::log(count));
}

void CacheState::expire(std::int64_t layer, std::int64_t next_query) {
  const std::int64_t window = card_.layer[static_cast<std::size_t>(layer)].window;
  if (window == 0) return;
  const std::int64_t first_seen = next_query - window + 1;
  for (std::int64_t head = 0; head < heads(); ++head) {
    Group& group = at(layer, head);
    const auto& position = group.slots.position;
    const auto out = std::lower_bound(position.begin(), position.end(), first_seen) - position.begin();
    if (out == 0) continue;
    std::vector<std::uint8_t> keep(position.size(), 1);
    std::fill_n(keep.begin(), out, std::uint8_t{0});
    keep_only(group, keep, Content::expired);
  }
}

void CacheState::keep_only(Group& group, const std::vector<std::uint8_t>& keep, Content gone) const {
  GroupSlots& slots = group.slots;
  if (std::all_of(keep.begin(), keep.end(), [](std::uint8_t k) { return k != 0; })) return;
  for (std::size_t i = 0; i < keep.size(); ++i)
    if (!keep[i]) group.gone[static_cast<std::size_t>(slots.position[i])] = gone;
  const auto dim = static_cast<std::size_t>(slots.head_dim);
  keep_entries(slots.position, keep, 1);
  keep_entries(slots.rotary, keep, 1);
  keep_entries(slots.count, keep, 1);
  keep_entries(slots.k_state, keep, 1);
  keep_entries(slots.v_state, keep, 1);
  keep_entries(slots.k, keep, dim);
  keep_entries(slots.v, keep, dim);
  refresh_log_count(group);
}

void CacheState::merge(Group& group, const GroupPlan& plan) const {
  if (plan.merges.empty()) return;
  GroupSlots& slots = group.slots;
  const auto dim = static_cast<std::size_t>(slots.head_dim);
  const std::vector<float> k = slots.k, v = slots.v, count = slots.count;  // before the plan
  std::vector<std::int32_t> into;
  for (const MergeTerm& term : plan.merges) into.push_back(term.into);
  std::sort(into.begin(), into.end());
  into.erase(std::unique(into.begin(), into.end()), into.end());
  for (const std::int32_t to : into) {
    const auto at_to = static_cast<std::size_t>(to);
    std::vector<double> k_sum(dim), v_sum(dim);
    bool own = false, k_changed = false, v_changed = false;
    double total = count[at_to];
    for (const MergeTerm& term : plan.merges) {
      if (term.into != to) continue;
      const auto from = static_cast<std::size_t>(term.from);
      own |= term.from == to;
      k_changed |= term.k_weight != 0.0f && term.from != to;
      v_changed |= term.v_weight != 0.0f && term.from != to;
      if (term.from != to) total += static_cast<double>(term.count_weight) * count[from];
      for (std::size_t d = 0; d < dim; ++d) {
        k_sum[d] += static_cast<double>(term.k_weight) * k[from * dim + d];
        v_sum[d] += static_cast<double>(term.v_weight) * v[from * dim + d];
      }
    }
    for (std::size_t d = 0; d < dim; ++d) {
      if (k_changed) slots.k[at_to * dim + d] = static_cast<float>(k_sum[d] + (own ? 0.0 : k[at_to * dim + d]));
      if (v_changed) slots.v[at_to * dim + d] = static_cast<float>(v_sum[d] + (own ? 0.0 : v[at_to * dim + d]));
    }
    slots.count[at_to] = static_cast<float>(total);
    // What is stored is a value of its own now, in full precision.
    if (k_changed) slots.k_state[at_to].content = Content::merged;
    if (v_changed) slots.v_state[at_to].content = Content::merged;
  }
}

std::size_t CacheState::codec_index(const std::shared_ptr<const Codec>& codec) const {
  for (std::size_t i = 0; i < codecs_.size(); ++i)
    if (codecs_[i] == codec || codecs_[i]->text() == codec->text()) return i;
  return codecs_.size();
}

void CacheState::adopt(const std::vector<std::shared_ptr<const Codec>>& codecs) {
  for (const auto& codec : codecs)
    if (codec_index(codec) == codecs_.size()) {
      assert(codecs_.size() < 255);
      codecs_.push_back(codec);
    }
}

void CacheState::encode(Group& group, const GroupPlan& plan) const {
  GroupSlots& slots = group.slots;
  const std::int64_t dim = slots.head_dim;
  for (const Part part : {Part::key, Part::value}) {
    const auto& wanted = part == Part::key ? plan.k_codec : plan.v_codec;
    if (wanted.empty()) continue;
    auto& states = part == Part::key ? slots.k_state : slots.v_state;
    auto& values = part == Part::key ? slots.k : slots.v;
    for (std::size_t c = 0; c < plan.codecs.size(); ++c) {
      const auto index = static_cast<std::uint8_t>(codec_index(plan.codecs[c]));
      std::vector<std::size_t> rows;  // that this codec does not hold yet
      for (std::size_t i = 0; i < wanted.size(); ++i)
        if (wanted[i] == static_cast<std::int8_t>(c) && plan.keep[i] &&
            !(states[i].content == Content::coded && states[i].codec == index))
          rows.push_back(i);
      if (rows.empty()) continue;
      Array<float, 2> x({static_cast<std::int64_t>(rows.size()), dim});
      for (std::size_t r = 0; r < rows.size(); ++r)
        std::copy_n(values.data() + static_cast<std::int64_t>(rows[r]) * dim, dim,
                    x.data() + static_cast<std::int64_t>(r) * dim);
      plan.codecs[c]->encode(part, x.view());
      for (std::size_t r = 0; r < rows.size(); ++r) {
        std::copy_n(x.data() + static_cast<std::int64_t>(r) * dim, dim,
                    values.data() + static_cast<std::int64_t>(rows[r]) * dim);
        states[rows[r]].content = Content::coded;
        states[rows[r]].codec = index;
      }
    }
  }
}

void CacheState::rotate(std::int64_t layer, Group& group, const GroupPlan& plan) const {
  if (plan.rotary.empty()) return;
  GroupSlots& slots = group.slots;
  const RopeSet& set = card_.rope[static_cast<std::size_t>(card_.layer[static_cast<std::size_t>(layer)].rope_set)];
  for (std::size_t i = 0; i < plan.rotary.size(); ++i) {
    if (!plan.keep[i] || plan.rotary[i] == slots.rotary[i]) continue;
    const View<float, 3> row(slots.k.data() + static_cast<std::int64_t>(i) * slots.head_dim, {1, 1, slots.head_dim});
    kernels::rope_undo(set, std::span(&slots.rotary[i], 1), row);
    kernels::rope_apply(set, std::span(&plan.rotary[i], 1), row);
    slots.rotary[i] = plan.rotary[i];
  }
}

std::int64_t CacheState::state_bytes(Part part, const PartState& state) const {
  switch (state.content) {
    case Content::exact:
    case Content::merged:
      return card_.head_dim * size_bytes(card_.charged_dtype());
    case Content::coded:
      return codecs_[state.codec]->stored_bytes(part, 1, card_.head_dim);
    default:
      return 0;
  }
}

void CacheState::recompute(Group& group, const GroupPlan& plan) const {
  if (plan.recompute.empty()) return;
  group.residual_bytes = plan.residual_bytes;
  group.residual_once = plan.residual_once;
  for (std::size_t i = 0; i < plan.recompute.size(); ++i) {
    if (!plan.keep[i] || plan.recompute[i] == 0) continue;
    PartState &k = group.slots.k_state[i], &v = group.slots.v_state[i];
    const bool again = plan.recompute[i] == 2;
    if (again) ++group.recomputed;
    k.content = v.content = again ? Content::exact : Content::recomputable;
    k.tier = v.tier = Tier::device;
  }
}

void CacheState::move(Group& group, const GroupPlan& plan) const {
  for (const Part part : {Part::key, Part::value}) {
    const auto& wanted = part == Part::key ? plan.k_tier : plan.v_tier;
    auto& states = part == Part::key ? group.slots.k_state : group.slots.v_state;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      if (!plan.keep[i] || states[i].tier == wanted[i]) continue;
      states[i].tier = wanted[i];
      group.moved_bytes += state_bytes(part, states[i]);
    }
  }
}

void CacheState::apply(const GroupPlan& plan) {
  Group& group = at(plan.layer, plan.group);
  const auto n = static_cast<std::size_t>(group.slots.size());
  const auto fits = [n](const auto& list) { return list.empty() || list.size() == n; };
  require(plan.keep.size() == n, plan, "keep has not one entry a slot");
  require(fits(plan.k_codec) && fits(plan.v_codec), plan, "codecs have not one entry a slot");
  require(fits(plan.k_tier) && fits(plan.v_tier), plan, "tiers have not one entry a slot");
  require(fits(plan.recompute) && fits(plan.rotary), plan, "recompute or rotary have not one entry a slot");
  for (const MergeTerm& term : plan.merges) {
    require(term.from >= 0 && static_cast<std::size_t>(term.from) < n, plan, "a merge from no slot");
    require(term.into >= 0 && static_cast<std::size_t>(term.into) < n, plan, "a merge into no slot");
    require(plan.keep[static_cast<std::size_t>(term.into)] != 0, plan, "a merge into a dropped slot");
  }
  for (const auto* list : {&plan.k_codec, &plan.v_codec})
    for (const std::int8_t index : *list)
      require(index < static_cast<std::int8_t>(plan.codecs.size()), plan, "a codec that is not in the plan");

  adopt(plan.codecs);
  merge(group, plan);
  encode(group, plan);
  rotate(plan.layer, group, plan);
  move(group, plan);
  recompute(group, plan);
  keep_only(group, plan.keep, Content::dropped);
  refresh_log_count(group);
}

void CacheState::begin_step() {
  for (Group& group : groups_) group.moved_bytes = group.recomputed = 0;
}

void CacheState::note_read(std::int64_t layer, std::optional<SlotBytes> bytes) {
  last_read_[static_cast<std::size_t>(layer)] = bytes;
}

SlotBytes CacheState::slot_bytes(std::int64_t layer, std::int64_t head, std::span<const std::int32_t> slots) const {
  SlotBytes out;
  const GroupSlots& all = group(layer, head);
  for (const std::int32_t slot : slots)
    if (all.k_state[static_cast<std::size_t>(slot)].content == Content::recomputable) ++out.recomputed;
  for (const std::int32_t slot : slots)
    for (const Part part : {Part::key, Part::value}) {
      const PartState& state = (part == Part::key ? all.k_state : all.v_state)[static_cast<std::size_t>(slot)];
      const std::int64_t bytes = state_bytes(part, state);
      out.stored += bytes;
      if (state.tier != Tier::device) out.elsewhere += bytes;
    }
  return out;
}

std::int64_t CacheState::part_bytes(const GroupSlots& slots, Part part, bool ideal) const {
  const auto& states = part == Part::key ? slots.k_state : slots.v_state;
  const std::int64_t token_bytes = card_.head_dim * size_bytes(card_.charged_dtype());
  std::int64_t plain = 0;
  std::vector<std::int64_t> coded(codecs_.size(), 0);
  for (const PartState& state : states) {
    if (state.content == Content::coded) ++coded[state.codec];
    if (state.content == Content::exact || state.content == Content::merged) ++plain;
  }
  // Whole pages are allocated for what is stored token by token.
  std::int64_t bytes = (ideal ? plain : (plain + page_ - 1) / page_ * page_) * token_bytes;
  for (std::size_t c = 0; c < coded.size(); ++c) {
    if (coded[c] == 0) continue;
    bytes += ideal ? codecs_[c]->ideal_bytes(part, coded[c], card_.head_dim)
                   : codecs_[c]->stored_bytes(part, coded[c], card_.head_dim);
  }
  return bytes;
}

std::int64_t CacheState::stored_bytes(std::int64_t layer, std::int64_t head) const {
  const GroupSlots& slots = group(layer, head);
  return part_bytes(slots, Part::key, false) + part_bytes(slots, Part::value, false);
}

std::int64_t CacheState::residual_bytes() const {
  std::int64_t sum = 0, once = 0;
  std::vector<std::uint8_t> any;  // by position, of all layers whose residual is the same
  for (std::int64_t layer = 0; layer < card_.layers; ++layer) {
    std::vector<std::uint8_t> own;
    std::int64_t bytes = 0;
    for (std::int64_t head = 0; head < heads(); ++head) {
      const Group& group = at(layer, head);
      if (group.residual_bytes == 0) continue;
      auto& list = group.residual_once ? any : own;
      (group.residual_once ? once : bytes) = group.residual_bytes;
      list.resize(std::max(list.size(), group.gone.size()), 0);
      for (std::size_t i = 0; i < group.slots.k_state.size(); ++i)
        if (group.slots.k_state[i].content == Content::recomputable)
          list[static_cast<std::size_t>(group.slots.position[i])] = 1;
    }
    sum += bytes * std::count(own.begin(), own.end(), std::uint8_t{1});
  }
  return sum + once * std::count(any.begin(), any.end(), std::uint8_t{1});
}

Ledger CacheState::ledger() const {
  Ledger out;
  std::vector<std::uint8_t> layer_has(codecs_.size()), model_has_k(codecs_.size()), model_has_v(codecs_.size());
  for (std::int64_t layer = 0; layer < card_.layers; ++layer) {
    std::int64_t in_slots = 0, layer_bytes = 0, recomputable = 0;
    const std::int64_t window = card_.layer[static_cast<std::size_t>(layer)].window;
    for (const Part part : {Part::key, Part::value}) {
      PartLedger& sum = part == Part::key ? out.k : out.v;
      auto& model_has = part == Part::key ? model_has_k : model_has_v;
      std::fill(layer_has.begin(), layer_has.end(), std::uint8_t{0});
      for (std::int64_t head = 0; head < heads(); ++head) {
        const Group& group = at(layer, head);
        const auto& states = part == Part::key ? group.slots.k_state : group.slots.v_state;
        std::vector<std::uint8_t> group_has(codecs_.size(), 0);
        for (const PartState& state : states) {
          ++sum.tokens[static_cast<std::size_t>(state.content)][static_cast<std::size_t>(state.tier)];
          if (state.content == Content::coded) group_has[state.codec] = 1;
        }
        for (const Content gone : group.gone)
          if (gone != Content::exact) ++sum.tokens[static_cast<std::size_t>(gone)][0];
        const std::int64_t bytes = part_bytes(group.slots, part, false);
        sum.stored_bytes += bytes;
        sum.ideal_bytes += part_bytes(group.slots, part, true);
        layer_bytes += bytes;
        in_slots = std::max(in_slots, group.slots.size());
        if (part == Part::key) {
          out.recomputed += group.recomputed;
          for (const PartState& state : states) recomputable += state.content == Content::recomputable;
          out.moved_bytes += group.moved_bytes;
          out.token_groups += tokens(layer);
        }
        for (std::size_t c = 0; c < codecs_.size(); ++c) {
          if (!group_has[c]) continue;
          auto* const has = codecs_[c]->unit() == Codec::Unit::layer   ? &layer_has
                            : codecs_[c]->unit() == Codec::Unit::model ? &model_has
                                                                       : &group_has;
          if (has != &group_has && (*has)[c]) continue;
          (*has)[c] = 1;
          sum.stored_bytes += codecs_[c]->shared_bytes(part, card_.head_dim);
        }
      }
    }
    const auto& read = last_read_[static_cast<std::size_t>(layer)];
    out.touched_bytes += read ? read->stored : layer_bytes;
    out.moved_bytes += read ? read->elsewhere : 0;
    out.recomputed += read ? read->recomputed : recomputable;
    // A plain cache holds what the layer's window reaches (more only until the next append lets go of it).
    const std::int64_t full = window > 0 ? std::max(std::min(tokens(layer), window), in_slots) : tokens(layer);
    out.full_bytes += full * card_.kv_heads * card_.kv_bytes_per_token_group();
  }
  out.residual_bytes = residual_bytes();
  return out;
}

std::vector<std::uint8_t> CacheState::token_states(std::int64_t layer, std::int64_t head, Part part) const {
  const Group& group = at(layer, head);
  std::vector<std::uint8_t> out(group.gone.size());
  for (std::size_t t = 0; t < out.size(); ++t) out[t] = static_cast<std::uint8_t>(group.gone[t]);
  const auto& states = part == Part::key ? group.slots.k_state : group.slots.v_state;
  for (std::size_t i = 0; i < states.size(); ++i) {
    constexpr std::uint8_t tier_bits[3] = {0, 16, 32};
    out[static_cast<std::size_t>(group.slots.position[i])] = static_cast<std::uint8_t>(
        static_cast<std::uint8_t>(states[i].content) | tier_bits[static_cast<std::size_t>(states[i].tier)]);
  }
  return out;
}

}  // namespace kvgrind::sim
