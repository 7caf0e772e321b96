"""What this package may load."""

from __future__ import annotations

import subprocess
import sys


def test_a_decoder_process_loads_neither_torch_nor_a_client() -> None:
    code = "import sys, worker.encode.decoder_process; print(' '.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {name.split(".")[0] for name in output.split()} & {"torch", "transformers", "kafka", "confluent_kafka"}
