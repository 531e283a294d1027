"""Where the tests of Triton's kernels run; who imports this is skipped where there is no Triton."""

import os

import numpy as np
import pytest
import torch

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # before it is imported
pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
if not CUDA and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
    pytest.skip("Triton's interpreter does not run on NumPy 2.4", allow_module_level=True)
