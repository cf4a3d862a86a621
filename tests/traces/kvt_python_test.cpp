// The Python companion against the C++ reader and writer, both ways. Skipped, visibly, where h5py is not at hand.
#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <numbers>

#include "core/error.h"
#include "core/hash.h"
#include "tests/traces/kvt_compare.h"
#include "traces/results/plans_file.h"

namespace kvgrind::tests {
namespace {

using traces::Recorder;
using traces::Trace;

class KvtPython : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("/usr/bin/python3 -c 'import h5py, numpy' 2>/dev/null") != 0)
      GTEST_SKIP() << "/usr/bin/python3 has no h5py (package python3-h5py)";
  }
  // Runs one part of companion_test.py; returns what it printed.
  std::string companion(const std::string& arguments) {
    const std::string command = std::string("/usr/bin/python3 -B ") + KVGRIND_SOURCE_DIR +
                                "/tests/traces/python/companion_test.py " + arguments + " 2>&1";
    std::string out;
    std::FILE* pipe = popen(command.c_str(), "r");
    char text[512];
    while (std::fgets(text, sizeof text, pipe)) out += text;
    EXPECT_EQ(pclose(pipe), 0) << out;
    return out;
  }
  template <class T>
  void dump(const std::string& name, const T* data, std::int64_t n) {
    std::ofstream(folder / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(data),
               static_cast<std::streamsize>(n * static_cast<std::int64_t>(sizeof(T))));
  }
  void dump(const std::string& name, const Array<float, 2>& x) { dump(name, x.data(), x.size()); }

  const TemporaryFolder folder;
};

TEST_F(KvtPython, ChecksumsAreXxh3) {
  std::ofstream out(folder / "hashes");
  std::vector<std::int64_t> lengths;
  for (std::int64_t n = 0; n <= 300; ++n) lengths.push_back(n);
  for (const std::int64_t n :
       {511, 512, 513, 1023, 1024, 1025, 1088, 1089, 2047, 2048, 2049, 4096, 100000, 1048576, 2200001})
    lengths.push_back(n);
  for (const std::int64_t n : lengths) {
    std::vector<unsigned char> bytes(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i)
      bytes[static_cast<std::size_t>(i)] = static_cast<unsigned char>((7 * i + 3) % 256);
    out << n << " " << hex(hash_bytes(bytes.data(), n)) << "\n";
  }
  out.close();
  companion("hashes " + (folder / "hashes").string());
}

TEST_F(KvtPython, ReadsWhatTheRecorderWrites) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    TokenSequence context = context_of(90, 4);
    context.segments = {{Role::system, 0, 11}, {Role::context, 11, 90}};
    context.spans = {{"needle", 5, 9, "key"}};
    TokenSequence fork = context_of(17, 3);
    fork.parent = 0;
    fork.fork_at = 70;
    fork.segments = {{Role::question, 70, 80}, {Role::answer, 80, 87}};
    const Driver driver({.hidden = 4, .dtype = dtype}, {context, fork});
    const std::filesystem::path path = folder / ("a." + std::string(dtype_name(dtype)) + ".kvt");
    Recorder recorder(path, driver.plan(), {.queries = traces::QueryContent::sample, .query_window = 5});
    driver.feed(recorder, 0, 64);
    driver.feed(recorder, 1, 64);
    recorder.close();
    const auto trace = Trace::open(path);
    for (const traces::SequenceInfo& info : trace->sequences()) {
      const std::string s = std::to_string(info.id);
      const std::vector<std::int32_t> tokens = trace->tokens(info.id);
      const std::vector<float> nll = trace->nll(info.id);
      dump("tokens." + s, tokens.data(), info.tokens);
      dump("nll." + s, nll.data(), info.tokens);
      std::string text, about;
      for (const std::string& t : trace->token_bytes(info.id)) text += t;
      dump("text." + s, text.data(), static_cast<std::int64_t>(text.size()));
      for (const Segment& g : info.segments)
        about += std::string(about.empty() ? "" : " ") + std::string(role_name(g.role)) + ":" +
                 std::to_string(g.begin) + ":" + std::to_string(g.end);
      about += " | ";
      for (std::size_t i = 0; i < info.spans.size(); ++i) {
        const Span& g = info.spans[i];
        about += (i ? " " : "") + g.kind + ":" + std::to_string(g.begin) + ":" + std::to_string(g.end) + ":" + g.label;
      }
      about += " | " + std::to_string(trace->next_token(info.id));
      dump("about." + s, about.data(), static_cast<std::int64_t>(about.size()));
      const Array<std::int32_t, 2> ids = trace->top_ids(info.id);
      dump("top_ids." + s, ids.data(), ids.size());
      dump("top_log_p." + s, trace->top_log_probabilities(info.id));
      for (std::int64_t l = 0; l < 2; ++l) {
        const std::string at = s + "." + std::to_string(l);
        dump("lse." + at, trace->lse(info.id, l));
        const std::vector<float> hidden = trace->hidden_norm(info.id, l);
        dump("hidden." + at, hidden.data(), info.tokens);
        if (info.parent < 0) dump("colsum." + at, trace->column_sums(info.id, l, -1).value());
        std::int64_t last = static_cast<std::int64_t>(info.segments.size()) - 1;
        while (info.segments[static_cast<std::size_t>(last)].role == Role::generated) --last;
        dump("colsum_segment." + at, trace->column_sums(info.id, l, last).value());
        for (std::int64_t h = 0; h < 2; ++h) {
          dump("k." + at + "." + std::to_string(h), trace->keys(info.id, l, h));
          dump("k_pre." + at + "." + std::to_string(h), trace->keys(info.id, l, h, traces::KeyRope::pre));
          dump("v." + at + "." + std::to_string(h), trace->values(info.id, l, h));
        }
        for (std::int64_t h = 0; h < 4; ++h) {
          const traces::RecordedQueries q = trace->queries(info.id, l, h);
          ASSERT_GT(q.position.size(), 0u);
          dump("q_position." + at + "." + std::to_string(h), q.position.data(),
               static_cast<std::int64_t>(q.position.size()));
          dump("q." + at + "." + std::to_string(h), q.q);
          dump("second." + at + "." + std::to_string(h), trace->query_statistics(info.id, l, h).back().second_moment);
          const Trace::PooledMap map = trace->pooled_map(info.id, l, h).value();
          dump("map_max." + at + "." + std::to_string(h), map.max);
          dump("map_mean." + at + "." + std::to_string(h), map.mean);
        }
      }
    }
    for (std::int64_t l = 0; l < 2; ++l) {
      ASSERT_TRUE(trace->output_projection(l).has_value());
      dump("w_o." + std::to_string(l), *trace->output_projection(l));
    }
    companion("read " + path.string() + " " + folder.path().string());
    companion("plain " + path.string());
  }
}

