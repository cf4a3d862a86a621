#!/usr/bin/env python3
"""Writes the example prompts, always the same ones: needle.json (codes hidden in running text, three questions on
each context) and prose.json (a passage and how it goes on), plus single.* (one of them as plain text files).

Run here: python3 make_prompts.py. Spans are byte ranges of the context; the text is ASCII, so bytes are characters.
"""
import json
import random
from pathlib import Path

SEED = 20240611
ADJECTIVES = """amber ancient bitter blue brave bright broken calm clever cold crimson curious dark deep distant dusty
eager early elder empty faint fierce gentle golden green hidden hollow honest icy iron jolly late lonely merry misty
narrow noble pale proud quiet rapid royal rusty silent silver swift tall velvet white young""".split()
NOUNS = """anchor apple arrow badger beacon bell bridge candle castle cedar cloud coast crown dancer desert eagle falcon
forest fountain garden glacier hammer harbor hawk island jewel kettle ladder lantern lemon lion maple market mirror
moon mountain needle ocean orchard owl palace pearl pilot planet queen raven ribbon river sailor shadow shield star
table tiger tower valley violin walnut whale window wolf""".split()


def sentence_ends(text, begin, end):
    """Places right after a sentence in a paragraph: an insert there reads as the next sentence."""
    return [i + 1 for i in range(begin, end) if text[i] == "." and text[i + 1 : i + 2] == " " and text[i - 1].islower()]


def needle_prompt(rng, story, begin, length, needles, questions):
    ends = sentence_ends(story, begin, begin + length)
    last = ends[-1]
    places = sorted(rng.sample(ends[:-1], needles))
    names = [f"{a} {n}" for a, n in zip(rng.sample(ADJECTIVES, needles), rng.sample(NOUNS, needles))]
    codes = [f"{rng.randrange(10**6):06d}" for _ in names]
    context, spans, at = "", [], begin
    for place, name, code in zip(places, names, codes):
        context += story[at:place]
        sentence = f" The secret code of the {name} is {code}."
        spans.append({"kind": "needle", "begin": len(context), "end": len(context) + len(sentence), "label": name})
        context += sentence
        at = place
    context += story[at:last]
    asked = rng.sample(range(needles), questions)
    return {
        "context": context,
        "spans": spans,
        "questions": [
            {
                "question": f"\n\nQuestion: What is the secret code of the {names[i]}?\nAnswer:",
                "answer": f" {codes[i]}.",
            }
            for i in asked
        ],
    }, last


def prose_prompt(story, begin, length, answer):
    ends = sentence_ends(story, begin, len(story) - 2)
    split = next(e for e in ends if e >= begin + length)
    stop = next(e for e in ends if e >= split + answer)
    return {"context": story[begin:split], "questions": [{"question": "", "answer": story[split:stop]}]}, stop


def write(name, prompts):
    Path(name).write_text(json.dumps(prompts, indent=1) + "\n")


def main():
    rng = random.Random(SEED)
    story = Path("adventures.txt").read_text(encoding="ascii")
    at, needle, prose = 0, [], []
    for length in [3500, 3500, 3500, 3800, 3800, 4200, 4800, 6000]:
        prompt, at = needle_prompt(rng, story, at, length, needles=5, questions=3)
        needle.append(prompt)
    for length in [3500, 3800, 4200]:
        prompt, at = prose_prompt(story, at, length, answer=110)
        prose.append(prompt)
    write("needle.json", needle)
    write("prose.json", prose)
    single = needle[0]
    Path("single.context.txt").write_text(single["context"])
    for i, question in enumerate(single["questions"][:2]):
        Path(f"single.question{i + 1}.txt").write_text(question["question"])
        Path(f"single.answer{i + 1}.txt").write_text(question["answer"])


if __name__ == "__main__":
    main()
