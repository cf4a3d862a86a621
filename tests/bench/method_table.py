#!/usr/bin/env python3
"""Reprints the table of methods in replay/guide/extend.md: method_table.py [KVGRIND], from the repository root"""
import subprocess
import sys

PAGE, BEGIN, END = "replay/guide/extend.md", "<!-- methods -->\n", "<!-- end of methods -->"


def main():
    kvgrind = sys.argv[1] if len(sys.argv) > 1 else "build/bin/kvgrind"
    table = subprocess.run([kvgrind, "policies", "--table"], capture_output=True, check=True, text=True).stdout
    with open(PAGE) as file:
        before, rest = file.read().split(BEGIN)
    with open(PAGE, "w") as file:
        file.write(before + BEGIN + table + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
