"""What is set up before CUDA begins."""

import os
import subprocess
import sys

import pytest

ASK = """import os
from lookalike.encoders.load import choose_devices
choose_devices("auto", {!r})
print(os.environ.get({!r}))
"""
QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS"


@pytest.mark.parametrize(
    ("runtime", "given", "expected"), [("torch", {}, "32"), ("torch", {QUEUES: "4"}, "4"), ("openvino", {}, "None")]
)
def test_streams_of_cuda_get_queues_of_their_own(runtime, given, expected):
    """Unless the user says how many; with too few, decoding waits behind the model."""
    environment = {key: value for key, value in os.environ.items() if key != QUEUES} | given
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(runtime, QUEUES)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
