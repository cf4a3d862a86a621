// Loss against bytes as SVG: one line a policy over its budgets, bars, the lower hull, references dashed.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/policy_line.h"
#include "replay/report/report.h"

namespace kvgrind::replay {
namespace {

// Okabe and Ito's palette, told apart with any common colour blindness; yellow is left out (too faint on white).
constexpr const char* colours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"};
constexpr const char* dashes[] = {"", "6 3", "2 2"};
constexpr int n_colours = 7, n_dashes = 3, n_markers = 6;

struct Point {
  double x = 0;
  Estimate y;
};
struct Series {
  std::string name;
  Standing standing = Standing::ranked;
  std::vector<Point> points;
};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (static_cast<unsigned char>(c) >= 0x20)
      out += c;
  }
  return out;
}

// Pixels with two decimals: the same text on every machine.
std::string px(double value) { return fmt::format("{:.2f}", value + 0.0); }

struct Axis {
  double low = 0, high = 1;   // of the data, as shown
  double begin = 0, end = 1;  // pixels
  bool log = false;
  double at(double value) const {
    const double t =
        log ? (std::log(value) - std::log(low)) / (std::log(high) - std::log(low)) : (value - low) / (high - low);
    return begin + t * (end - begin);
  }
};

std::vector<double> log_ticks(double low, double high) {
  std::vector<double> out;
  for (double decade = 1e-6; decade < 10; decade *= 10)
    for (const double step : {1.0, 2.0, 5.0})
      if (decade * step >= low * 0.999 && decade * step <= high * 1.001) out.push_back(decade * step);
  return out;
}

std::vector<double> linear_ticks(double low, double high) {
  double step = std::pow(10.0, std::floor(std::log10((high - low) / 5)));
  for (const double factor : {2.0, 2.5, 2.0})
    if ((high - low) / step > 7) step *= factor;
  std::vector<double> out;
  for (double tick = std::ceil(low / step - 1e-9) * step; tick <= high + 1e-9 * step; tick += step)
    out.push_back(std::abs(tick) < step * 1e-9 ? 0.0 : tick);
  return out;
}

std::string marker(int kind, double x, double y, const std::string& colour) {
  const std::string style = fmt::format("fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"0.8\"", colour);
  const auto polygon = [&](std::initializer_list<std::pair<double, double>> corners) {
    std::string points;
    for (const auto& [dx, dy] : corners)
      points += fmt::format("{}{},{}", points.empty() ? "" : " ", px(x + dx), px(y + dy));
    return fmt::format("<polygon points=\"{}\" {}/>\n", points, style);
  };
  switch (kind) {
    case 0:
      return fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"4\" {}/>\n", px(x), px(y), style);
    case 1:
      return polygon({{-3.6, -3.6}, {3.6, -3.6}, {3.6, 3.6}, {-3.6, 3.6}});
    case 2:
      return polygon({{0, -5}, {4.6, 3.4}, {-4.6, 3.4}});
    case 3:
      return polygon({{0, -5.2}, {5.2, 0}, {0, 5.2}, {-5.2, 0}});
    case 4:
      return polygon({{0, 5}, {4.6, -3.4}, {-4.6, -3.4}});
    default:
      return polygon({{-1.5, -4.5},
                      {1.5, -4.5},
                      {1.5, -1.5},
                      {4.5, -1.5},
                      {4.5, 1.5},
                      {1.5, 1.5},
                      {1.5, 4.5},
                      {-1.5, 4.5},
                      {-1.5, 1.5},
                      {-4.5, 1.5},
                      {-4.5, -1.5},
                      {-1.5, -1.5}});
  }
}

std::string text_at(double x, double y, std::string_view text, std::string_view more = "") {
  return fmt::format("<text x=\"{}\" y=\"{}\" {}>{}</text>\n", px(x), px(y), more, escaped(text));
}

