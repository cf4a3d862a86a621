// Wrong, damaged and hostile files: always an Error that names the place, never data from elsewhere (R4 to R9).
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <set>

#include "core/error.h"
#include "tests/traces/kvt_driver.h"
#include "tests/traces/kvt_read_all.h"
#include "traces/kvt/schema.h"

namespace kvgrind::tests {
namespace {

using traces::Recorder;
using traces::Row;
using traces::Trace;

Driver small_driver() {
  TokenSequence one = context_of(40, 3);
  one.segments = {{Role::context, 0, 30}, {Role::question, 30, 40}};
  one.spans = {{"needle", 3, 5, "x"}};
  return Driver(
      {.layers = 2, .query_heads = 2, .kv_heads = 1, .head_dim = 4, .hidden = 2, .vocab = 70, .dtype = DType::bf16},
      {one, context_of(25)});
}

class KvtHostile : public ::testing::Test {
 protected:
  void SetUp() override {
    const Driver driver = small_driver();
    Recorder recorder(folder / "good.kvt", driver.plan(), {});
    driver.feed(recorder, 0, 64);
    driver.feed(recorder, 1, 64);
    recorder.close();
    ASSERT_TRUE(Trace::open(folder / "good.kvt")->output_projection(0).has_value()) << "the test needs every dataset";
  }

  // A copy of the good file, changed through HDF5's own interface.
  std::filesystem::path changed(const std::function<void(hid_t)>& change) {
    const std::filesystem::path path = folder / ("bad" + std::to_string(changes++) + ".kvt");
    std::filesystem::copy_file(folder / "good.kvt", path, std::filesystem::copy_options::overwrite_existing);
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    EXPECT_GE(file, 0);
    change(file);
    EXPECT_GE(H5Fclose(file), 0);
    return path;
  }
  // What reading all of it says, or check when reading is content.
  std::string complaint(const std::filesystem::path& path) {
    try {
      read_all(*Trace::open(path));
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::damaged) << error.what();
      return error.what();
    }
    const traces::CheckReport report = traces::check_trace(path, true);
    std::string all;
    for (const std::string& line : report.findings) all += line + "\n";
    EXPECT_FALSE(report.ok);
    return all;
  }
  void expect_named(const std::filesystem::path& path, const std::string& name, const std::string& how) {
    const std::string text = complaint(path);
    EXPECT_NE(text.find("/" + name), std::string::npos) << how << " " << name << ": " << text;
  }

