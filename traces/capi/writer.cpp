#include "traces/capi/writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"
#include "traces/kvt/query_choice.h"
#include "traces/kvt/schema.h"

namespace kvgrind::traces {
namespace {

template <class Body>
Body body_of(const std::byte* message) {
  Body body;
  std::memcpy(&body, message + sizeof(wire::Header), sizeof body);
  return body;
}

template <class T>
const T* at(const std::byte* message, std::int64_t offset) {
  return reinterpret_cast<const T*>(message + offset);
}

std::string text_of(const std::byte* message) {
  const auto body = body_of<wire::Text>(message);
  return {at<char>(message, body.at), static_cast<std::size_t>(body.bytes)};
}

}  // namespace

bool Writer::take(const wire::Header* header) {
  const auto* message = reinterpret_cast<const std::byte*>(header);
  switch (header->kind) {
    case wire::Kind::skip:
      break;
    case wire::Kind::tokens: {
      const auto body = body_of<wire::Tokens>(message);
      const auto* end = at<std::int64_t>(message, body.end_at);
      const char* text = at<char>(message, body.text_at);
      std::int64_t from = 0;
      for (std::int64_t i = 0; i < body.tokens; ++i) {
        if (end[i] < from || end[i] > body.text_bytes)
          throw Error(Category::usage, {.doing = "reading the text of tokens",
                                        .on = fmt::format("token {}", i),
                                        .found = fmt::format("its end at {}", end[i]),
                                        .expected = "ascending ends"});
        texts_.emplace_back(text + from, static_cast<std::size_t>(end[i] - from));
        from = end[i];
      }
      break;
    }
    case wire::Kind::output_projection: {
      const auto body = body_of<wire::OutputProjection>(message);
      Array<float, 2> weights({body.hidden, body.width});
      to_f32(static_cast<DType>(body.dtype), message + body.at, body.hidden * body.width, weights.data());
      projections_[body.layer] = std::move(weights);
      break;
    }
    case wire::Kind::open:
      open(text_of(message));
      break;
    case wire::Kind::describe: {
      const std::int64_t id = body_of<wire::Text>(message).number;
      TokenSequence known =
          parse_sequence_json(parse_json(text_of(message), "sequence"), fmt::format("sequence {}", id));
      if (again_ && known.parent >= 0) again_->fork(known.parent, id, known.fork_at);
      known.spans = plan_.sequences[static_cast<std::size_t>(id)].spans;
      plan_.sequences[static_cast<std::size_t>(id)] = known;
      recorder_->describe(id, std::move(known));
      break;
    }
    case wire::Kind::begin:
      begin(message);
      break;
    case wire::Kind::layer:
      layer(message);
      break;
    case wire::Kind::end:
      end(message);
      break;
    case wire::Kind::column_sums: {
      const auto body = body_of<wire::ColumnSums>(message);
      recorder_->column_sums(body.sequence, body.layer, body.segment,
                             {at<float>(message, body.at), {card_.query_heads, body.keys}});
      break;
    }
    case wire::Kind::done: {
      const auto body = body_of<wire::Done>(message);
      recorder_->sequence_done(body.sequence, static_cast<std::int32_t>(body.next_token));
      break;
    }
    case wire::Kind::remark:
      recorder_->remark(text_of(message));
      break;
    case wire::Kind::close:
      if (body_of<wire::Close>(message).finish != 0)
        recorder_->close();
      else
        recorder_->interrupt();
      ended_ = true;
      break;
  }
  if (recorder_) control_.committed_rows.store(recorder_->committed_rows());
  return !held_;
}

void Writer::settle() {
  if (recorder_ && !ended_) recorder_->settle();
}

void Writer::open(const std::string& envelope_text) {
  const json::value envelope = parse_json(envelope_text, "opening a recording");
  const std::string path(envelope.at("path").get_string());
  part_ = path + ".part";
  plan_ = parse_plan_json(std::string_view(envelope.at("plan").get_string()));
  card_ = parse_card(plan_.card, "the model card");
  Recorder::Plan plan;
  plan.card = card_;
  plan.sequences = plan_.sequences;
  plan.spare_sequences = plan_.spare_sequences;
  plan.on_commit = [this](std::int64_t rows) { control_.committed_rows.store(rows); };
  plan.provenance = plan_.provenance;
  plan_.sequences.resize(plan_.sequences.size() + static_cast<std::size_t>(plan_.spare_sequences));
  if (!texts_.empty())
    plan.token_bytes = [this](std::int32_t id) {
      return id >= 0 && id < static_cast<std::int64_t>(texts_.size()) ? texts_[static_cast<std::size_t>(id)]
                                                                      : std::string();
    };
  if (static_cast<std::int64_t>(projections_.size()) == card_.layers)
    plan.output_projection = [this](std::int64_t layer) { return projections_.at(layer); };
  recorder_.emplace(path, std::move(plan), plan_.options);
  projections_.clear();
  // A model that runs on a device is launched by one thread of the host, which many busy threads here would hold up.
  if (plan_.statistics)
    again_.emplace(card_);
  else
    set_thread_count(std::min(thread_count(), 4));
  control_.state.store(static_cast<std::uint32_t>(WriterState::recording));
}

void Writer::begin(const std::byte* message) {
  if (in_pass_)
    throw Error(
        Category::usage,
        {.doing = "recording", .on = part_, .found = "a forward pass that broke off", .expected = "whole passes"});
  pass_ = body_of<wire::Begin>(message);
  const auto* parts = at<wire::Part>(message, pass_.parts_at);
  parts_.assign(parts, parts + pass_.parts);
  const auto* use = at<wire::QueryUse>(message, pass_.use_at);
  use_.assign(use, use + pass_.rows);
  ids_.resize(static_cast<std::size_t>(pass_.rows));
  for (std::int64_t i = 0; i < pass_.rows; ++i)
    ids_[static_cast<std::size_t>(i)] = pass_.id_bytes == 8
                                            ? static_cast<std::int32_t>(at<std::int64_t>(message, pass_.ids_at)[i])
                                            : at<std::int32_t>(message, pass_.ids_at)[i];
  first_row_.clear(), first_query_.clear(), layers_.clear();
  std::int64_t row = 0, query = 0;
  for (const wire::Part& part : parts_) {
    first_row_.push_back(row), first_query_.push_back(query);
    row += part.n, query += part.queries;
  }
  in_pass_ = true;
  // One sequence goes to the file as it comes; several, and steps whose norms come last, once they are whole.
  held_ = parts_.size() > 1 || pass_.decode != 0;
  if (!held_) begin_part(0);
}

void Writer::begin_part(std::size_t p) {
  const wire::Part& part = parts_[p];
  const QueryChoice choice(plan_.options, plan_.sequences[static_cast<std::size_t>(part.sequence)], part.sequence);
  std::vector<std::int64_t> left_out;
  for (std::int64_t i = 0; i < part.n; ++i)
    if (use_[static_cast<std::size_t>(first_row_[p] + i)] != wire::QueryUse::kept &&
        choice.keeps(part.first + i, pass_.decode != 0))
      left_out.push_back(i);
  recorder_->leave_out_queries(std::move(left_out));
  recorder_->begin(
      {.sequence = part.sequence,
       .first = part.first,
       .ids = std::span(ids_).subspan(static_cast<std::size_t>(first_row_[p]), static_cast<std::size_t>(part.n)),
       .decode = pass_.decode != 0});
}

void Writer::layer(const std::byte* message) {
  if (held_) {
    layers_.push_back(message);
    return;
  }
  const auto body = body_of<wire::Layer>(message);
  layer_of_part(0, message, body.hidden_norm_at < 0 ? nullptr : at<float>(message, body.hidden_norm_at), 1,
                body.attn_in_norm_at < 0 ? nullptr : at<float>(message, body.attn_in_norm_at), 1);
}

void Writer::layer_of_part(std::size_t p, const std::byte* message, const float* hidden_norm,
                           std::int64_t hidden_stride, const float* attn_in_norm, std::int64_t attn_in_stride) {
  const auto body = body_of<wire::Layer>(message);
  const wire::Part& part = parts_[p];
  const std::int64_t dim = card_.head_dim, element = size_bytes(card_.dtype), n = part.n, heads = card_.query_heads;
  TapLayer tap;
  tap.layer = body.layer;
  tap.rows_k = {card_.dtype, message + body.k_at + first_row_[p] * card_.kv_heads * dim * element, dim, n * dim};
  tap.rows_v = {card_.dtype, message + body.v_at + first_row_[p] * card_.kv_heads * dim * element, dim, n * dim};
  const std::byte* q = message + body.q_at + first_query_[p] * heads * dim * element;
  const std::int64_t row_bytes = heads * dim * element;
  if (part.queries < n) {
    spread_.resize(static_cast<std::size_t>(n * row_bytes));
    for (std::int64_t i = 0, sent = 0; i < n; ++i)
      if (use_[static_cast<std::size_t>(first_row_[p] + i)] != wire::QueryUse::not_sent)
        std::memcpy(spread_.data() + i * row_bytes, q + sent++ * row_bytes, static_cast<std::size_t>(row_bytes));
    q = spread_.data();
  }
  tap.rows_q = {card_.dtype, q, heads * dim, dim};
  tap.lse = {at<float>(message, body.lse_at) + first_row_[p] * heads, {n, heads}};
  if (hidden_norm) tap.input = {hidden_norm, {n, 1}, {hidden_stride, 1}};
  if (attn_in_norm) tap.attn_in = {attn_in_norm, {n, 1}, {attn_in_stride, 1}};
  if (again_ && part.queries == n)
    tap.q_pre = again_->add(*recorder_, part.sequence, body.layer, part.first, tap.rows_k, tap.rows_q, tap.lse);
  recorder_->layer(tap);
}

void Writer::end(const std::byte* message) {
  const auto body = body_of<wire::End>(message);
  if (held_) {
    const std::int64_t L = card_.layers;
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      begin_part(p);
      for (const std::byte* one : layers_) {
        const auto l = body_of<wire::Layer>(one);
        const float* hidden = l.hidden_norm_at < 0 ? nullptr : at<float>(one, l.hidden_norm_at) + first_row_[p];
        const float* attn_in = l.attn_in_norm_at < 0 ? nullptr : at<float>(one, l.attn_in_norm_at) + first_row_[p];
        std::int64_t hidden_stride = 1, attn_in_stride = 1;
        if (hidden == nullptr && body.hidden_norm_at >= 0)
          hidden = at<float>(message, body.hidden_norm_at) + first_row_[p] * (L + 1) + l.layer, hidden_stride = L + 1;
        if (attn_in == nullptr && body.attn_in_norm_at >= 0)
          attn_in = at<float>(message, body.attn_in_norm_at) + first_row_[p] * L + l.layer, attn_in_stride = L;
        layer_of_part(p, one, hidden, hidden_stride, attn_in, attn_in_stride);
      }
      end_of_part(p, message);
    }
  } else {
    end_of_part(0, message);
  }
  in_pass_ = held_ = false;
}

