// Just what trajectory.cpp uses of rclcpp's times, with the same arithmetic: whole nanoseconds.
#pragma once
#include <cstdint>

#include "rclcpp/duration.hpp"

namespace rclcpp
{
class Time
{
public:
  Time() = default;
  explicit Time(std::int64_t nanoseconds) : nanoseconds_(nanoseconds) {}
  std::int64_t nanoseconds() const { return nanoseconds_; }
  double seconds() const { return static_cast<double>(nanoseconds_) * 1e-9; }
  Time operator+(const Duration & other) const { return Time(nanoseconds_ + other.nanoseconds()); }
  Duration operator-(const Time & other) const { return Duration(nanoseconds_ - other.nanoseconds_); }
  bool operator<(const Time & other) const { return nanoseconds_ < other.nanoseconds_; }
  bool operator>(const Time & other) const { return nanoseconds_ > other.nanoseconds_; }
  bool operator>=(const Time & other) const { return nanoseconds_ >= other.nanoseconds_; }

private:
  std::int64_t nanoseconds_ = 0;
};
}  // namespace rclcpp