  const TemporaryFolder folder;
  int changes = 0;
};

std::string refusal(const std::filesystem::path& path) {
  try {
    Trace::open(path);
  } catch (const Error& error) {
    return std::string(category_name(error.category())) + ": " + error.what();
  }
  return "accepted";
}

TEST_F(KvtHostile, WrongKindsOfFilesGiveAReason) {
  const auto file = [&](const char* name, const std::string& bytes) {
    std::ofstream(folder / name, std::ios::binary) << bytes;
    return refusal(folder / name);
  };
  EXPECT_NE(file("empty", "").find("an empty file"), std::string::npos);
  EXPECT_NE(file("text", "hello, this is no trace\n").find("a text file"), std::string::npos);
  EXPECT_NE(file("png", std::string("\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16)).find("a PNG picture"), std::string::npos);
  EXPECT_NE(file("gz", std::string("\x1f\x8b\x08\0\0\0\0\0", 8)).find("a gzip file"), std::string::npos);
  EXPECT_NE(file("pickle", std::string("\x80\x04\x95\x10\0\0\0\0", 8)).find("a Python pickle"), std::string::npos);
  EXPECT_NE(file("magic", std::string("\x89HDF\r\n\x1a\n", 8)).find("damaged"), std::string::npos);
  EXPECT_NE(refusal(folder.path()).find("a folder"), std::string::npos);
  EXPECT_NE(refusal("/dev/zero").find("a device or pipe"), std::string::npos);
  EXPECT_NE(refusal(folder / "absent").find("missing input"), std::string::npos);
  ASSERT_EQ(mkfifo((folder / "fifo").c_str(), 0600), 0);
  EXPECT_NE(refusal(folder / "fifo").find("a device or pipe"), std::string::npos);
  if (geteuid() != 0) {
    std::ofstream(folder / "secret") << "x";
    std::filesystem::permissions(folder / "secret", std::filesystem::perms::none);
    EXPECT_NE(refusal(folder / "secret").find("Permission denied"), std::string::npos);
  }
  const hid_t other = H5Fcreate((folder / "other.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(other);
  EXPECT_NE(refusal(folder / "other.h5").find("kvgrind_format"), std::string::npos) << refusal(folder / "other.h5");
}

void replace_attribute(hid_t file, const char* name, hid_t type, hsize_t n, const void* value) {
  H5Adelete(file, name);
  const hid_t space = n > 0 ? H5Screate_simple(1, &n, nullptr) : H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  ASSERT_GE(attribute, 0);
  H5Awrite(attribute, type, value);
  H5Aclose(attribute);
  H5Sclose(space);
}

TEST_F(KvtHostile, NewerVersionsAndUnknownFeaturesAreRefusedByName) {
  const std::string newer = refusal(changed([](hid_t file) {
    const std::int64_t version[2] = {3, 1};
    replace_attribute(file, "version", H5T_STD_I64LE, 2, version);
  }));
  EXPECT_NE(newer.find("3.1"), std::string::npos) << newer;
  EXPECT_NE(newer.find("1.0"), std::string::npos) << newer;
  EXPECT_NE(newer.find("update kvgrind"), std::string::npos) << newer;
  const auto feature = [&](const char* attribute) {
    return refusal(changed([attribute](hid_t file) {
      const hid_t text = H5Tcopy(H5T_C_S1);
      H5Tset_size(text, 12);
      replace_attribute(file, attribute, text, 0, "paged_chunks");
      H5Tclose(text);
    }));
  };
  EXPECT_NE(feature("required_features").find("paged_chunks"), std::string::npos);
  EXPECT_EQ(feature("optional_features"), "accepted");
  EXPECT_EQ(refusal(changed([](hid_t file) {
              const std::int64_t version[2] = {1, 9};
              replace_attribute(file, "version", H5T_STD_I64LE, 2, version);
            })),
            "accepted");
}

std::vector<std::string> dataset_names() {
  std::vector<std::string> names = {"card", "header", "provenance", "names"};
  traces::Layout layout;
  layout.card = card_of(small_driver().shape());
  layout.chunk_rows = 16;
  for (const auto& spec : traces::dataset_specs(layout)) names.push_back(spec.name);
  return names;
}

// Puts a dataset of this type and shape in the place of another.
void replace_dataset(hid_t file, const std::string& name, hid_t type, std::vector<hsize_t> extents,
                     hid_t create = H5P_DEFAULT) {
  H5Ldelete(file, name.c_str(), H5P_DEFAULT);
  const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
  const hid_t dataset = H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, create, H5P_DEFAULT);
  EXPECT_GE(dataset, 0) << name;
  H5Dclose(dataset);
  H5Sclose(space);
}

struct Facts {
  std::vector<hsize_t> extents;
  hid_t type = -1;
};
Facts facts_of(hid_t file, const std::string& name) {
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT), space = H5Dget_space(dataset);
  Facts facts{std::vector<hsize_t>(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space))), H5Dget_type(dataset)};
  H5Sget_simple_extent_dims(space, facts.extents.data(), nullptr);
  H5Sclose(space);
  H5Dclose(dataset);
  return facts;
}

TEST_F(KvtHostile, EveryDatasetDeletedRetypedReshapedResizedIsNamed) {
  const std::vector<std::string> names = dataset_names();
  const auto rank_of = [&](const std::string& name) {
    std::size_t rank = 0;
    changed([&](hid_t file) { rank = facts_of(file, name).extents.size(); });
    return rank;
  };
  EXPECT_EQ(names.size(), 40u);
  for (const std::string& name : names) {
    expect_named(changed([&](hid_t file) { H5Ldelete(file, name.c_str(), H5P_DEFAULT); }), name, "deleted");
    expect_named(changed([&](hid_t file) { replace_dataset(file, name, H5T_STD_I16BE, facts_of(file, name).extents); }),
                 name, "retyped");
    expect_named(changed([&](hid_t file) {
                   Facts facts = facts_of(file, name);
                   facts.extents.push_back(1);
                   replace_dataset(file, name, facts.type, facts.extents);
                 }),
                 name, "reshaped");
    expect_named(changed([&](hid_t file) {
                   Facts facts = facts_of(file, name);
                   const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT),
                               plist = H5Dget_create_plist(dataset);
                   facts.extents[0] -= 1;
                   if (H5Pget_layout(plist) == H5D_CHUNKED)
                     H5Dset_extent(dataset, facts.extents.data());
                   else
                     replace_dataset(file, name, facts.type, facts.extents);
                   H5Pclose(plist);
                   H5Dclose(dataset);
                 }),
                 name, "resized");
    if (rank_of(name) < 2) continue;
    expect_named(changed([&](hid_t file) {
                   Facts facts = facts_of(file, name);
                   facts.extents.back() += 1;
                   replace_dataset(file, name, facts.type, facts.extents);
                 }),
                 name, "widened");
  }
}

TEST_F(KvtHostile, ForeignDataAreNotFollowed) {
  const std::string secret = "/etc/passwd";
  const auto expect_refused = [&](const std::string& name, const std::string& reason,
                                  const std::function<void(hid_t)>& change) {
    const std::string text = complaint(changed(change));
    EXPECT_NE(text.find("/" + name), std::string::npos) << text;
    EXPECT_NE(text.find(reason), std::string::npos) << text;
    EXPECT_EQ(text.find("root:"), std::string::npos) << text;
  };
  for (const std::string name : {"k", "names", "tokens"}) {
    expect_refused(name, "link", [&](hid_t file) {
      H5Ldelete(file, name.c_str(), H5P_DEFAULT);
      H5Lcreate_soft("/v", file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
    });
    expect_refused(name, "in another file", [&](hid_t file) {
      const Facts facts = facts_of(file, name);
      const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
      hsize_t bytes = H5Tget_size(facts.type);
      for (const hsize_t n : facts.extents) bytes *= n;
      H5Pset_external(create, secret.c_str(), 0, bytes);
      replace_dataset(file, name, facts.type, facts.extents, create);
      H5Pclose(create);
    });
    expect_refused(name, "virtual", [&](hid_t file) {
      const Facts facts = facts_of(file, name);
      const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
      const hid_t space = H5Screate_simple(static_cast<int>(facts.extents.size()), facts.extents.data(), nullptr);
      H5Pset_virtual(create, space, "other.h5", "/x", space);
      replace_dataset(file, name, facts.type, facts.extents, create);
      H5Sclose(space);
      H5Pclose(create);
    });
  }
  expect_refused("k", "filter", [&](hid_t file) {
    const Facts facts = facts_of(file, "k");
    const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
    const std::vector<hsize_t> chunk(facts.extents.size(), 1);
    H5Pset_chunk(create, static_cast<int>(chunk.size()), chunk.data());
    H5Pset_filter(create, 32000, H5Z_FLAG_OPTIONAL, 0, nullptr);
    replace_dataset(file, "k", facts.type, facts.extents, create);
    H5Pclose(create);
  });
  expect_refused("k", "refused size", [&](hid_t file) {
    const Facts facts = facts_of(file, "k");
    const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
    const std::vector<hsize_t> chunk = {hsize_t{1} << 26, 1, 1, 4}, most = {H5S_UNLIMITED, 2, 1, 4};
    H5Pset_chunk(create, 4, chunk.data());
    H5Ldelete(file, "k", H5P_DEFAULT);
    const hid_t space = H5Screate_simple(4, facts.extents.data(), most.data());
    H5Dclose(H5Dcreate2(file, "k", facts.type, space, H5P_DEFAULT, create, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(create);
  });
}

TEST_F(KvtHostile, ExternalLinksAreNotOpened) {
  // The link type is unregistered in this process, so the file is made by a copy of the library's own writer: a link of
  // a user-defined class with the external class's number.
  const std::string text = complaint(changed([&](hid_t file) {
    H5Ldelete(file, "k", H5P_DEFAULT);
    static H5L_class_t fake{H5L_LINK_CLASS_T_VERS,
                            H5L_TYPE_EXTERNAL,
                            "as external",
                            nullptr,
                            nullptr,
                            nullptr,
                            [](const char*, hid_t, const void*, std::size_t, hid_t, hid_t) -> hid_t { return -1; },
                            nullptr,
                            nullptr};
    ASSERT_GE(H5Lregister(&fake), 0);
    const char data[] = "\0good.kvt\0/k";  // version and flags, file, path
    ASSERT_GE(H5Lcreate_ud(file, "k", H5L_TYPE_EXTERNAL, data, sizeof data, H5P_DEFAULT, H5P_DEFAULT), 0);
    H5Lunregister(H5L_TYPE_EXTERNAL);
  }));
  EXPECT_NE(text.find("/k"), std::string::npos) << text;
  EXPECT_NE(text.find("link"), std::string::npos) << text;
}

// Overwrites one row of a table of u64 rows.
void write_row(hid_t file, const char* name, hsize_t at, const Row& row) {
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset);
  const hsize_t start[2] = {at, 0}, count[2] = {1, 16};
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start, nullptr, count, nullptr);
  const hid_t memory = H5Screate_simple(2, count, nullptr);
  EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_UINT64, memory, space, H5P_DEFAULT, row.data()), 0);
  H5Sclose(memory);
  H5Sclose(space);
  H5Dclose(dataset);
}
Row read_row(hid_t file, const char* name, hsize_t at) {
  Row row{};
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset);
  const hsize_t start[2] = {at, 0}, count[2] = {1, 16};
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start, nullptr, count, nullptr);
  const hid_t memory = H5Screate_simple(2, count, nullptr);
  EXPECT_GE(H5Dread(dataset, H5T_NATIVE_UINT64, memory, space, H5P_DEFAULT, row.data()), 0);
  H5Sclose(memory);
  H5Sclose(space);
  H5Dclose(dataset);
  return row;
}

