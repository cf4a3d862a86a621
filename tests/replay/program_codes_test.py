"""Every exit code is reached, with words a person can act on; data goes to stdout and talk to stderr."""
import json
import resource
import subprocess

import program_support as support
from program_support import MODEL, SOURCE, ProgramTest


def limit_file_size(limit_bytes):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))


class ExitCodes(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls().record_short()

    def test_0_talk_on_stderr_data_on_stdout(self):
        done = self.run_line("kvgrind info short.kvt")
        self.assertIn("tiny-3m", done.stdout)
        self.assertEqual(done.stderr, "")
        self.assertIn("recorded", self.run_line(
            f"kvgrind record --model {MODEL} --tokens short.json -o talk.kvt").stderr)

    def test_1_a_job_fails_the_others_run(self):
        self.run_line(f"kvgrind record --model {MODEL} --tokens short.json --queries none -o blindfold.kvt")
        self.run_line("kvgrind sweep blindfold.kvt --policy snapkv --budget 0.5 -o failed.jsonl", expect=1)

    def test_2_usage(self):
        for line, word in [("kvgrind recrod", "record"), ("kvgrind info --jsno short.kvt", "--json"),
                           ("kvgrind record --model x", "--out"),
                           ("kvgrind replay short.kvt --policy snapkw --budget 0.5", "snapkv"),
                           ("kvgrind replay short.kvt --policy 'snapkv(windwo=3)' --budget 0.5", "window"),
                           ("kvgrind replay short.kvt --policy knorm --budget 1.5x", "1.5x"),
                           ("kvgrind replay short.kvt --policy knorm --budget 0.5 --protocol blnd", "blind"),
                           ("kvgrind replay short.kvt --policy knorm --budget 0.5 --seq 99", "99"),
                           ("kvgrind policies snapvk", "snapkv"), ("kvgrind completion tcsh", "tcsh")]:
            done = self.run_line(line, expect=2)
            self.assertIn(word, done.stderr, line)
            self.assertEqual(done.stdout, "", line)

    def test_what_validate_measured_stands_beside_open_loop_figures(self):
        grid = "--policy snapkv --policy knorm --budget 0.3"
        swept = self.run_line(f"kvgrind sweep short.kvt {grid} -o told.jsonl")
        self.assertIn("not been measured", swept.stderr)
        self.assertIn("kvgrind validate", self.run_line("kvgrind report told.jsonl").stdout)
        model = json.loads(self.run_line("kvgrind info short.kvt --json").stdout)["model"]
        figure = {"figure": "S.answer", "spearman": 0.9, "lo": 0.8, "hi": None, "informative": 0.9, "most_given_away": 0}
        trust = {"schema": "kvgrind.trust/1", "model": model["name"], "model_hash": model["model_hash"],
                 "headline": "D.answer", "null": "removed_bytes", "measured": "2026-01-02",
                 "tasks": [{"task": "needle", "prompts": 50, "cells": 9, "ceiling": 1, "trust": "S.answer",
                            "figures": [figure]}]}
        (self.folder / "found").mkdir()
        self.write("found/trust.json", trust)
        words = "S.answer ranked methods with Spearman 0.90 on needle; measured with kvgrind validate on 2026-01-02"
        self.assertIn(words, self.run_line("kvgrind report told.jsonl").stdout)
        self.assertIn(words, self.run_line(f"kvgrind replay short.kvt {grid}").stdout)
        report = json.loads(self.run_line("kvgrind report told.jsonl --format json").stdout)
        self.assertEqual(report["trust"]["tasks"][0]["task"], "needle")
        self.write("other.json", dict(trust, model_hash="0" * 16))
        refused = self.run_line("kvgrind report told.jsonl --trust-file other.json", expect=2)
        self.assertIn(model["model_hash"], refused.stderr)

    def test_2_odd_words_are_named_at_once(self):
        for line, word in [("kvgrind record --modle x", "--model"), ("kvgrind replay --polcy knorm", "--policy"),
                           (f"kvgrind record --model {MODEL} --tokens short.json -o ''", "--out"),
                           (f"kvgrind record --model {MODEL} --tokens short.json --temperature nan -o n.kvt", "--temperature"),
                           ("kvgrind replay short.kvt --policy knorm --removed 1", "below 1"),
                           ("kvgrind replay short.kvt --policy knorm --removed -0.1", "below 1"),
                           ("kvgrind replay short.kvt --policy knorm --removed 3t", "below 1"),
                           ("kvgrind replay short.kvt --policy knorm --budget 0.5 --plans ''", "--plans"),
                           ("kvgrind replay short.kvt --policy knorm --budget 0.5 -o short.kvt --force", "another file"),
                           ("kvgrind sweep short.kvt --policy knorm --budget 0.5 -o x.jsonl --plans short.kvt --force",
                            "another file"),
                           ("kvgrind fit expected short.kvt -o short.kvt --force", "another file"),
                           ("kvgrind replay short.kvt --policy knorm --budget 0.5 --resume", "--resume")]:
            self.assertIn(word, self.run_line(line, expect=2).stderr, line)
        self.run_line("kvgrind check short.kvt")
        for budgets in ("0.5", "0.5,0.2"):
            self.run_line(f"kvgrind replay short.kvt --policy knorm --budget {budgets} -o grown.jsonl --resume")
        self.assertEqual((self.folder / "grown.jsonl").read_text().count('"type":"result"'), 4)
        kept = json.loads(self.run_line("kvgrind replay short.kvt --policy knorm --removed 0 --json").stdout)
        self.assertEqual([row["kept_frac"] for row in kept["results"]], [1, 1])
        self.run_line("kvgrind replay short.kvt --policy knorm --budget 0.2 -o named.jsonl")
        self.assertIn("recall.all", self.run_line("kvgrind report named.jsonl --headline recal.all", expect=2).stderr)
        self.assertIn("recall.all", self.run_line("kvgrind report named.jsonl --metric recal.all", expect=2).stderr)

    def test_5_outputs_are_refused_before_the_work(self):
        (self.folder / "is_folder").mkdir()
        for out in ("is_folder", "is_folder/"):
            refused = self.run_line(f"kvgrind record --model {MODEL} --tokens short.json -o {out} --force", expect=5)
            self.assertIn("name of a folder", refused.stderr)
        self.assertFalse((self.folder / "is_folder.part").exists())
        refused = self.run_line("kvgrind replay short.kvt --policy knorm --budget 0.5 --plans no/such/p.h5", expect=5)
        self.assertIn("no folder", refused.stderr)
        self.assertNotIn("HDF5", refused.stderr)

    def test_4_cut_short_in_plain_words(self):
        whole = (self.folder / "short.kvt").read_bytes()
        (self.folder / "cut.kvt").write_bytes(whole[: len(whole) // 2])
        refused = self.run_line("kvgrind info cut.kvt", expect=4).stderr
        self.assertIn(f"{len(whole) // 2} of {len(whole)} bytes", refused)

    def test_json_is_one_document_everywhere(self):
        self.run_line("kvgrind replay short.kvt --policy knorm --budget 0.2 -o j1.jsonl")
        grid = "--policy knorm --budget 0.5,0.2"
        for line in ["info short.kvt", "info short.kvt --follow", "check short.kvt", "policies", "policies knorm", "doctor",
                     f"replay short.kvt {grid}", f"sweep short.kvt {grid} -o j2.jsonl", f"sweep short.kvt {grid} --dry-run",
                     f"sweep short.kvt {grid} --list-jobs", "report j1.jsonl", "compare j1.jsonl j2.jsonl",
                     "merge j1.jsonl j2.jsonl -o j3.jsonl", "repair short.kvt -o j4.kvt", "index short.kvt",
                     f"record --model {MODEL} --tokens short.json -o j5.kvt"]:
            self.assertIn("schema", json.loads(self.run_line(f"kvgrind {line} --json").stdout), line)

    def test_terminals(self):
        import fcntl, os, pty, struct, termios
        try:
            os.close(pty.openpty()[1])
        except OSError as missing:
            self.skipTest(f"no terminal can be had here: {missing}")
        def seen(line, columns, **more):
            leader, terminal = pty.openpty()
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
            subprocess.run(line, shell=True, cwd=self.folder, env=dict(self.environment, TERM="xterm", **more),
                           stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal)
            os.close(terminal)
            text = b""
            try:
                while piece := os.read(leader, 65536):
                    text += piece
            except OSError:
                pass
            os.close(leader)
            return text.decode()
        grid = "kvgrind replay short.kvt --policy knorm --policy random --policy snapkv --budget 0.5,0.2"
        drawn = [piece for piece in seen(grid, 30).split("\r\033[K") if piece.startswith(("load:", "replay:"))]
        self.assertTrue(drawn)
        for piece in drawn:
            self.assertLess(len(piece.split("\r")[0]), 30, piece)
        self.assertEqual(seen(grid, 100).count("prompts: intervals are wide"), 1)  # not on both streams
        self.assertNotIn("\033", seen("kvgrind info nothing.kvt", 80, NO_COLOR="1"))
        self.assertIn("\033", seen("kvgrind info nothing.kvt", 80))
        dumb = dict(self.environment, TERM="dumb")
        leader, terminal = pty.openpty()
        done = subprocess.run(["kvgrind", "info", "nothing.kvt"], cwd=self.folder, env=dumb, stderr=terminal)
        os.close(terminal)
        self.assertEqual(done.returncode, 3)
        self.assertNotIn(b"\033", os.read(leader, 4096))
        os.close(leader)

    def test_2_hostile_token_files(self):
        for text in ["[]", "[{}]", '{"ids":[]}', '{"ids":[1e9]}', '{"ids":[-1]}', '{"ids":[4096]}', '{"ids":["a"]}',
                     '{"ids":[1,2],"segments":[{"role":"context","begin":0,"end":9223372036854775807}]}',
                     '{"ids":[1,2],"segments":[{"role":"poem","begin":0,"end":2}]}',
                     '{"ids":[1,2],"spans":[{"kind":"needle","begin":1,"end":1}]}', '{"ids":[1],"parent":0}',
                     '{"ids":[1],"fork_at":7}', '[{"ids":[1]},{"ids":[2],"parent":0,"fork_at":2}]',
                     '[{"ids":[1]},{"ids":[2],"parent":-2,"fork_at":1}]', '{"ids":[1],"decode":9223372036854775807}',
                     '{"ids":[1],"decode":-1}', '{"idz":[1]}', "[" * 100, "nonsense", ""]:
            self.write("hostile.json", text)
            done = self.run_line(f"kvgrind record --model {MODEL} --tokens hostile.json -o never.kvt", expect=None)
            self.assertIn(done.returncode, (2, 4), f"{text}: {done.stderr}")
            self.assertIn("expected", done.stderr, text)
        self.assertFalse((self.folder / "never.kvt").exists())

    def test_3_missing(self):
        for line in ["kvgrind info nothing.kvt", "kvgrind report nothing.jsonl", "kvgrind repair nothing.kvt -o x.kvt",
                     "kvgrind record --model nowhere --tokens short.json -o x.kvt",
                     f"kvgrind record --model {MODEL} --prompt nothing.txt -o x.kvt"]:
            self.assertIn("kvgrind:", self.run_line(line, expect=3).stderr, line)

    def test_4_damaged(self):
        self.write("text.kvt", "this is no trace\n")
        self.write("text.jsonl", '{"type":"result"}\nnot json\n')
        for line in ["kvgrind info text.kvt", "kvgrind replay text.kvt --policy knorm --budget 0.5",
                     "kvgrind report text.jsonl"]:
            self.run_line(line, expect=4)

    def test_5_cannot_write(self):
        self.assertIn("--force", self.run_line(
            f"kvgrind record --model {MODEL} --tokens short.json -o short.kvt", expect=5).stderr)
        self.run_line(f"kvgrind record --model {MODEL} --tokens short.json -o no/such/folder/x.kvt", expect=5)
        with open("/dev/full", "w") as full:
            done = subprocess.run(["kvgrind", "policies"], cwd=self.folder, env=self.environment, stdout=full,
                                  stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 5)

    def test_5_full_disk_leaves_a_readable_prefix(self):
        done = self.run_line(f"kvgrind record --model {MODEL} --prompt traces/examples/prompts/single.context.txt "
                             "-o full.kvt", expect=5, preexec_fn=limit_file_size(1500 * 1024))
        self.assertNotIn("fault of the program", done.stderr)
        self.run_line("kvgrind info full.kvt.part")

    def test_6_threshold(self):
        self.run_line("kvgrind replay short.kvt --policy knorm --budget 0.2 -o a.jsonl")
        self.run_line("kvgrind compare a.jsonl a.jsonl --fail-if 'kept_frac>0.9'", expect=None)
        self.assertIn("failed:", self.run_line("kvgrind compare a.jsonl a.jsonl --fail-if 'recall.all<2'",
                                               expect=6).stderr)

    def test_7_unavailable(self):
        done = self.run_line(f"kvgrind record --model {MODEL} --tokens short.json --device cuda:99 -o gpu.kvt",
                             expect=7)
        self.assertIn("--device", done.stderr)

    def test_closed_reader_is_no_fault(self):
        reader = subprocess.run("kvgrind policies --json | head -c 10; echo ${PIPESTATUS[0]}", shell=True,
                                executable="/bin/bash", cwd=self.folder, env=self.environment, capture_output=True,
                                text=True)
        self.assertTrue(reader.stdout.rstrip().endswith("0"), reader.stdout + reader.stderr)
        self.assertEqual(reader.stderr, "")

    def test_quiet_and_colour(self):
        self.assertEqual(self.run_line(f"kvgrind record --model {MODEL} --tokens short.json -o q.kvt --quiet").stderr, "")
        self.assertIn("\033[", self.run_line("kvgrind info nothing.kvt --color always", expect=3).stderr)
        self.assertNotIn("\033[", self.run_line("kvgrind info nothing.kvt", expect=3).stderr)


class Golden(ProgramTest):
    def test_recorded_nll_is_the_reference_models(self):
        import h5py
        import numpy

        with h5py.File(SOURCE / "tests" / "golden" / "forward_tiny-3m.h5") as golden:
            ids, nll = golden["ids"][:].tolist(), golden["nll"][:]
        self.write("golden.json", {"ids": ids})
        self.run_line(f"kvgrind record --model {MODEL} --tokens golden.json -o golden.kvt")
        with h5py.File(self.folder / "golden.kvt", "r", locking=False, swmr=True) as trace:
            recorded = trace["nll"][: len(nll)]
            self.assertEqual(trace["tokens"][: len(ids)].tolist(), ids)
        self.assertLess(float(numpy.abs(recorded - nll).max()), 2e-3)
        self.assertGreater(float(nll.max()), 1)  # the reference is not degenerate


if __name__ == "__main__":
    support.main()
