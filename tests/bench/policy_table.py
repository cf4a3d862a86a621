#!/usr/bin/env python3
"""Markdown and CSV from the folder that policy_table.sh filled: policy_table.py FOLDER KVGRIND STEM

Writes STEM.md (what came out, one list a protocol) and STEM.csv (every figure of every row).
"""
import collections
import csv
import glob
import json
import math
import os
import subprocess
import sys

BUDGETS = ["0.5", "0.2", "0.1", "0.05"]
SHOWN = "0.2"  # whose open-loop figures the lists show
FIGURES = {"recall": "recall.answer", "output_error": "output_error.answer", "needle_kept": "span_kept_frac.needle",
           "S": "S.answer", "E": "E.answer", "D": "D.answer", "predicted_dprob": "predicted_dprob.answer",
           "dprob": "dprob", "content_accuracy": "content_accuracy"}
PROTOCOLS = {
    "blind": ("Question-blind", "Compressed after the context, before any question is seen."),
    "aware": ("Question-aware", "Compressed after the question, which is then part of what can be dropped."),
    "multi": ("Multi-turn", "Compressed before the first question; both questions follow one another in one cache."),
}
REFERENCES = {"full", "random", "window", "oracle", "oracle_step"}
CONTROLS = {"topk": "alone", "topk(sink=4)": "+4 sinks", "topk(recent=32)": "+32 recent"}


class Cell(dict):
    def of(self, name):
        return self.get(name, math.nan)


def means(folder, name):
    """{(policy, budget): Cell}, {policy: why a loop has no row}, and how many rows each loop has."""
    sums = collections.defaultdict(lambda: collections.defaultdict(list))
    failed, count, contexts = {}, collections.Counter(), set()
    for loop in ("open", "closed"):
        for path in (f"{folder}/{name}{part}-{loop}.jsonl" for part in ("", "-passes", "-razor")):
            if not os.path.exists(path):
                continue
            for line in open(path):
                row = json.loads(line)
                if row["type"] != "result":
                    continue
                if row["status"] != "ok":
                    failed.setdefault(row["preset"], (loop, row.get("error", "")))
                    continue
                count[loop] += 1
                cell = sums[row["preset"], row["budget_asked"]]
                if loop == "open":
                    contexts.add(row["context"])
                    cell["stored"].append(row["stored_frac"])
                    cell["bytes"].append(row["stored_bytes"])
                for figure, metric in FIGURES.items():
                    if (value := row["metrics"].get(metric, {}).get("value")) is not None:
                        cell[figure].append(value)
    return {key: Cell({n: sum(v) / len(v) for n, v in cell.items()}) for key, cell in sums.items()}, failed, count, len(contexts)


def number(value, digits=2, scale=1.0):
    return "–" if math.isnan(value) else f"{round(value * scale, digits) + 0.0:.{digits}f}"  # no -0.00


def percent(value):
    return "–" if math.isnan(value) else f"{100 * value:.0f}"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def over(cell, budget):
    return cell.of("stored") > 1.1 * float(budget)


def coded_name(policy):
    parts = dict(part.split("=", 1) for part in policy.split())
    code = {"code(format=e4m3)": "fp8", "code(bits=4)": "int4"}[parts["act"]]
    return f"{ {'all': 'all tokens', 'topk': parts['score']}.get(parts['select'], 'window')}, {code}"


def control_of(policy):
    parts = dict(part.split("=", 1) for part in policy.split())
    return parts["score"], CONTROLS[parts["select"]]


def loss(cell):
    """Of the closed loop where it ran, else as the open loop predicts it."""
    return cell["dprob"] if "dprob" in cell else cell.of("predicted_dprob")


def ranked(cells, budget):
    """Methods that stay within the budget, best first."""
    rows = [(loss(cell), name) for (name, asked), cell in cells.items()
            if asked == budget and " " not in name and name not in REFERENCES and not over(cell, budget)
            and "dprob" in cell]
    return sorted(rows)


