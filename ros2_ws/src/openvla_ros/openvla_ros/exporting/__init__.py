"""Policies as bundles for runtimes without PyTorch: ONNX graphs and LEAPP, verified before they are left."""
