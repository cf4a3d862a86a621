// What a command accepts, declared in plain types. The only file that talks to CLI11 is options.cpp.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace kvgrind::program {

enum class Need : std::uint8_t { optional, required };

// Options of one command. Every reference must outlive the parsing (and the run).
class Options {
 public:
  explicit Options(CLI::App& app) : app_(app) {}

  void positional(std::string_view name, std::string& value, std::string_view help, Need need = Need::required);
  void positionals(std::string_view name, std::vector<std::string>& values, std::string_view help,
                   Need need = Need::required);
  void positional_choice(std::string_view name, std::string& value, const std::vector<std::string>& choices,
                         std::string_view help);
  void text(std::string_view name, std::string& value, std::string_view help, Need need = Need::optional);
  void texts(std::string_view name, std::vector<std::string>& values, std::string_view help,
             Need need = Need::optional);  // may be repeated
  void choice(std::string_view name, std::string& value, const std::vector<std::string>& choices,
              std::string_view help);
  void integer(std::string_view name, std::int64_t& value, std::string_view help, std::int64_t least = 0);
  void integer(std::string_view name, std::optional<std::int64_t>& value, std::string_view help,
               std::int64_t least = 0);
  void number(std::string_view name, double& value, std::string_view help);
  void flag(std::string_view name, bool& value, std::string_view help);
  // Everything else on the line, in order, for a program that is started with it.
  void rest(std::vector<std::string>& words);

 private:
  CLI::App& app_;
};

}  // namespace kvgrind::program
