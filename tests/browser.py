"""Chromium without a window, offline."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

from PIL import Image

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
DARK = "--blink-settings=preferredColorScheme=0"
_NARROWEST_WINDOW = 500
_FRAME = '<!DOCTYPE html><style>* {{ margin: 0; border: 0 }}</style><iframe src="{}" width="{}" height="{}"></iframe>'


def find_chromium() -> str | None:
    """Return the path of Chromium or Chrome, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(chromium: str, page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page with a profile of its own."""
    command = [chromium, *_FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def screenshot(
    chromium: str, page: Path, folder: Path, width: int, height: int, *flags: str, section: str = ""
) -> Image.Image:
    """Return a page at that width, from the section with that id on; files of the browser go into `folder`."""
    frame, shot = folder / "frame.html", folder / "shot.png"
    frame.write_text(_FRAME.format(f"{page.as_uri()}#{section}", width, height))
    size = f"--window-size={max(width, _NARROWEST_WINDOW)},{height}"
    browse(chromium, frame, folder / "profile", size, f"--screenshot={shot}", *flags)
    with Image.open(io.BytesIO(shot.read_bytes())) as image:
        return image.convert("RGB").crop((0, 0, width, height))
