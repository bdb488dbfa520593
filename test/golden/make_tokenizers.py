"""Small tokenizers built as the families' are, and the ids that Hugging Face tokenizers gives with them.

Llama 3: byte-level BPE, a regular expression before it, whole pieces of the vocabulary taken as they are, BOS by the template
within a sequence. Qwen: the same kind with NFC and single digits, and no BOS. Llama 2 and Mistral: BPE over characters with
bytes for the others, a space put before each text. Mistral's newer: that space only before the first part. Gemma: no space
before, spaces kept with the word before them. Phi-3: Llama 2's with tokens that take the white space after them. Unigram:
SentencePiece's other model.
"""

import json
import math
from collections import Counter

from golden_file import write_golden
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

CORPUS = [
    "The river ran slowly past the old mill, and the children threw stones into the water until it was dark.",
    "When the wind came from the north, nobody went out; they told stories about the sea and its ships.",
    "In 1987 there were 123 houses here, in 2024 there are 45678. That's what he'd said: we'll see, they've gone!",
    "Größe und Güte, über den Fluß; naïve café à la crème, où êtes-vous?",
    "def add(first, second):\n    return first + second\n\n\nfor i in range(10):\n\tprint(add(i, 2 * i))\n",
    "  two spaces,   three spaces,\n\nand an empty line.\r\nWindows too...",
    "你好，世界。今天天气很好。 Привет, как дела? مرحبا",
] * 3

TEXTS = [
    "The river ran past the old mill.",
    " a space before, and one after ",
    "   three before\n\n\nthree lines\n \n\tand a tab",
    "It's 12345678 o'clock, THEY'LL say; we'VE 3.14159!?",
    "Größe, naïve café, cafe\u0301 (decomposed)",
    "你好，世界！ 🙂👩‍👩‍👧 \u00a0\u200b \ufb01 ﷺ",
    "def add(a, b):\n    return a + b  # ok\n",
    "<|start|>user\n Hello <|end|>\n<|start|>  assistant<|end|> bye <s></s> <0x0A>",
    "zzzz qqqq xxxxxxx\x7f\x01",
    "\n",
    " ",
]
MARKS = ["<|start|>", "<|end|>"]


def special(*contents, **options):
    return [AddedToken(content, special=True, normalized=False, **options) for content in contents]


def byte_level(pattern, normalizer=None, bos=None, whole_pieces=()):
    """@param whole_pieces are in the vocabulary, but no merges lead to them, as is true of some of Llama 3's"""
    split = pre_tokenizers.Split(Regex(pattern), "isolated", invert=False)
    before = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = normalizer, before
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    found = json.loads(trained.to_str())["model"]
    vocabulary = {**found["vocab"], **{piece: len(found["vocab"]) + index for index, piece in enumerate(whole_pieces)}}
    merges = [tuple(merge) for merge in found["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=bool(whole_pieces)))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, before
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special(*([bos] if bos else []), *MARKS))
    parts = [processors.ByteLevel(trim_offsets=False)]
    if bos:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        parts.append(template)
    tokenizer.post_processor = processors.Sequence(parts) if bos else parts[0]
    return json.loads(tokenizer.to_str())


def commonly_written(texts):
    """The texts without their rarer characters, which then fall back to bytes."""
    counts = Counter("".join(texts))
    common = set(sorted(counts, key=lambda character: (-counts[character], character))[:60])
    return ["".join(character for character in text if character in common) for text in texts]


PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
SPACE_DECODER = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def with_bytes(normalizer, pre_tokenizer, trained_pre_tokenizer, decoder, marks, extra=()):
    """BPE over characters; control tokens and the 256 bytes come first, as SentencePiece puts them."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    trained.pre_tokenizer = trained_pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=260, show_progress=False)
    trained.train_from_iterator(commonly_written(CORPUS), trainer)
    found = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *extra, "▁"]
    pieces += [piece for piece in sorted(found["vocab"], key=found["vocab"].get) if piece not in pieces]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in found["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(decoder)
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>"))
    tokenizer.add_special_tokens(marks)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


# Merges must not cross words, or the small vocabulary would be sentences.
WORDS = pre_tokenizers.Split("▁", "merged_with_next")


def llama2(marks=None):
    decoder = [*SPACE_DECODER, decoders.Strip(" ", 1, 0)]
    return json.loads(with_bytes(PREPEND, None, WORDS, decoder, marks or special(*MARKS)).to_str())


def phi3():
    content = llama2(special(*MARKS, rstrip=True))
    # Phi-3's template adds nothing.
    first, second = ({"Sequence": {"id": name, "type_id": index}} for index, name in enumerate("AB"))
    template = {"type": "TemplateProcessing", "single": [first], "pair": [first, second], "special_tokens": {}}
    content["post_processor"] = template
    return content


def mistral():
    metaspace = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    trained = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    decoder = [*SPACE_DECODER, decoders.Strip(" ", 1, 0)]
    return json.loads(with_bytes(None, metaspace, trained, decoder, special(*MARKS)).to_str())


def gemma():
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    lines = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁"]
    tokenizer = with_bytes(normalizers.Replace(" ", "▁"), split, WORDS, SPACE_DECODER, special(*MARKS), lines)
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in lines])
    return json.loads(tokenizer.to_str())


def unigram():
    """Pieces and scores counted here: the library's trainer gives others each time."""
    words = [f"▁{word}" for text in commonly_written(CORPUS) for word in text.split()]
    counts = Counter(word[i : i + n] for word in words for n in range(1, 6) for i in range(len(word) - n + 1))
    pieces = sorted((piece for piece, count in counts.items() if len(piece) == 1 or count > 8), key=lambda p: (-counts[p], p))
    total = sum(counts[piece] for piece in pieces)
    scored = [(piece, math.log(counts[piece] / total)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *scored], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always", split=True)
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>", *MARKS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    return json.loads(tokenizer.to_str())


KINDS = {
    "llama3": lambda: byte_level(LLAMA3, bos="<|begin|>", whole_pieces=["Ġmill", "THEY"]),
    "qwen": lambda: byte_level(QWEN, normalizer=normalizers.NFC()),
    "llama2": llama2,
    "mistral": mistral,
    "gemma": gemma,
    "phi3": phi3,
    "unigram": unigram,
}

content = {}
for name, make in KINDS.items():
    made = make()
    tokenizer = Tokenizer.from_str(json.dumps(made))
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=True).ids
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"ids": ids, "plain": plain, "decoded": tokenizer.decode(plain, skip_special_tokens=True)})
    content[name] = {"tokenizer": made, "cases": cases}
write_golden("tokenizers", None, ["tokenizers"], {"texts": TEXTS, "kinds": content})