TEST_F(KvtPython, ReadsPassesOverAContextOnceMore) {
  TokenSequence fork = context_of(17, 3);
  fork.parent = 0;
  fork.fork_at = 70;
  const Driver driver({.hidden = 4}, {context_of(90, 4), fork});
  const std::vector<ProbePass> passes = {
      {.kind = ProbeKind::repeat, .number = 0, .begin = 4, .end = 30, .sinks = 4, .first = 60, .lead = 3, .fed = 29},
      {.kind = ProbeKind::repeat, .number = 1, .begin = 30, .end = 60, .sinks = 4, .first = 60, .lead = 3, .fed = 33},
      {.kind = ProbeKind::reread, .number = 0, .begin = 0, .end = 60, .first = 60, .fed = 60},
      {.kind = ProbeKind::episode, .number = 0, .begin = 0, .end = 60, .first = 60, .lead = 2, .fed = 9}};
  auto plan = driver.plan();
  for (const ProbePass& pass : passes) {
    ++plan.probes;
    plan.probe_rows += std::popcount(measured_statistics(pass.kind)) * (pass.end - pass.begin);
  }
  const std::filesystem::path path = folder / "a.kvt";
  Recorder recorder(path, std::move(plan), {});
  driver.feed(recorder, 0, 64);
  for (const ProbePass& pass : passes)
    recorder.probe(0, pass, [&](std::int64_t layer) {
      const std::int64_t rows = std::popcount(measured_statistics(pass.kind)) * (pass.end - pass.begin);
      Array<float, 2> out({rows, 4});
      for (std::int64_t i = 0; i < out.size(); ++i)
        out.data()[i] = static_cast<float>(i * (layer + 2) + pass.begin * 7 + pass.number) / 1024.0f;
      return out;
    });
  driver.feed(recorder, 1, 64);
  recorder.close();
  const auto trace = Trace::open(path);
  for (std::int64_t s = 0; s < 2; ++s) {
    std::string about;
    for (const ProbePass& pass : trace->probe_passes(s))
      about += (about.empty() ? "" : " ") + std::string(probe_kind_name(pass.kind)) + ":" +
               std::to_string(pass.number) + ":" + std::to_string(pass.begin) + ":" + std::to_string(pass.end);
    EXPECT_EQ(about, "repeat:0:4:30 repeat:1:30:60 reread:0:0:60 episode:0:0:60");
    dump("passes." + std::to_string(s), about.data(), static_cast<std::int64_t>(about.size()));
    for (const ProbeKind kind : {ProbeKind::repeat, ProbeKind::reread, ProbeKind::episode})
      for (std::int64_t l = 0; l < 2; ++l) {
        std::map<std::string, std::vector<float>> all;  // file → [Hq, keys]
        for (std::int64_t h = 0; h < 4; ++h)
          for (const ProbeColumns& one : trace->probes(s, l, h, kind))
            for (std::size_t i = 0; i < probe_statistics; ++i)
              if (!one.columns[i].empty()) {
                auto& to = all[std::string(probe_kind_name(kind)) + "." + std::to_string(s) + "." + std::to_string(l) +
                               "." + std::to_string(one.number) + "." + std::string(probe_statistic_names[i])];
                to.insert(to.end(), one.columns[i].begin(), one.columns[i].end());
              }
        EXPECT_FALSE(all.empty());
        for (const auto& [name, values] : all) dump(name, values.data(), static_cast<std::int64_t>(values.size()));
      }
  }
  companion("probes " + path.string() + " " + folder.path().string());
}

