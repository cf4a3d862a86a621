#include "replay/program/options.h"

#include <CLI/CLI.hpp>

namespace kvgrind::program {
namespace {

CLI::Option* finish(CLI::Option* option, Need need) {
  if (need == Need::required) option->required();
  return option;
}

}  // namespace

void Options::positional(std::string_view name, std::string& value, std::string_view help, Need need) {
  finish(app_.add_option(std::string(name), value, std::string(help)), need)->type_name("");
}
void Options::positionals(std::string_view name, std::vector<std::string>& values, std::string_view help, Need need) {
  finish(app_.add_option(std::string(name), values, std::string(help)), need)->type_name("");
}
void Options::positional_choice(std::string_view name, std::string& value, const std::vector<std::string>& choices,
                                std::string_view help) {
  app_.add_option(std::string(name), value, std::string(help))
      ->required()
      ->check(CLI::IsMember(choices))
      ->type_name(CLI::detail::join(choices, "|"));
}
void Options::text(std::string_view name, std::string& value, std::string_view help, Need need) {
  CLI::Option* option = finish(app_.add_option(std::string(name), value, std::string(help)), need);
  option->type_name("TEXT")->take_last()->check(
      [](const std::string& given) { return given.empty() ? std::string("an empty value") : std::string(); }, "");
  if (!value.empty()) option->default_str(value);
}
void Options::texts(std::string_view name, std::vector<std::string>& values, std::string_view help, Need need) {
  finish(app_.add_option(std::string(name), values, std::string(help)), need)
      ->type_name("TEXT ...")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}
void Options::choice(std::string_view name, std::string& value, const std::vector<std::string>& choices,
                     std::string_view help) {
  app_.add_option(std::string(name), value, std::string(help))
      ->check(CLI::IsMember(choices))
      ->type_name(CLI::detail::join(choices, "|"))
      ->default_str(value);
}
void Options::integer(std::string_view name, std::int64_t& value, std::string_view help, std::int64_t least) {
  app_.add_option(std::string(name), value, std::string(help))
      ->check(CLI::Range(least, std::numeric_limits<std::int64_t>::max()))
      ->type_name("N")
      ->default_str(std::to_string(value));
}
void Options::integer(std::string_view name, std::optional<std::int64_t>& value, std::string_view help,
                      std::int64_t least) {
  app_.add_option(std::string(name), value, std::string(help))
      ->check(CLI::Range(least, std::numeric_limits<std::int64_t>::max()))
      ->type_name("N");
}
void Options::number(std::string_view name, double& value, std::string_view help) {
  app_.add_option(std::string(name), value, std::string(help))->type_name("X")->capture_default_str();
}
void Options::flag(std::string_view name, bool& value, std::string_view help) {
  app_.add_flag(std::string(name), value, std::string(help));
}
void Options::rest(std::vector<std::string>& words) {
  app_.allow_extras();
  app_.callback([this_app = &app_, &words] { words = this_app->remaining(); });
}

}  // namespace kvgrind::program