def listing(items):
    return ", ".join(f"`{name}` {number(value)}" for value, name in items)


def summary(lists, controls, paper, looking, length):
    out = ["## What came out\n"]
    for key, (title, _) in PROTOCOLS.items():
        cells = lists[key][0]
        line = [f"- **{title}.** Least probability lost by methods that stay within the budget:"]
        for budget in BUDGETS[1:]:
            rows = ranked(cells, budget)
            rivals = "; ".join(f"{name} {number(loss(cells.get((name, budget), Cell())))}" for name in ("random", "window"))
            line.append(f"  at {float(budget):.0%} {listing(rows[:6])} ({rivals}; median of {len(rows)}:"
                        f" {rows[len(rows) // 2][0]:.2f});")
        out.append("\n".join(line).rstrip(";") + ".")
    blind, aware = lists["blind"][0], lists["aware"][0]

    def gap(name):
        return loss(blind.get((name, SHOWN), Cell())) - loss(aware.get((name, SHOWN), Cell()))
    names = sorted({name for name, _ in blind if " " not in name} - REFERENCES)
    trapped = sorted(((gap(name), name) for name in names if gap(name) >= 0.15), reverse=True)
    gone = sorted(((-gap(name), name) for name in names if gap(name) <= -0.15), reverse=True)
    out.append(f"- **The trap.** Needles asked for after compression. At {float(SHOWN):.0%} these lose more blind than"
               " with the question in the prompt, by at least 0.15 (predicted loss where there is no closed loop): " + (listing(trapped) or "none") + "."
               " Of them by the protocol of their paper: "
               + ", ".join(f"{n} {word}" for word, n in collections.Counter(paper[name] for _, name in trapped).most_common())
               + ". The other way round, since the question itself can be dropped: " + (listing(gone) or "none") + ".")
    chance = loss(blind[("random", SHOWN)])
    within = [name for name in names if (name, SHOWN) in blind and "dprob" in blind[(name, SHOWN)]
              and not over(blind[(name, SHOWN)], SHOWN)]
    for word, group in (("that score by queries of the prompt", [n for n in within if n in looking]),
                        ("that do not", [n for n in within if n not in looking])):
        bad = sorted((loss(blind[(n, SHOWN)]), n) for n in group if loss(blind[(n, SHOWN)]) > chance - 0.15)
        out.append(f"- **Blind and no better than random tokens** at {float(SHOWN):.0%} ({number(chance)}; nearer than 0.15, or"
                   f" worse): {len(bad)} of the {len(group)} methods {word}: {listing(bad) or 'none'}.")
    for control, tokens in (("+4 sinks", 4), ("+32 recent", 32)):
        line, budgets = [], [b for b in BUDGETS if 2 * tokens <= float(b) * length]
        for key, (title, _) in PROTOCOLS.items():
            moved = []
            for score in sorted({score for score, _, _ in controls[key]}):
                for budget in budgets:
                    a, b = (loss(controls[key].get((score, c, budget), Cell())) for c in ("alone", control))
                    moved.append((score, budget, b - a))
            by = collections.defaultdict(list)
            for score, _, d in moved:
                if not math.isnan(d):
                    by[score].append(d)
            mean = sorted((sum(d) / len(d), score) for score, d in by.items())
            helped, hurt = [m for m in mean if m[0] < -0.05], [m for m in reversed(mean) if m[0] > 0.05]
            line.append(f"{title.lower()} helped {listing(helped[:6]) or 'none'}"
                        f"{f' and {len(helped) - 6} more' if len(helped) > 6 else ''}; hurt {listing(hurt[:6]) or 'none'}"
                        f"{f' and {len(hurt) - 6} more' if len(hurt) > 6 else ''} (of {len(mean)} scores)")
        out.append(f"- **{control}**, mean change of lost probability at "
                   f"{', '.join(f'{float(b):.0%}' for b in budgets)}, where above 0.05: " + ". ".join(line) + ".")
    line = []
    for key, (title, _) in PROTOCOLS.items():
        cells = lists[key][0]
        whole = [(cell, coded_name(name)) for (name, asked), cell in cells.items()
                 if "budget=all" in name and asked == BUDGETS[0]]
        rows = ranked(cells, "0.2")
        better = [name for value, name in rows if value <= min([loss(c) for c, _ in whole] or [0]) + 0.01]
        line.append(f"{title.lower()} " + ", ".join(f"{name} loses {number(loss(cell))} at {percent(cell.of('stored'))} % of the bytes"
                                                    for cell, name in whole)
                    + f", and {len(better)} of {len(rows)} evicting methods lose as little at 20 %")
    out.append("- **Coded caches.** " + ". ".join(line) + ".")
    return "\n".join(out) + "\n"