TEST_F(KvtHostile, SizesFromTheFileAreNotTrusted) {
  for (const std::int64_t claimed :
       {std::int64_t{1000}, std::int64_t{1} << 33, std::int64_t{1} << 39, std::int64_t{1} << 61}) {
    for (const bool grown : {false, true}) {
      const std::string text = complaint(changed([&](hid_t file) {
        Row row = read_row(file, "commit", 0);
        row[traces::commit_column::rows] = static_cast<std::uint64_t>(claimed);
        traces::seal(row);
        write_row(file, "commit", 0, row);
        if (!grown) return;
        for (const char* name : {"k", "v", "lse", "tokens", "pos", "seq", "nll", "hidden_norm", "attn_in_norm",
                                 "top_id", "top_logp", "text_end"}) {
          const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
          std::vector<hsize_t> extents = facts_of(file, name).extents;
          extents[0] = static_cast<hsize_t>(claimed);
          EXPECT_GE(H5Dset_extent(dataset, extents.data()), 0);
          H5Dclose(dataset);
        }
      }));
      EXPECT_FALSE(text.empty());
    }
  }
}

TEST_F(KvtHostile, ACommitRowWithoutItsChecksumEndsItsStream) {
  const auto whole = Trace::open(folder / "good.kvt");
  const auto trace = Trace::open(changed([&](hid_t file) {
    Row row = read_row(file, "commit", 1);
    row[traces::commit_column::rows] += 1;  // not sealed again
    write_row(file, "commit", 1, row);
  }));
  EXPECT_LT(trace->rows(), whole->rows());
  bool said = false;
  for (const std::string& line : trace->not_recorded()) said = said || line.find("damaged") != std::string::npos;
  EXPECT_TRUE(said) << "what is missing must be said";
  EXPECT_NE(trace->hash(), whole->hash());
}

