"""Other nodes in the ROS domain: endpoints, rivals, streams that must have one publisher, a client."""
