"""KVM is used only where it was seen to work, and asked only once."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from qemunet.live import accel

QEMU = "qemu-system-x86_64"


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that can be opened where /dev/kvm would be."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(accel, "DEVICE", str(path))
    return path


def fake_qemu(tmp_path: Path, text: str) -> str:
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\necho x >>{tmp_path}/calls\n{text}\n")
    path.chmod(0o755)
    return str(path)


def calls(tmp_path: Path) -> int:
    path = tmp_path / "calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("cpu", ["qemu64", "qemu32", "max", "pentium"])
def test_a_real_processor_computes_the_sum(cpu: str, tmp_path: Path) -> None:
    """The firmware is right: under tcg every kind of processor ends QEMU with the expected status."""
    firmware = tmp_path / "probe"
    firmware.write_bytes(accel.firmware())
    argv = accel.argv(QEMU, cpu, str(firmware), accel="tcg")
    assert subprocess.run(argv, timeout=30, check=False).returncode == accel.EXPECTED


def test_a_probe_that_succeeds_says_nothing(device: Path, tmp_path: Path) -> None:
    qemu = fake_qemu(tmp_path, f"exit {accel.EXPECTED}")
    assert accel.kvm_verdict(qemu, "host", str(tmp_path / "cache.json")) == ""


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'qemu: error: failed to set MSR' >&2; kill -ABRT $$", "failed to set MSR"),
        ("echo 'KVM internal error. Suberror: 1' >&2; exec sleep 60", "gave up"),
        ("exit 0", "ended with 0"),
    ],
)
def test_a_probe_that_fails_says_why(script: str, why: str, device: Path, tmp_path: Path) -> None:
    assert why in accel.kvm_verdict(fake_qemu(tmp_path, script), "host", str(tmp_path / "cache.json"))


def test_a_probe_that_hangs_is_killed(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEADLINE", 0.3)
    qemu = fake_qemu(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 60")
    assert "computed no sum" in accel.kvm_verdict(qemu, "host", str(tmp_path / "cache.json"))
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_the_same_question_is_asked_once_per_boot(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu, cache = fake_qemu(tmp_path, "exit 1"), str(tmp_path / "cache.json")
    first = accel.kvm_verdict(qemu, "host", cache)
    assert accel.kvm_verdict(qemu, "host", cache) == first
    assert calls(tmp_path) == 1
    accel.kvm_verdict(qemu, "qemu64", cache)
    assert calls(tmp_path) == 2
    monkeypatch.setattr(accel, "_boot", lambda: "another-boot")
    accel.kvm_verdict(qemu, "host", cache)
    assert calls(tmp_path) == 3
    assert len(json.loads(Path(cache).read_text())) == 1, "what another boot said is forgotten"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_broken_cache_is_no_error(content: str, device: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(content)
    assert accel.kvm_verdict(fake_qemu(tmp_path, f"exit {accel.EXPECTED}"), "host", str(cache)) == ""


def test_without_the_device_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEVICE", str(tmp_path / "absent"))
    verdict = accel.kvm_verdict(fake_qemu(tmp_path, "exit 0"), "host", str(tmp_path / "cache.json"))
    assert "cannot be opened: No such file" in verdict
    assert calls(tmp_path) == 0


def test_a_cache_that_cannot_be_written_costs_another_probe(device: Path, tmp_path: Path) -> None:
    qemu = fake_qemu(tmp_path, f"exit {accel.EXPECTED}")
    for _ in range(2):
        assert accel.kvm_verdict(qemu, "host", "/proc/no/such/cache.json") == ""
    assert calls(tmp_path) == 2


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert accel.default_cache() == os.path.join("/somewhere", "qemunet", "kvm.json")
