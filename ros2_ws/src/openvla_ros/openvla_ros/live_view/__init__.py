"""Shows a running robot: subscribes to its topics, and publishes and asks nothing."""
