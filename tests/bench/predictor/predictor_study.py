#!/usr/bin/env python3
"""How figures made of the open loop's rows rank methods like the truth does: one line a figure, one column a file.

    predictor_rows traces/examples/tiny-3m traces/examples/prompts/adventures.txt needle 8 1024 77 blind POLICIES.txt \\
        0.5,0.3,0.2,0.1,0.05,0.03 > needle.csv
    predictor_study.py needle.csv copy.csv prose.csv …

A cell is one policy at one amount, averaged over prompts; its truth is the mean of p_full - p. Printed: Spearman over all
cells, and the smallest within one amount. Choose on some files (models, tasks, seeds) and look at others.
Needs numpy.
"""
import sys

import numpy as np

EDGE = 1e-4  # probabilities are taken within [EDGE, 1 - EDGE] before their logit


def logistic(x):
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


class Rows:
    """The answer rows of one prompt in one cell."""

    def __init__(self, table, shift):
        self.p = table["p_full"]
        self.lost = table["near_lost"] + table["far_lost"]
        self.strong = table["near_strong"] + table["far_strong"]
        self.far_lost, self.far_strong = table["far_lost"], table["far_strong"]
        self.recall = table["kept"].sum() / table["mass"].sum()
        self.shift = shift  # [rows, layers]
        self.S = self.lost.sum() / max(self.strong.sum(), 1e-30)
        self.E = shift.mean()
        self.row_S = self.lost / np.maximum(self.strong, 1e-30)
        self.row_far = self.far_lost / np.maximum(self.far_strong, 1e-30)
        self.look_up = np.minimum(1, self.far_strong / 2)
        p = np.clip(self.p, EDGE, 1 - EDGE)
        self.logit = np.log(p / (1 - p))

    def through_odds(self, moved):
        """Probability lost when the odds of the right token fall by e^-moved."""
        return (self.p - logistic(self.logit - moved)).mean()


FIGURES = {
    "1 - recall": lambda r: 1 - r.recall,
    "S": lambda r: r.S,
    "S far": lambda r: r.far_lost.sum() / max(r.far_strong.sum(), 1e-30),
    "E": lambda r: r.E,
    "D = max(S, 2E)": lambda r: max(r.S, 2 * r.E),
    "D of each row": lambda r: np.maximum(r.row_S, 2 * r.shift.mean(1)).mean(),
    "E of the worst layer": lambda r: r.shift.max(1).mean(),
    "root mean square of E": lambda r: np.sqrt((r.shift**2).mean()),
    "odds, 10 D of each row": lambda r: r.through_odds(10 * np.maximum(r.row_S, 2 * r.shift.mean(1))),
    "odds, 12 worst E": lambda r: r.through_odds(12 * r.shift.max(1)),
    "predicted_dprob": lambda r: r.through_odds(10 * (2 * r.shift.mean(1) + r.look_up * r.row_far)),
}


def ranks(x):
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]  # ties: their mean rank


def spearman(x, y):
    x, y = ranks(np.asarray(x)), ranks(np.asarray(y))
    return np.nan if x.std() == 0 or y.std() == 0 else np.corrcoef(x, y)[0, 1]


def cells(path):
    """{(policy, amount): [(truth, Rows) per prompt]}"""
    table = np.genfromtxt(path, delimiter=",", names=True)
    layers = sorted((n for n in table.dtype.names if n.startswith("shift")), key=lambda n: int(n[5:]))
    shift = np.stack([table[n] for n in layers], 1)
    key = np.stack([table["policy"], table["amount"], table["prompt"]], 1)
    out = {}
    for one in np.unique(key, axis=0):
        rows = (key == one).all(1)
        truth = (table["p_full"][rows] - table["p"][rows]).mean()
        out.setdefault((one[0], one[1]), []).append((truth, Rows(table[rows], shift[rows])))
    return out


def main(paths):
    files = [cells(path) for path in paths]
    print(f"{'':26s}" + "".join(f"{path.rsplit('/', 1)[-1].removesuffix('.csv')[:11]:>12s}" for path in paths))
    for name, figure in FIGURES.items():
        line = f"{name:26s}"
        for file in files:
            truth = np.array([np.mean([t for t, _ in prompts]) for prompts in file.values()])
            value = np.array([np.mean([figure(r) for _, r in prompts]) for prompts in file.values()])
            amount = np.array([key[1] for key in file])
            within = [spearman(value[amount == a], truth[amount == a]) for a in np.unique(amount)]
            line += f"{spearman(value, truth):7.2f} {np.nanmin(within):4.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
