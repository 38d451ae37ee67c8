"""One browser for all these tests, one server for each scene, and a place for pictures."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, Scheme, Tab
from tests.browser.site import Site
from tests.provision import CHROMIUM, find

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
MOST_BYTES = 200_000


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """The browser."""
    browser = Chromium(find(CHROMIUM))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def sites(chromium: Chromium) -> Iterator[Callable[[str], Site]]:
    """Gives the server of a scene, which is started for the first who asks."""
    made: dict[str, Site] = {}

    def site(scene: str) -> Site:
        if scene not in made:
            made[scene] = Site(scene, chromium)
        return made[scene]

    yield site
    for each in made.values():
        each.close()


@pytest.fixture
def keep_picture(tmp_path: Path) -> Callable[[Tab, str, int, Scheme], None]:
    """Takes a picture of a page: into the documentation when it is made anew, else where it goes with the test."""

    def keep(tab: Tab, page: str, width: int, scheme: Scheme) -> None:
        name = f"{page}-{width}-{scheme}.png"
        if not os.environ.get("LLMCACHE_TEST_PICTURES"):
            (tmp_path / name).write_bytes(tab.picture())
            return
        picture = tab.small_picture()
        assert len(picture) < MOST_BYTES
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / name).write_bytes(picture)

    return keep
