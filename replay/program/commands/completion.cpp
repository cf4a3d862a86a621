// kvgrind completion: what a shell needs to complete commands, options and presets.
#include <fmt/format.h>

#include "replay/program/command.h"
#include "sim/engine/policy.h"

namespace kvgrind::program {
namespace {

std::string names_text(const char* separator) {
  std::string text;
  for (const Command* command : commands()) text += (text.empty() ? "" : separator) + std::string(command->name);
  return text;
}

std::string presets_text() { return fmt::format("{}", fmt::join(sim::preset_names(), " ")); }

std::string bash() {
  std::string text =
      "# Load with: source <(kvgrind completion bash)\n_kvgrind() {\n"
      "  local word=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
      "  COMPREPLY=()\n  if [ \"$COMP_CWORD\" = 1 ]; then\n";
  text += fmt::format("    COMPREPLY=($(compgen -W '{}' -- \"$word\"))\n    return\n  fi\n", names_text(" "));
  text += fmt::format(
      "  if [ \"$before\" = --policy ]; then\n    COMPREPLY=($(compgen -W 'all {}' -- \"$word\"))\n"
      "    return\n  fi\n",
      presets_text());
  text += "  case \"${COMP_WORDS[1]}\" in\n";
  for (const Command* command : commands())
    text += fmt::format("    {}) local options='{}' ;;\n", command->name, option_names(*command, " "));
  text +=
      "    *) return ;;\n  esac\n  case \"$word\" in\n"
      "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
      "    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n  esac\n}\n"
      "complete -o filenames -F _kvgrind kvgrind\n";
  return text;
}

std::string zsh() {
  std::string text =
      "#compdef kvgrind\n# Load with: source <(kvgrind completion zsh)\n_kvgrind() {\n"
      "  if (( CURRENT == 2 )); then\n    local -a names\n    names=(\n";
  for (const Command* command : commands()) text += fmt::format("      '{}:{}'\n", command->name, command->summary);
  text += "    )\n    _describe command names\n    return\n  fi\n";
  text += fmt::format("  if [[ \"${{words[CURRENT-1]}}\" == --policy ]]; then\n    compadd all {}\n    return\n  fi\n",
                      presets_text());
  text += "  if [[ \"$PREFIX\" == -* ]]; then\n    case \"${words[2]}\" in\n";
  for (const Command* command : commands())
    text += fmt::format("      {}) compadd -- {} ;;\n", command->name, option_names(*command, " "));
  text += "    esac\n  else\n    _files\n  fi\n}\ncompdef _kvgrind kvgrind\n";
  return text;
}

std::string fish() {
  std::string text = "# Load with: kvgrind completion fish | source\n";
  for (const Command* command : commands()) {
    text +=
        fmt::format("complete -c kvgrind -n __fish_use_subcommand -f -a {} -d '{}'\n", command->name, command->summary);
    const std::string options = option_names(*command, "\n");
    for (std::size_t at = 0; at < options.size();) {
      const std::size_t end = std::min(options.find('\n', at), options.size());
      text += fmt::format("complete -c kvgrind -n '__fish_seen_subcommand_from {}' -l {}\n", command->name,
                          options.substr(at + 2, end - at - 2));
      at = end + 1;
    }
  }
  text += fmt::format("complete -c kvgrind -l policy -x -a 'all {}'\n", presets_text());
  return text;
}

Action declare(Options& options) {
  auto shell = std::make_shared<std::string>("bash");
  options.positional_choice("shell", *shell, {"bash", "zsh", "fish"}, "whose completion to print");
  return [shell](Console& console) {
    console.data(*shell == "bash" ? bash() : *shell == "zsh" ? zsh() : fish());
    return 0;
  };
}

}  // namespace

namespace rows {
extern const Command completion;
const Command completion{.name = "completion",
                         .place = 91,
                         .summary = "print the completion script of a shell",
                         .text = "",
                         .examples = {"kvgrind completion bash", "kvgrind completion zsh", "kvgrind completion fish"},
                         .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
