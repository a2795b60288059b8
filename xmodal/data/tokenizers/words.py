"""Words that the captions have."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers

from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokens import END, PAD, START, UNKNOWN, CaptionTokenizer, one_form
from xmodal.errors import UserError

# Characters of scripts that write no spaces between words.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"


class WordsConfig(TokenizerConfig):
    """Words that the captions of the training set have; all others are one unknown word."""

    kind: Literal["words"] = "words"
    vocabulary: int = Field(20_000, ge=5, description="most words; rarer ones are one unknown word")
    min_count: PositiveInt = Field(4, description="times that a word occurs, or it is unknown")
    has_unknown_words: ClassVar[bool] = True
    remedy: ClassVar[str] = (
        "lower method.text.tokenizer.min_count, raise method.text.tokenizer.vocabulary, or use "
        "method.text.tokenizer={kind: byte_pair}, to which no word is unknown"
    )
    builds: ClassVar[str] = "train_word_tokenizer"


def train_word_tokenizer(
    captions: Iterable[str], context: int, *, vocabulary: int = 20_000, min_count: int = 4
) -> CaptionTokenizer:
    """Learn the words (lower case, NFKC) that captions have `min_count` times or more.

    Words end at spaces and punctuation, which is words too. Each character of a script that writes
    no spaces between words is a word, as in multilingual BERT. There are at most `vocabulary` ids,
    those of padding, start, end and the unknown word among them; the most frequent words have one.
    Raises `UserError` if no word is frequent enough.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = one_form()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(UNSPACED), "isolated")]
    )
    special = [PAD, UNKNOWN, START, END]
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary,
        min_frequency=min_count,
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    if tokenizer.get_vocab_size() <= len(special):
        raise UserError(
            f"no word of the captions occurs method.text.tokenizer.min_count={min_count} times, so "
            "all of them would read alike; lower it, or use method.text.tokenizer={kind: byte_pair}"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (START, END)],
    )
    return CaptionTokenizer(tokenizer, context)
