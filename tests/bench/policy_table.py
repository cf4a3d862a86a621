#!/usr/bin/env python3
"""Markdown from the folders that policy_table.sh filled: policy_table.py FOLDER KVGRIND > policy-table.md"""
import collections
import json
import math
import subprocess
import sys

BUDGETS = ["0.5", "0.2", "0.1", "0.05"]
FIGURES = [("recall.answer", "recall"), ("output_error.answer", "output error"),
           ("span_kept_frac.needle", "needle kept"), ("S.answer", "S"), ("E.answer", "E"), ("D.answer", "D"),
           ("dprob", "dprob")]
PROTOCOLS = {
    "blind": ("Question-blind", "Compressed after the context, before any question is seen. Needles are a trap here: a "
              "method that guesses from the end of the prompt what will be asked cannot know."),
    "aware": ("Question-aware", "Compressed after the question: what a method that looks at the end of the prompt was "
              "made for."),
    "multi": ("Multi-turn", "Compressed before the first question; all questions follow one another in one cache."),
}


def means(stem):
    """{(method, budget): {figure: mean over rows}}, loop in which methods failed, prompts, model."""
    sums = collections.defaultdict(lambda: collections.defaultdict(list))
    failed, prompts, model = {}, set(), ""
    for loop in ("open", "closed"):
        for line in open(f"{stem}-{loop}.jsonl"):
            row = json.loads(line)
            model = row.get("model_hash", model)
            if row["type"] != "result":
                continue
            if row["status"] != "ok":
                failed.setdefault(row["preset"], loop)
                continue
            cell = sums[row["preset"], row["budget_asked"]]
            if loop == "open":
                prompts.add(row["context"])
                cell["stored"].append(row["stored_frac"])
            for name, metric in row["metrics"].items():
                if metric["value"] is not None:
                    cell[name].append(metric["value"])
    out = {key: {name: sum(v) / len(v) for name, v in cell.items()} for key, cell in sums.items()}
    return out, failed, len(prompts), model


def number(cell, name, scale=1.0, digits=3):
    value = cell.get(name, math.nan)
    return "–" if math.isnan(value) else f"{value * scale:.{digits}f}"


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def shown(method):
    """A line by the parts that differ from the defaults."""
    if " " not in method:
        return f"`{method}`"
    parts = dict(part.split("=", 1) for part in method.split())
    code = parts["act"].replace("code(format=e4m3)", "fp8").replace("code(bits=4)", "int4")
    what = {"all": "all tokens", "topk": parts["score"]}.get(parts["select"], "window")
    return f"{what}, {code}"


def methods_list(cells, budget, needs, over):
    """Methods of one list at one budget, best first by the closed loop's dprob, then by D."""
    def rank(item):
        cell = item[1]
        return [cell.get(name, math.inf) for name in ("dprob", "D.answer")]
    for (method, asked), cell in sorted(cells.items(), key=rank):
        if asked != budget or " " in method:
            continue
        mark = " *over*" if cell.get("stored", 0) > 1.1 * float(budget) and over else ""
        looks = "yes" if "queries" in needs.get(method, []) else ""
        yield ([f"`{method}`{mark}", number(cell, "stored", 100, 1)]
               + [number(cell, name) for name, _ in FIGURES] + [looks])


def main():
    folder, kvgrind = sys.argv[1:3]
    document = json.loads(subprocess.run([kvgrind, "policies", "--json"], capture_output=True, check=True).stdout)
    cards = document.get("policies") or document.get("methods")
    needs = {card["name"]: card.get("needs", []) for card in cards}
    with open(f"{folder}/suite.json") as file:
        prompts = json.load(file)["prompts"]
    data = {name: means(f"{folder}/{name}") for name in [*PROTOCOLS, "controls"]}
    print("# All methods on planted needles\n")
    print("Written by `tests/bench/policy_table.sh`; read it with [the reading](extend.md#what-the-methods-do-on-needles)."
          f" Model {data['blind'][3]}, {len(prompts)} prompts of {len(prompts[0]['ids'])} tokens,"
          f" {sum(len(prompt['qa']) for prompt in prompts)} questions in all, so small differences mean nothing. Figures are means over the answer's queries: *recall* of attention, *output error*, *needle kept*"
          " (share of the needles' tokens), S, E and D of the open loop, *dprob* of the closed loop (probability lost on"
          " the right token, the truth). *stored* is the share of the full cache's bytes; *over* stores more than"
          " asked. *newest queries*: the score reads queries of the prompt's end or of all of it. Cards do not record"
          " the protocol of a paper's own tables.\n")
    for protocol, (title, text) in PROTOCOLS.items():
        cells, failed, _, _ = data[protocol]
        print(f"## {title}\n\n{text}\n")
        for budget in BUDGETS:
            print(f"### {title}, {float(budget):.0%} kept\n")
            table(["method", "stored %"] + [label for _, label in FIGURES] + ["newest queries"],
                  methods_list(cells, budget, needs, True))
        print(f"### {title}, coded caches on the axis of stored bytes\n")
        coded = []
        for (method, asked), cell in cells.items():
            if " " in method or method in ("random", "window", "full"):
                if "budget=all" in method or method == "full":
                    if asked != BUDGETS[0]:
                        continue
                    asked = "1"
                name = shown(method) + ("" if asked == "1" else f" at {float(asked):.0%}")
                coded.append((cell.get("stored", math.inf), [name, number(cell, "stored", 100, 1)]
                              + [number(cell, figure) for figure, _ in FIGURES]))
        table(["cache", "stored %"] + [label for _, label in FIGURES], [row for _, row in sorted(coded)])
        if failed:
            print(f"Figures of one loop alone: {', '.join(f'`{name}`' for name in sorted(failed))}. They need what the"
                  " other loop or the recording does not have, such as queries to come.\n")
    cells, failed, _, _ = data["controls"]
    print("## Every score with its controls, question-blind\n")
    print("The score alone, with the first 4 tokens kept before all scores, and with the last 32. First dprob, then the"
          " share of the needles' tokens that is kept.\n")
    scores = sorted({method.split()[0].split("=")[1] for method, _ in cells})
    for figure, label in [("dprob", "dprob"), ("span_kept_frac.needle", "needle kept")]:
        rows = []
        for score in scores:
            row = [f"`{score}`"]
            for budget in BUDGETS:
                for select in ["topk", "topk(sink=4)", "topk(recent=32)"]:
                    line = f"score={score} budget=uniform select={select} act=drop schedule=prefill_end read=all"
                    row.append(number(cells.get((line, budget), {}), figure, 1, 2))
            rows.append(row)
        heads = [f"{float(budget):.0%}{more}" for budget in BUDGETS for more in ["", " +4", " +32"]]
        table([label] + heads, rows)
    if failed:
        print(f"Without figures of one loop or both: {', '.join(sorted({name.split()[0].split('=')[1] for name in failed}))}.")


if __name__ == "__main__":
    main()
