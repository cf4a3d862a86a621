#include "replay/look/build_index.h"

#include "replay/look/tile.h"
#include "replay/open_loop/recorded_run.h"

namespace kvgrind::replay {

IndexOutcome build_index(std::shared_ptr<const traces::Trace> trace, bool force, Progress* progress,
                         const CancelToken& cancel) {
  const auto run = recorded_run(trace);
  const ModelCard& card = run->card();
  traces::IndexLayout layout{
      .trace_hash = trace->hash(), .layers = card.layers, .query_heads = card.query_heads, .sequences = {}};
  for (const traces::SequenceInfo& info : run->sequences()) {
    const std::int64_t cell = traces::index_cell(info.tokens);
    layout.sequences.push_back(
        {.id = info.id, .tokens = info.tokens, .cell = cell, .side = (info.tokens + cell - 1) / cell});
  }
  const std::filesystem::path path = traces::index_path(trace->path());
  traces::IndexWriter writer(path, layout, force);
  IndexOutcome out{.path = path};
  const auto total = static_cast<std::int64_t>(layout.sequences.size()) * card.layers * card.query_heads;
  HeadCache heads(0);  // each head is used once
  for (const traces::IndexedSequence& sequence : layout.sequences)
    for (std::int64_t l = 0; l < card.layers; ++l)
      for (std::int64_t h = 0; h < card.query_heads; ++h) {
        cancel.throw_if_cancelled();
        traces::IndexMap map{.cell = sequence.cell};
        map.max = Array<float, 2>({sequence.side, sequence.side});
        map.mean = Array<float, 2>({sequence.side, sequence.side});
        if (sequence.tokens > 0) {
          const auto head = heads.get(*run, sequence.id, l, h);
          TileRequest request{.sequence = sequence.id,
                              .layer = l,
                              .query_head = h,
                              .query_end = sequence.tokens,
                              .key_end = sequence.tokens,
                              .cell = sequence.cell};
          map.max = compute_tile(card, *head, request, 1, cancel).value;
          request.pool = Pool::mean;
          map.mean = compute_tile(card, *head, request, 1, cancel).value;
        }
        writer.write(map);
        if (progress)
          progress->update("indexing", ++out.maps, total);
        else
          ++out.maps;
      }
  writer.close();
  out.bytes = static_cast<std::int64_t>(std::filesystem::file_size(path));
  return out;
}

}  // namespace kvgrind::replay
