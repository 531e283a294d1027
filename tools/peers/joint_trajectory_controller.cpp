// Feeds trajectories to ros2_control's own trajectory.cpp, compiled unchanged, in the order of calls of the
// controller's update() of one release, and prints what it would command.
//
//   program RELEASE START CYCLE_MS < input
//
// RELEASE is humble, jazzy, kilted or rolling; START is measured or desired (interpolate_from_desired_state).
// Input, one line a cycle: two measured positions, two velocities, and the number of points of the message
// taken up in that cycle (0: none). Then for a message: its stamp in ms ("none" without one), and for each
// point its time in ms, the count of positions and the positions, likewise velocities and accelerations.
// Output, one line a cycle: the two commanded positions.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "joint_trajectory_controller/trajectory.hpp"

namespace jtc = joint_trajectory_controller;
using Message = trajectory_msgs::msg::JointTrajectory;
using Point = trajectory_msgs::msg::JointTrajectoryPoint;

constexpr std::int64_t MS = 1000000;
constexpr std::int64_t START_NS = 1000 * MS;  // the time of the first cycle

static std::vector<double> read_values()
{
  std::size_t count = 0;
  std::cin >> count;
  std::vector<double> values(count);
  for (auto & value : values) {
    std::cin >> value;
  }
  return values;
}

static std::shared_ptr<Message> read_message(std::size_t points)
{
  auto message = std::make_shared<Message>();
  std::string stamp;
  std::cin >> stamp;
  message->header.stamp =
    stamp == "none" ? rclcpp::Time(0) : rclcpp::Time(START_NS + std::stoll(stamp) * MS);
  for (std::size_t i = 0; i < points; ++i) {
    Point point;
    std::int64_t time_ms = 0;
    std::cin >> time_ms;
    point.time_from_start = rclcpp::Duration(time_ms * MS);
    point.positions = read_values();
    point.velocities = read_values();
    point.accelerations = read_values();
    message->points.push_back(point);
  }
  return message;
}

int main(int argc, char ** argv)
{
  if (argc != 4) {
    return 2;
  }
  const std::string release = argv[1];
  const bool from_desired = std::string(argv[2]) == "desired";
  const rclcpp::Duration cycle(std::stoll(argv[3]) * MS);
  const bool humble = release == "humble";
  const auto method = jtc::interpolation_methods::InterpolationMethod::VARIABLE_DEGREE_SPLINE;

  jtc::Trajectory trajectory;
  std::shared_ptr<Message> deferred;
  Point commanded, desired;
  rclcpp::Time commanded_at(0);
  bool active = false;
  std::vector<double> measured(2), velocity(2);
  for (std::int64_t i = 0; std::cin >> measured[0] >> measured[1] >> velocity[0] >> velocity[1]; ++i) {
    const rclcpp::Time now(START_NS + i * cycle.nanoseconds());
    if (i == 0) {
      commanded.positions = measured;
      commanded.velocities = commanded.accelerations = {0.0, 0.0};
    }
    std::size_t points = 0;
    std::cin >> points;
    auto received = points ? read_message(points) : nullptr;
    std::shared_ptr<Message> install;
    if (received) {
      const bool later = received->header.stamp > now;
      if (release == "rolling" && later && active) {
        deferred = received;
      } else {
        install = received;
        deferred = nullptr;
      }
    }
    if (deferred && !(now < deferred->header.stamp)) {
      install = deferred;
      deferred = nullptr;
    }
    if (install) {
      trajectory.update(install);
      active = true;
    }
    if (active) {
      if (!trajectory.is_sampled_already()) {
        Point before;
        before.positions = measured;
        before.velocities = velocity;
        rclcpp::Time at = now;
        if (from_desired) {
          before = commanded;
          if (!humble) {
            at = commanded_at.nanoseconds() == 0 ? now : commanded_at;
          }
        }
        trajectory.set_point_before_trajectory_msg(at, before);
      }
      jtc::TrajectoryPointConstIter first, last;
      bool valid = false;
      if (humble) {
        valid = trajectory.sample(now, method, desired, first, last);
      } else {
        Point next = commanded;
        trajectory.sample(now, method, desired, first, last);
#ifndef HUMBLE
        valid = trajectory.sample(now + cycle, method, next, first, last, false);
#endif
        desired = next;
      }
      if (valid) {
        commanded = desired;
        commanded_at = now;
      }
    }
    std::printf("%.9f %.9f\n", commanded.positions[0], commanded.positions[1]);
  }
  return 0;
}
