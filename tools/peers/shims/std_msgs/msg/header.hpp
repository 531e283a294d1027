#pragma once
#include <string>

#include "rclcpp/time.hpp"

namespace std_msgs::msg
{
struct Header
{
  rclcpp::Time stamp;
  std::string frame_id;
};
}  // namespace std_msgs::msg
