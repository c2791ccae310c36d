"""Runs that can write where they may and nowhere else, by the will of the file system.

Tests may run as root, to whom permissions say nothing; a mount that is read-only says it to all.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

# In a mount namespace of its own: what may be written becomes a mount, and all other mounts
# read-only. The command starts only if that holds for the working folder.
ENTER = r"""
set -e
IFS=: read -ra writable <<<"$1"
shift
for path in "${writable[@]}"; do
    mount --bind "$path" "$path"
done
while read -r _ _ _ _ path _; do
    path=$(printf %b "$path")
    for own in "${writable[@]}"; do
        [[ $path != "$own" ]] || continue 2
    done
    case "$path" in /proc* | /sys* | /dev*) continue ;; esac
    mount -o remount,bind,ro "$path" 2>/dev/null || true
done < <(tac /proc/self/mountinfo)
cd "$PWD"
[ ! -w . ]
exec "$@"
"""


def shut_in(writable: Iterable[Path]) -> list[str]:
    """Beginning of a command that can write only into these folders; empty where none can be had.

    The folders exist, and the command is not started in or below one of them.
    """
    places = ":".join(str(path.resolve()) for path in writable)
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", ENTER, "enter"]
    command.append(places)
    with contextlib.suppress(OSError):
        if subprocess.run([*command, "true"], cwd="/", capture_output=True).returncode == 0:
            return command
    return []
