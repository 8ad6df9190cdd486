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
    results = json.loads((tmp_path / "wide/results.json").read_text())
    assert results["config"]["shape"] == [1, 48, 64]
    assert 'id="explorer"' in (tmp_path / "wide/report.html").read_text()
