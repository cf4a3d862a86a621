// results.jsonl: rows survive a round trip and a kill, and hostile files are refused by name.
#include "traces/results/results_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <random>
#include <sstream>

#include "core/error.h"
#include "tests/support/for_all.h"

namespace kvgrind::traces {
namespace {

class ResultsFile : public ::testing::Test {
 protected:
  ResultsFile() {
    char pattern[] = "/tmp/kvgrind-results-XXXXXX";
    folder_ = mkdtemp(pattern);
  }
  ~ResultsFile() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path at(const std::string& name) const { return folder_ / name; }
  static void put(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string get(const std::filesystem::path& path) {
    std::ostringstream out;
    out << std::ifstream(path, std::ios::binary).rdbuf();
    return out.str();
  }
  static ResultRow row(std::int64_t job) {
    ResultRow out;
    out.job = job;
    out.trace = "0123456789abcdef";
    out.sequence = job % 3;
    out.context = 0;
    out.policy = "score=key_norm budget=uniform";
    out.hash = "feedfeedfeedfeed";
    out.preset = "knorm \"quoted\" \n line";
    out.budget_asked = "0.2";
    out.budget_keep = 0.2;
    out.protocol = "blind";
    out.seed = 18446744073709551615u;
    out.kept_tokens_mean = 0.1 + static_cast<double>(job);
    out.kept_tokens_min = 3;
    out.kept_tokens_max = 9;
    out.stored_frac = 1.0 / 3.0;
    out.metrics["D.answer"] = {.value = 0.1 + 0.2, .lo = 0.1, .hi = 0.5, .n = 17, .kind = "estimated"};
    out.metrics["E.answer"] = {.value = std::nan(""), .n = 0};
    out.more["stored_bytes"] = 12345;
    return out;
  }
  std::filesystem::path folder_;
};

Category category_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.category();
  }
  return Category::jobs_failed;
}

TEST_F(ResultsFile, RowsComeBackToTheBit) {
  ResultsWriter writer(at("r.jsonl"), ResultsWriter::Mode::create);
  writer.write(json::object{{"type", "run"}, {"host", "here"}});
  for (std::int64_t job = 0; job < 5; ++job) writer.write(row(job));
  writer.close();
  const ResultsContent content = read_results(at("r.jsonl"));
  ASSERT_EQ(content.runs.size(), 1u);
  ASSERT_EQ(content.rows.size(), 5u);
  EXPECT_EQ(content.ragged_bytes, 0);
  for (std::int64_t job = 0; job < 5; ++job) {
    const ResultRow& back = content.rows[static_cast<std::size_t>(job)];
    EXPECT_EQ(json_text(to_json(back)), json_text(to_json(row(job))));
    EXPECT_EQ(back.seed, 18446744073709551615u);
    EXPECT_EQ(back.metrics.at("D.answer").value, 0.1 + 0.2);
    EXPECT_TRUE(std::isnan(back.metrics.at("E.answer").value));
    EXPECT_EQ(back.more.at("stored_bytes").as_int64(), 12345);
  }
}

TEST_F(ResultsFile, RowsCarryNoClockHostOrPath) {
  const json::object object = to_json(row(0));
  for (const auto& [key, value] : object) {
    const std::string name(key);
    for (const char* word : {"utc", "time", "wall", "host", "path", "user", "_s"})
      if (name.size() >= std::string(word).size() && name != "stored_bytes" && name != "touched_frac") {
        EXPECT_FALSE(name.ends_with(word)) << name;
      }
  }
}

TEST_F(ResultsFile, ResumingDropsTheCutOffLineAndGoesOn) {
  {
    ResultsWriter writer(at("r.jsonl"), ResultsWriter::Mode::create);
    for (std::int64_t job = 0; job < 3; ++job) writer.write(row(job));
    writer.close();
  }
  const std::string whole = get(at("r.jsonl"));
  const std::size_t second_end = whole.find('\n', whole.find('\n') + 1) + 1;
  // Cut at every place of the last line, the newline included.
  for (std::size_t cut = second_end; cut < whole.size(); cut += 37) {
    put(at("r.jsonl"), whole.substr(0, cut));
    const ResultsContent before = read_results(at("r.jsonl"));
    EXPECT_EQ(before.rows.size(), 2u);
    EXPECT_EQ(before.ragged_bytes, static_cast<std::int64_t>(cut - second_end));
    ResultsWriter writer(at("r.jsonl"), ResultsWriter::Mode::resume);
    writer.write(row(2));
    writer.close();
    EXPECT_EQ(get(at("r.jsonl")), whole);
  }
}

TEST_F(ResultsFile, CreateRefusesAnExistingFileAndReplaceDoesNot) {
  put(at("r.jsonl"), "{\"type\":\"run\"}\n");
  EXPECT_EQ(category_of([&] { ResultsWriter(at("r.jsonl"), ResultsWriter::Mode::create); }), Category::write);
  EXPECT_EQ(get(at("r.jsonl")), "{\"type\":\"run\"}\n");
  ResultsWriter writer(at("r.jsonl"), ResultsWriter::Mode::replace);
  writer.close();
  EXPECT_EQ(get(at("r.jsonl")), "");
}

TEST_F(ResultsFile, WrongFilesAreRefused) {
  EXPECT_EQ(category_of([&] { (void)read_results(at("absent")); }), Category::missing);
  EXPECT_EQ(category_of([&] { (void)read_results(folder_); }), Category::missing);
  ASSERT_EQ(mkfifo(at("fifo").c_str(), 0600), 0);
  EXPECT_EQ(category_of([&] { (void)read_results(at("fifo")); }), Category::missing);
  const std::vector<std::string> bad = {"hello\n",
                                        "[]\n",
                                        "{}\n",
                                        "{\"type\":\"other\"}\n",
                                        "{\"type\":7}\n",
                                        "{\"type\":\"result\",\"job\":\"x\"}\n",
                                        "{\"type\":\"result\",\"job\":1.5}\n",
                                        "{\"type\":\"result\",\"seed\":-1}\n",
                                        "{\"type\":\"result\",\"status\":\"fine\"}\n",
                                        "{\"type\":\"result\",\"metrics\":[]}\n",
                                        "{\"type\":\"result\",\"metrics\":{\"a\":1}}\n",
                                        "{\"type\":\"result\",\"metrics\":{\"a\":{\"kind\":\"guess\"}}}\n",
                                        "{\"type\":\"result\",\"type\":\"result\"}\n",
                                        std::string(100, '[') + "\n",
                                        "\x89PNG\r\n\x1a\n"};
  for (const std::string& text : bad) {
    put(at("bad"), "{\"type\":\"run\"}\n" + text);
    try {
      (void)read_results(at("bad"));
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::damaged) << text;
      EXPECT_NE(std::string(error.what()).find("line 2"), std::string::npos) << error.what();
    }
  }
  put(at("long"), "{\"type\":\"run\",\"x\":\"" + std::string(5000, 'a'));
  EXPECT_EQ(category_of([&] { (void)read_results(at("long"), {.max_line_bytes = 1000}); }), Category::damaged);
  EXPECT_EQ(category_of([&] { (void)read_results(at("long"), {.max_file_bytes = 1000}); }), Category::damaged);
}

