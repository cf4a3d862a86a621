// Attention kernels on a device at the 8B shape (32 query heads on 8 cache heads, head dim 128, bf16): median of
// several runs, by events, against the floor: bf16 products at the rate a large dense product reaches here, bytes at
// the rate a large copy reaches here (read + written). Prints a table; no thresholds.
//   usage: bench_attention_cuda [tokens…]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <vector>

#include "core/error.h"
#include "kernels/attention/attention_cuda.h"
#include "kernels/convert/convert_cuda.h"
#include "kernels/device/device.h"
#include "kernels/linear/linear_cuda.h"

namespace {

using namespace kvgrind;
using namespace kvgrind::kernels;

struct Timing {
  double median, low, high;
};

Timing time_ms(DeviceStream stream, int repeats, const std::function<void()>& work) {
  const EventHandle from = make_event(true), to = make_event(true);
  work();
  work();
  std::vector<double> ms;
  for (int i = 0; i < repeats; ++i) {
    record_event(from, stream);
    work();
    record_event(to, stream);
    synchronize(to);
    ms.push_back(elapsed_ms(from, to));
  }
  std::sort(ms.begin(), ms.end());
  return {ms[ms.size() / 2], ms.front(), ms.back()};
}

void print(const char* what, std::int64_t tokens, const Timing& t, double floor_ms, double rate, const char* unit) {
  fmt::print("{:<26} T={:<7} {:9.3f} ms  [{:.3f}, {:.3f}]  floor {:8.3f}  ×{:.2f}   {:.1f} {}\n", what, tokens,
             t.median, t.low, t.high, floor_ms, t.median / floor_ms, rate, unit);
}

void run(std::vector<std::int64_t> lengths) {
  const StreamHandle stream = make_stream();
  const DeviceInfo info = device_info(0);
  fmt::print("{}: {} multiprocessors, {:.1f} GiB\n", info.name, info.multiprocessors,
             static_cast<double>(info.memory_bytes) / (1 << 30));

  const std::int64_t copy_bytes = 2ll << 30;
  double copy_rate = 0.0, product_rate = 0.0;
  {
    const DeviceBuffer a(copy_bytes, "bench"), b(copy_bytes, "bench");
    const Timing t = time_ms(stream.get(), 9, [&] { copy_on_device(b.as(), a.as(), copy_bytes, stream.get()); });
    copy_rate = 2.0 * static_cast<double>(copy_bytes) / (t.median * 1e-3);
    const std::int64_t side = 8192;
    const DenseProducts products(stream.get());
    fill_normal_cuda(DType::bf16, a.as(), 2 * side * side, 1.0f, 1, stream.get());
    const Timing p = time_ms(stream.get(), 9, [&] {
      products.multiply(DType::bf16, a.as(), a.as<std::uint16_t>() + side * side, side, side, side, DType::bf16,
                        b.as());
    });
    product_rate = 2.0 * static_cast<double>(side) * side * side / (p.median * 1e-3);
  }
  fmt::print("ceilings: copy {:.2f} TB/s read + written, bf16 product {:.0f} TFLOP/s\n", copy_rate * 1e-12,
             product_rate * 1e-12);

  AttentionShape shape;
  shape.dtype = DType::bf16, shape.query_heads = 32, shape.cache_heads = 8, shape.head_dim = 128;
  shape.scale = 0.088388f;
  for (const std::int64_t n : lengths) {
    const std::int64_t q_count = n * shape.query_heads * shape.head_dim,
                       k_count = n * shape.cache_heads * shape.head_dim;
    const DeviceBuffer q(q_count * 2, "q"), out(q_count * 2, "out"), k(k_count * 2, "k"), v(k_count * 2, "v"),
        lse(n * shape.query_heads * 4, "lse"), sum(n * shape.query_heads * 4, "column sums");
    fill_normal_cuda(DType::bf16, q.as(), q_count, 1.0f, 1, stream.get());
    fill_normal_cuda(DType::bf16, k.as(), k_count, 1.0f, 2, stream.get());
    fill_normal_cuda(DType::bf16, v.as(), k_count, 1.0f, 3, stream.get());
    fill_bytes(sum.as(), 0, sum.size_bytes(), stream.get());
    const PlainCache cache{k.as(), v.as(), n * shape.head_dim};
    const double pairs =
        0.5 * static_cast<double>(n) * static_cast<double>(n + 1) * static_cast<double>(shape.query_heads);
    const int repeats = n > 16384 ? 9 : 21;

    AttentionPrefill prefill;
    prefill.shape = shape, prefill.q = q.as(), prefill.n = n, prefill.cache = cache, prefill.out = out.as();
    prefill.lse = lse.as<float>();
    const double prefill_flops = 4.0 * static_cast<double>(shape.head_dim) * pairs;
    const Timing p = time_ms(stream.get(), repeats, [&] { attention_prefill_cuda(prefill, stream.get()); });
    print("prefill with LSE", n, p, prefill_flops / product_rate * 1e3, prefill_flops / (p.median * 1e9), "TFLOP/s");

    ColumnSums sums;
    sums.shape = shape, sums.q = q.as(), sums.n = n, sums.cache = cache, sums.lse = lse.as<float>();
    sums.sum = sum.as<float>(), sums.sum_stride = n;
    const Timing c = time_ms(stream.get(), repeats, [&] { column_sums_cuda(sums, stream.get()); });
    print("column sums", n, c, prefill_flops / 2 / product_rate * 1e3, prefill_flops / 2 / (c.median * 1e9), "TFLOP/s");

    // Several caches in turn, together larger than the L2 cache.
    for (const std::int64_t sequences : {std::int64_t{1}, std::int64_t{8}}) {
      const std::int64_t layers = std::max<std::int64_t>(2, (std::int64_t{256} << 20) / (4 * k_count * sequences));
      const std::int64_t each = k_count * sequences;
      const DeviceBuffer kk(layers * each * 2, "k"), vv(layers * each * 2, "v");
      fill_normal_cuda(DType::bf16, kk.as(), layers * each, 1.0f, 5, stream.get());
      fill_normal_cuda(DType::bf16, vv.as(), layers * each, 1.0f, 6, stream.get());
      std::vector<DeviceGroup> groups;
      for (std::int64_t g = 0; g < layers * sequences * shape.cache_heads; ++g)
        groups.push_back({kk.as<std::uint16_t>() + g * n * shape.head_dim,
                          vv.as<std::uint16_t>() + g * n * shape.head_dim, nullptr, nullptr, n});
      const DeviceBuffer groups_device(static_cast<std::int64_t>(groups.size() * sizeof(DeviceGroup)), "groups");
      copy_to_device(groups_device.as(), groups.data(), groups_device.size_bytes(), stream.get());
      const std::vector<std::int64_t> at(static_cast<std::size_t>(sequences), n - 1);
      const DeviceBuffer position(sequences * 8, "positions");
      copy_to_device(position.as(), at.data(), sequences * 8, stream.get());
      synchronize(stream.get());
      AttentionDecode decode;
      decode.shape = shape, decode.sequences = sequences, decode.q = q.as();
      decode.position = position.as<std::int64_t>();
      decode.splits = attention_decode_splits(shape, sequences, n, info.multiprocessors);
      const DeviceBuffer workspace(attention_decode_workspace_bytes(shape, sequences, decode.splits), "workspace");
      decode.workspace = workspace.as(), decode.out = out.as(), decode.lse = lse.as<float>();
      auto all_layers = [&] {
        for (std::int64_t l = 0; l < layers; ++l) {
          decode.groups = groups_device.as<DeviceGroup>() + l * sequences * shape.cache_heads;
          attention_decode_cuda(decode, stream.get());
        }
      };
      Timing d = time_ms(stream.get(), 21, all_layers);
      begin_capture(stream.get());
      all_layers();
      const GraphHandle graph = end_capture(stream.get());
      Timing g = time_ms(stream.get(), 21, [&] { launch_graph(graph, stream.get()); });
      const double bytes = 4.0 * static_cast<double>(each), per_layer = static_cast<double>(layers);
      for (Timing* t : {&d, &g}) t->median /= per_layer, t->low /= per_layer, t->high /= per_layer;
      print(sequences == 1 ? "decode, batch 1" : "decode, batch 8", n, d, bytes / copy_rate * 1e3,
            bytes / (d.median * 1e6), "GB/s");
      print(sequences == 1 ? "  in a graph" : "  in a graph", n, g, bytes / copy_rate * 1e3, bytes / (g.median * 1e6),
            "GB/s");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::int64_t> lengths;
  for (int i = 1; i < argc; ++i) lengths.push_back(std::atoll(argv[i]));
  if (lengths.empty()) lengths = {4096, 32768};
  try {
    if (device_count() == 0) {
      fmt::print("no CUDA device: nothing to measure\n");
      return 7;
    }
    use_device(0);
    run(lengths);
  } catch (const kvgrind::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return kvgrind::exit_code(error.category());
  }
}
