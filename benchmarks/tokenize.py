"""Encoding and training of vocabularies beside their peers, in turn in one run, in CPU seconds with one thread each.

    python benchmarks/tokenize.py [--quick] [--json FILE]

`encode` is `Tokenizer.encode_documents`, which the tokenize stage calls, beside `tokenizers.encode_batch_fast` with the
same `tokenizer.json` on the same documents; both must give the same ids. `train` is `Tokenizer.train` beside the
trainers of sentencepiece and `tokenizers`. Figures are MB of text per CPU second; a ratio above 1 means ours is faster.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The script's own folder would give the standard library's `import tokenize` this file.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import argparse  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import tarfile  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from importlib.metadata import version  # noqa: E402
from itertools import chain  # noqa: E402

import sentencepiece  # noqa: E402
from tokenizers import Regex, models, pre_tokenizers, trainers  # noqa: E402
from tokenizers import Tokenizer as PeerTokenizer  # noqa: E402

from benchmarks.rows import paired_row  # noqa: E402
from benchmarks.texts import articles, extracted, speeches  # noqa: E402
from llm_core.tokenizer import PRE_TOKENS, Tokenizer  # noqa: E402

POETRY_PACKAGE = "chinese-poetry@2.0.1"
POEMS = "package/dist/songci/ci.song."
VOCAB_SIZE = 8192
# Documents given at once, as the tokenize stage does by default.
BATCH_DOCUMENTS = 256

Texts = Sequence[str]


def main() -> None:
    """Measure, print and, with --json, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rounds = 3 if options.quick else 9
    corpora = {
        "English speeches": extracted(speeches),
        "wiki articles": extracted(articles),
        "Chinese": extracted(poems),
    }
    rows = [*_encoding(corpora, rounds), *_training(corpora["English speeches"] + corpora["wiki articles"], rounds)]
    text = json.dumps(rows, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def poems() -> Iterator[str]:
    """Chinese lyric poems of the Song dynasty, a poem a document."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", POETRY_PACKAGE], cwd=folder, check=True, capture_output=True)
        (package,) = Path(folder).glob("*.tgz")
        with tarfile.open(package) as archive:
            for member in archive:
                if member.name.startswith(POEMS) and (file := archive.extractfile(member)) is not None:
                    yield from ("\n".join(poem["paragraphs"]) for poem in json.load(file))


def _encoding(corpora: dict[str, list[str]], rounds: int) -> Iterator[dict[str, object]]:
    """A row for each corpus, and one for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        Tokenizer.train(chain(*corpora.values()), VOCAB_SIZE).save(Path(folder))
        ours = Tokenizer.load(Path(folder))
        peer = PeerTokenizer.from_file(f"{folder}/tokenizer.json")
    peer.encode_special_tokens = True

    def encode_ours(texts: Texts) -> list[list[int]]:
        return [ids for batch in _batches(texts) for ids in ours.encode_documents(batch)]  # type: ignore[misc]

    def encode_peer(texts: Texts) -> list[list[int]]:
        batches = (peer.encode_batch_fast(batch, add_special_tokens=False) for batch in _batches(texts))
        return [encoding.ids for batch in batches for encoding in batch]

    for name, texts in {"": list(chain(*corpora.values())), **corpora}.items():
        same = zip(encode_ours(texts), encode_peer(texts), strict=True)  # also warms both up
        assert all(list(ids) == expected for ids, expected in same), f"{name}: the ids differ"
        title = f"tokenizers {version('tokenizers')} encode_batch_fast"
        yield _row(f"encode {name}".strip(), title, texts, rounds, encode_ours, encode_peer)


def _training(texts: Texts, rounds: int) -> Iterator[dict[str, object]]:
    def train_ours(texts: Texts) -> object:
        return Tokenizer.train(texts, VOCAB_SIZE)

    yield _row(
        "train", f"sentencepiece {version('sentencepiece')} BPE", texts, rounds, train_ours, _train_sentencepiece
    )
    yield _row(
        "train beside tokenizers",
        f"tokenizers {version('tokenizers')} BPE",
        texts,
        rounds,
        train_ours,
        _train_tokenizers,
    )


def _train_sentencepiece(texts: Texts) -> object:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        normalization_rule_name="identity",
        byte_fallback=True,
        max_sentence_length=10_000_000,
        num_threads=1,
        minloglevel=2,
    )
    return model


def _train_tokenizers(texts: Texts) -> object:
    peer = PeerTokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"), byte_level])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    peer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False)
    )
    return peer


def _row(
    claim: str,
    peer_name: str,
    texts: Texts,
    rounds: int,
    ours: Callable[[Texts], object],
    peer: Callable[[Texts], object],
) -> dict[str, object]:
    def seconds(work: Callable[[Texts], object]) -> float:
        began = time.process_time()
        work(texts)
        return time.process_time() - began

    print(f"{claim}: {rounds} rounds beside {peer_name}", file=sys.stderr)
    measured = [(seconds(ours), seconds(peer)) for _ in range(rounds)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    speeds = [(megabytes / own, megabytes / theirs) for own, theirs in measured]
    return paired_row(claim, peer_name, "MB per CPU second", speeds, less_is_better=False)


def _batches(texts: Texts) -> Iterator[Texts]:
    return (texts[place : place + BATCH_DOCUMENTS] for place in range(0, len(texts), BATCH_DOCUMENTS))


if __name__ == "__main__":
    main()
