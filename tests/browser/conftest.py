"""One browser for all these tests, one server for each scene, and a place for pictures."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import NARROW, SCHEMES, WIDE, Chromium, Tab
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
def look(tmp_path: Path) -> Callable[[Tab, str], None]:
    """Looks at a page wide and narrow, light and dark; with pictures where those of the documentation are made anew."""

    def keep(tab: Tab, name: str) -> None:
        picture = tab.small_picture()
        assert len(picture) < MOST_BYTES
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / name).write_bytes(picture)

    def look(tab: Tab, page: str) -> None:
        for width, scheme in itertools.product((WIDE, NARROW), SCHEMES):
            tab.look(width, scheme)
            name = f"{page}-{width}-{scheme}.png"
            if os.environ.get("LLMCACHE_TEST_PICTURES"):
                keep(tab, name)
            content, window = tab.widths()
            if content > window:
                (tmp_path / name).write_bytes(tab.picture())
            assert content <= window, f"{name} sticks out: see it in {tmp_path}"

    return look
