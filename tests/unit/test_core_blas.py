"""Sums that do not depend on the machine."""

import platform
import subprocess
import sys

import pytest

from terareg.core.blas import pin_kernels


@pytest.fixture
def facts(tmp_path):
    def write(flags):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor : 0\nflags : fpu {flags}\n\nprocessor : 1\nflags : {flags}\n")
        return path

    return write


def test_processors_with_avx2_share_a_kernel_whatever_was_set(facts, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    environment = {"OPENBLAS_CORETYPE": "SkylakeX", "HOME": "/root"}
    pin_kernels(environment, facts("sse2 avx avx2 avx512f"))
    assert environment == {"OPENBLAS_CORETYPE": "Haswell", "HOME": "/root"}


@pytest.mark.parametrize(
    ("machine", "flags"), [("x86_64", "sse2 avx"), ("aarch64", "asimd avx2"), ("x86_64", None)]
)
def test_others_are_left_alone(facts, tmp_path, monkeypatch, machine, flags):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    environment = {}
    pin_kernels(environment, tmp_path / "none" if flags is None else facts(flags))
    assert environment == {}


def test_blas_takes_the_kernel_that_is_named():
    environment = {}
    pin_kernels(environment)
    if not environment:
        pytest.skip("this processor has no AVX2")
    program = (
        "import numpy, threadpoolctl\n"
        "print({i['architecture'] for i in threadpoolctl.threadpool_info()"
        " if i['internal_api'] == 'openblas'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, text=True, capture_output=True
    )
    assert done.stdout.strip() == "{'Haswell'}", done.stderr
