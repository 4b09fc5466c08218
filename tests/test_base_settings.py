"""Settings: each value knows its source, and a wrong one is met with the place and the nearest right name."""

from __future__ import annotations

import pytest

from kaizenml import settings
from kaizenml.errors import InvalidSettings, KaizenError

SMALL = '[project]\nname = "shop"\n'


def write(folder, text):
    (folder / "kaizen.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_value_comes_from_the_default_the_file_or_the_environment(tmp_path):
    environ = {"KAIZEN_SERVE_PORT": "9000", "KAIZEN_LOOP_ENABLED": "false"}
    found, sources = settings.load(write(tmp_path, SMALL + "[serve]\nport = 1\nworkers = 3\n"), environ)
    assert (found.serve.port, found.serve.workers, found.loop.enabled, found.console.port) == (9000, 3, False, 8081)
    assert sources == {
        "project.name": "kaizen.toml",
        "serve.workers": "kaizen.toml",
        "serve.port": "KAIZEN_SERVE_PORT",
        "loop.enabled": "KAIZEN_LOOP_ENABLED",
    }


def test_keys_with_underscores_and_foreign_variables_are_told_apart(tmp_path):
    environ = {"KAIZEN_SERVE_MAX_BODY_BYTES": "10", "KAIZEN_ACTOR": "me", "KAIZEN_CLOCK": "x", "KAIZEN_SERVE_NOTHING": "1"}
    found, sources = settings.load(write(tmp_path, SMALL), environ)
    assert found.serve.max_body_bytes == 10
    assert set(sources) == {"project.name", "serve.max_body_bytes"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SMALL + "[serve]\nprot = 1\n", ["prot", "did you mean 'port'?"]),
        (SMALL + "[srve]\nport = 1\n", ["srve", "did you mean 'serve'?"]),
        (SMALL + '[serve]\nport = "x"\n', ["int", "serve.port"]),
        ("[project]\n", ["name"]),
        ("[project\n", ["not TOML", "line 1"]),
        (SMALL + '[loop]\nevery = "5 bananas"\n', ["5 bananas", "90s"]),
        (SMALL + '[task]\ndataset = "a"\ntarget = "b"\nkind = "guess"\n', ["guess"]),
    ],
)
def test_a_wrong_setting_is_met_with_what_was_seen(tmp_path, text, says):
    with pytest.raises(KaizenError) as caught:
        settings.load(write(tmp_path, text), {})
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    for word in says:
        assert word in str(caught.value)


def test_a_wrong_variable_is_named(tmp_path):
    with pytest.raises(InvalidSettings, match="KAIZEN_SERVE_PORT"):
        settings.load(write(tmp_path, SMALL), {"KAIZEN_SERVE_PORT": "many"})


def test_a_folder_without_settings_says_how_to_begin(tmp_path):
    with pytest.raises(InvalidSettings, match="kaizen init"):
        settings.load(tmp_path, {})


def test_bytes_that_are_no_text_are_met(tmp_path):
    (tmp_path / "kaizen.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSettings, match="not TOML"):
        settings.load(tmp_path, {})
