// Names that interpolation_methods.hpp mentions; nothing is logged here.
#pragma once
#include <stdexcept>
#include <string>

#include "rclcpp/time.hpp"

namespace rclcpp
{
struct Logger
{
};
inline Logger get_logger(const std::string &) { return {}; }
}  // namespace rclcpp

#define RCLCPP_INFO(...) static_cast<void>(0)
#define RCLCPP_WARN(...) static_cast<void>(0)
#define RCLCPP_INFO_STREAM(...) static_cast<void>(0)
#define RCLCPP_WARN_STREAM(...) static_cast<void>(0)
