"""Ctrl+C, kills and two writers: what was done stays readable, and what was not can be resumed."""
import json
import signal
import time

import program_support as support
from program_support import MODEL, ProgramTest

GRID = "--policy knorm --policy snapkv --policy random --policy h2o --budget 0.7,0.5,0.3,0.2,0.1"


def results(path):
    """The result rows of a file as text, in order; run rows (clocks, hosts) are left out."""
    lines = path.read_text().splitlines()
    return [line for line in lines if line.endswith("}") and json.loads(line).get("type") == "result"]


class Interrupted(ProgramTest):
    def wait_for(self, condition, process, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            if condition():
                return
            time.sleep(0.002)
        self.fail(f"it ended or nothing happened: {process.poll()}, {process.communicate()}")

    def long_recording(self, name, more=""):
        return self.start(f"kvgrind record --model {MODEL} --prompt traces/examples/prompts/single.context.txt "
                          f"--decode 1500 --chunk 64 -o {name} {more}")

    def test_record_interrupted_leaves_a_prefix(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.long_recording("stopped.kvt", "--force")
            part = self.folder / "stopped.kvt.part"
            self.wait_for(lambda: part.exists() and part.stat().st_size > 1_000_000, process)
            process.send_signal(number)
            _, talk = process.communicate(timeout=30)
            self.assertEqual(process.returncode, 130, talk)
            self.assertIn("kvgrind repair", talk)
            info = json.loads(self.run_line("kvgrind info --json stopped.kvt.part").stdout)
            self.assertGreater(info["rows"], 0)
            self.assertNotEqual(info["state"], "complete")
            self.run_line("kvgrind repair stopped.kvt.part -o repaired.kvt --force")
            self.assertEqual(json.loads(self.run_line("kvgrind info --json repaired.kvt").stdout)["rows"], info["rows"])
            self.assertIn("interrupted", self.run_line("kvgrind check repaired.kvt", expect=6).stdout)
            part.unlink()

    def test_record_in_segments_interrupted_is_joined(self):
        process = self.long_recording("pieces.kvt", "--segments")
        part = self.folder / "pieces.kvt.part"
        self.wait_for(lambda: (part / "0001.open").exists() and (part / "0001.open").stat().st_size > 500_000, process)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130, talk)
        self.assertIn("kvgrind repair pieces.kvt.part", talk)
        self.assertIn("kvgrind repair", self.run_line("kvgrind info pieces.kvt.part", expect=4).stderr)
        report = json.loads(self.run_line("kvgrind repair pieces.kvt.part -o joined.kvt --json").stdout)
        self.assertGreater(report["kept_tokens"], 0)
        info = json.loads(self.run_line("kvgrind info --json joined.kvt").stdout)
        self.assertEqual((info["rows"], info["state"]), (report["kept_tokens"], "interrupted"))

    def test_two_writers(self):
        first = self.long_recording("shared.kvt")
        part = self.folder / "shared.kvt.part"
        self.wait_for(lambda: part.exists() and part.stat().st_size > 0, first)
        second = self.run_line(f"kvgrind record --model {MODEL} --prompt traces/examples/prompts/single.context.txt "
                               "-o shared.kvt", expect=5)
        self.assertIn("shared.kvt", second.stderr)
        first.kill()
        first.communicate()
        self.record_short("shared.kvt", "--force")  # the killed writer's lock died with it

    def test_sweep_interrupted_then_resumed_is_the_whole(self):
        self.record_short()
        self.run_line(f"kvgrind sweep short.kvt {GRID} -o whole.jsonl --threads 1")
        whole = results(self.folder / "whole.jsonl")
        self.assertEqual(len(whole), 4 * 5 * 2)
        for number in (signal.SIGINT, signal.SIGKILL):
            out = self.folder / "cut.jsonl"
            out.unlink(missing_ok=True)
            process = self.start(f"kvgrind sweep short.kvt {GRID} -o cut.jsonl --threads 1")
            try:
                self.wait_for(lambda: out.exists() and out.read_text().count("\n") >= 4, process)
            except AssertionError:
                self.skipTest("the sweep was over before it could be interrupted")
            process.send_signal(number)
            _, talk = process.communicate(timeout=30)
            if number == signal.SIGINT and process.returncode != 0:
                self.assertEqual(process.returncode, 130, talk)
                self.assertIn("--resume", talk)
            with open(out, "a") as cut:
                cut.write('{"type":"result","ragged')
            self.run_line(f"kvgrind sweep short.kvt {GRID} -o cut.jsonl --resume --threads 2")
            self.assertEqual(sorted(results(out)), sorted(whole))

    def test_replay_interrupted_without_a_file_says_so(self):
        self.record_short("long.kvt")
        process = self.start("kvgrind replay long.kvt --policy all --budget 0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2,0.1")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=30)
        if process.returncode != 0:  # not over by then
            self.assertEqual(process.returncode, 130, talk)
            self.assertIn("with -o FILE", talk)
            self.assertNotIn("results.jsonl", talk)

    def test_eval_interrupted_says_how_it_goes_on(self):
        process = self.start(f"kvgrind eval --model {MODEL} --suite needle --prompts 30 --length 256 --policy knorm "
                             "--policy h2o --budget 0.5,0.2 -o eval.jsonl")
        out = self.folder / "eval.jsonl"
        self.wait_for(lambda: out.exists() and out.read_text().count("\n") >= 2, process, 60)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130, talk)
        self.assertIn("--resume", talk)

    def test_shards_merge_to_the_whole(self):
        self.record_short("parts.kvt")
        self.run_line(f"kvgrind sweep parts.kvt {GRID} -o one.jsonl")
        for shard in range(3):
            self.run_line(f"kvgrind sweep parts.kvt {GRID} -o part{shard}.jsonl --shard {shard}/3")
        self.run_line("kvgrind merge part2.jsonl part0.jsonl part1.jsonl -o joined.jsonl")
        self.assertEqual(results(self.folder / "joined.jsonl"), results(self.folder / "one.jsonl"))


if __name__ == "__main__":
    support.main()
