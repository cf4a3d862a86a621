#include "replay/validate/validation_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

namespace kvgrind::replay {
namespace {

std::string number(double x) { return std::isnan(x) ? std::string("–") : fmt::format("{:.2f}", x); }
std::string with_interval(const Interval& i) {
  return std::isnan(i.value) ? std::string("–") : fmt::format("{:.2f} [{:.2f}, {:.2f}]", i.value, i.lo, i.hi);
}

const Agreement* find(const TaskValidation& task, const std::string& figure, const std::string& amount) {
  for (const Agreement& row : task.agreements)
    if (row.figure == figure && row.amount == amount) return &row;
  return nullptr;
}

std::vector<std::string> amounts_of(const TaskValidation& task) {
  std::vector<std::string> out;
  for (const Agreement& row : task.agreements)
    if (!row.amount.empty() && std::find(out.begin(), out.end(), row.amount) == out.end()) out.push_back(row.amount);
  return out;
}

double worst_given_away(const TaskValidation& task, const std::string& figure) {
  double worst = std::nan("");
  for (const Decision& decision : task.decisions)
    if (decision.figure == figure)
      worst = std::isnan(worst) ? decision.given_away : std::max(worst, decision.given_away);
  return worst;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  std::int64_t n = 0;
  for (const double x : values)
    if (!std::isnan(x)) {
      sum += x;
      ++n;
    }
  return n ? sum / static_cast<double>(n) : std::nan("");
}

std::string csv_text(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string xml_text(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : c == '>' ? "&gt;" : std::string(1, c);
  return out;
}

}  // namespace

const Agreement* best_figure(const TaskValidation& task) {
  const Agreement* best = nullptr;
  for (const Agreement& row : task.agreements)
    if (row.amount.empty() && !std::isnan(row.spearman.value) && (!best || row.spearman.value > best->spearman.value))
      best = &row;
  return best;
}

std::string validation_markdown(const Validation& validation) {
  std::string out = fmt::format("# How far can the open loop be trusted? {}\n\n", validation.model_name);
  auto to = std::back_inserter(out);
  fmt::format_to(
      to,
      "Truth: the loss of probability on the right token when the model re-runs with the policy in its cache "
      "(closed loop). A cell is one method at one amount, averaged over the prompts of a task. Spearman rank "
      "correlation of each open-loop figure with the truth, 95 % interval from a bootstrap over prompts. The "
      "null is the share of bytes removed, known without any measurement; the ceiling is the truth's own "
      "split-half reliability: no figure can be expected to do better.\n\nModel hash `{}`. Command: `{}`\n\n",
      validation.model_hash, validation.command);
  out +=
      "| task | prompts | cells | headline | null | best figure | ceiling | informative cells: headline | most given "
      "away |\n";
  out += "|---|---|---|---|---|---|---|---|---|\n";
  for (const TaskValidation& task : validation.tasks) {
    const Agreement* head = find(task, validation.headline, "");
    const Agreement* null = find(task, validation.null_figure, "");
    const Agreement* best = best_figure(task);
    fmt::format_to(to, "| {} | {} | {} | {} | {} | {} | {} | {} ({}) | {} |\n", task.task, task.prompts,
                   task.cells.size(), head ? with_interval(head->spearman) : "–",
                   null ? number(null->spearman.value) : "–",
                   best ? fmt::format("{} {}", best->figure, number(best->spearman.value)) : "–",
                   head ? number(head->ceiling) : "–", head ? with_interval(head->spearman_informative) : "–",
                   head ? head->informative_cells : 0, number(worst_given_away(task, validation.headline)));
  }
  fmt::format_to(to, "\nHeadline figure: `{}`; null: `{}`.\n", validation.headline, validation.null_figure);
  for (const TaskValidation& task : validation.tasks) {
    fmt::format_to(to,
                   "\n## {}\n\n{} methods × {} amounts × {} prompts; mean probability of the right token with the full "
                   "cache {:.3f}.\n\n",
                   task.task, task.methods, task.amounts, task.prompts, task.truth_full);
    const auto amounts = amounts_of(task);
    out += "| figure | pooled | informative | Kendall |";
    for (const std::string& amount : amounts) out += " at " + amount + " |";
    out += " most given away |\n|---|---|---|---|";
    for (std::size_t i = 0; i < amounts.size(); ++i) out += "---|";
    out += "---|\n";
    std::vector<const Agreement*> pooled;
    for (const Agreement& row : task.agreements)
      if (row.amount.empty()) pooled.push_back(&row);
    std::stable_sort(pooled.begin(), pooled.end(), [](const Agreement* a, const Agreement* b) {
      return std::isnan(b->spearman.value) || a->spearman.value > b->spearman.value;
    });
    for (const Agreement* row : pooled) {
      fmt::format_to(to, "| {} | {} | {} | {} |", row->figure, with_interval(row->spearman),
                     with_interval(row->spearman_informative), with_interval(row->kendall));
      for (const std::string& amount : amounts) {
        const Agreement* at = find(task, row->figure, amount);
        out += " " + (at ? number(at->spearman.value) : std::string("–")) + " |";
      }
      out += " " + number(worst_given_away(task, row->figure)) + " |\n";
    }
    out += "| *ceiling* | " + (pooled.empty() ? std::string("–") : number(pooled[0]->ceiling)) + " | | |";
    for (const std::string& amount : amounts) {
      const Agreement* at = pooled.empty() ? nullptr : find(task, pooled[0]->figure, amount);
      out += " " + (at ? number(at->ceiling) : std::string("–")) + " |";
    }
    out +=
        " |\n\nWorst disagreements of the headline (rank gap > 0: judged worse than it is):\n\n| method | kept | "
        "figure | truth | rank gap |\n|---|---|---|---|---|\n";
    for (const Disagreement& d : disagreements(task.cells, validation.headline, 6))
      fmt::format_to(to, "| {} | {} | {:.3f} | {:.3f} | {:+.2f} |\n", d.method, d.amount, d.figure_value, d.truth,
                     d.rank_gap);
  }
  return out;
}

std::string validation_csv(const Validation& validation) {
  std::string out =
      "task,figure,amount,cells,informative_cells,spearman,spearman_lo,spearman_hi,kendall,kendall_lo,kendall_hi,"
      "spearman_informative,spearman_informative_lo,spearman_informative_hi,ceiling\n";
  for (const TaskValidation& task : validation.tasks)
    for (const Agreement& row : task.agreements)
      fmt::format_to(std::back_inserter(out), "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", csv_text(task.task),
                     csv_text(row.figure), row.amount.empty() ? "pooled" : row.amount, row.cells, row.informative_cells,
                     row.spearman.value, row.spearman.lo, row.spearman.hi, row.kendall.value, row.kendall.lo,
                     row.kendall.hi, row.spearman_informative.value, row.spearman_informative.lo,
                     row.spearman_informative.hi, row.ceiling);
  return out;
}

std::string validation_cells_csv(const Validation& validation) {
  std::vector<std::string> figures;
  for (const TaskValidation& task : validation.tasks)
    for (const Cell& cell : task.cells)
      for (const auto& [name, values] : cell.figure)
        if (std::find(figures.begin(), figures.end(), name) == figures.end()) figures.push_back(name);
  std::string out = "task,method,amount,aware,prompts,dprob";
  for (const std::string& figure : figures) out += "," + csv_text(figure);
  out += "\n";
  for (const TaskValidation& task : validation.tasks)
    for (const Cell& cell : task.cells) {
      fmt::format_to(std::back_inserter(out), "{},{},{},{},{},{}", csv_text(task.task), csv_text(cell.method),
                     cell.amount, cell.aware ? 1 : 0, cell.truth.size(), mean(cell.truth));
      for (const std::string& figure : figures) {
        const auto it = cell.figure.find(figure);
        fmt::format_to(std::back_inserter(out), ",{}", it == cell.figure.end() ? std::nan("") : mean(it->second));
      }
      out += "\n";
    }
  return out;
}

std::string validation_svg(const Validation& validation) {
  constexpr double side = 250, gap = 70, top = 60;
  const auto columns = std::min<std::size_t>(3, std::max<std::size_t>(1, validation.tasks.size()));
  const std::size_t rows = (validation.tasks.size() + columns - 1) / columns;
  const double width = gap + static_cast<double>(columns) * (side + gap),
               height = top + static_cast<double>(rows) * (side + gap + 10);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"24\" font-size=\"15\">{3}: open-loop {4} against the closed loop's loss</text>\n",
      width, height, gap - 10, xml_text(validation.model_name), xml_text(validation.headline));
  auto to = std::back_inserter(out);
  constexpr std::array<const char*, 8> colours = {"#0072b2", "#e69f00", "#009e73", "#d55e00",
                                                  "#cc79a7", "#56b4e9", "#000000", "#7f7f7f"};
  for (std::size_t k = 0; k < validation.tasks.size(); ++k) {
    const TaskValidation& task = validation.tasks[k];
    const double x0 = gap + static_cast<double>(k % columns) * (side + gap);
    const double y0 = top + static_cast<double>(k / columns) * (side + gap + 10);
    double x_max = 0.1, y_max = 0.02;
    for (const Cell& cell : task.cells)
      if (const auto it = cell.figure.find(validation.headline); it != cell.figure.end()) {
        x_max = std::max(x_max, mean(it->second));
        y_max = std::max(y_max, mean(cell.truth));
      }
    x_max = std::min(x_max, 2.0) * 1.05;
    y_max *= 1.05;
    const Agreement* head = find(task, validation.headline, "");
    fmt::format_to(to, "<text x=\"{}\" y=\"{}\">{}  ρ = {}</text>\n", x0, y0 - 6, xml_text(task.task),
                   head ? number(head->spearman.value) : "–");
    fmt::format_to(to, "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#888\"/>\n", x0, y0,
                   side, side);
    for (int i = 0; i <= 4; ++i) {
      const double f = i / 4.0;
      fmt::format_to(to, "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.2f}</text>\n", x0 + f * side,
                     y0 + side + 14, f * x_max);
      fmt::format_to(to, "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:.2f}</text>\n", x0 - 4,
                     y0 + side - f * side + 4, f * y_max);
    }
    fmt::format_to(to, "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x0 + side / 2,
                   y0 + side + 30, xml_text(validation.headline));
    fmt::format_to(to,
                   "<text transform=\"translate({:.1f},{:.1f}) rotate(-90)\" text-anchor=\"middle\">loss of p(right "
                   "token)</text>\n",
                   x0 - 42, y0 + side / 2);
    std::vector<std::string> amounts;
    for (const Cell& cell : task.cells) {
      const auto it = cell.figure.find(validation.headline);
      if (it == cell.figure.end()) continue;
      const double x = mean(it->second), y = mean(cell.truth);
      if (std::isnan(x) || std::isnan(y)) continue;
      auto found = std::find(amounts.begin(), amounts.end(), cell.amount);
      if (found == amounts.end()) found = amounts.insert(amounts.end(), cell.amount);
      const auto colour = static_cast<std::size_t>(found - amounts.begin()) % colours.size();
      fmt::format_to(to,
                     "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\" fill-opacity=\"0.7\"><title>{} at {}: "
                     "{:.3f}, {:.3f}</title></circle>\n",
                     x0 + std::min(x, x_max) / x_max * side, y0 + side - std::clamp(y, 0.0, y_max) / y_max * side,
                     colours[colour], xml_text(cell.method), xml_text(cell.amount), x, y);
    }
    for (std::size_t a = 0; a < amounts.size() && k == 0; ++a)
      fmt::format_to(
          to, "<circle cx=\"{0:.1f}\" cy=\"40\" r=\"3\" fill=\"{1}\"/><text x=\"{2:.1f}\" y=\"44\">{3} kept</text>\n",
          gap + static_cast<double>(a) * 85, colours[a % colours.size()], gap + static_cast<double>(a) * 85 + 8,
          xml_text(amounts[a]));
  }
  return out + "</svg>\n";
}

json::value trust_block(const Validation& validation) {
  json::array tasks;
  for (const TaskValidation& task : validation.tasks) {
    json::array figures;
    for (const Agreement& row : task.agreements)
      if (row.amount.empty())
        figures.push_back(json::object{{"figure", row.figure},
                                       {"spearman", row.spearman.value},
                                       {"lo", row.spearman.lo},
                                       {"hi", row.spearman.hi},
                                       {"informative", row.spearman_informative.value},
                                       {"most_given_away", worst_given_away(task, row.figure)}});
    const Agreement* head = find(task, validation.headline, "");
    const Agreement* best = best_figure(task);
    tasks.push_back(json::object{{"task", task.task},
                                 {"prompts", task.prompts},
                                 {"cells", task.cells.size()},
                                 {"ceiling", head ? head->ceiling : std::nan("")},
                                 {"trust", best ? best->figure : ""},
                                 {"figures", std::move(figures)}});
  }
  return json::object{{"schema", "kvgrind.trust/1"},         {"model", validation.model_name},
                      {"model_hash", validation.model_hash}, {"headline", validation.headline},
                      {"null", validation.null_figure},      {"tasks", std::move(tasks)}};
}

}  // namespace kvgrind::replay
