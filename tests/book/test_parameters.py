"""What a notebook was given is checked against what it declares."""

import pytest

from book.build.parameters import check, declared
from memgen.config import InputError

CELL = """
a: str = ""  # text
n: int = 0
x: float = -1.5
b: bool = True
plain = "inference"
whole = -3
third = 1 / 3
some: list[int] = []
"""
KINDS = {
    "a": "str",
    "n": "int",
    "x": "float",
    "b": "bool",
    "plain": "str",
    "whole": "int",
    "third": "unknown",
    "some": "list[int]",
}


def test_a_parameter_has_the_type_of_its_annotation_or_of_its_value():
    assert declared(CELL) == KINDS
    assert declared("") == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": 1}, "The parameter 'sed' is unknown; this notebook has a, n, x, b, plain, whole, third, some."),
        ({"n": "1"}, "The parameter n must be a whole number, not '1'."),
        ({"n": 1.0}, "The parameter n must be a whole number, not 1.0."),
        ({"n": True}, "The parameter n must be a whole number, not True."),
        ({"n": None}, "The parameter n must be a whole number, not None."),
        ({"x": "0.1"}, "The parameter x must be a number, not '0.1'."),
        ({"a": 1}, "The parameter a must be text, not 1."),
        ({"b": 0}, "The parameter b must be true or false, not 0."),
        ({"plain": 11}, "The parameter plain must be text, not 11."),
        ({"third": 0.3}, "The parameter third has the type unknown; let the notebook declare it as one of str, "),
        ({"some": [1]}, "The parameter some has the type list[int]; let the notebook declare it as one of str, "),
        (["n"], "The parameters must be names with values, not ['n']."),
    ],
)
def test_unknown_names_and_wrong_types_are_refused(given, message):
    with pytest.raises(InputError) as error:
        check(given, KINDS)
    assert str(error.value).startswith(message)


def test_fitting_parameters_are_taken():
    check({"a": "", "n": 0, "x": 1, "b": False, "plain": "0011", "whole": 2}, KINDS)
