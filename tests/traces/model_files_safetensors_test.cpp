#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "tests/support/safetensors_bytes.h"
#include "traces/model_files/mapped_file.h"
#include "traces/model_files/model_folder.h"
#include "traces/model_files/safetensors.h"

namespace kvgrind::traces {
namespace {

using tests::safetensors_bytes;
const std::filesystem::path root = KVGRIND_SOURCE_DIR;

std::span<const std::byte> as_bytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string error_of(const std::string& file) {
  try {
    parse_safetensors(as_bytes(file), "x.safetensors");
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::damaged);
    EXPECT_NE(std::string(error.what()).find("x.safetensors"), std::string::npos) << error.what();
    return error.what();
  }
  return "accepted";
}

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvgrind-model-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  std::filesystem::path path_;
};

const std::string two_tensors =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}   )";

TEST(Safetensors, ReadsTensorsInPlace) {
  const float values[] = {1.0f, -2.5f, 0.0f, 3e8f};
  std::string data(22, '\0');
  std::memcpy(data.data(), values, 16);
  const std::string file = safetensors_bytes(two_tensors, data);
  const auto tensors = parse_safetensors(as_bytes(file), "x.safetensors");
  ASSERT_EQ(tensors.size(), 2u);
  const Tensor& a = tensors.at("a");
  EXPECT_EQ(a.dtype, DType::f32);
  EXPECT_EQ(a.shape, (std::vector<std::int64_t>{2, 2}));
  float back[4];
  to_f32(a.dtype, a.data, a.elements(), back);
  EXPECT_TRUE(std::equal(back, back + 4, values));
  EXPECT_EQ(tensors.at("b").data, reinterpret_cast<const std::byte*>(file.data()) + file.size() - 6);
}

TEST(Safetensors, TakesScalarsAndEmptyTensors) {
  EXPECT_EQ(error_of(safetensors_bytes("{}", "")), "accepted");
  EXPECT_EQ(error_of(safetensors_bytes(R"({"s":{"dtype":"F16","shape":[],"data_offsets":[0,2]}})", "ab")), "accepted");
  const std::string empty =
      R"({"z":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  EXPECT_EQ(error_of(safetensors_bytes(empty, "abcd")), "accepted");
}

// Every rule, in the order in which they are checked.
TEST(Safetensors, RefusesEachBrokenRuleByName) {
  const auto one = [](const std::string& entry, std::size_t bytes) {
    return safetensors_bytes("{\"t\":" + entry + "}", std::string(bytes, 'x'));
  };
  std::string too_long(8, '\0');
  too_long[4] = 1;
  std::string past_end(16, '\0');
  past_end[0] = 9;
  std::string overflow(16, '\xff');
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {"short", "at least 8"},
      {too_long, "100000000"},
      {overflow, "100000000"},
      {past_end, "cut short"},
      {safetensors_bytes("[]", ""), "starts with {"},
      {safetensors_bytes("", ""), "starts with {"},
      {safetensors_bytes("{\"\xff\":1}", ""), "UTF-8"},
      {safetensors_bytes("{\"a\":", ""), "JSON"},
      {safetensors_bytes("{} x", ""), "more text"},
      {safetensors_bytes(
           R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
           "abcd"),
       "twice"},
      {safetensors_bytes(R"({"__metadata__":{"a":1}})", ""), "__metadata__"},
      {safetensors_bytes(R"({"__metadata__":3})", ""), "__metadata__"},
      {one("3", 0), "no object"},
      {one(R"({"dtype":"F32","shape":[1]})", 4), "data_offsets"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1})", 4), "more"},
      {one(R"({"dtype":"I64","shape":[1],"data_offsets":[0,8]})", 8), "I64"},
      {one(R"({"dtype":"F4","shape":[2],"data_offsets":[0,1]})", 1), "F4"},
      {one(R"({"dtype":"Q9","shape":[1],"data_offsets":[0,8]})", 8), "unknown dtype Q9"},
      {one(R"({"dtype":5,"shape":[1],"data_offsets":[0,8]})", 8), "dtype"},
      {one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", 4), "-1"},
      {one(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", 4), "1.0"},
      {one(R"({"dtype":"F32","shape":[1e999],"data_offsets":[0,4]})", 4), "1e999"},
      {one(R"({"dtype":"F32","shape":3,"data_offsets":[0,4]})", 4), "shape"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})", 4), "data_offsets"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", 8), "from 0"},
      {safetensors_bytes(
           R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[6,10]}})",
           "0123456789"),
       "no holes"},
      {safetensors_bytes(
           R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
           "01234567"),
       "no overlap"},
      {one(R"({"dtype":"F32","shape":[0],"data_offsets":[0,18446744073709551615]})", 4), "by its shape"},
      {one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0), "overflows"},
      {one(R"({"dtype":"F32","shape":[0,9223372036854775807,4],"data_offsets":[0,0]})", 0), "overflows"},
      {one(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]})", 0), "63-bit"},
      {one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8), "12 by its shape"},
      {one(R"({"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]})", 8), "cut short"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 5), "5 bytes of tensors"},
      {safetensors_bytes(std::string(100000, '{'), ""), "JSON"},
      {safetensors_bytes("{\"a\":" + std::string(100000, '['), ""), "deeper"}};
  for (const auto& [file, said] : cases) {
    const std::string message = error_of(file);
    EXPECT_NE(message.find(said), std::string::npos) << message << " (wanted: " << said << ")";
  }
}

