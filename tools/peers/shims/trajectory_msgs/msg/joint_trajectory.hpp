#pragma once
#include <string>
#include <vector>

#include "std_msgs/msg/header.hpp"
#include "trajectory_msgs/msg/joint_trajectory_point.hpp"

namespace trajectory_msgs::msg
{
struct JointTrajectory
{
  std_msgs::msg::Header header;
  std::vector<std::string> joint_names;
  std::vector<JointTrajectoryPoint> points;
};
}  // namespace trajectory_msgs::msg
