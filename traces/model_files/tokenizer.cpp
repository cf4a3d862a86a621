#include "traces/model_files/tokenizer.h"

#include <fmt/format.h>

#include <unordered_map>

#include "core/error.h"
#include "core/json.h"
#include "traces/model_files/added_tokens.h"
#include "traces/model_files/bpe.h"
#include "traces/model_files/byte_level.h"
#include "traces/model_files/step_keys.h"
#include "traces/model_files/text_steps.h"

namespace kvgrind::traces {
namespace {

// Ids put around a sequence, by the file's post-processors in order.
class PostProcessor {
 public:
  PostProcessor(const json::value& node, std::string_view what) {
    if (!node.is_null()) add(node, what);
  }

  std::vector<std::int32_t> apply(std::vector<std::int32_t> ids) const {
    for (const Template& around : templates_) {
      ids.insert(ids.begin(), around.before.begin(), around.before.end());
      ids.insert(ids.end(), around.after.begin(), around.after.end());
    }
    return ids;
  }

 private:
  struct Template {
    std::vector<std::int32_t> before, after;
  };

  void add(const json::value& node, std::string_view what) {
    const ConfigKeys keys = step_keys(node, what, "post_processor");
    const std::string type = keys.text("type").value_or("nothing");
    if (type == "Sequence")
      for_steps(keys, "processors", [&](const json::value& child) { add(child, what); });
    else if (type == "TemplateProcessing")
      add_template(keys, what);
    else if (type != "ByteLevel")
      refuse_type(keys, type, "Sequence, TemplateProcessing or ByteLevel");
  }

  void add_template(const ConfigKeys& keys, std::string_view what) {
    Template around;
    bool sequence_seen = false;
    for_steps(keys, "single", [&](const json::value& part) {
      const ConfigKeys part_keys = step_keys(part, what, "post_processor/single");
      if (const auto special = part_keys.object("SpecialToken")) {
        const std::vector<std::int32_t> ids = special_ids(keys, special->text("id").value_or(""));
        std::vector<std::int32_t>& side = sequence_seen ? around.after : around.before;
        side.insert(side.end(), ids.begin(), ids.end());
      } else if (part_keys.object("Sequence") && !sequence_seen) {
        sequence_seen = true;
      } else {
        keys.refuse("single", json_text(part).substr(0, 60), "special tokens around one sequence");
      }
    });
    if (!sequence_seen) keys.refuse("single", "no sequence", "special tokens around one sequence");
    if (around.before.size() + around.after.size() > 1000) keys.refuse("single", "more than 1000 tokens", "a few");
    templates_.push_back(std::move(around));
  }

  std::vector<std::int32_t> special_ids(const ConfigKeys& keys, const std::string& name) const {
    const auto all = keys.object("special_tokens");
    const auto entry = all ? all->object(name) : std::nullopt;
    if (!entry)
      keys.refuse("special_tokens", fmt::format("no {}", name.substr(0, 60)), "the ids of every token of the template");
    std::vector<std::int32_t> ids;
    for (const double id : entry->numbers("ids")) {
      if (!(id >= 0.0 && id < static_cast<double>(max_vocab)) ||
          id != static_cast<double>(static_cast<std::int32_t>(id)))
        entry->refuse("ids", fmt::format("{}", id), "token ids");
      ids.push_back(static_cast<std::int32_t>(id));
    }
    return ids;
  }

  std::vector<Template> templates_;
};

json::value member(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value ? *value : json::value();
}

class FileTokenizer final : public Tokenizer {
 public:
  FileTokenizer(const json::object& file, std::string_view what)
      : normalizer_(member(file, "normalizer"), what),
        pre_tokenizer_(member(file, "pre_tokenizer"), what),
        post_processor_(member(file, "post_processor"), what),
        decoder_(member(file, "decoder"), what),
        bpe_(model_of(file, what), what),
        added_(read_added_tokens(file.if_contains("added_tokens"), what)),
        raw_finder_(added_, false, normalizer_),
        normalized_finder_(added_, true, normalizer_) {
    std::int64_t size = bpe_.max_id() + 1;
    for (const AddedToken& token : added_) size = std::max<std::int64_t>(size, token.id + 1);
    tokens_.resize(static_cast<std::size_t>(size));
    kind_.resize(tokens_.size(), Kind::none);
    for (const auto& [token, id] : bpe_.vocab()) set(id, token, Kind::plain);
    for (const AddedToken& token : added_) add(token, what);
  }

