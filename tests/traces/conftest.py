"""Two workers that check rows: the tiny model's, which drops thoughts, and one that keeps them, with our template."""

import shutil
from pathlib import Path

import pytest

from kxl.traces import record
from traces_prepare import data_settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = data_settings(ROOT / "configs" / "tiny.json")


@pytest.fixture(scope="session")
def dropping():
    return record.Worker(ROOT / "models" / "tiny", SETTINGS, [])


@pytest.fixture(scope="session")
def keeping(tmp_path_factory):
    """The tiny model's tokenizer with our template, which writes thoughts."""
    folder = tmp_path_factory.mktemp("thinking")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models" / "tiny" / name, folder)
    shutil.copy(ROOT / "configs" / "templates" / "lfm2.5-tools.jinja", folder / "chat_template.jinja")
    return record.Worker(folder, {**SETTINGS, "reasoning": "keep"}, [])
