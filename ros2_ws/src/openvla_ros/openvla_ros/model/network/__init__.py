"""The network and its parts in plain torch, with the published key names."""
