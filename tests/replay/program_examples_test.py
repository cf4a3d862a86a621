"""Every example of every command's help runs, and so does every command line of the README and the guide."""
import json
import re

import program_support as support
from program_support import PROGRAM, SOURCE, ProgramTest, commands_of_help, examples_of_help

# The whole demo is `make demo`; here it runs with less to replay.
SHORTER = {"kvgrind demo -o demo-out": " --policy snapkv --policy knorm --budget 0.2,0.1"}
NEEDS_GUI = {"gui", "render"}


class HelpExamples(ProgramTest):
    def test_every_example_runs(self):
        names = commands_of_help(self.run_line("kvgrind --help").stdout)
        self.assertGreaterEqual(len(names), 12)
        for name in names:
            examples = examples_of_help(self.run_line(f"kvgrind {name} --help").stdout)
            self.assertTrue(examples, f"{name} has no example")
            for example in examples:
                with self.subTest(example=example):
                    self.assertTrue(example.startswith(f"kvgrind {name}"))
                    if name in NEEDS_GUI and not (PROGRAM.parent / "kvgrind-gui").exists():
                        self.assertIn("qt6-base-dev", self.run_line(example, expect=7).stderr)
                    elif name != "gui":  # a window stays open
                        self.run_line(example + SHORTER.get(example, ""))


class Pages(ProgramTest):
    def test_every_command_line_of_the_pages_runs(self):
        pages = [SOURCE / "README.md", *[SOURCE / "replay" / "guide" / f"{p}.md" for p in
                                         ["record", "replay", "trust", "look", "extend"]]]
        lines = 0
        for page in pages:
            blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)
            for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
                line = line.split("  #")[0].strip()
                if not line.startswith("kvgrind "):
                    continue
                lines += 1
                name = line.split()[1]
                if name == "gui" or (name in NEEDS_GUI and not (PROGRAM.parent / "kvgrind-gui").exists()):
                    continue
                with self.subTest(page=page.name, line=line):
                    self.run_line(line + SHORTER.get(line, ""))
        self.assertGreater(lines, 10)

    def test_the_table_of_methods_is_what_the_program_prints(self):
        page = (SOURCE / "replay" / "guide" / "extend.md").read_text()
        committed = page.split("<!-- methods -->\n")[1].split("<!-- end of methods -->")[0]
        self.assertEqual(committed, self.run_line("kvgrind policies --table").stdout)

    def test_links_of_the_pages_lead_somewhere(self):
        for page in [SOURCE / "README.md", *(SOURCE / "replay" / "guide").glob("*.md")]:
            for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
                self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")


class Machine(ProgramTest):
    def test_json_documents_name_their_schema(self):
        self.record_short()
        for line in ["kvgrind doctor --json", "kvgrind info --json short.kvt", "kvgrind check --json short.kvt",
                     "kvgrind policies --json", "kvgrind policies --primitives --json",
                     "kvgrind replay short.kvt --policy knorm --budget 0.5 --json --quiet"]:
            document = json.loads(self.run_line(line).stdout)
            self.assertRegex(document["schema"], r"^kvgrind\.[a-z_]+\.1$", line)


if __name__ == "__main__":
    support.main()
