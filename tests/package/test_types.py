"""What a type checker makes of the public functions."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
from typing import Literal, Union
import llmcache
from project.demo.types import Ingredient, Recipe

reveal_type(llmcache.extract("", Ingredient))
reveal_type(llmcache.extract("", list[Ingredient]))
reveal_type(llmcache.extract("", Ingredient | None))
reveal_type(llmcache.extract("", Union[Ingredient, Recipe]))
reveal_type(llmcache.extract("", Literal["a", "b"]))
reveal_type(llmcache.extract_with_info("", Ingredient).value)
reveal_type(llmcache.extract_with_completion("", Ingredient)[0])
reveal_type(llmcache.Extractor(tenant="a").extract("", dict[str, Ingredient], ttl=None, tenant="a", seed=1))
llmcache.extract("", Ingredient, ttl="1")
llmcache.extract(b"", Ingredient)
llmcache.extract("", Ingredient, cache="of")

async def main() -> None:
    reveal_type(await llmcache.aextract("", Ingredient))
    reveal_type(await llmcache.aextract("", list[Ingredient]))
    reveal_type((await llmcache.aextract_with_info("", Ingredient)).value)
    reveal_type((await llmcache.aextract_with_completion("", Ingredient))[0])
    reveal_type(await llmcache.Extractor(tenant="a").aextract("", Ingredient))
    await llmcache.aextract("", Ingredient, ttl="1")
"""


def test_pyright_sees_the_response_type(tmp_path: Path) -> None:
    program = ROOT / "tests" / "package" / f"_typed_{tmp_path.name}.py"
    program.write_text(PROGRAM)
    try:
        pyright = Path(sys.executable).with_name("pyright")
        command = [pyright, "--outputjson", "--pythonpath", sys.executable, program]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    finally:
        program.unlink()
    found = json.loads(done.stdout)["generalDiagnostics"]
    revealed = [item["message"].split('" is "')[1].rstrip('"') for item in found if item["severity"] == "information"]
    assert revealed == [
        "Ingredient",
        "list[Ingredient]",
        "Ingredient | None",
        "Ingredient | Recipe",
        "Literal['a', 'b']",
        "Ingredient",
        "Ingredient",
        "dict[str, Ingredient]",
        "Ingredient",
        "list[Ingredient]",
        "Ingredient",
        "Ingredient",
        "Ingredient",
    ]
    errors = [item["range"]["start"]["line"] for item in found if item["severity"] == "error"]
    assert errors == [13, 14, 15, 23]  # a ttl of str, a content of bytes, an unknown word for cache=; a ttl of str