std::string axis_words(const std::string& name) {
  if (name == "kept_frac") return "tokens kept, share of the context";
  if (name == "stored_frac") return "bytes stored, share of the full cache";
  if (name == "touched_frac") return "bytes read per step, share of the full cache";
  const std::string figure = name.substr(0, name.find('.'));
  const char* meaning = figure == "predicted_dprob" ? "predicted loss of probability"
                        : figure == "D"             ? "max(S, 2E)"
                        : figure == "S"             ? "lost look-ups"
                        : figure == "E"             ? "output shift"
                        : figure == "recall"        ? "attention mass kept"
                        : figure == "dprob"         ? "probability lost on the right token"
                                                    : "";
  return *meaning ? fmt::format("{}: {}", name, meaning) : name;
}

// Corners of the lower-left (or upper-left) convex hull in pixels: what no mix of the shown points beats.
std::vector<std::pair<double, double>> hull(std::vector<std::pair<double, double>> points, bool upper) {
  // Of points at one x only the best can be a corner.
  std::sort(points.begin(), points.end(), [upper](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : (upper ? a.second < b.second : a.second > b.second);
  });
  points.erase(
      std::unique(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.first == b.first; }),
      points.end());
  const double sign = upper ? -1.0 : 1.0;  // pixels grow downwards: the best is the largest y for a loss
  std::vector<std::pair<double, double>> out;
  for (const auto& p : points) {
    while (out.size() >= 2) {
      const auto& a = out[out.size() - 2];
      const auto& b = out.back();
      const double turn = (b.first - a.first) * (p.second - a.second) - (b.second - a.second) * (p.first - a.first);
      if (sign * turn < 0) break;
      out.pop_back();
    }
    out.push_back(p);
  }
  return out;
}

// With many policies, the curves that are best on average, and a word on how many there are: more cannot be told apart.
void keep_the_best(std::vector<Series>& series, bool higher, std::string& words) {
  constexpr std::size_t most = 16;
  std::vector<std::pair<double, std::string>> order;
  for (const Series& s : series) {
    if (s.standing != Standing::ranked) continue;
    double sum = 0;
    for (const Point& p : s.points) sum += higher ? -p.y.value : p.y.value;
    const bool curve = s.points.size() > 1 && s.points.back().x > 1.5 * s.points.front().x;
    order.emplace_back(curve ? sum / static_cast<double>(s.points.size()) : std::numeric_limits<double>::infinity(),
                       s.name);
  }
  if (order.size() <= most) return;
  std::sort(order.begin(), order.end());
  words += fmt::format("; the {} best of {} policies", most, order.size());
  std::erase_if(series, [&](const Series& s) {
    return s.standing == Standing::ranked &&
           std::none_of(order.begin(), order.begin() + most, [&](const auto& best) { return best.second == s.name; });
  });
}

std::vector<Series> take_series(const Report& report, const ParetoOptions& options, std::string& y,
                                std::string& words) {
  std::vector<Series> out;
  const ReportTable* first = nullptr;
  for (const ReportTable& table : report.tables) {
    if (!options.loop.empty() && table.loop != options.loop) continue;
    if (!options.protocol.empty() && table.protocol != options.protocol) continue;
    if (!first) first = &table;
    if (table.loop != first->loop || table.protocol != first->protocol) continue;
    if (y.empty()) y = table.headline;
    for (const ReportRow& row : table.rows) {
      const auto x = row.values.find(options.x), value = row.values.find(y);
      if (x == row.values.end() || value == row.values.end()) continue;
      if (!(x->second.value > 0) || std::isnan(value->second.value)) continue;
      auto it = std::find_if(out.begin(), out.end(), [&](const Series& s) { return s.name == row.preset; });
      if (it == out.end())
        it = out.insert(out.end(), {row.preset, row.standing == Standing::over ? Standing::ranked : row.standing, {}});
      it->points.push_back({x->second.value, value->second});
    }
  }
  if (!first || out.empty())
    throw Error(Category::usage, {.doing = "drawing the Pareto view",
                                  .found = "no rows with the axes asked for",
                                  .expected = fmt::format("figures `{}` and `{}`", options.x, y)});
  words = fmt::format("{} loop, {}, {} prompts, bars {:g} % bootstrap", first->loop, first->protocol, first->prompts,
                      report.confidence * 100);
  // Ranked by name (colours stay when figures move), references last.
  std::sort(out.begin(), out.end(), [](const Series& a, const Series& b) {
    return std::tie(a.standing, a.name) < std::tie(b.standing, b.name);
  });
  for (Series& s : out) {
    std::sort(s.points.begin(), s.points.end(),
              [](const Point& a, const Point& b) { return std::pair(a.x, a.y.value) < std::pair(b.x, b.y.value); });
    // The same figure at every budget (the full cache): one point says it.
    const auto same = [](const Point& a, const Point& b) { return a.x == b.x && a.y.value == b.y.value; };
    s.points.erase(std::unique(s.points.begin(), s.points.end(), same), s.points.end());
  }
  // A reference that stands at one x whatever the budget (reading oracles against stored bytes) is no curve here.
  std::erase_if(out, [](const Series& s) {
    return s.standing == Standing::reference && s.points.size() > 1 && s.points.front().x == s.points.back().x;
  });
  keep_the_best(out, higher_is_better(y), words);
  return out;
}

