// One decode step as a CUDA graph: the token, its position and its ring row come from page-locked memory, so that the
// same graph serves every step.
#include <algorithm>

#include "kernels/activation/activation_cuda.h"
#include "kernels/embedding/embedding_cuda.h"
#include "kernels/norm/norm_cuda.h"
#include "kernels/rope/rope_cuda.h"
#include "sim/model/cuda_pass.h"

namespace kvgrind::sim {
namespace {

using kernels::DeviceBuffer;
using kernels::PinnedBuffer;

std::int64_t step_splits(const CudaModel& model, const CudaCache& cache) {
  return kernels::attention_decode_splits(model.attention_shape(0), 1, cache.capacity(),
                                          model.context->info.multiprocessors);
}

void make_buffers(const CudaModel& model) {
  CudaContext& c = *model.context;
  if (c.step_input) return;
  const ModelCard& card = model.config.card;
  const std::int64_t element = model.element(), q_width = card.query_heads * card.head_dim;
  const auto make = [](std::int64_t bytes) { return DeviceBuffer(bytes, "a decode step"); };
  c.step_host = PinnedBuffer(sizeof(StepInput), "a decode step");
  c.step_host_logits = PinnedBuffer(card.vocab * 4, "a decode step");
  c.step_x = make(card.hidden * 4);
  c.step_normed = make(card.hidden * element);
  c.step_qkv = make((q_width + 2 * card.kv_heads * card.head_dim) * element);
  c.step_q = make(q_width * element);
  c.step_attended = make(q_width * element);
  c.step_lse = make(card.query_heads * 4);
  c.step_gate_up = make(2 * card.intermediate * element);
  c.step_activated = make(card.intermediate * element);
  c.step_logits = make(card.vocab * 4);
  c.step_workspace = make(kernels::attention_decode_workspace_bytes(model.attention_shape(0), 1, 64));
  for (std::size_t s = 0; s < c.inv_freq.size(); ++s) c.step_tables.push_back(make(card.head_dim * 4));
  c.step_input = make(sizeof(StepInput));
}

// Queues everything a step does.
class Step {
 public:
  Step(const CudaModel& model, const CudaCache& cache, const StepRing& ring, bool logits)
      : model_(model),
        c_(*model.context),
        card_(model.config.card),
        cache_(cache),
        ring_(ring),
        logits_(logits),
        stream_(c_.stream.get()),
        dtype_(model.dtype()) {
    const auto* input = c_.step_input.as<StepInput>();
    position_ = &input->position;
    trace_row_ = &input->trace_row;
    id_ = &input->id;
  }

  void queue() {
    kernels::copy_to_device(c_.step_input.as(), c_.step_host.as(), sizeof(StepInput), stream_);
    kernels::gather_rows_cuda(dtype_, model_.embedding.as(), id_, 1, card_.hidden, x(), stream_);
    for (std::size_t s = 0; s < c_.inv_freq.size(); ++s)
      kernels::rope_table_cuda({.inv_freq = c_.inv_freq[s].as<float>(),
                                .half = c_.rope_half[s],
                                .n = 1,
                                .first = 0,
                                .first_device = position_,
                                .factor = c_.rope_factor[s],
                                .table = c_.step_tables[s].as<float>()},
                               stream_);
    for (std::int64_t l = 0; l < card_.layers; ++l) layer(l);
    if (!logits_ && !ring_.hidden_norm) return;
    norm(model_.final_norm, card_.layers, false);
    if (!logits_) return;
    c_.products.multiply(dtype_, c_.step_normed.as(), model_.head(), 1, card_.vocab, card_.hidden, DType::f32,
                         c_.step_logits.as());
    kernels::copy_to_host(c_.step_host_logits.as(), c_.step_logits.as(), card_.vocab * 4, stream_);
  }

 private:
  float* x() const { return c_.step_x.as<float>(); }

  // `traced`: this layer's attention norm, whose norms go to the ring.
  void norm(const DeviceBuffer& weight, std::int64_t l, bool attention) {
    kernels::RmsNorm a;
    a.x = x(), a.w = weight.as<float>(), a.eps = model_.config.rms_eps, a.n = 1, a.width = card_.hidden;
    a.dtype = dtype_, a.out = c_.step_normed.as();
    if (l >= 0 && ring_.hidden_norm) a.x_norm = ring_.hidden_norm + l;
    if (attention && ring_.attn_in_norm) a.out_norm = ring_.attn_in_norm + l;
    a.norm_row = trace_row_, a.x_norm_stride = card_.layers + 1, a.out_norm_stride = card_.layers;
    kernels::rms_norm_cuda(a, stream_);
  }