void Writer::end_of_part(std::size_t p, const std::byte* message) {
  const auto body = body_of<wire::End>(message);
  const std::int64_t n = parts_[p].n, L = card_.layers;
  TapEnd tap;
  if (body.hidden_norm_at >= 0)
    tap.final_residual = {at<float>(message, body.hidden_norm_at) + first_row_[p] * (L + 1) + L, {n, 1}, {L + 1, 1}};
  // Rows of logits that belong to this part; they come part by part.
  std::vector<std::int64_t> rows;
  std::int64_t first = -1;
  for (std::int64_t r = 0; r < body.logit_rows; ++r) {
    const std::int64_t row = at<std::int64_t>(message, body.logit_row_at)[r] - first_row_[p];
    if (row < 0 || row >= n) continue;
    if (first < 0) first = r;
    rows.push_back(row);
  }
  Array<float, 2> logits({static_cast<std::int64_t>(rows.size()), body.vocab});
  if (!rows.empty()) {
    const auto dtype = static_cast<DType>(body.logits_dtype);
    to_f32(dtype, message + body.logits_at + first * body.vocab * size_bytes(dtype), logits.size(), logits.data());
    tap.logits = logits;
    tap.logit_rows = rows;
  }
  recorder_->end(tap);
}

void Writer::stop_early() {
  if (recorder_ && !ended_) recorder_->interrupt();
  ended_ = true;
}

}  // namespace kvgrind::traces
