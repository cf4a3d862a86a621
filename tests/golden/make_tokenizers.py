"""Small tokenizers of the four forms that kvgrind reads, and what Hugging Face tokenizers makes of difficult texts.

    python3 make_tokenizers.py PROSE.txt      # writes tokenizers/<form>.json and tokenizers/<form>.cases.json

PROSE is any English text; the files in the tree come from The Adventures of Sherlock Holmes (public domain).
"""
import json
import pathlib
import random
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).parent / "tokenizers"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TEXTS = [
    "", " ", "  ", "a", " a", "a ", "  a  ", "Hello, world!", "\n", "\r\n", "\r", "\t", " \n ", "\n\n\n", " \r\n \r\n x",
    "line one\r\nline two\r\n\r\nline three", "trailing spaces   \n   leading", "tabs\t\tand  double  spaces   here",
    "x\u00a0y\u2003z\u3000w", "\u2028line sep\u2029par sep", "a\u0085b\u000bc\u000cd", "\u200bzero\u200dwidth\ufeff",
    "1", "12", "123", "1234", "1234567890", "3.14159e-10 and 1,000,000", "x1y22z333", "١٢٣ ४५६ Ⅻ ½ ² ①",
    "don't can't we're I've I'm she'll he'd it's", "DON'T CAN'T WE'RE I'VE I'M SHE'LL HE'D IT'S",
    "Don'T we'RE 'S 's 'x ''s '", "it'\u017f and we'\u017fx 'LLama 'Llx", "o'clock 'tis rock'n'roll", "\u2019s \u2018quoted\u2019",
    "你好,世界!今天天气很好。", "日本語のテキスト、カタカナとひらがな", "한국어 텍스트 각각", "Привет, мир!", "Γειά σου Κόσμε", "שלום עולם",
    "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "caf\u00e9 na\u00efve fa\u00e7ade", "cafe\u0301 nai\u0308ve fac\u0327ade",
    "e\u0301\u0323 o\u0302\u0301 a\u030a \u212b \u1e9b\u0323", "\u1100\u1161\u11a8 \u0958 \u0344", "x\u0301\u0302\u0303 \u0301alone",
    "😀 😃😄", "👨‍👩‍👧‍👦 family", "🇩🇪🇫🇷 flags", "👍🏽 skin", "text😀text", "\U0001d54f\U0001d7d8\U00010330 astral",
    "def f(x):\n    return x**2  # comment\n", "if (a && b) { c[i] += \"d\\n\"; } // e", "<html><body class='x'>&amp;</body>",
    "http://example.com/a?b=c&d=e#f", "!!!???...---___===", "«guillemets» “quotes” – dash — em…", "$100 €200 £300 ¥400 100%",
    "CamelCaseWord snake_case_word kebab-case-word", "ALL CAPS TEXT", "a" * 100, "ab" * 60, "!" * 70, " " * 70, "\n" * 40,
    "the quick brown fox jumps over the lazy dog", "It was the best of times; it was the worst of times.",
    "<|bos|>start", "middle<|eos|>of text", "<|bos|><|eos|>", " <|bos|> spaced <|eos|> ", "<|bos", "<|bos|><|bos|>x<|eos|>\n",
    "a<s>b</s>c", "<s> hello </s>", "<unk> token", "a<mask>b  <mask>  c", "word newword newwords anewword newword.",
    "x <|lonely|> y<|lonely|>z", "▁already ▁marked▁text", "mix ▁ of  ▁▁ marks", "<0x41><0xE4>", "Ġbyte Ċ alphabet",
    "naïve\u0301 combos \u00e9\u0301", "end with quote'", "'", "''", " '", "\u017f\u017f \u212a", "ends with spaces  ",
    "テnewword newword\u0301 ½newword ⅻnewword Ⓐnewword _newword", "x\u3000<mask>\u2003y \u0085<mask>", "é\u3000<|lonely|>\u3000é",
    "\U00013a98's \U0001364es", "\u01c5's \u02b0 \u0e33 \u3007 \U0001f130",
]


def train(tokenizer, prose, size, specials):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(prose, trainer)
    return tokenizer


def template(tokenizer, single, names):
    return processors.TemplateProcessing(single=single, special_tokens=[(n, tokenizer.token_to_id(n)) for n in names])


def gpt2(prose):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    train(t, prose, 900, ["<|eos|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_tokens([AddedToken("newword", single_word=True, normalized=True),
                  AddedToken("<|lonely|>", lstrip=True, rstrip=True, normalized=False)])
    return t


def llama3(prose):
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, prose, 1000, ["<|bos|>", "<|eos|>"])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True),
                                            template(t, "<|bos|> $A", ["<|bos|>"])])
    return t


def qwen2(prose):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, prose, 1000, ["<|eos|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens([AddedToken("<|bos|>", special=True, normalized=False)])
    return t


def llama2(prose):
    """Byte fallback, marks instead of blanks by the normalizer; merges learnt on marked words."""
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    base = Tokenizer(models.BPE(unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    base.train_from_iterator(prose, trainers.BpeTrainer(vocab_size=1000, special_tokens=specials, show_progress=False))
    learnt = json.loads(base.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    t = Tokenizer(models.BPE(vocab=learnt["vocab"], merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ["<unk>", "<s>", "</s>"]])
    t.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    t.post_processor = template(t, "<s> $A", ["<s>"])
    return t


def metaspace(prose):
    """As llama2, the way newer conversions write it: Metaspace before the model, no normalizer."""
    t = llama2(prose)
    t.normalizer = None
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    return t


def main():
    prose = pathlib.Path(sys.argv[1]).read_text().split("\n")
    OUT.mkdir(exist_ok=True)
    rng = random.Random(7)
    pool = [c for text in TEXTS for c in text] + list(" \n'  \r\tsdtm")
    soup = ["".join(rng.choice(pool) for _ in range(rng.randint(5, 60))) for _ in range(150)]
    for make in (gpt2, llama3, qwen2, llama2, metaspace):
        t = make(prose)
        path = OUT / f"{make.__name__}.json"
        # Merges in the older text form for two of them: both must load.
        data = json.loads(t.to_str())
        if make in (gpt2, llama2):
            data["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
        path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
        t = Tokenizer.from_file(str(path))
        cases = []
        for text in TEXTS + soup:
            ids = t.encode(text, add_special_tokens=True).ids
            plain = t.encode(text, add_special_tokens=False).ids
            cases.append({"text": text, "ids": ids, "plain": plain,
                          "decoded": t.decode(plain, skip_special_tokens=False),
                          "skipped": t.decode(ids, skip_special_tokens=True)})
        lines = ",\n".join(json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in cases)
        (OUT / f"{make.__name__}.cases.json").write_text(
            f'{{"by":"tokenizers {tokenizers.__version__}","cases":[\n{lines}\n]}}\n')
        print(make.__name__, path.stat().st_size, "bytes,", t.get_vocab_size(), "tokens,", len(cases), "texts")


main()