TEST_F(KvtPython, ReadsTheCommittedPrefixOfAnUnfinishedRecording) {
  // Killed, so that the file's own flags still say "being written".
  const std::filesystem::path part = folder / "a.kvt.part";
  std::int64_t rows = 0;
  for (int tenths = 2; rows < 75 && tenths < 40; tenths += 2) {
    std::filesystem::remove(part);
    const std::string command = "timeout -s KILL " + std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) +
                                " " KVT_CHILD " " + (folder / "a.kvt").string() + " pause_us=10000 >/dev/null 2>&1";
    EXPECT_NE(std::system(command.c_str()), 0);
    if (std::filesystem::exists(part)) rows = Trace::open(part)->rows();
  }
  ASSERT_GE(rows, 75);
  EXPECT_EQ(companion("prefix " + part.string()), std::to_string(rows) + "\n");
}

TEST_F(KvtPython, WritesWhatTheReaderAccepts) {
  companion("write " + (folder / "mine").string());
  const auto number = [](double seed, std::int64_t i) {
    return static_cast<float>(std::sin(static_cast<double>(i) * 0.37 + seed));
  };
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const std::filesystem::path path = folder / ("mine." + std::string(dtype_name(dtype)));
    const traces::CheckReport report = traces::check_trace(path, true);
    EXPECT_TRUE(report.ok) << (report.findings.empty() ? "" : report.findings[0]);
    const auto trace = Trace::open(path);
    EXPECT_EQ(trace->state(), traces::TraceState::complete);
    ASSERT_EQ(trace->sequences().size(), 2u);
    EXPECT_EQ(trace->card().dtype, dtype);
    EXPECT_EQ(trace->next_token(1), 8);
    for (std::int64_t s = 0; s < 2; ++s) {
      const std::int64_t T = s == 0 ? 70 : 33;
      const traces::SequenceInfo& info = trace->sequences()[static_cast<std::size_t>(s)];
      EXPECT_EQ(info.tokens, T);
      EXPECT_EQ(info.segments, (std::vector<Segment>{{Role::context, 0, 20}, {Role::question, 20, T}}));
      EXPECT_EQ(info.spans, (std::vector<Span>{{"needle", 3, 9, "täg"}}));
      EXPECT_EQ(trace->tokens(s)[5], 5 + s);
      EXPECT_EQ(trace->token_bytes(s)[12], "t12 ");
      EXPECT_EQ(trace->nll(s)[3], number(static_cast<double>(s) + 40, 3));
      for (std::int64_t l = 0; l < 2; ++l) {
        for (std::int64_t t = 0; t < T; ++t)
          for (std::int64_t h = 0; h < 4; ++h)
            EXPECT_EQ(trace->lse(s, l)(t, h), number(static_cast<double>(s) + 30, (t * 2 + l) * 4 + h));
        for (std::int64_t h = 0; h < 2; ++h) {
          const Array<float, 2> k = trace->keys(s, l, h), v = trace->values(s, l, h);
          for (std::int64_t t = 0; t < T; ++t)
            for (std::int64_t d = 0; d < 6; ++d) {
              const std::int64_t i = ((t * 2 + l) * 2 + h) * 6 + d;
              EXPECT_EQ(k(t, d), stored(dtype, number(static_cast<double>(s), i)));
              EXPECT_EQ(v(t, d), stored(dtype, number(static_cast<double>(s) + 10, i)));
            }
        }
        const traces::RecordedQueries q = trace->queries(s, l, 3);
        EXPECT_EQ(q.position, (std::vector<std::int64_t>{0, 6, 12, 18, 24}));
        EXPECT_EQ(q.q(4, 5), stored(dtype, number(static_cast<double>(s) + 20, ((4 * 2 + l) * 4 + 3) * 6 + 5)));
      }
    }
  }
}

TEST_F(KvtPython, ResultsAndPlans) {
  std::ofstream(folder / "r.jsonl") << "{\"type\":\"run\",\"host\":\"h\"}\n{\"type\":\"result\",\"policy\":\"a\"}\n{"
                                       "\"type\":\"result\",\"policy\":\"b\"}\n{\"type\":\"resu";
  companion("results " + (folder / "r.jsonl").string() + " 2");
  {
    traces::PlansFile file(folder / "plans.h5", false);
    traces::JobPlan plan{.policy = "x", .preset = "x"};
    plan.k = {{{1, 1, 1}, {1, 1, 1}}, {{1, 0, 3}, {2, 1, 19}}};
    plan.v = {{{0, 0, 1}, {1, 1, 1}}, {{1, 0, 3}, {2, 1, 19}}};
    file.write(0, plan);
    file.close();
  }
  companion("kept " + (folder / "plans.h5").string());
}

}  // namespace
}  // namespace kvgrind::tests