  void layer(std::int64_t l) {
    const CudaLayer& weights = model_.layers[static_cast<std::size_t>(l)];
    const auto set = static_cast<std::size_t>(card_.layer[static_cast<std::size_t>(l)].rope_set);
    const std::int64_t dim = card_.head_dim, q_width = card_.query_heads * dim, hidden = card_.hidden;
    norm(weights.attention_norm, l, true);
    c_.products.multiply(dtype_, c_.step_normed.as(), weights.qkv.as(), 1, q_width + 2 * card_.kv_heads * dim, hidden,
                         dtype_, c_.step_qkv.as());
    const kernels::PlainCache cache = cache_.view(l);
    kernels::RopeWrite w;
    w.dtype = dtype_, w.qkv = c_.step_qkv.as(), w.bias = weights.qkv_bias.as<float>();
    w.q_norm = weights.q_norm.as<float>(), w.k_norm = weights.k_norm.as<float>(), w.eps = model_.config.rms_eps;
    w.n = 1, w.query_heads = card_.query_heads, w.kv_heads = card_.kv_heads, w.head_dim = dim;
    w.table = c_.step_tables[set].as<float>(), w.half = c_.rope_half[set];
    w.q = c_.step_q.as(), w.k = const_cast<void*>(cache.k), w.v = const_cast<void*>(cache.v);
    w.row_stride = dim, w.head_stride = cache.head_stride, w.first_device = position_;
    if (ring_.q) {
      w.q_trace = static_cast<std::byte*>(ring_.q) + l * q_width * model_.element();
      w.trace_row = trace_row_, w.trace_stride = card_.layers * q_width;
    }
    kernels::rope_write_cuda(w, stream_);

    kernels::AttentionDecode a;
    a.shape = model_.attention_shape(l);
    a.q = c_.step_q.as(), a.position = position_, a.cache = cache;
    a.splits = step_splits(model_, cache_), a.workspace = c_.step_workspace.as();
    a.out = c_.step_attended.as(), a.lse = c_.step_lse.as<float>();
    if (ring_.lse) {
      a.lse_trace = ring_.lse + l * card_.query_heads;
      a.trace_row = trace_row_, a.trace_stride = card_.layers * card_.query_heads;
    }
    kernels::attention_decode_cuda(a, stream_);
    c_.products.multiply(dtype_, c_.step_attended.as(), weights.output.as(), 1, hidden, q_width, DType::f32, x(), true);
    if (weights.output_bias) kernels::add_bias_cuda(x(), weights.output_bias.as<float>(), 1, hidden, stream_);

    norm(weights.mlp_norm, -1, false);
    c_.products.multiply(dtype_, c_.step_normed.as(), weights.gate_up.as(), 1, 2 * card_.intermediate, hidden, dtype_,
                         c_.step_gate_up.as());
    kernels::silu_mul_cuda(dtype_, c_.step_gate_up.as(), weights.gate_up_bias.as<float>(), 1, card_.intermediate,
                           c_.step_activated.as(), stream_);
    c_.products.multiply(dtype_, c_.step_activated.as(), weights.down.as(), 1, hidden, card_.intermediate, DType::f32,
                         x(), true);
    if (weights.down_bias) kernels::add_bias_cuda(x(), weights.down_bias.as<float>(), 1, hidden, stream_);
  }

  const CudaModel& model_;
  CudaContext& c_;
  const ModelCard& card_;
  const CudaCache& cache_;
  StepRing ring_;
  bool logits_;
  kernels::DeviceStream stream_;
  DType dtype_;
  const std::int64_t *position_, *trace_row_;
  const std::int32_t* id_;
};

// Null when there is none yet.
const kernels::GraphHandle* find_graph(const CudaModel& model, CudaCache& cache, const StepRing& ring, bool logits) {
  std::erase_if(cache.graphs, [&](const auto& g) { return g.generation != model.context->rope_generation; });
  for (const CudaCache::StepGraph& g : cache.graphs)
    if (g.ring == ring && g.logits == logits) return &g.graph;
  return nullptr;
}

void capture_graph(const CudaModel& model, CudaCache& cache, const StepRing& ring, bool logits) {
  const kernels::DeviceStream stream = model.context->stream.get();
  CudaCache::StepGraph made;
  made.ring = ring, made.logits = logits, made.generation = model.context->rope_generation;
  kernels::begin_capture(stream);
  try {
    Step(model, cache, ring, logits).queue();
  } catch (...) {
    kernels::abandon_capture(stream);
    throw;
  }
  made.graph = kernels::end_capture(stream);
  cache.graphs.push_back(std::move(made));
}

}  // namespace

bool step_fits(std::span<const Feed> feeds) {
  return feeds.size() == 1 && feeds[0].ids.size() == 1 && feeds[0].decode && !feeds[0].tap &&
         dynamic_cast<CudaCache*>(feeds[0].cache);
}

std::vector<Array<float, 2>> run_step(const CudaModel& model, const Feed& feed, DeviceTap* tap) {
  CudaContext& c = *model.context;
  auto& cache = dynamic_cast<CudaCache&>(*feed.cache);
  const kernels::DeviceStream stream = c.stream.get();
  cache.reserve(feed.first + 1);
  make_buffers(model);
  const bool logits = !feed.logits_of.empty();
  const TapPass pass{.sequence = feed.sequence, .first = feed.first, .ids = feed.ids, .decode = feed.decode};
  const std::int64_t row = tap ? tap->step(pass, stream) : 0;
  const StepRing ring = tap ? tap->ring() : StepRing{};
  // The step before must have read its input: without logits nobody has waited for it yet.
  kernels::synchronize(stream);
  *c.step_host.as<StepInput>() = {.position = feed.first, .trace_row = row, .id = feed.ids[0]};
  if (const kernels::GraphHandle* graph = find_graph(model, cache, ring, logits)) {
    kernels::launch_graph(*graph, stream);
  } else {  // the first step runs by itself, so that nothing is loaded for the first time while capturing
    Step(model, cache, ring, logits).queue();
    kernels::synchronize(stream);
    capture_graph(model, cache, ring, logits);
  }
  cache.set_size(feed.first + 1);
  if (tap) tap->step_queued(cache, stream);
  std::vector<Array<float, 2>> out;
  out.emplace_back(Array<float, 2>::Extents{logits ? 1 : 0, model.config.card.vocab});
  if (logits) {
    kernels::synchronize(stream);
    std::copy_n(c.step_host_logits.as<float>(), model.config.card.vocab, out[0].data());
  }
  return out;
}

}  // namespace kvgrind::sim
