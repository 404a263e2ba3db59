"""A hub that speaks HTTP on this machine, in the place of Hugging Face's."""

import pytest
from tests.hub.fake_hub import FakeHub, running


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # of 10 MB of a file, what is not a whole one is lost with the connection
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    # what huggingface_hub waits before it asks again
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with running(FakeHub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
