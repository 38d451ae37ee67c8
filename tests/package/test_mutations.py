"""Rules that are broken on purpose are there to be broken, and so are the tests that have to notice."""

import pytest

from tests import mutations
from tests.mutations import MUTANTS, ROOT, Copy, broken, named_tests


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_stands_where_it_is_broken_and_its_tests_exist(name: str) -> None:
    mutant = MUTANTS[name]
    right = (ROOT / mutant.module).read_text()
    compile(broken(mutant, right), mutant.module, "exec")
    assert mutant.tests
    for path, function in named_tests(mutant):
        assert f"def {function}(" in path.read_text(), function


def test_what_is_broken_is_found_out_and_mended() -> None:
    mutant = MUTANTS["ghosts-hold"]
    test = [mutant.tests[0].replace("[Redis]", "[disk]")]
    with Copy() as copy:
        assert copy.failing(test, mutant) == 1
        assert (copy.path / mutant.module).read_text() == (ROOT / mutant.module).read_text()


def test_a_mutant_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutations.main(["nobody"]) == 2
    assert "There is no mutant nobody" in capsys.readouterr().err