  std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
    if (text.size() > (std::size_t{1} << 30))
      throw Error(Category::usage, {.doing = "tokenizing",
                                    .on = "a text",
                                    .found = fmt::format("{} bytes", text.size()),
                                    .expected = "at most 1 GiB"});
    std::vector<std::int32_t> ids;
    Pieces seen;
    for (const Stretch& raw : raw_finder_.find(text)) {
      if (raw.id >= 0) {
        ids.push_back(raw.id);
        continue;
      }
      const std::string normalized = normalizer_.apply(text.substr(raw.begin, raw.end - raw.begin));
      for (const Stretch& part : normalized_finder_.find(normalized)) {
        if (part.id >= 0)
          ids.push_back(part.id);
        else
          encode_plain(std::string_view(normalized).substr(part.begin, part.end - part.begin),
                       raw.begin == 0 && part.begin == 0, seen, ids);
      }
    }
    return special ? post_processor_.apply(std::move(ids)) : ids;
  }

  std::string bytes(std::int32_t id) const override {
    if (!known(id)) return "";
    const std::string& token = tokens_[static_cast<std::size_t>(id)];
    if (kind_[static_cast<std::size_t>(id)] != Kind::plain) return token;
    if (!decoder_.byte_level() && pre_tokenizer_.byte_level()) return from_byte_alphabet(token).value_or(token);
    return decoder_.bytes(token);
  }

  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    for (const std::int32_t id : ids)
      if (known(id) && !(skip_special && is_special(id))) tokens.push_back(tokens_[static_cast<std::size_t>(id)]);
    return decoder_.apply(std::move(tokens));
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(tokens_.size()); }
  bool is_special(std::int32_t id) const override {
    return known(id) && kind_[static_cast<std::size_t>(id)] == Kind::special;
  }

 private:
  enum class Kind : std::uint8_t { none, plain, added, special };
  using Pieces = std::unordered_map<std::string, std::vector<std::int32_t>>;  // what was encoded already

  static const json::object& model_of(const json::object& file, std::string_view what) {
    const json::value* model = file.if_contains("model");
    if (model == nullptr || !model->is_object()) ConfigKeys(file, what).refuse("model", "no object", "a BPE model");
    return model->get_object();
  }

  bool known(std::int32_t id) const {
    return id >= 0 && id < size() && kind_[static_cast<std::size_t>(id)] != Kind::none;
  }

  void set(std::int32_t id, const std::string& token, Kind kind) {
    tokens_[static_cast<std::size_t>(id)] = token;
    kind_[static_cast<std::size_t>(id)] = kind;
  }

  void add(const AddedToken& token, std::string_view what) {
    const std::int32_t there = bpe_.find(token.content);
    const auto at = static_cast<std::size_t>(token.id);
    if ((there >= 0 && there != token.id) || (kind_[at] != Kind::none && tokens_[at] != token.content)) {
      static const json::object nothing;
      ConfigKeys(nothing, what, "added_tokens/")
          .refuse(token.content.substr(0, 60), fmt::format("id {}", token.id),
                  there >= 0 ? fmt::format("{}, its id in the vocabulary", there) : "an id that no other token has");
    }
    set(token.id, token.content, token.special ? Kind::special : Kind::added);
  }

  void encode_plain(std::string_view text, bool at_start, Pieces& seen, std::vector<std::int32_t>& ids) const {
    for (std::string& piece : pre_tokenizer_.apply(text, at_start)) {
      if (piece.size() > 64) {  // long pieces hardly recur
        bpe_.encode(piece, ids);
        continue;
      }
      auto found = seen.find(piece);
      if (found == seen.end()) {
        std::vector<std::int32_t> encoded;
        bpe_.encode(piece, encoded);
        if (seen.size() >= 100'000) seen.clear();
        found = seen.emplace(std::move(piece), std::move(encoded)).first;
      }
      ids.insert(ids.end(), found->second.begin(), found->second.end());
    }
  }

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  PostProcessor post_processor_;
  Decoder decoder_;
  Bpe bpe_;
  std::vector<AddedToken> added_;
  AddedTokenFinder raw_finder_, normalized_finder_;
  std::vector<std::string> tokens_;  // by id
  std::vector<Kind> kind_;
};

}  // namespace

std::shared_ptr<const Tokenizer> parse_tokenizer(std::string_view text, std::string_view what) {
  const json::value file = parse_json(text, what, {.max_bytes = max_tokenizer_bytes, .max_depth = max_tokenizer_depth});
  static const json::object nothing;
  if (!file.is_object()) ConfigKeys(nothing, what).refuse("the file", "no object", "a tokenizer");
  return std::make_shared<FileTokenizer>(file.get_object(), what);
}

}  // namespace kvgrind::traces
