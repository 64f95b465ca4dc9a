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


def test_the_processor_is_found_to_be_all_there_is_without_torch():
    """Where that is certain; torch, asked in the same process afterwards, agrees."""
    program = """import sys
from lookalike.encoders.load import choose_device, choose_devices, has_no_gpu
early = choose_devices("auto", "torch")
print(has_no_gpu() == ("torch" not in sys.modules), early[0] == str(choose_device("auto")))
print(choose_devices("cpu", "torch"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True True", "['cpu']"]