TEST(Safetensors, SaysWhatAWrongFileIs) {
  const std::string pad(64, '\x01');
  const std::pair<std::string, const char*> cases[] = {
      {"\x89PNG\r\n\x1a\n" + pad, "PNG"},
      {"\x1f\x8b\x08" + pad, "gzip"},
      {"PK\x03\x04" + pad, "pickle"},
      {"\x89HDF\r\n\x1a\n" + pad, "HDF5"},
      {"GGUF" + pad, "GGUF"},
      {"just some text, no tensors", "plain text"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"},
      {"{\"a\": 1, \"b\": 22222222}", "JSON"}};
  for (const auto& [file, said] : cases) EXPECT_NE(error_of(file).find(said), std::string::npos) << error_of(file);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string file = safetensors_bytes(two_tensors, std::string(22, 'x'));
  EXPECT_EQ(error_of(file), "accepted");
  for (std::size_t size = 0; size < file.size(); ++size) EXPECT_NE(error_of(file.substr(0, size)), "accepted") << size;
}

TEST(SafetensorsIndex, TakesPlainNamesOnly) {
  EXPECT_EQ(
      parse_safetensors_index(R"({"metadata":{"total_size":3},"weight_map":{"a":"m-1.safetensors"}})", "i").at("a"),
      "m-1.safetensors");
  for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b", "a\\\\b", "..", ".", "", ".hidden"})
    EXPECT_THROW(parse_safetensors_index(std::string(R"({"weight_map":{"a":")") + name + "\"}}", "i"), Error) << name;
  for (const char* text : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})", R"({"weight_map":{"a":1}})",
                           R"({"weight_map":{"a":"x","a":"y"}})"})
    EXPECT_THROW(parse_safetensors_index(text, "i"), Error) << text;
}

TEST(ModelFolder, ReadsTheTinyModel) {
  const ModelFolder model = read_model_folder(root / "traces/examples/tiny-3m");
  std::int64_t parameters = 0;
  for (const auto& [name, tensor] : model.weights.tensors) parameters += tensor.elements();
  EXPECT_EQ(parameters, 3148224);
  EXPECT_EQ(model.weights.tensors.size(), 6u * 9 + 2);
  EXPECT_EQ(model.weights.find("model.embed_tokens.weight")->shape, (std::vector<std::int64_t>{4096, 192}));
  EXPECT_EQ(model.config.card.model_hash, model.weights.content_hash);
  EXPECT_EQ(model.weights.content_hash.size(), 16u);
  ASSERT_TRUE(model.tokenizer);
  EXPECT_EQ(read_weights(root / "traces/examples/tiny-3m", false).content_hash, "");
}

TEST(ModelFolder, ShardsHoldTheSameModelAsOneFile) {
  const std::string a(16, 'a'), b(6, 'b');
  const Folder whole, shards;
  whole.write("model.safetensors", safetensors_bytes(two_tensors, a + b));
  shards.write("1.safetensors", safetensors_bytes(R"({"b":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}})", b));
  shards.write("2.safetensors", safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})", a));
  shards.write("model.safetensors.index.json", R"({"weight_map":{"a":"2.safetensors","b":"1.safetensors"}})");
  const Weights one = read_weights(whole.path()), two = read_weights(shards.path());
  EXPECT_EQ(two.tensors.size(), 2u);
  EXPECT_EQ(two.storage.size(), 2u);
  EXPECT_EQ(one.content_hash, two.content_hash);
  whole.write("model.safetensors", safetensors_bytes(two_tensors, a + "bbbbbc"));
  EXPECT_NE(read_weights(whole.path()).content_hash, one.content_hash);
}