struct Look {
  std::string colour, dash;
  int marker = 0;
};
Look look_of(const Series& series, int index) {
  if (series.standing == Standing::reference)
    return {"#777777", series.name == "random" ? "1 3" : "8 4", index % n_markers};
  return {colours[index % n_colours], dashes[index / n_colours % n_dashes], index % n_markers};
}

std::string polyline(const std::vector<std::pair<double, double>>& points, const std::string& style) {
  std::string text;
  for (const auto& [x, y] : points) text += fmt::format("{}{},{}", text.empty() ? "" : " ", px(x), px(y));
  return fmt::format("<polyline points=\"{}\" fill=\"none\" {}/>\n", text, style);
}

}  // namespace

std::string pareto_svg(const Report& report, const ParetoOptions& options) {
  std::string y_name = options.y, words;
  const std::vector<Series> series = take_series(report, options, y_name, words);
  double x_low = 1, x_high = 0, y_low = 0, y_high = 0;
  std::size_t longest = 6;
  for (const Series& s : series) {
    longest = std::max(longest, s.name.size());
    for (const Point& p : s.points) {
      x_low = std::min(x_low, p.x);
      x_high = std::max(x_high, p.x);
      y_low = std::min(y_low, std::isnan(p.y.lo) ? p.y.value : p.y.lo);
      y_high = std::max(y_high, std::isnan(p.y.hi) ? p.y.value : p.y.hi);
    }
  }
  const bool upper = higher_is_better(y_name);
  if (upper) y_high = std::max(y_high, 1.0);
  if (y_high <= y_low) y_high = y_low + 1;
  const double legend = 44 + 7.0 * static_cast<double>(std::min<std::size_t>(longest, 34));
  Axis x{x_low / 1.12, x_high * 1.12, 74, options.width - legend - 18, true};
  Axis y{y_low, y_high + 0.04 * (y_high - y_low), options.height - 62.0, 58, false};

  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\" role=\"img\">\n",
      options.width, options.height);
  const std::string title = options.title.empty() ? fmt::format("{} against {}", y_name, options.x) : options.title;
  out += fmt::format("<title>{}</title>\n<desc>{}</desc>\n", escaped(title), escaped(words));
  out += fmt::format("<rect width=\"{}\" height=\"{}\" fill=\"#ffffff\"/>\n", options.width, options.height);
  out += text_at(x.begin, 24, title, "font-size=\"15\" font-weight=\"bold\" fill=\"#111111\"");
  out += text_at(x.begin, 43, words, "fill=\"#555555\"");
  for (const double tick : log_ticks(x.low, x.high)) {
    out += fmt::format("<line x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#e6e6e6\"/>\n", px(x.at(tick)),
                       px(y.begin), px(y.end));
    out += text_at(x.at(tick), y.begin + 18, number_text(tick * 100) + " %", "text-anchor=\"middle\" fill=\"#333333\"");
  }
  for (const double tick : linear_ticks(y.low, y.high)) {
    out += fmt::format("<line x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\" stroke=\"#e6e6e6\"/>\n", px(x.begin),
                       px(x.end), px(y.at(tick)));
    out += text_at(x.begin - 8, y.at(tick) + 4, fmt::format("{:.3g}", tick), "text-anchor=\"end\" fill=\"#333333\"");
  }
  out += fmt::format("<path d=\"M{0} {2} L{0} {1} L{3} {1}\" fill=\"none\" stroke=\"#333333\"/>\n", px(x.begin),
                     px(y.begin), px(y.end), px(x.end));
  out += text_at((x.begin + x.end) / 2, options.height - 20, axis_words(options.x),
                 "text-anchor=\"middle\" fill=\"#111111\"");
  out += fmt::format(
      "<text transform=\"translate(20 {}) rotate(-90)\" text-anchor=\"middle\" fill=\"#111111\">{} ({} is "
      "better)</text>\n",
      px((y.begin + y.end) / 2), escaped(axis_words(y_name)), upper ? "higher" : "lower");

  std::vector<std::pair<double, double>> candidates;
  for (const Series& s : series)
    for (const Point& p : s.points)
      if (s.standing == Standing::ranked) candidates.emplace_back(x.at(p.x), y.at(p.y.value));
  if (candidates.size() > 1)
    out += polyline(hull(candidates, upper),
                    "stroke=\"#d9d9d9\" stroke-width=\"7\" stroke-linejoin=\"round\" stroke-linecap=\"round\"");

  double legend_y = y.end + 6;
  const double legend_x = x.end + 20;
  out += text_at(legend_x, legend_y - 14, "grey band: best of all", "font-size=\"10\" fill=\"#777777\"");
  // Equal budgets put all policies at one x: they stand side by side, a pixel or so apart.
  const auto ranked =
      std::count_if(series.begin(), series.end(), [](const Series& s) { return s.standing == Standing::ranked; });
  int index = 0;
  for (const Series& s : series) {
    const double aside = s.standing == Standing::ranked ? (index - static_cast<double>(ranked - 1) / 2) * 1.4 : 0;
    const Look look = look_of(s, index++);
    const std::string dash = look.dash.empty() ? std::string{} : fmt::format(" stroke-dasharray=\"{}\"", look.dash);
    const std::string line = fmt::format("stroke=\"{}\" stroke-width=\"1.6\"{}", look.colour, dash);
    std::vector<std::pair<double, double>> points;
    out += fmt::format("<g><title>{}</title>\n", escaped(s.name));
    for (const Point& p : s.points) {
      points.emplace_back(x.at(p.x) + aside, y.at(p.y.value));
      if (std::isnan(p.y.lo) || p.y.hi <= p.y.lo) continue;
      out += fmt::format(
          "<line x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\" stroke=\"{3}\" stroke-width=\"1\" opacity=\"0.45\"/>\n",
          px(x.at(p.x) + aside), px(y.at(p.y.lo)), px(y.at(p.y.hi)), look.colour);
    }
    if (points.size() > 1) out += polyline(points, line);
    for (const auto& [at_x, at_y] : points) out += marker(look.marker, at_x, at_y, look.colour);
    out += "</g>\n";
    out += polyline({{legend_x, legend_y}, {legend_x + 26, legend_y}}, line);
    out += marker(look.marker, legend_x + 13, legend_y, look.colour);
    const std::string name = s.name.size() > 34 ? s.name.substr(0, 33) + "…" : s.name;
    out += text_at(legend_x + 33, legend_y + 4, s.standing == Standing::reference ? name + " (ref)" : name,
                   s.standing == Standing::reference ? "fill=\"#666666\"" : "fill=\"#111111\"");
    legend_y += 19;
  }
  return out + "</svg>\n";
}

}  // namespace kvgrind::replay
