#include "replay/look/facts.h"

#include <algorithm>
#include <cmath>

namespace kvgrind::replay {
namespace {

constexpr std::int64_t sampled_queries = 48, sinks = 4, neighbours = 64, quantised_group = 32;

// Squared error of 4-bit min/max quantisation of n values `stride` apart.
void add_error(const float* x, std::int64_t n, std::int64_t stride, double* error, std::int64_t error_stride) {
  float low = x[0], high = x[0];
  for (std::int64_t i = 0; i < n; ++i) {
    low = std::min(low, x[i * stride]);
    high = std::max(high, x[i * stride]);
  }
  const float step = (high - low) / 15.0f;
  for (std::int64_t i = 0; i < n; ++i) {
    const float back = step > 0 ? low + step * std::round((x[i * stride] - low) / step) : low;
    const double off = static_cast<double>(back - x[i * stride]);
    error[i * error_stride] += off * off;
  }
}

}  // namespace

AttentionRow attention_row(const ModelCard& card, const HeadData& head, std::int64_t layer, std::int64_t query) {
  AttentionRow out;
  out.weight.assign(head.lse.size(), 0.0f);
  if (head.position.empty()) return out;
  auto it = std::upper_bound(head.position.begin(), head.position.end(), query);
  if (it != head.position.begin()) --it;
  out.query = *it;
  const float* q = head.q.data() + (it - head.position.begin()) * card.head_dim;
  const std::int64_t window = card.layer[static_cast<std::size_t>(layer)].window;
  const std::int64_t begin = window > 0 ? std::max<std::int64_t>(0, out.query - window + 1) : 0;
  for (std::int64_t j = begin; j <= out.query; ++j) {
    const float* k = head.k.data() + j * card.head_dim;
    float dot = 0;
    for (std::int64_t d = 0; d < card.head_dim; ++d) dot += q[d] * k[d];
    float logit = card.scale * dot;
    if (card.softcap > 0) logit = card.softcap * std::tanh(logit / card.softcap);
    out.weight[static_cast<std::size_t>(j)] = std::exp(logit - head.lse[static_cast<std::size_t>(out.query)]);
  }
  return out;
}

HeadFacts head_facts(const ModelCard& card, const HeadData& head, std::int64_t layer, std::int64_t query_head,
                     const CancelToken& cancel) {
  HeadFacts out{.layer = layer, .query_head = query_head, .kind = "not recorded"};
  const auto half =
      std::lower_bound(head.position.begin(), head.position.end(), static_cast<std::int64_t>(head.lse.size()) / 2);
  const std::int64_t n = head.position.end() - half;
  if (n == 0) return out;
  const std::int64_t take = std::min(n, sampled_queries);
  for (std::int64_t s = 0; s < take; ++s) {
    cancel.throw_if_cancelled();
    const std::int64_t query = *(half + s * n / take);
    const AttentionRow row = attention_row(card, head, layer, query);
    for (std::int64_t j = 0; j <= query; ++j) {
      const double p = static_cast<double>(row.weight[static_cast<std::size_t>(j)]);
      if (p > 0) out.entropy_bits -= p * std::log2(p);
      if (j < sinks)
        out.sink_mass += p;
      else if (query - j < neighbours)
        out.local_mass += p;
      else
        out.largest = std::max(out.largest, p);
    }
  }
  out.queries = take;
  out.sink_mass /= static_cast<double>(take);
  out.local_mass /= static_cast<double>(take);
  out.entropy_bits /= static_cast<double>(take);
  out.kind = out.sink_mass > 0.6 ? "sink" : out.local_mass > 0.6 ? "local" : out.largest > 0.3 ? "look-up" : "mixed";
  return out;
}

ChannelFacts channel_facts(const std::vector<Array<float, 2>>& heads, const CancelToken& cancel) {
  const auto n_heads = static_cast<std::int64_t>(heads.size());
  const std::int64_t dim = heads.empty() ? 0 : heads[0].extent(1);
  ChannelFacts out{.mean_abs = Array<float, 2>({n_heads, dim}),
                   .largest = Array<float, 2>({n_heads, dim}),
                   .token_error = Array<float, 2>({n_heads, dim}),
                   .channel_error = Array<float, 2>({n_heads, dim})};
  std::int64_t outliers = 0;
  for (std::int64_t h = 0; h < n_heads; ++h) {
    cancel.throw_if_cancelled();
    const Array<float, 2>& x = heads[static_cast<std::size_t>(h)];
    const std::int64_t tokens = x.extent(0);
    const auto width = static_cast<std::size_t>(dim);
    std::vector<double> sum(width), squares(width), by_token(width), by_channel(width);
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t d = 0; d < dim; ++d) {
        const float value = std::abs(x(t, d));
        sum[static_cast<std::size_t>(d)] += static_cast<double>(value);
        squares[static_cast<std::size_t>(d)] += static_cast<double>(value) * static_cast<double>(value);
        out.largest(h, d) = std::isnan(value) ? value : std::max(out.largest(h, d), value);
      }
    for (std::int64_t t = 0; t < tokens; ++t)  // groups along the channels of one token
      for (std::int64_t d = 0; d < dim; d += quantised_group)
        add_error(x.data() + t * dim + d, std::min(quantised_group, dim - d), 1, by_token.data() + d, 1);
    for (std::int64_t d = 0; d < dim; ++d)  // groups along the tokens of one channel
      for (std::int64_t t = 0; t < tokens; t += quantised_group) {
        std::vector<double> error(static_cast<std::size_t>(quantised_group));
        const std::int64_t n = std::min(quantised_group, tokens - t);
        add_error(x.data() + t * dim + d, n, dim, error.data(), 1);
        for (std::int64_t i = 0; i < n; ++i)
          by_channel[static_cast<std::size_t>(d)] += error[static_cast<std::size_t>(i)];
      }
    std::vector<double> means(width);
    for (std::int64_t d = 0; d < dim; ++d) {
      const auto at = static_cast<std::size_t>(d);
      means[at] = tokens > 0 ? sum[at] / static_cast<double>(tokens) : 0;
      out.mean_abs(h, d) = static_cast<float>(means[at]);
      out.token_error(h, d) = squares[at] > 0 ? static_cast<float>(std::sqrt(by_token[at] / squares[at])) : 0.0f;
      out.channel_error(h, d) = squares[at] > 0 ? static_cast<float>(std::sqrt(by_channel[at] / squares[at])) : 0.0f;
    }
    std::vector<double> sorted = means;
    std::sort(sorted.begin(), sorted.end());
    const double median = sorted.empty() ? 0 : sorted[sorted.size() / 2];
    for (const double mean : means) outliers += mean > 4 * median;
  }
  if (n_heads * dim > 0) out.outlier_share = static_cast<double>(outliers) / static_cast<double>(n_heads * dim);
  return out;
}

}  // namespace kvgrind::replay
