"""Everything runs where the model is: a device that is not there refuses what a GPU would refuse (see `fake_gpu`)."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "shared" / "on_a_gpu.py"


def test_models_patches_and_estimates_run_on_a_gpu():
    """With the same results as on the CPU, and without looking at numbers where that would make the GPU wait."""
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    looks = json.loads(done.stdout.splitlines()[-1])
    assert len(looks) == 33
    for case, count in looks.items():
        # In parts: once for each example. A look at each patched run of 4 examples would be over a hundred.
        limit = 0 if "forward" in case else 110 if "parts" in case else 60
        assert count <= limit, case
