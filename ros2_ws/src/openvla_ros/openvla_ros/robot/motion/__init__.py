"""From targets to joint commands within their limits, and the stops that they end in."""
