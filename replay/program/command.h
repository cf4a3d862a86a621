// A command is a row: what it is called, what it says of itself, what it accepts, what it does. One file each in
// commands/; the table is generated from the files.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "replay/program/console.h"
#include "replay/program/options.h"

namespace kvgrind::program {

using Action = std::function<int(Console&)>;  // returns the exit code

struct Command {
  const char* name;
  int place;                          // in the list of commands
  const char* summary;                // one line, for the list of commands
  const char* text;                   // a few lines more, may be empty
  std::vector<const char*> examples;  // each really runs (a test sees to it)
  Action (*declare)(Options&);
};

const std::vector<const Command*>& commands();  // in the order of the help

// The command line as typed, for provenance.
std::vector<std::string> typed_command();

// Long option names of a command, for completion.
std::string option_names(const Command& command, std::string_view separator);

int run_program(int argc, char** argv);

}  // namespace kvgrind::program
