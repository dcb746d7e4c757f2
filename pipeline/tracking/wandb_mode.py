"""Choose whether a stage is copied to a W&B server, to files for a later upload, or not at all."""

from __future__ import annotations

import configparser
import contextlib
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

Mode = Literal["online", "offline", "disabled"]


def choose_mode(setting: str, environment: Mapping[str, str] = os.environ) -> Mode:
    """Return the config's `tracking.wandb`, or its override WANDB_MODE.

    auto is online if there is a key for the server, else offline; disabled in the config stays disabled.
    """
    forced = environment.get("WANDB_MODE", "")
    chosen = forced if forced in get_args(Mode) and setting != "disabled" else setting
    if chosen == "auto":
        return "online" if _has_key(environment) else "offline"
    return cast(Mode, chosen)


def _has_key(environment: Mapping[str, str]) -> bool:
    """Return whether the client would find credentials: in the environment, its settings file or the netrc file."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = Path(environment.get("HOME", "/"))
    settings = configparser.ConfigParser(interpolation=None)
    folder = Path(environment.get("WANDB_CONFIG_DIR", home / ".config" / "wandb"))
    with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
        settings.read(folder / "settings")
    default = settings["default"] if settings.has_section("default") else {}
    if default.get("api_key"):
        return True
    server = environment.get("WANDB_BASE_URL") or default.get("base_url") or "https://api.wandb.ai"
    candidates = [environment["NETRC"]] if "NETRC" in environment else [home / ".netrc", home / "_netrc"]
    for candidate in candidates:
        with contextlib.suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            found = netrc.netrc(str(candidate)).authenticators(urlsplit(server).netloc)
            return found is not None and bool(found[2])
    return False
