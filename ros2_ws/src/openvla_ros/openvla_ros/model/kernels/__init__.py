"""The arithmetic of the fast path: linear layers, packed weights, CUDA graphs, Triton kernels."""
