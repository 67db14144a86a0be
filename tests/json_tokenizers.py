"""Files of Hugging Face tokenizers, trained here: of the kinds that GPT-2 and Llama have."""

from collections.abc import Iterable

QUIET = {"show_progress": False, "vocab_size": 400}


def gpt2(lines: Iterable[str]) -> bytes:
    """Byte-level BPE with one special token, and neither padding nor an unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, **QUIET)
    made.train_from_iterator(lines, trainer)
    made.enable_truncation(4)  # as files of trained models have it
    made.enable_padding(length=8)
    return made.to_str().encode()


def llama(lines: Iterable[str]) -> bytes:
    """BPE of characters that puts a space before a text itself, with an unknown token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    steps = normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence(list(steps))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.train_from_iterator(lines, trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"], **QUIET))
    return made.to_str().encode()
