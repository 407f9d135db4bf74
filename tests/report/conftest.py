import pytest

from tests.report.stage_runs import PROFILE


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project in a folder of its own, to which the working directory is set."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tiny.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
