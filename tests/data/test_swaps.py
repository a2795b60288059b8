import pytest

from xmodal.data.swaps import swapped_captions


@pytest.mark.parametrize(
    ("caption", "false"),
    [
        ("a red circle and a blue star", "a blue circle and a red star"),
        ("an orange ring, a red moon", "a red ring, an orange moon"),
        ("A small dog beside a big box.", "A big dog beside a small box."),
        ("a disc left of a star", "a disc right of a star"),
        ("Behind the house stands a tree", "In front of the house stands a tree"),
        ("a man riding a horse", "a horse riding a man"),
        ("A man in a blue shirt", "A shirt in a blue man"),
        ("a girl going into a wooden building", "a building going into a wooden girl"),
        ("Two boys and three dogs", "Three boys and two dogs"),
        ("a black and white dog near a brown cat", "a brown and white dog near a black cat"),
        ("A man pushes a baby in a carriage", "A baby pushes a man in a carriage"),
        ("a unicycle, a red hat, an hour glass", "a glass, a red hat, an hour unicycle"),
    ],
)
def test_words_that_change_the_meaning_change_places(caption: str, false: str) -> None:
    assert false in swapped_captions(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "...",
        "a dog",
        "a man and a woman",  # a woman and a man
        "a red circle and a blue circle",  # a blue circle and a red circle
        "A black and white dog runs .",  # a white and black dog
        "a black, white and brown dog",
        "a man standing next to a woman",
        "a man who is next to a woman",
        "a red, white and blue flag",
        "A man beside a dog .",
        "a woman dances with a man",
        "red",
        "ein roter Kreis",
    ],
)
def test_nothing_is_written_that_would_be_true(caption: str) -> None:
    assert swapped_captions(caption) == []


def test_each_false_caption_has_the_words_of_the_caption() -> None:
    caption = "a small red circle above a large blue star, on a grey ground"
    made = [text for text in swapped_captions(caption) if "above" in text]
    assert len(made) > 3
    assert len(set(made)) == len(made)
    assert all(sorted(text.split()) != [] and text != caption for text in made)
    words = sorted(caption.replace(",", "").split())
    assert all(sorted(text.replace(",", "").split()) == words for text in made)


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    text = "a red cat, a blue dog and " * 10_000
    made = swapped_captions(text)
    assert 0 < len(made) < 5_000
    assert all(one.endswith(text[500:]) for one in made)
