import pytest

from tests.formats.reference_libraries import References


def test_the_versions_are_those_that_were_asked_for(references: References) -> None:
    versions = (references.folder("versions") / "versions.txt").read_text().split()
    assert "open_clip_torch==3.3.0" in versions
    assert "sentence-transformers==6.2.0" in versions


def test_a_script_that_fails_tells_what_it_printed(references: References) -> None:
    with pytest.raises(AssertionError, match="unrecognized arguments: wrong"):
        references.folder("versions", "wrong")
