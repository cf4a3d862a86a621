// The command line parsed into one command and its options; signals; the one place where Error is caught.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "core/error.h"
#include "core/parallel.h"
#include "core/policy_line.h"
#include "core/version.h"
#include "replay/program/command.h"

namespace kvgrind::program {
namespace {

// What the signal handler may touch: a lock-free flag behind the token, and a count.
CancelToken* interrupted_token = nullptr;
volatile sig_atomic_t interrupts = 0;

extern "C" void on_interrupt(int) {
  interrupts = interrupts + 1;
  if (interrupts > 1) _exit(exit_code(Category::interrupted));
  interrupted_token->cancel();
}

void install_signals(CancelToken& token) {
  interrupted_token = &token;
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);  // a closed reader shows as EPIPE where we write
  sigaction(SIGXFSZ, &action, nullptr);  // a file size limit shows as EFBIG
}

std::vector<std::string> typed;

struct Common {
  ConsoleOptions console;
  std::int64_t threads = 0;
  bool version = false;
};

struct Parsed {
  std::string command;
  Action action;
};

void add_common(Options& options, Common& common) {
  options.flag("-q,--quiet", common.console.quiet, "errors only");
  options.flag("-v,--verbose", common.console.verbose, "say more");
  options.choice("--color", common.console.color, {"auto", "always", "never"}, "colours on terminals");
  options.flag("--json", common.console.json, "data as one JSON document");
  options.integer("--threads", common.threads, "threads to use; 0 = all cores");
}

std::string examples_text(const Command& command) {
  std::string text = command.text;
  if (!text.empty()) text += "\n\n";
  text += "Examples:\n";
  for (const char* example : command.examples) text += fmt::format("  {}\n", example);
  return text;
}

Error usage(std::string on, std::string found, std::string expected, std::string next) {
  return Error(Category::usage, {.doing = "reading the command line",
                                 .on = std::move(on),
                                 .found = std::move(found),
                                 .expected = std::move(expected),
                                 .usable = {},
                                 .next = std::move(next)});
}

std::vector<std::string> command_names() {
  std::vector<std::string> names;
  for (const Command* command : commands()) names.emplace_back(command->name);
  return names;
}

// CLI11's complaint as ours, with the nearest name where one is near.
Error complaint(const CLI::App& app, const CLI::ParseError& fault) {
  const CLI::App* at = app.get_subcommands().empty() ? &app : app.get_subcommands().front();
  const std::string on = at == &app ? "kvgrind" : "kvgrind " + at->get_name();
  const std::string help = "`" + on + " --help` lists what there is";
  // A word that is not known is named before one that is missing: it may well be that one, misspelt.
  const std::vector<std::string> extra = at->remaining().empty() ? app.remaining() : at->remaining();
  if (dynamic_cast<const CLI::ExtrasError*>(&fault) || (!extra.empty() && extra.front().starts_with("-"))) {
    const std::string first = extra.empty() ? "an argument" : extra.front();
    std::vector<std::string> names;
    if (at == &app && !first.starts_with("-")) {
      names = command_names();
    } else {
      for (const CLI::Option* option : at->get_options())
        for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    const std::string near = nearest_name(first.substr(0, first.find('=')), names);
    const char* what = at == &app && !first.starts_with("-") ? "command" : "argument";
    return usage(on, fmt::format("the unknown {} \"{}\"", what, first), near.empty() ? "" : "perhaps \"" + near + "\"",
                 help);
  }
  return usage(on, fault.what(), "", help);
}

int guarded(int argc, char** argv, Common& common, CancelToken& cancel) {
  CLI::App app("Record a language model's attention once; replay it against KV-cache policies offline.", "kvgrind");
  app.require_subcommand(0, 1);
  app.add_flag("--version", common.version, "print the version");
  app.footer("`kvgrind COMMAND --help` shows options and examples.");
  std::vector<Parsed> parsed;
  for (const Command* command : commands()) {
    CLI::App* sub = app.add_subcommand(command->name, command->summary);
    sub->footer(examples_text(*command));
    Options options(*sub);
    parsed.push_back({command->name, command->declare(options)});
    add_common(options, common);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const auto asked = app.get_subcommands();
    Console console(common.console, cancel);
    console.data(asked.empty() ? app.help() : asked.front()->help());
    console.finish();
    return 0;
  } catch (const CLI::ParseError& fault) {
    throw complaint(app, fault);
  }
  set_thread_count(static_cast<int>(std::min<std::int64_t>(common.threads, 4096)));
  Console console(common.console, cancel);
  int code = 0;
  if (common.version) {
    console.data(fmt::format("kvgrind {} ({})\n", version(), git_hash()));
  } else if (app.get_subcommands().empty()) {
    console.data(app.help());
    code = exit_code(Category::usage);
  } else {
    const std::string name = app.get_subcommands().front()->get_name();
    const auto it = std::find_if(parsed.begin(), parsed.end(), [&](const Parsed& p) { return p.command == name; });
    code = it->action(console);
  }
  console.finish();
  return code;
}

}  // namespace

std::vector<std::string> typed_command() { return typed; }

std::string option_names(const Command& command, std::string_view separator) {
  CLI::App app;
  Options options(app);
  Common common;
  const Action action = command.declare(options);
  add_common(options, common);
  std::string text;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      text += (text.empty() ? "" : std::string(separator)) + "--" + name;
  return text;
}

int run_program(int argc, char** argv) {
  typed.assign(argv, argv + argc);
  Common common;
  CancelToken cancel;
  install_signals(cancel);
  try {
    return guarded(argc, argv, common, cancel);
  } catch (const Error& error) {
    Console(common.console, cancel).error(error);
    return exit_code(error.category());
  } catch (const std::bad_alloc&) {
    std::fputs("kvgrind: out of memory\n  next:     use fewer threads, smaller chunks or shorter contexts\n", stderr);
    return exit_code(Category::unavailable);
  } catch (const std::exception& fault) {
    std::fprintf(stderr, "kvgrind: a fault of the program itself: %s\n  next:     report it, with `kvgrind doctor`\n",
                 fault.what());
    return exit_code(Category::jobs_failed);
  }
}

}  // namespace kvgrind::program
