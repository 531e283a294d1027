"""From targets to joint commands within limits, and the stops at their end."""