// Flips one bit of one element, in place.
template <class T>
void flip(hid_t file, const char* name, std::vector<hsize_t> at) {
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset), type = H5Dget_type(dataset);
  const std::vector<hsize_t> count(at.size(), 1);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, at.data(), nullptr, count.data(), nullptr);
  const hid_t memory = H5Screate_simple(static_cast<int>(at.size()), count.data(), nullptr);
  T value{};
  EXPECT_GE(H5Dread(dataset, type, memory, space, H5P_DEFAULT, &value), 0);
  reinterpret_cast<unsigned char*>(&value)[0] ^= 1;
  EXPECT_GE(H5Dwrite(dataset, type, memory, space, H5P_DEFAULT, &value), 0);
  for (const hid_t id : {memory, space}) H5Sclose(id);
  H5Tclose(type);
  H5Dclose(dataset);
}

TEST_F(KvtHostile, AFlippedBitIsNamedAndTheRestIsReadable) {
  const std::filesystem::path path = changed([](hid_t file) { flip<std::uint16_t>(file, "k", {7, 1, 0, 2}); });
  const auto trace = Trace::open(path);
  EXPECT_NO_THROW(trace->keys(0, 0, 0));
  EXPECT_NO_THROW(trace->values(0, 1, 0));
  EXPECT_NO_THROW(trace->keys(1, 1, 0)) << "another commit's slice";
  try {
    trace->keys(0, 1, 0);
    FAIL() << "a damaged slice was handed out";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("/k"), std::string::npos) << text;
    EXPECT_NE(text.find("layer 1, head 0"), std::string::npos) << text;
  }
  const traces::CheckReport report = traces::check_trace(path, false);
  EXPECT_FALSE(report.ok);
  ASSERT_EQ(report.findings.size(), 1u);
  // Each other dataset in turn, found by check.
  const std::vector<std::pair<const char*, std::vector<hsize_t>>> places = {{"v", {1, 0, 0, 0}},
                                                                            {"q", {3, 1, 1, 1}},
                                                                            {"lse", {2, 1, 0}},
                                                                            {"tokens", {5}},
                                                                            {"nll", {6}},
                                                                            {"hidden_norm", {4, 2}},
                                                                            {"attn_in_norm", {4, 1}},
                                                                            {"top_id", {3, 9}},
                                                                            {"top_logp", {3, 9}},
                                                                            {"text", {11}},
                                                                            {"text_end", {40}},
                                                                            {"colsum", {3, 1, 1}},
                                                                            {"qstat_mean", {0, 1, 1, 1}},
                                                                            {"qstat_modulus", {0, 1, 1, 1}},
                                                                            {"qstat_second", {1, 0, 1, 2, 2}},
                                                                            {"map_max", {5}},
                                                                            {"map_mean", {6}},
                                                                            {"w_o", {1, 1, 3}},
                                                                            {"tok_sums", {0, 1}},
                                                                            {"colsum_sums", {1, 1}},
                                                                            {"qstat_sums", {0, 2}},
                                                                            {"map_sums", {0, 1}},
                                                                            {"segment", {5, 2}},
                                                                            {"extent", {0, 1}}};
  for (const auto& [name, at] : places) {
    std::string all;
    for (const std::string& line :
         traces::check_trace(changed([&](hid_t file) { flip<std::uint64_t>(file, name, at); }), false).findings)
      all += line + "\n";
    EXPECT_NE(all.find(std::string("/") + name), std::string::npos) << name << ": " << all;
  }
}

