"""Words that several messages share."""

from __future__ import annotations

from coviar_mocrop.messages import first_line


def test_the_first_line_of_an_error_is_not_long() -> None:
    assert first_line(ValueError("\n one \ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("x" * 200)) == "x" * 200
    assert first_line(ValueError("x" * 201)) == "x" * 199 + "…"
