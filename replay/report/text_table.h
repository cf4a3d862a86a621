// Cells as aligned text, Markdown and CSV. The first line is the header.
#pragma once
#include <string>
#include <vector>

namespace kvgrind::replay {

std::string text_table(const std::vector<std::vector<std::string>>& cells);
std::string markdown_table(const std::vector<std::vector<std::string>>& cells);
std::string csv_line(const std::vector<std::string>& cells);  // quoted where needed, with its newline

}  // namespace kvgrind::replay
