"""The network and its parts in plain torch, on the published key names."""
