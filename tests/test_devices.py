import pytest
import torch

from bsm.devices import choose_device
from bsm.errors import InputError


def test_a_device_is_checked():
    assert choose_device("cpu") == "cpu"
    assert choose_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("abacus", "cuda:99"):
        with pytest.raises(InputError, match=f"device '{name}' is not available; use --device cpu"):
            choose_device(name)
