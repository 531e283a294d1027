#pragma once
#include <cstdint>

namespace rclcpp
{
class Duration
{
public:
  Duration() = default;
  explicit Duration(std::int64_t nanoseconds) : nanoseconds_(nanoseconds) {}
  static Duration from_seconds(double seconds)
  {
    return Duration(static_cast<std::int64_t>(seconds * 1e9));
  }
  std::int64_t nanoseconds() const { return nanoseconds_; }
  double seconds() const { return static_cast<double>(nanoseconds_) * 1e-9; }

private:
  std::int64_t nanoseconds_ = 0;
};
}  // namespace rclcpp
