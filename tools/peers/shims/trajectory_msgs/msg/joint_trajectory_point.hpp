#pragma once
#include <algorithm>
#include <vector>

#include "rclcpp/duration.hpp"

namespace trajectory_msgs::msg
{
struct JointTrajectoryPoint
{
  std::vector<double> positions, velocities, accelerations, effort;
  rclcpp::Duration time_from_start;
};
}  // namespace trajectory_msgs::msg
