#include "traces/results/plans_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "traces/kvt/hdf5.h"
#include "traces/kvt/probe.h"

namespace kvgrind::traces {
namespace {

using GroupId = Handle<hid_t, H5Gclose, hid_t{-1}>;

constexpr std::int64_t max_layers = 4096, max_text_bytes = 1 << 20, max_jobs = 10'000'000;

// Every call is made under hdf5::Lock, held by the public functions.
class Place {
 public:
  Place(std::string on, bool writing) : on_(std::move(on)), writing_(writing) {}
  const std::string& on() const { return on_; }

  hid_t id(hid_t value, const char* what) const {
    if (value < 0) fail(what);
    return value;
  }
  void ok(herr_t status, const char* what) const {
    if (status < 0) fail(what);
  }
  [[noreturn]] void fail(const std::string& what) const {
    if (writing_) throw hdf5::write_fault(on_, what + ": " + hdf5::last_error());
    throw hdf5::read_fault(on_, what);
  }

 private:
  std::string on_;
  bool writing_;
};

hdf5::TypeId text_type(const Place& place, std::size_t bytes) {
  hdf5::TypeId type(place.id(H5Tcopy(H5T_C_S1), "copying a type"));
  place.ok(H5Tset_size(type.get(), std::max<std::size_t>(1, bytes)), "sizing a text");
  place.ok(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "padding a text");
  place.ok(H5Tset_cset(type.get(), H5T_CSET_UTF8), "setting UTF-8");
  return type;
}

void write_attribute(const Place& place, hid_t group, const char* name, hid_t type, const void* data) {
  const hdf5::SpaceId space(place.id(H5Screate(H5S_SCALAR), "creating a space"));
  const hdf5::AttributeId attribute(
      place.id(H5Acreate2(group, name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT), "creating an attribute"));
  place.ok(H5Awrite(attribute.get(), type, data), "writing an attribute");
}

void write_text(const Place& place, hid_t group, const char* name, const std::string& text) {
  const hdf5::TypeId type = text_type(place, text.size());
  const char empty = '\0';
  write_attribute(place, group, name, type.get(), text.empty() ? &empty : text.data());
}

// Opens a scalar attribute of the wanted class; its stored type comes along.
hdf5::AttributeId open_attribute(const Place& place, hid_t group, const char* name, H5T_class_t wanted,
                                 hdf5::TypeId& type) {
  if (H5Aexists(group, name) <= 0) place.fail(fmt::format("no attribute `{}`", name));
  hdf5::AttributeId attribute(place.id(H5Aopen(group, name, H5P_DEFAULT), "opening an attribute"));
  const hdf5::SpaceId space(place.id(H5Aget_space(attribute.get()), "reading a space"));
  type = hdf5::TypeId(place.id(H5Aget_type(attribute.get()), "reading a type"));
  if (H5Sget_simple_extent_npoints(space.get()) != 1 || H5Tget_class(type.get()) != wanted ||
      (wanted == H5T_STRING && H5Tis_variable_str(type.get()) > 0))
    place.fail(fmt::format("attribute `{}` of another kind", name));
  return attribute;
}

std::string read_text(const Place& place, hid_t group, const char* name) {
  hdf5::TypeId type;
  const hdf5::AttributeId attribute = open_attribute(place, group, name, H5T_STRING, type);
  const std::size_t bytes = H5Tget_size(type.get());
  if (bytes > static_cast<std::size_t>(max_text_bytes)) place.fail(fmt::format("attribute `{}` too long", name));
  std::string text(bytes, '\0');
  place.ok(H5Aread(attribute.get(), type.get(), text.data()), "reading an attribute");
  text.resize(text.find('\0') == std::string::npos ? bytes : text.find('\0'));
  return text;
}

template <class T>
T read_number(const Place& place, hid_t group, const char* name, H5T_class_t wanted, hid_t memory) {
  hdf5::TypeId type;
  const hdf5::AttributeId attribute = open_attribute(place, group, name, wanted, type);
  T value{};
  place.ok(H5Aread(attribute.get(), memory, &value), "reading an attribute");
  return value;
}

void write_states(const Place& place, hid_t group, const std::string& name,
                  const std::vector<std::vector<std::uint8_t>>& states) {
  const hsize_t extents[2] = {states.size(), states.empty() ? 0 : states.front().size()};
  std::vector<std::uint8_t> flat;
  for (const auto& head : states) flat.insert(flat.end(), head.begin(), head.end());
  const hdf5::SpaceId space(place.id(H5Screate_simple(2, extents, nullptr), "creating a space"));
  const hdf5::DatasetId dataset(
      place.id(H5Dcreate2(group, name.c_str(), H5T_STD_U8LE, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
               "creating a dataset"));
  place.ok(H5Dwrite(dataset.get(), H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, flat.data()), "writing states");
}

bool has(hid_t group, const std::string& name) { return H5Lexists(group, name.c_str(), H5P_DEFAULT) > 0; }

void require_hard(const Place& place, hid_t group, const std::string& name) {
  H5L_info_t info;
  if (!has(group, name) || H5Lget_info(group, name.c_str(), &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD)
    place.fail(fmt::format("no `{}` there", name));
}

std::vector<std::vector<std::uint8_t>> read_states(const hdf5::File& file, const std::string& name) {
  // Rank and element type are checked by the layer; the extents are whatever the job had.
  const Place place(file.name + ": " + name, false);
  const hdf5::DatasetId probe(place.id(H5Dopen2(file.id.get(), name.c_str(), H5P_DEFAULT), "opening a dataset"));
  const hdf5::SpaceId space(place.id(H5Dget_space(probe.get()), "reading a space"));
  hsize_t extents[2] = {};
  if (H5Sget_simple_extent_ndims(space.get()) != 2) place.fail("another rank than [heads, tokens]");
  (void)H5Sget_simple_extent_dims(space.get(), extents, nullptr);
  const auto heads = static_cast<std::int64_t>(extents[0]), tokens = static_cast<std::int64_t>(extents[1]);
  const std::int64_t bytes = hdf5::checked_product({heads, tokens});
  if (bytes < 0 || bytes > hdf5::max_allocation_bytes) place.fail("unbelievable extents");
  const hdf5::Dataset dataset = hdf5::open_dataset(file, {.name = name, .extents = {heads, tokens}});
  std::vector<std::uint8_t> flat(static_cast<std::size_t>(bytes));
  if (bytes > 0) hdf5::read_rows(dataset, 0, heads, flat.data());
  std::vector<std::vector<std::uint8_t>> out;
  for (std::int64_t h = 0; h < heads; ++h) out.emplace_back(flat.begin() + h * tokens, flat.begin() + (h + 1) * tokens);
  return out;
}

hdf5::File open_plans(const std::filesystem::path& path) {
  hdf5::File file = hdf5::open_file(path.string());
  require_hard(Place(path.string(), false), file.id.get(), "jobs");
  return file;
}

}  // namespace

struct PlansFile::State {
  std::filesystem::path path, part;
  hdf5::File file;
  GroupId jobs;
  bool broken = false;  // after a failed write the handles are abandoned: closing them may crash
};

PlansFile::PlansFile(const std::filesystem::path& path, bool force) : state_(std::make_unique<State>()) {
  const hdf5::Lock lock;
  std::error_code ignored;
  if (!force && std::filesystem::exists(path, ignored))
    throw Error(Category::write, {.doing = "creating plans",
                                  .on = path.string(),
                                  .found = "the file exists",
                                  .next = "use --force to replace it"});
  state_->path = path;
  state_->part = path.string() + ".part";
  if (force) std::filesystem::remove(state_->part, ignored);
  const std::filesystem::path folder = path.parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder, ignored))
    throw Error(Category::write, {.doing = "creating plans",
                                  .on = path.string(),
                                  .found = "no folder " + folder.string(),
                                  .expected = "a folder to write into"});
  state_->file = hdf5::create_file(state_->part.string());
  const Place place(state_->part.string(), true);
  state_->jobs = GroupId(
      place.id(H5Gcreate2(state_->file.id.get(), "jobs", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), "creating /jobs"));
}

PlansFile::~PlansFile() {
  const hdf5::Lock lock;
  if (state_->broken) {
    (void)state_->jobs.release();
    (void)state_->file.id.release();
  }
  state_->jobs.reset();
  state_->file.id.reset();
}

void PlansFile::write(std::int64_t job, const JobPlan& plan) {
  const hdf5::Lock lock;
  const Place place(fmt::format("{}: /jobs/{}", state_->part.string(), job), true);
  state_->broken = true;
  const GroupId group(
      place.id(H5Gcreate2(state_->jobs.get(), std::to_string(job).c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
               "creating a job"));
  write_text(place, group.get(), "policy", plan.policy);
  write_text(place, group.get(), "preset", plan.preset);
  write_attribute(place, group.get(), "keep", H5T_NATIVE_DOUBLE, &plan.keep);
  write_attribute(place, group.get(), "removed", H5T_NATIVE_DOUBLE, &plan.removed);
  write_attribute(place, group.get(), "compress_at", H5T_NATIVE_INT64, &plan.compress_at);
  write_attribute(place, group.get(), "sequence", H5T_NATIVE_INT64, &plan.sequence);
  GroupId values;
  for (std::size_t l = 0; l < plan.k.size(); ++l) {
    write_states(place, group.get(), fmt::format("L{}", l), plan.k[l]);
    if (plan.v.empty() || plan.v[l] == plan.k[l]) continue;
    if (!values)
      values = GroupId(place.id(H5Gcreate2(group.get(), "V", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), "creating V"));
    write_states(place, values.get(), fmt::format("L{}", l), plan.v[l]);
  }
  state_->broken = false;
}

void PlansFile::close() {
  const hdf5::Lock lock;
  if (!state_->file.id) return;
  state_->jobs.reset();
  hdf5::close_file(state_->file);
  std::error_code failed;
  std::filesystem::rename(state_->part, state_->path, failed);
  if (failed)
    throw Error(Category::write, {.doing = "closing plans", .on = state_->path.string(), .found = failed.message()});
}

namespace {

JobPlan read_plan(const std::filesystem::path& path, std::int64_t job) {
  const hdf5::Lock lock;
  const hdf5::File file = open_plans(path);
  const std::string name = fmt::format("/jobs/{}", job);
  const Place place(path.string() + ": " + name, false);
  const GroupId jobs(place.id(H5Gopen2(file.id.get(), "jobs", H5P_DEFAULT), "opening /jobs"));
  require_hard(place, jobs.get(), std::to_string(job));
  const GroupId group(place.id(H5Gopen2(jobs.get(), std::to_string(job).c_str(), H5P_DEFAULT), "opening the job"));
  JobPlan plan;
  plan.policy = read_text(place, group.get(), "policy");
  plan.preset = read_text(place, group.get(), "preset");
  plan.keep = read_number<double>(place, group.get(), "keep", H5T_FLOAT, H5T_NATIVE_DOUBLE);
  plan.removed = read_number<double>(place, group.get(), "removed", H5T_FLOAT, H5T_NATIVE_DOUBLE);
  plan.compress_at = read_number<std::int64_t>(place, group.get(), "compress_at", H5T_INTEGER, H5T_NATIVE_INT64);
  plan.sequence = read_number<std::int64_t>(place, group.get(), "sequence", H5T_INTEGER, H5T_NATIVE_INT64);
  const bool values = has(group.get(), "V");
  if (values) require_hard(place, group.get(), "V");
  for (std::int64_t l = 0; l < max_layers && has(group.get(), fmt::format("L{}", l)); ++l) {
    require_hard(place, group.get(), fmt::format("L{}", l));
    plan.k.push_back(read_states(file, fmt::format("{}/L{}", name, l)));
  }
  for (std::size_t l = 0; values && l < plan.k.size(); ++l) {
    const std::string of_layer = fmt::format("V/L{}", l);
    plan.v.push_back(has(group.get(), of_layer) ? read_states(file, name + "/" + of_layer) : plan.k[l]);
  }
  return plan;
}

std::vector<std::int64_t> list_plans(const std::filesystem::path& path) {
  const hdf5::Lock lock;
  const hdf5::File file = open_plans(path);
  const Place place(path.string() + ": /jobs", false);
  const GroupId jobs(place.id(H5Gopen2(file.id.get(), "jobs", H5P_DEFAULT), "opening /jobs"));
  H5G_info_t info;
  place.ok(H5Gget_info(jobs.get(), &info), "counting jobs");
  if (info.nlinks > static_cast<hsize_t>(max_jobs)) place.fail("too many jobs");
  std::vector<std::int64_t> out;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    char name[32] = {};
    const ssize_t n =
        H5Lget_name_by_idx(jobs.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
    if (n <= 0 || n >= static_cast<ssize_t>(sizeof name) ||
        std::string(name).find_first_not_of("0123456789") != std::string::npos || n > 18)
      place.fail("a job that is no number");
    out.push_back(std::stoll(name));
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

JobPlan read_job_plan(const std::filesystem::path& path, std::int64_t job) {
  probe_in_child(path.string(), [&] { (void)read_plan(path, job); });
  return read_plan(path, job);
}

std::vector<std::int64_t> list_job_plans(const std::filesystem::path& path) {
  probe_in_child(path.string(), [&] { (void)list_plans(path); });
  return list_plans(path);
}

}  // namespace kvgrind::traces