def methods_list(cells, paper):
    def rank(name):
        return [loss(cells.get((name, SHOWN), Cell())), loss(cells.get((name, "0.1"), Cell())), name]
    names = {name for name, _ in cells if " " not in name}
    for name in sorted(names, key=lambda n: [x if isinstance(x, str) or not math.isnan(x) else math.inf for x in rank(n)]):
        cell = cells.get((name, SHOWN), Cell())
        mark = " *over*" if over(cell, SHOWN) else ""
        row = [f"`{name}`{mark}", paper.get(name, ""), percent(cell.of("stored")), number(cell.of("recall"))]
        row += [number(cell.of(figure)) for figure in ("output_error", "needle_kept", "S", "E", "D", "predicted_dprob")]
        yield row + [number(cells.get((name, budget), Cell()).of("dprob")) for budget in BUDGETS]


def coded_list(cells):
    rows = []
    for (name, asked), cell in cells.items():
        if " " not in name and name not in ("random", "window", "full"):
            continue
        whole = "budget=all" in name or name == "full"
        if whole and asked != BUDGETS[0]:
            continue
        shown = (coded_name(name) if " " in name else f"{name}, exact") + ("" if whole else f" at {float(asked):.0%}")
        rows.append((-cell.of("stored"), [shown, number(cell.of("stored"), 1, 100), number(cell.of("bytes") / 1024, 0)]
                     + [number(cell.of(f)) for f in ("recall", "output_error", "needle_kept", "S", "E", "D",
                                                     "predicted_dprob", "dprob")]))
    return [row for _, row in sorted(rows)]


def controls_list(cells):
    for score in sorted({score for score, _, _ in cells}):
        yield [f"`{score}`"] + [number(loss(cells.get((score, control, budget), Cell())))
                                for budget in BUDGETS for control in CONTROLS.values()]


