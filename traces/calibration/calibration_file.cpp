#include "traces/calibration/calibration_file.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "traces/kvt/hdf5.h"
#include "traces/kvt/probe.h"

namespace kvgrind::traces {
namespace {

constexpr const char* attribute = "kvg_calibration";
constexpr std::int64_t max_values = 1ll << 28;

std::string text_of(const json::object& object, const char* key, const std::string& on) {
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_string()) throw hdf5::read_fault(on, fmt::format("no text \"{}\"", key));
  return std::string(value->as_string());
}

const json::value& part_of(const json::object& object, const char* key, bool list, const std::string& on) {
  const json::value* value = object.if_contains(key);
  if (!value || (list ? !value->is_array() : !value->is_object()))
    throw hdf5::read_fault(on, fmt::format("no \"{}\"", key));
  return *value;
}

}  // namespace

void write_calibration(const std::filesystem::path& path, const Calibration& calibration, bool force) {
  const hdf5::Lock lock;
  if (!force && std::filesystem::exists(path))
    throw Error(Category::write, {.doing = "writing",
                                  .on = path.string(),
                                  .found = "a file of that name",
                                  .expected = "none",
                                  .next = "another name, or --force"});
  json::array tensors;
  std::vector<float> values;
  for (const auto& [name, tensor] : calibration.tensors) {
    tensors.push_back(json::object{{"name", name}, {"shape", json::array(tensor.shape.begin(), tensor.shape.end())}});
    values.insert(values.end(), tensor.values.begin(), tensor.values.end());
  }
  json::object numbers, texts;
  for (const auto& [name, number] : calibration.numbers) numbers[name] = number;
  for (const auto& [name, text] : calibration.texts) texts[name] = text;
  const json::object card{{"version", 1},
                          {"method", calibration.method},
                          {"model", calibration.model},
                          {"numbers", std::move(numbers)},
                          {"texts", std::move(texts)},
                          {"tensors", std::move(tensors)}};
  const std::string part = path.string() + ".part";
  std::error_code ignored;
  std::filesystem::remove(part, ignored);
  hdf5::File file = hdf5::create_file(part);
  hdf5::write_text_attribute(file, attribute, json_text(card));
  {
    const auto n = static_cast<std::int64_t>(values.size());
    const hdf5::Dataset dataset =
        hdf5::create_dataset(file, {.name = "values", .element = hdf5::Element::f32, .extents = {n}, .chunk = {}});
    hdf5::write_rows(dataset, 0, n, values.data());
  }
  hdf5::close_file(file);
  std::error_code failed;
  std::filesystem::rename(part, path, failed);
  if (failed) throw hdf5::write_fault(path.string(), failed.message());
}

namespace {

std::shared_ptr<const Calibration> read_sound(const std::filesystem::path& path) {
  const hdf5::Lock lock;
  const std::string on = path.string();
  const hdf5::File file = hdf5::open_file(on);
  const json::value root = parse_json(hdf5::read_text_attribute(file, attribute), on);
  if (!root.is_object()) throw hdf5::read_fault(on, "a card that is no object");
  const json::object& card = root.as_object();
  auto out = std::make_shared<Calibration>();
  out->method = text_of(card, "method", on);
  out->model = text_of(card, "model", on);
  for (const auto& [name, value] : part_of(card, "numbers", false, on).as_object())
    if (value.is_number()) out->numbers[std::string(name)] = value.to_number<double>();
  for (const auto& [name, value] : part_of(card, "texts", false, on).as_object())
    if (value.is_string()) out->texts[std::string(name)] = std::string(value.as_string());
  std::int64_t total = 0;
  for (const json::value& entry : part_of(card, "tensors", true, on).as_array()) {
    if (!entry.is_object()) throw hdf5::read_fault(on, "a tensor that is no object");
    const json::object& object = entry.as_object();
    CalibrationTensor& tensor = out->tensors[text_of(object, "name", on)];
    for (const json::value& extent : part_of(object, "shape", true, on).as_array()) {
      if (!extent.is_int64() || extent.as_int64() < 0) throw hdf5::read_fault(on, "a shape with a wrong extent");
      tensor.shape.push_back(extent.as_int64());
    }
    const std::int64_t n = hdf5::checked_product(tensor.shape);
    if (n < 0 || n > max_values - total) throw hdf5::read_fault(on, "more values than a calibration holds");
    tensor.values.resize(static_cast<std::size_t>(n));
    total += n;
  }
  const hdf5::Dataset dataset =
      hdf5::open_dataset(file, {.name = "values", .element = hdf5::Element::f32, .extents = {total}, .chunk = {}});
  std::int64_t at = 0;
  for (const json::value& entry : card.at("tensors").as_array()) {  // in the file's order
    CalibrationTensor& tensor = out->tensors[std::string(entry.as_object().at("name").as_string())];
    const auto n = static_cast<std::int64_t>(tensor.values.size());
    if (at + n > total) throw hdf5::read_fault(on, "two tensors of one name");
    if (n > 0) hdf5::read_rows(dataset, at, n, tensor.values.data());
    at += n;
  }
  return out;
}

}  // namespace

std::shared_ptr<const Calibration> read_calibration(const std::filesystem::path& path) {
  const std::string on = path.string();
  if (!std::filesystem::exists(path))
    throw Error(Category::missing, {.doing = "reading",
                                    .on = on,
                                    .found = "no such file",
                                    .expected = "what kvgrind fit wrote",
                                    .next = "kvgrind fit METHOD TRACE… -o " + on});
  probe_in_child(on, [&] { (void)read_sound(path); });
  return read_sound(path);
}

}  // namespace kvgrind::traces
