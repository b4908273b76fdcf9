"""A tokenizer in which the words of the English prompt sets are single tokens, as in GPT-2's."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from interp.model.tokens import END_OF_TEXT, Tokenizer
from interp.prompts import templates

OTHER_WORDS = "she he them the his love James Dan Sid Martin Amy"


def english_tokenizer() -> Tokenizer:
    """Byte-level BPE of about 1200 tokens; " 1732" is two of them."""
    words = [
        *templates.WOMEN, *templates.MEN, *templates.PLACES, *templates.GIFTS, *templates.PEOPLE,
        *templates.NOUNS, *templates.CENTURIES, *OTHER_WORDS.split(),
    ]  # fmt: skip
    lines = [f" {' '.join(words)}", f",{','.join(templates.DIGIT_PAIRS)}"]
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(lines, trainer)
    return Tokenizer(backend)
