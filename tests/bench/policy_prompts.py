#!/usr/bin/env python3
"""Prompts of policy_table.sh: policy_prompts.py GOLDEN FOLDER PROMPTS LENGTH

From the needle prompts of tests/golden, stretches of LENGTH tokens that hold two asked needles: suite.json for the
closed loop, blind.json and multi.json (questions apart, and one after another) to be recorded for the open loop. The
last two of the prompts that are left over, in full, are fit.json.
"""
import json
import sys


def cut(prompt, length, questions):
    """The first stretch with the most asked needles; the first token (bos) stays in front."""
    def inside(start):
        return [qa for qa in prompt["qa"] if start < qa["needle"][0] and qa["needle"][1] <= start + length]
    start = max(range(0, max(1, len(prompt["ids"]) - length + 1), 64), key=lambda s: (len(inside(s)), -s))
    move = [[a - start, b - start] for a, b in prompt["spans"] if start < a and b <= start + length]
    qa = [{**one, "needle": [x - start for x in one["needle"]]} for one in inside(start)[:questions]]
    return {"ids": [prompt["ids"][0]] + prompt["ids"][start + 1:start + length], "spans": move, "qa": qa}


def sequences(prompts, together):
    out = []
    for prompt in prompts:
        parent, at = len(out), len(prompt["ids"])
        out.append({"ids": prompt["ids"], "segments": [{"role": "context", "begin": 0, "end": at}],
                    "spans": [{"kind": "needle", "begin": a, "end": b} for a, b in prompt["spans"]]})
        groups = [prompt["qa"]] if together else [[qa] for qa in prompt["qa"]]
        for group in groups:
            fork = {"ids": [], "segments": [], "parent": parent, "fork_at": at}
            for qa in group:
                for role, ids in (("question", qa["q"]), ("answer", qa["a"])):
                    begin = at + len(fork["ids"])
                    fork["ids"] += ids
                    fork["segments"].append({"role": role, "begin": begin, "end": begin + len(ids)})
            out.append(fork)
    return out


def main():
    golden, folder, count, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    prompts = json.load(open(golden))["prompts"]
    chosen = [cut(prompt, length, 2) for prompt in prompts[:count]]
    others = prompts[max(count, len(prompts) - 2):]
    for name, content in (("suite", {"prompts": chosen}), ("blind", sequences(chosen, False)),
                          ("multi", sequences(chosen, True)), ("fit", sequences(others, False))):
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(content, file)


if __name__ == "__main__":
    main()
