"""Write requirements-image.lock: what the container image installs, each with its hash.

pip resolves requirements-image.in within the versions of requirements.lock, without installing
anything, and reports the file that it would take on this machine; the image is for the same
platform (Linux on x86-64, Python 3.11). ``python .ci/lock_image.py``, or ``make image-lock``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Made by `make image-lock` of requirements-image.in, within requirements.lock: the files that the
# image takes on Linux, x86-64, Python 3.11. Other machines install requirements.lock.
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
            "--report", str(report), "--constraint", str(ROOT / "requirements.lock"),
            "--requirement", str(ROOT / "requirements-image.in"),
        ]  # fmt: skip
        subprocess.run(command, check=True)
        found = json.loads(report.read_text())["install"]
    lines = sorted(
        f"{item['metadata']['name']}=={item['metadata']['version']} \\\n"
        f"    --hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}"
        for item in found
    )
    (ROOT / "requirements-image.lock").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
