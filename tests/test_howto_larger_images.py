"""The commands of docs/howto/larger-images.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_commands_train_on_images_of_48_x_64(tmp_path: Path) -> None:
    page = (ROOT / "docs/howto/larger-images.md").read_text()
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        ["bash", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "wide-vqvae/config.json").read_text())
    assert config["shape"] == [1, 48, 64]
    prior = json.loads((tmp_path / "wide-vqvae/prior-transformer/results.json").read_text())
    assert prior["test"]["nats_per_code"]["value"] > 0
    assert prior["config"]["shape"] == [1, 12, 16]
