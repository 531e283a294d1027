"""Steps of datasets in an order for training."""
