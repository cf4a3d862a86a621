"""What the tests of the program share: running it, a scratch folder with the examples in reach, short recordings."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(os.environ["KVGRIND_SOURCE"])
PROGRAM = Path(os.environ["KVGRIND_PROGRAM"])
MODEL = "traces/examples/tiny-3m"


def commands_of_help(text):
    """The names that `kvgrind --help` lists."""
    block = text.split("Subcommands:", 1)[1]
    return [line.split()[0] for line in block.splitlines() if re.match(r"^  [a-z]", line)]


def examples_of_help(text):
    """The lines under "Examples:" of a command's help."""
    block = text.split("Examples:", 1)[1]
    return [line.strip() for line in block.splitlines() if line.strip().startswith("kvgrind ")]


class ProgramTest(unittest.TestCase):
    """Each class runs in a scratch folder of its own, in which traces/ is the source tree's."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="kvgrind-test-"))
        (cls.folder / "traces").symlink_to(SOURCE / "traces")
        cls.environment = dict(os.environ, PATH=f"{PROGRAM.parent}:{os.environ['PATH']}")
        for name in [n for n in cls.environment if n.startswith("SLURM_") or n == "NO_COLOR"]:
            del cls.environment[name]

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def run_line(self, line, expect=0, timeout=120, **more):
        """A command line as a shell would run it; its output when the exit code is as expected."""
        words = shlex.split(line)
        done = subprocess.run(words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=timeout, **more)
        if expect is not None:
            self.assertEqual(done.returncode, expect, f"{line}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, line):
        return subprocess.Popen(shlex.split(line), cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def write(self, name, value):
        text = value if isinstance(value, str) else json.dumps(value)
        (self.folder / name).write_text(text)

    def record_short(self, out="short.kvt", more=""):
        """Two small contexts with a question each, as token ids."""
        def one(seed):
            ids = [0] + [3 + (seed * 131 + i * 37 + i * i * 11) % 4000 for i in range(199)]
            return {"ids": ids, "segments": [{"role": "context", "begin": 0, "end": 160},
                                             {"role": "question", "begin": 160, "end": 190},
                                             {"role": "answer", "begin": 190, "end": 200}],
                    "spans": [{"kind": "needle", "begin": 40, "end": 50, "label": "planted"}]}
        self.write("short.json", [one(1), one(2)])
        return self.run_line(f"kvgrind record --model {MODEL} --tokens short.json -o {out} --quiet {more}")


def main():
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]], verbosity=2)
