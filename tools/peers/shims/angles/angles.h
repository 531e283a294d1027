#pragma once
#include <cmath>

namespace angles
{
// Only joints that wrap around use it; none of ours does.
inline double shortest_angular_distance(double from, double to) { return std::remainder(to - from, 2 * M_PI); }
}  // namespace angles
