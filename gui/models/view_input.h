// Everything a view may need to build its snapshot. Plain values; jobs carry what their replay found.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "gui/models/selection.h"
#include "gui/models/tile_pyramid.h"
#include "replay/session.h"

namespace kvgrind::gui {

struct ShownJob {
  std::string name;  // "snapkv, 20 % kept"
  replay::SessionJob asked;
  std::shared_ptr<const replay::JobView> view;  // of the selected sequence, with its timeline
  std::size_t colour = 0;                       // fixed for the life of the job
};

enum class HeadOrder : std::uint8_t { layer, entropy, sink, recall };  // of the head grid, most first
constexpr int head_orders = 4;
const char* head_order_name(HeadOrder order);

struct MapOptions {
  replay::Pool pool = replay::Pool::max;
  bool log = true;
  int colours = 0;      // which colour map
  bool overlay = true;  // kept and dropped keys of the first job
  bool values = false;  // channels of V instead of K
  bool difference = false;
  bool steps = false;  // kept raster: a line a step of the chosen head, instead of a line a layer and head
  HeadOrder order = HeadOrder::layer;
  bool follow = true;     // a selected range is zoomed to; else it is marked
  bool received = false;  // the text is shaded by received attention even when policies are shown
  bool operator==(const MapOptions&) const = default;
};

struct ViewInput {
  std::shared_ptr<const replay::Session> session;  // null: a results file alone
  Selection at;
  std::vector<ShownJob> jobs;
  std::shared_ptr<const std::vector<traces::ResultRow>> rows;  // of a results file and of jobs run here; may be null
  std::shared_ptr<TilePyramid> tiles;                          // of the session
  std::shared_ptr<const std::vector<std::string>> text;        // bytes of each token of the sequence; may be empty
  MapOptions map;
  std::string results_x = "stored_frac", results_y;  // of the Pareto view

  // What everything is held against (`--diff`): another trace, or other results; null: nothing.
  std::shared_ptr<const replay::Session> base;
  std::shared_ptr<TilePyramid> base_tiles;
  std::shared_ptr<const std::vector<traces::ResultRow>> base_rows;
  std::string base_name;
};

std::string job_name(const std::string& policy, const std::string& budget);
// "snapkv@0.2": a job as the selection knows it; equal for equal amounts however they are typed.
std::string job_key(const std::string& policy, const std::string& budget);

// The sequence that is looked at; null without a session.
const traces::SequenceInfo* sequence_of(const ViewInput& input);
Limits limits_of(const ViewInput& input);

}  // namespace kvgrind::gui