TEST_F(KvtHostile, NotFiniteNumbersAreLocatedAndCounted) {
  Driver driver = small_driver();
  driver.injections = {
      {"k", 0, 17, 1, 2, NAN}, {"v", 1, 3, 0, 1, INFINITY}, {"q", 0, 41, 1, 5, NAN}, {"lse", 1, 24, 1, 1, -INFINITY}};
  Recorder recorder(folder / "nan.kvt", driver.plan(), {});
  driver.feed(recorder, 0, 64);
  driver.feed(recorder, 1, 64);
  recorder.close();
  EXPECT_TRUE(traces::check_trace(folder / "nan.kvt", false).ok) << "the file itself is sound";
  const traces::CheckReport report = traces::check_trace(folder / "nan.kvt", true);
  EXPECT_FALSE(report.ok);
  EXPECT_EQ(report.details.at("not_finite").as_int64(), 4);
  const std::set<std::string> found(report.findings.begin(), report.findings.end());
  EXPECT_EQ(found, (std::set<std::string>{"NaN in k: sequence 0, layer 1, head 0, token 17",
                                          "infinity in v: sequence 1, layer 0, head 0, token 3",
                                          "NaN in q: sequence 0, layer 1, head 1, token 41",
                                          "infinity in lse: sequence 1, layer 1, head 1, token 24"}));
  // They come back as they are, not as 0.
  EXPECT_TRUE(std::isnan(Trace::open(folder / "nan.kvt")->keys(0, 1, 0)(17, 2)));
}

TEST_F(KvtHostile, RepairDropsWhatIsDamagedAndSaysSo) {
  const auto whole = Trace::open(folder / "good.kvt");
  const json::object report = traces::repair_trace(changed([](hid_t file) {
                                                     flip<std::uint16_t>(file, "k", {50, 1, 0, 2});
                                                   }),
                                                   folder / "fixed.kvt", false);
  const std::int64_t kept = report.at("kept_tokens").as_int64();
  EXPECT_GE(kept, 42) << "the first sequence is sound";
  EXPECT_LE(kept, 50) << "row 50 is damaged";
  EXPECT_EQ(report.at("lost_committed_tokens").as_int64(), whole->rows() - kept);
  const auto fixed = Trace::open(folder / "fixed.kvt");
  EXPECT_EQ(fixed->rows(), kept);
  EXPECT_TRUE(fixed->column_sums(0, 0, -1).has_value());
  read_all(*fixed);
  bool said = false;
  for (const std::string& line : fixed->not_recorded()) said = said || line.find("lost in repair") != std::string::npos;
  EXPECT_TRUE(said);
}

TEST_F(KvtHostile, ArgumentsOutOfRangeAreUsageErrors) {
  const auto trace = Trace::open(folder / "good.kvt");
  const auto category = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.category();
    }
    return Category::jobs_failed;
  };
  EXPECT_EQ(category([&] { trace->keys(2, 0, 0); }), Category::usage);
  EXPECT_EQ(category([&] { trace->keys(0, 2, 0); }), Category::usage);
  EXPECT_EQ(category([&] { trace->values(0, 0, 1); }), Category::usage);
  EXPECT_EQ(category([&] { trace->queries(-1, 0, 0); }), Category::usage);
  EXPECT_EQ(category([&] { trace->column_sums(0, 0, 9); }), Category::usage);
}

}  // namespace
}  // namespace kvgrind::tests
