#pragma once
#include <algorithm>
#include <cctype>
#include <string>

namespace hardware_interface
{
inline std::string to_lower_case(std::string text)
{
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}
}  // namespace hardware_interface