def write_csv(path, lists, controls, paper):
    head = ["list", "kind", "policy", "control", "paper_protocol", "budget", "stored_frac", "stored_kib", *FIGURES]
    with open(path, "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(head)

        def add(start, budget, cell):
            values = [cell.of("stored"), cell.of("bytes") / 1024] + [cell.of(figure) for figure in FIGURES]
            out.writerow([*start, budget, *("" if math.isnan(v) else f"{v:.4g}" for v in values)])
        for key in PROTOCOLS:
            for (name, budget), cell in sorted(lists[key][0].items()):
                coded = " " in name
                add([key, "coded" if coded else "method", coded_name(name) if coded else name, "", paper.get(name, "")],
                    budget, cell)
            for (score, control, budget), cell in sorted(controls[key].items()):
                add([key, "score", score, control, ""], budget, cell)


def main():
    folder, kvgrind, stem = sys.argv[1:4]
    cards = json.loads(subprocess.run([kvgrind, "policies", "--json"], capture_output=True, check=True).stdout)["policies"]
    paper = {card["name"]: card["card"].get("protocol", "not stated").split(":")[0] for card in cards}
    looking = {card["name"] for card in cards if {"queries", "column_sums"} & set(card["needs"])}
    with open(f"{folder}/suite.json") as file:
        prompts = json.load(file)["prompts"]
    lists = {key: means(folder, key) for key in PROTOCOLS}
    controls, closed, fewer, without = {}, [], {}, {}
    for key in PROTOCOLS:
        cells, refused, count, contexts = means(folder, f"{key}-controls")
        controls[key] = {(*control_of(name), budget): cell for (name, budget), cell in cells.items()}
        fewer[key] = contexts
        without[key] = sorted({control_of(name)[0] for name in refused})
        if count["closed"]:
            closed.append(key)
    absent = sorted(card["name"] for card in cards if not any((card["name"], b) in lists["blind"][0] for b in BUDGETS))
    fits = [open(path).readline().strip() for path in sorted(glob.glob(f"{folder}/*.txt"))]
    questions = sum(len(prompt["qa"]) for prompt in prompts)
    text = f"""# All methods on planted needles

Written by `tests/bench/policy_table.sh`: {len(cards) - len(absent)} presets, {len({s for s, _, _ in controls['blind']})} scores with their controls, and coded caches, on
{len(prompts)} prompts of {len(prompts[0]["ids"])} tokens with {questions} questions, model tiny-3m, at 50, 20, 10 and 5 % kept. So few
questions carry differences of about 0.15, not less. What can be fitted was fitted on four other prompts (RazorAttention: on
random tokens that repeat). [Every figure of every row](policy-table.csv): recall, output error, needle retention, bytes,
S, E, D, predicted and true loss. {"Every preset has rows." if not absent else "Without rows: " + ", ".join(f"`{n}`" for n in absent) + "."}

*dprob* is the closed loop's truth: probability lost on the right token, 0 = none, about 1 = all. *predicted* is what the open
loop says of it. *recall*, *output error*, *S*, *E*, *D* are means over the answer's queries; *needle kept* is the share of all
needles' tokens in the cache, asked or not; *stored* is in % of the full cache; *over* stores more than asked (fixed sizes,
retrieval). *paper* is the protocol of the paper's own tables where the sources that were read say it, or the method's
definition does (`kvgrind policies NAME` says which). The order is that of dprob at {float(SHOWN):.0%}.

{summary(lists, controls, paper, looking, len(prompts[0]["ids"]))}"""
    budgets = [f"dprob {float(b):.0%}" for b in BUDGETS]
    for key, (title, what) in PROTOCOLS.items():
        cells, failed, _, _ = lists[key]
        text += f"\n## {title}\n\n{what} The open loop's figures are at {float(SHOWN):.0%}.\n\n"
        text += table(["method", "paper", "stored", "recall", "output error", "needle kept", "S", "E", "D", "predicted",
                       *budgets], methods_list(cells, paper))
        if failed:
            text += "\nOne loop alone: " + ", ".join(f"`{n}` (not in the {loop} loop)" for n, (loop, _) in sorted(failed.items())) + ".\n"
        text += f"\n### {title}: coded caches, random and newest tokens on one axis of stored bytes\n\n"
        text += table(["cache", "stored %", "KiB", "recall", "output error", "needle kept", "S", "E", "D", "predicted", "dprob"],
                      coded_list(cells))
        text += (f"\n### {title}: every score with its controls\n\nThe score alone, with the first 4 tokens before all"
                 f" scores (+4), with the last 32 (+32). {'dprob' if key in closed else f'Predicted dprob, of the open loop, on {fewer[key]} of the prompts'}.\n\n")
        heads = [f"{float(b):.0%}{more}" for b in BUDGETS for more in ("", " +4", " +32")]
        text += table(["score", *heads], controls_list(controls[key]))
        if without[key]:
            text += "\nWithout rows, for want of a calibration of its own: " + ", ".join(f"`{n}`" for n in without[key]) + ".\n"
    text += "\n## The fits\n\n" + "\n".join(f"- {line}" for line in fits) + "\n"
    with open(stem + ".md", "w") as file:
        file.write(text)
    write_csv(stem + ".csv", lists, controls, paper)


if __name__ == "__main__":
    main()
