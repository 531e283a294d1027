"""The processes that a robot needs: the graph, the supervisor, and the DDS settings between them."""