TEST(ModelFolder, NamesEveryMissingTensorAtOnce) {
  const Folder folder;
  folder.write("1.safetensors",
               safetensors_bytes(R"({"b":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}})", "bbbbbb"));
  folder.write("model.safetensors.index.json",
               R"({"weight_map":{"first":"1.safetensors","b":"1.safetensors","second":"1.safetensors"}})");
  try {
    read_weights(folder.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("first"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("second"), std::string::npos) << error.what();
  }
  folder.write("model.safetensors.index.json", R"({"weight_map":{"b":"gone.safetensors"}})");
  try {
    read_weights(folder.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::missing);
    EXPECT_NE(std::string(error.what()).find("gone.safetensors"), std::string::npos) << error.what();
  }
}

Category category_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.category();
  }
  return Category::jobs_failed;
}

// What is not a regular file is refused at once; opening a pipe must not wait for its writer.
TEST(ModelFolder, RefusesWhatIsNoRegularFile) {
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "model.safetensors.index.json"}) {
    const auto read = [&](const Folder& folder) {
      if (std::string_view(name) == "config.json")
        (void)read_model_config(folder.path());
      else if (std::string_view(name) == "tokenizer.json")
        (void)read_tokenizer(folder.path());
      else
        (void)read_weights(folder.path());
    };
    const Folder pipe, directory, device, loop;
    ASSERT_EQ(::mkfifo((pipe / name).c_str(), 0600), 0);
    EXPECT_EQ(category_of([&] { read(pipe); }), Category::damaged) << name;
    std::filesystem::create_directory(directory / name);
    EXPECT_EQ(category_of([&] { read(directory); }), Category::damaged) << name;
    std::filesystem::create_symlink("/dev/zero", device / name);
    EXPECT_EQ(category_of([&] { read(device); }), Category::damaged) << name;
    std::filesystem::create_symlink(name, loop / name);
    EXPECT_EQ(category_of([&] { read(loop); }), Category::missing) << name;

    const Folder empty, absent;
    empty.write(name, "");
    EXPECT_EQ(category_of([&] { read(empty); }), Category::damaged) << name;
    EXPECT_EQ(category_of([&] { read(absent); }), Category::missing) << name;
  }
  EXPECT_EQ(category_of([] { (void)read_model_folder("/nowhere/at/all"); }), Category::missing);
  EXPECT_EQ(category_of([] { (void)read_weights(root / "README.md"); }), Category::damaged);
}

TEST(ModelFolder, FollowsLinksToRegularFiles) {
  const Folder folder;
  std::filesystem::create_symlink(root / "traces/examples/tiny-3m/config.json", folder / "config.json");
  EXPECT_EQ(read_model_config(folder.path()).card.layers, 6);
}

TEST(ModelFolder, SaysWhenItMayNotRead) {
  const Folder folder;
  folder.write("config.json", "{}");
  ASSERT_EQ(::chmod((folder / "config.json").c_str(), 0), 0);
  const bool privileged = ::geteuid() == 0;  // may read everything, so read as nobody
  if (privileged) {
    ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
    ASSERT_EQ(::seteuid(65534), 0);
  }
  const Category category = category_of([&] { (void)read_model_config(folder.path()); });
  if (privileged) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  EXPECT_EQ(category, Category::missing);
}

TEST(ModelFolder, PointsFromPicklesToSafetensors) {
  const Folder folder;
  folder.write("pytorch_model.bin", "PK");
  try {
    read_weights(folder.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::missing);
    EXPECT_NE(std::string(error.what()).find("safe_serialization"), std::string::npos) << error.what();
  }
}

TEST(ModelFolder, SizesAreBounded) {
  const Folder folder;
  folder.write("tokenizer.json", "");
  std::filesystem::resize_file(folder / "tokenizer.json", (64ull << 20) + 1);  // sparse
  EXPECT_EQ(category_of([&] { (void)read_tokenizer(folder.path()); }), Category::damaged);
  folder.write("config.json", "");
  std::filesystem::resize_file(folder / "config.json", 1ull << 40);
  EXPECT_EQ(category_of([&] { (void)read_model_config(folder.path()); }), Category::damaged);
  folder.write("model.safetensors", "");
  std::filesystem::resize_file(folder / "model.safetensors", 1ull << 36);  // all zeros: header length 0
  EXPECT_EQ(category_of([&] { (void)read_weights(folder.path()); }), Category::damaged);
}

}  // namespace
}  // namespace kvgrind::traces
