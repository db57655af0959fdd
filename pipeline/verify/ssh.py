"""The SSH client's side of a boot check: fresh keys, the login, the host's keys."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.host.programs import PIPE, Program, Runner
from pipeline.verify.metadata import Key

_ALIAS = "guest"  # host keys are noted under one name, whatever the port
_LIMIT = 256 * 1024  # bytes taken from a guest's answer; an honest one has a few KiB
_KEY_TYPES = (("rsa", "2048"), ("ed25519", ""), ("ecdsa", "256"))


@dataclass(frozen=True)
class KeyRing:
    """Private keys in files of mode 0600 and their public halves, in the order a cloud lists."""

    files: tuple[Path, ...]
    public: tuple[Key, ...]


@dataclass(frozen=True)
class Said:
    """What a remote command came to. status 255: ssh itself failed and stderr says why.

    answered: time.monotonic() of the first output, None without any.
    """

    status: int
    stdout: str
    stderr: str
    answered: float | None


def make_keys(runner: Runner, directory: Path) -> KeyRing:
    """A fresh key pair of each type; RSA first, since every SSH server since 2000 knows it."""
    files, public = [], []
    for kind, bits in _KEY_TYPES:
        file = directory / f"id_{kind}"
        size = ["-b", bits] if bits else []
        runner.run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                kind,
                *size,
                "-N",
                "",
                "-C",
                f"boot-check-{kind}",
                "-f",
                file,
            ],
            timeout=120,
            attempted="make a key pair for the boot check",
        )
        file.chmod(0o600)
        files.append(file)
        public.append(Key(f"boot-check-{kind}", file.with_suffix(".pub").read_text().strip()))
    return KeyRing(tuple(files), tuple(public))


def ssh_argv(
    user: str, port: int, keys: KeyRing, known_hosts: Path, command: str, *, patience: int
) -> list[str]:
    """The client's command line: no agent, no user configuration, no questions.

    patience: seconds the server may take to greet, and later to answer at all.
    """
    options = {
        "BatchMode": "yes",
        "CheckHostIP": "no",
        "ClearAllForwardings": "yes",
        "ConnectTimeout": str(patience),
        "ForwardAgent": "no",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlgorithms": "+ssh-rsa",  # servers before OpenSSH 7.2 sign with nothing newer
        "HostKeyAlias": _ALIAS,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "LogLevel": "ERROR",
        "PasswordAuthentication": "no",
        "PubkeyAcceptedAlgorithms": "+ssh-rsa",
        "ServerAliveCountMax": "4",
        "ServerAliveInterval": str(-(-patience // 4)),
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": str(known_hosts),
    }
    words = ["ssh", "-F", "none", "-T", "-p", str(port), "-l", user]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    for file in keys.files:
        words += ["-i", str(file)]
    return [*words, "127.0.0.1", command]


def remote(
    runner: Runner,
    argv: list[str],
    script: str,
    *,
    seconds: float,
    stop: Callable[[], bool],
) -> Said:
    """Feed `script` to the remote shell; at most 256 KiB of each stream is taken.

    Ends early, with status 255, when `stop` says so, the time is up or the guest says too much.
    """
    return _bounded(runner, argv, script.encode(), seconds, stop)


def host_keys(
    runner: Runner, port: int, stop: Callable[[], bool], *, patience: int
) -> frozenset[str]:
    """The server's public keys, each as "type base64"; empty when it offers none.

    patience: seconds the server may take for each.
    """
    argv = ["ssh-keyscan", "-T", str(patience), "-p", str(port), "-t", "rsa,ecdsa,ed25519"]
    said = _bounded(runner, [*argv, "127.0.0.1"], b"", 4.0 * patience, stop)
    lines = (line.split() for line in said.stdout.splitlines())
    return frozenset(
        " ".join(words[1:]) for words in lines if len(words) == 3 and not words[0].startswith("#")
    )


def _bounded(
    runner: Runner, argv: list[str], text: bytes, seconds: float, stop: Callable[[], bool]
) -> Said:
    deadline = time.monotonic() + seconds
    with runner.start(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE) as program:
        with contextlib.suppress(BrokenPipeError):
            assert program.process.stdin is not None
            program.process.stdin.write(text)  # less than a pipe holds, so this cannot block
            program.process.stdin.close()
        stdout, stderr, complete, answered = _read(
            program, lambda: stop() or time.monotonic() > deadline
        )
        # A client that closed its streams is at its end.
        status = program.wait(10) if complete else 255
    words = stderr.decode(errors="replace") or ("" if complete else "it did not end in time")
    return Said(status, stdout.decode(errors="replace"), words, answered)


def _read(program: Program, stop: Callable[[], bool]) -> tuple[bytes, bytes, bool, float | None]:
    """Both streams up to their ends (True) or until `stop` or the limit (False)."""
    taken: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    answered = None
    with selectors.DefaultSelector() as selector:
        for name in taken:
            selector.register(getattr(program.process, name), selectors.EVENT_READ, name)
        while selector.get_map():
            if stop() or max(map(len, taken.values())) > _LIMIT:
                return taken["stdout"], taken["stderr"], False, answered
            for key, _ in selector.select(0.1):
                data = os.read(key.fd, 65536)
                taken[key.data] += data
                if answered is None and key.data == "stdout" and data:
                    answered = time.monotonic()
                if not data:
                    selector.unregister(key.fileobj)
    return taken["stdout"], taken["stderr"], True, answered
