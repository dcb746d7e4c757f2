from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking.wandb_mode import choose_mode

KEY = "0123456789" * 4


@pytest.mark.parametrize(
    ("setting", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_IDENTITY_TOKEN_FILE": "/token"}, "online"),
        ("online", {}, "online"),
        ("online", {"WANDB_MODE": "disabled"}, "disabled"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline"),
        ("disabled", {"WANDB_MODE": "online", "WANDB_API_KEY": KEY}, "disabled"),
    ],
)
def test_the_mode_is_the_configs_unless_the_environment_says_otherwise(
    tmp_path: Path, setting: str, environment: dict[str, str], mode: str
) -> None:
    assert choose_mode(setting, {"HOME": str(tmp_path), **environment}) == mode


def test_a_key_in_netrc_is_one_for_its_server_only(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert choose_mode("auto", {"HOME": str(tmp_path)}) == "online"
    assert choose_mode("auto", {"HOME": str(tmp_path), "WANDB_BASE_URL": "https://wandb.example.org"}) == "offline"


def test_a_key_in_the_clients_settings_is_found(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text(f"[default]\napi_key = {KEY}\n")
    assert choose_mode("auto", {"HOME": "/nonexistent", "WANDB_CONFIG_DIR": str(tmp_path)}) == "online"
