"""Captions of every kind of text, for comparisons of tokenizers."""

import random

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz   ",
    "ABCDEFghijklm '’\"_-.,:;!?()[]{}<>|&#@*/\\^~`$%+= ",
    "0123456789½²³¼٣४五Ⅷ①,. ",
    "äöüßéèñçåøœæÄÖÜİıſﬁﬂŀǅΣςσ Ωµÿ",
    "你好世界图片猫狗一只在草地上。，！？ 日本語かなカナ゙゚한국어",
    "مرحبا بالعالم שָׁלוֹם עולם فارسی \u200f\u200e\u202b ",
    "नमस्तेสวัสดีதமிழ்မြန်မာ ",
    "😀👍🏽👩\u200d👩\u200d👧🇩🇪❤️🔥⭐️✈️ ",
    "\t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000\u200b\ufeff\u00ad x",
    "e\u0301a\u0308o\u0302\u0323\u1e9e\u0345 n\u0303",
    "\x00\x01\x07\x1b\x7f\x80\ufffd\ufff9\ue000 a",
    "ââ‚¬â„¢Ã©Â£ï¿½ schÃ¶n L&AMP;AMP; it&#39;s &lt;b&gt; ",
    "▁ a_b▁",
)
WORDS = (
    *("a photo of a dog", "Two CATS'll play; they're 3.5kg, I'd say it's 20°C!", "don't"),
    *("<start_of_text>", "<end_of_text>", "<|startoftext|>", "<|endoftext|>", "</s>", "<s>"),
    *("<unk>", "<pad>", "<eos>", "<bos>", "<mask>", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]"),
    *("<START_OF_TEXT>", "</w>", "the</w>", "http://example.com/a?b=c&d=e", "1234567890", "''s"),
)
FIXED = (
    *("", " ", "   ", "\n\t \r\n", "\x00", "a\x00b", "\u200b", "'", "▁", "🙂", "x" * 10_000),
    *("the dog runs over the grass and " * 320, "猫" * 3_000, "." * 300, "👍🏽" * 500, "a b " * 40),
    *(WORDS[3:]),
    *(f"one{word}two" for word in WORDS[3:]),
    *(f"one {word} two" for word in WORDS[3:]),
    *(f"{word}{word}!" for word in WORDS[3:]),
    *(f"!{word}" for word in WORDS[3:]),
)


def captions(count: int, seed: int = 0) -> list[str]:
    """Return captions without lone surrogates: those of `FIXED`, then mixed at random."""
    draw = random.Random(seed)
    drawn = (_caption(draw) for _ in range(count - len(FIXED)))
    return [*FIXED, *drawn]


def _caption(draw: random.Random) -> str:
    return "".join(_part(draw) for _ in range(draw.choice((1, 2, 3, 5, 9))))


def _part(draw: random.Random) -> str:
    if draw.random() < 0.15:
        return draw.choice(WORDS)
    if draw.random() < 0.1:
        return "".join(_any_character(draw) for _ in range(draw.randint(1, 8)))
    return "".join(draw.choices(draw.choice(ALPHABETS), k=draw.randint(1, 20)))


def _any_character(draw: random.Random) -> str:
    code = draw.choice((draw.randrange(0x250), draw.randrange(0x3000), draw.randrange(0x110000)))
    return "?" if 0xD800 <= code < 0xE000 else chr(code)
