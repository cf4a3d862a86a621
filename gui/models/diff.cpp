#include "gui/models/diff.h"

#include <algorithm>

#include "core/error.h"

namespace kvgrind::gui {
namespace {

// The same states once per query head.
KeptBand spread(const KeptBand& band, std::int64_t heads) {
  KeptBand out = band;
  out.heads = heads;
  out.states.clear();
  for (std::int64_t l = 0; l < band.layers; ++l)
    for (std::int64_t h = 0; h < heads; ++h) {
      const auto first = band.states.begin() + (l * band.heads + h * band.heads / heads) * band.seen;
      out.states.insert(out.states.end(), first, first + band.seen);
    }
  return out;
}

}  // namespace

const char* agreement_name(Agreement agreement) {
  constexpr const char* names[] = {"dropped by both", "kept by both", "kept by A only", "kept by B only",
                                   "not seen yet"};
  return names[static_cast<std::size_t>(agreement)];
}

Agreement PolicyDiff::at(std::int64_t group, std::int64_t token) const {
  if (token >= a.seen || token >= b.seen) return Agreement::unseen;
  const bool in_a = is_kept(a.state(group, token)), in_b = is_kept(b.state(group, token));
  return in_a ? in_b ? Agreement::both : Agreement::only_a : in_b ? Agreement::only_b : Agreement::neither;
}

PolicyDiff policy_diff(const ViewInput& input, std::size_t most, const CancelToken& cancel) {
  std::vector<const ShownJob*> jobs;
  for (const ShownJob& job : input.jobs)
    if (job.view) jobs.push_back(&job);
  if (jobs.size() < 2)
    throw Error(Category::usage, {.doing = "comparing policies",
                                  .found = std::to_string(jobs.size()) + " of them",
                                  .expected = "two",
                                  .next = "add another policy"});
  const std::int64_t tokens = sequence_of(input)->tokens;
  PolicyDiff out;
  out.a = kept_band(*jobs[0], input.at.step, tokens);
  out.b = kept_band(*jobs[1], input.at.step, tokens);
  const std::int64_t heads = std::max(out.a.heads, out.b.heads);
  if (out.a.heads < heads) out.a = spread(out.a, heads);
  if (out.b.heads < heads) out.b = spread(out.b, heads);
  const std::int64_t query_heads = input.session->run().card().query_heads, per = query_heads / heads;
  for (std::int64_t l = 0; l < out.a.layers; ++l) {
    out.estimated = out.estimated || input.session->received_mass_is_sampled(input.at.sequence, l);
    for (std::int64_t h = 0; h < heads; ++h) {
      cancel.throw_if_cancelled();
      const std::int64_t group = l * heads + h;
      std::vector<double> mass(static_cast<std::size_t>(tokens));
      for (std::int64_t q = h * per; q < (h + 1) * per; ++q) {
        const std::vector<float> received = input.session->received_mass(input.at.sequence, l, q, cancel);
        for (std::size_t t = 0; t < mass.size(); ++t)
          mass[t] += static_cast<double>(received[t]) / static_cast<double>(per * tokens);
      }
      for (std::int64_t t = 0; t < std::min(out.a.seen, out.b.seen); ++t) {
        const Agreement here = out.at(group, t);
        out.both += here == Agreement::both;
        out.neither += here == Agreement::neither;
        if (here != Agreement::only_a && here != Agreement::only_b) continue;
        const bool a_keeps = here == Agreement::only_a;
        const double lost = mass[static_cast<std::size_t>(t)];
        (a_keeps ? out.only_a : out.only_b) += 1;
        (a_keeps ? out.lost_b : out.lost_a) += lost / static_cast<double>(out.a.groups());
        out.worst.push_back({l, h, t, a_keeps, lost});
      }
      // Kept short on the way: only the worst matter.
      const auto worse = [](const Disagreement& x, const Disagreement& y) {
        return x.mass != y.mass     ? x.mass > y.mass
               : x.layer != y.layer ? x.layer < y.layer
               : x.head != y.head   ? x.head < y.head
                                    : x.token < y.token;
      };
      std::sort(out.worst.begin(), out.worst.end(), worse);
      if (out.worst.size() > most) out.worst.resize(most);
    }
  }
  return out;
}

Table diff_table(const PolicyDiff& diff, const std::vector<std::string>& text) {
  Table out{.header = {"layer", "head", "position", "token", "kept_by",
                       diff.estimated ? "received_mass_estimated" : "received_mass"},
            .rows = {}};
  for (const Disagreement& one : diff.worst)
    out.rows.push_back({std::to_string(one.layer), std::to_string(one.head), std::to_string(one.token),
                        one.token < static_cast<std::int64_t>(text.size())
                            ? token_label(text[static_cast<std::size_t>(one.token)])
                            : "",
                        one.a_keeps ? diff.a.name : diff.b.name, number(one.mass)});
  return out;
}

}  // namespace kvgrind::gui
