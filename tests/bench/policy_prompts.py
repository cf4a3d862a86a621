#!/usr/bin/env python3
"""Prompts of policy_table.sh: policy_prompts.py GOLDEN TEXTS FOLDER PROMPTS LENGTH

From the needle prompts of GOLDEN, stretches of LENGTH tokens that hold two asked needles: suite.json for the closed
loop, blind.json and multi.json (questions apart, and one after another) to be recorded for the open loop. For the fits,
which must not see those: fit.json, four of TEXTS (other stretches of a book, other needles), and echo.json, random
tokens several times over, which is what RazorAttention's heads are found by.
"""
import json
import random
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


def echoes(rng, first, count=4, stretch=128, times=3):
    """The first token of every prompt, then random tokens that repeat."""
    out = []
    for _ in range(count):
        once = [rng.randrange(300, 4000) for _ in range(stretch)]
        ids = [first] + once * times
        out.append({"ids": ids, "segments": [{"role": "context", "begin": 0, "end": len(ids)}]})
    return out


def main():
    golden, texts, folder = sys.argv[1:4]
    count, length = int(sys.argv[4]), int(sys.argv[5])
    with open(golden) as file:
        prompts = json.load(file)["prompts"]
    with open(texts) as file:
        others = json.load(file)[:4]
    chosen = [cut(prompt, length, 2) for prompt in prompts[:count]]
    for name, content in (("suite", {"prompts": chosen}), ("blind", sequences(chosen, False)),
                          ("multi", sequences(chosen, True)), ("fit", others),
                          ("echo", echoes(random.Random(1), prompts[0]["ids"][0]))):
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(content, file)


if __name__ == "__main__":
    main()