TEST_F(ResultsFile, MutatedFilesGiveRowsOrAnError) {
  {
    ResultsWriter writer(at("r.jsonl"), ResultsWriter::Mode::create);
    for (std::int64_t job = 0; job < 4; ++job) writer.write(row(job));
    writer.close();
  }
  const std::string whole = get(at("r.jsonl"));
  int refused = 0;
  tests::for_all(41, 300, [&](std::mt19937_64& rng) {
    std::string text = whole;
    for (int edits = 1 + static_cast<int>(rng() % 3); edits > 0; --edits) {
      const std::size_t place = rng() % text.size();
      if (rng() % 2)
        text[place] = static_cast<char>(rng());
      else
        text.erase(place, 1 + rng() % 20);
    }
    put(at("m"), text);
    try {
      (void)read_results(at("m"));
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.category(), Category::damaged);
    }
  });
  EXPECT_GT(refused, 0);
}

TEST_F(ResultsFile, AJobIsWhatWasAskedNotWhatWasFound) {
  ResultRow a = row(1), b = row(1);
  b.metrics.clear();
  b.status = "error";
  b.job = 99;
  EXPECT_EQ(job_key(a), job_key(b));
  b.seed = 2;
  EXPECT_NE(job_key(a), job_key(b));
}

TEST_F(ResultsFile, ReplacingWritesThroughNothing) {
  using Mode = ResultsWriter::Mode;
  const auto replace = [&](const char* name) {
    ResultsWriter writer(at(name), Mode::replace);
    writer.write(row(1));
    writer.close();
  };
  put(at("old.jsonl"), "{\"type\":\"run\"}\n");
  std::filesystem::create_hard_link(at("old.jsonl"), at("other-name.jsonl"));
  std::filesystem::create_symlink("other-name.jsonl", at("link.jsonl"));
  replace("old.jsonl");
  replace("link.jsonl");
  EXPECT_EQ(get(at("other-name.jsonl")), "{\"type\":\"run\"}\n");  // the old bytes, under their other name
  EXPECT_FALSE(std::filesystem::is_symlink(at("link.jsonl")));
  for (const char* name : {"old.jsonl", "link.jsonl"}) EXPECT_EQ(read_results(at(name)).rows.size(), 1u);

  put(at("empty.jsonl"), "");
  replace("empty.jsonl");
  put(at("trace.kvt"), "\x89HDF\r\n");
  try {
    replace("trace.kvt");
    FAIL() << "replaced a trace by results";
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::write);
  }
  EXPECT_EQ(get(at("trace.kvt")), "\x89HDF\r\n");
}

}  // namespace
}  // namespace kvgrind::traces
