"""What an answer says in the end: the text, number or letter that it gives, however decorated."""

from __future__ import annotations

import math
import re
import unicodedata

from prefill_router.answers.mathematics import latex_value

LONGEST = 10_000  # characters, from its end, in which the conclusion of an answer is looked for

# Thinking lies between tags. Where a prompt ends with the first, the answer holds the second alone.
_THOUGHT = (
    r"(?:[a-z]+[:_]){0,3}(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratch_?pad|analysis"
    r"|rationale|monologue)(?:_[a-z]+)?"
)
THINKING = re.compile(
    rf"<(?:/|\|/|\|end_){_THOUGHT}\s*\|?>|\[/THINK\]|◁/think▷|<\|inner_suffix\|>|<channel\|>"
    r"|<\|channel\|>final[^<]{0,99}<\|message\|>|assistantfinal|<unused95>|(?=<answer>)"
    rf"|here(?:'s| is) my response:|(?P<begins><{_THOUGHT}(?:\s[^<>]{{0,99}})?>|<\|{_THOUGHT}\|>"
    r"|\[THINK\]|◁think▷|<\|inner_prefix\|>|<\|channel>thought|<unused94>|<\|channel\|>\w+[^<]{0,99}"
    r"<\|message\|>|(?-i:\Aanalysis(?=[A-Z]))|here(?:'s| is) my thought process:)",
    re.IGNORECASE,
)


def _digits(found: re.Match) -> str:
    return re.sub(r"\D", "", found[0])


_L = "A-Za-zÀ-ɏͰ-ӿ"
TIDY = [
    (r"\\(?:text|math|mbox|underline|emph)\w*\s*\{([^{}]*)\}|\\[()\[\]]", r"\1"),
    (r"(?s)\A.*<answer>(.*?)(?:</answer>.*|\Z)", r"answer: \1"),
    (r"<\|[\w-]{1,30}\|>|</?s>|<(?:end|start)_of_turn>", ""),
]
PLAIN = [  # NFKC comes after the two before it: it makes cm2 of cm², and 21/2 of 2½
    *TIDY,
    (r"(?<=\d)(?=[¼-¾⅐-⅞])", " "),
    ("[⁰¹²³⁴-⁹⁻]+", r"^\g<0>"),
    (r"(?s).+", lambda found: unicodedata.normalize("NFKC", found[0])),
    ("[‐‒–−]", "-"),
    (r"\\(?:left|right|displaystyle)(?![a-z])|\\!|(?<!\w)\\?[$€£¥₹]|[`\"“”„«»]", ""),
    (r"(?<![\w)*])[*_]+(?=\S)|(?<=\S)[*_]++(?![\w(])", ""),  # emphasis, not a product
    (r"\\(?:[,;: ]|q?quad(?![a-z])|frac\{[a-z]+\}\{[a-z]+\})|~|\\?[$%]", " "),
    (r"\\(?:approx|simeq|sim|Rightarrow|implies)(?![a-z])|≈", "="),
    (r"(?s)((?:####|[Aa]nswer|boxed).*?)\n\s*(?:Question|Problem|Q|User|Human)\s*:.*", r"\1"),
]
_REASON = r"(?:because\b|since\b|(?:not|instead of|rather than) (?=\d))"
NUMERIC = [  # numbers as Python writes them, and none in reasons, units and names
    (r"\{,\}", ","),
    (r"(?<![\d.,])[1-9]\d{0,2}(?:(?:,\d{3})+(?!,?\d)|(?:[ '’_]\d{3})+(?![ '’_]?\d))", _digits),
    (r"\b\d{1,3}(?:\.\d{3}){2,}\b|\b\d{1,3}\.\d{3}(?=,\d)", _digits),
    (r"(?<=\d)\s?(?:[x×*·]|\\times|\\cdot)\s?10(?:\^|\*\*)[{(]?([-+]?\d+)[)}]?", r"e\1"),
    (rf"(\d[^.!?\n]{{0,200}}?)\b{_REASON}(?:(?!\b(?:so|thus|hence)\b)[^.!?\n]|\.\d)*", r"\1"),
    (rf"(\d[{_L} °%/]{{0,30}})\s\([^()\n]{{0,200}}\)", r"\1"),
    (r"(?<!\d )\b(?:minus|negative) (?=\d)", "-"),
    (
        rf"(?!(?<=\d)e[-+]?\d)(?<![{_L}\\])[{_L}][{_L}\d]*(?:(?:[-^]|\*\*)(?:[-+]?\d+|\{{[-+]?\d+\}}))+",
        " ",
    ),
    (r"(?<![\d,])(\d+),(\d+)(?![,.]?\d)", r"\1.\2"),  # last: it may be a list as well
]
NUMBER = re.compile(
    rf"(?<![{_L}\d_^])(?P<sign>(?<![)\]}}°])[-+])?(?:(?P<whole>\d+)\s(?:and\s)?(?=\d+\s?[/⁄]\s?\d))?"
    r"(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?|nan\b)"
    r"(?:\s?[/⁄]\s?(?P<below>\d+(?:\.\d+)?)(?![\d.]*\s?/))?"
)
LATEX = re.compile(r"(?:\\[A-Za-z]+(?:\{[^{}]*\})*|[.,](?=\d)|[-+*/^(){}\[\]!\d ])+")

_ANSWER = r"(?<!this )(?:answer|antwort|réponse|resp(?:ue|o)sta|risposta|ответ|答[案え])(?![a-z])"
_IS = r"(?:\b(?:is|was|be|ist|est|es)\b|[是は])"
_MARKER = rf"{_ANSWER}[^.!?:=\n]{{0,200}}?"
MARKER = re.compile(rf"(?:####|{_MARKER}(?:[:=]|{_IS}\s*:?))[\s*_]*", re.IGNORECASE)
STATED = re.compile(  # what stands before a number that is said to be the answer
    rf"(?:####\W{{0,20}}?|{_MARKER}(?:{_IS}:?\s*[^.!?\n\d\\]{{0,80}}?|[:=](?:\W|\b[a-z]\b){{0,50}}?)"
    rf"|\A[^\w.+-]*(?=[-+]?\.?\d[^\n{_L}]*(?:\n\W*[{_L}]|(?:[{_L}/]+\W+){{0,3}}?"
    r"(?:Explanation|Reason|Here|This|I|To)\b)))(?=[-+]?\.?\d|\\[a-z])",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_a-z]|[(\\])|\n+")
BOX = re.compile(  # an inner box follows an outer one; that is not empty
    r"\\f?boxed\s*\{(?!\s*\})(?=((?:[^{}]++|\{(?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+\})*+)(\}?))"
)

_JOINED = r"(?:because|since|as|is|with|for|while|due|but|which|by|and|or|so|not|in|on)\b"
_LETTER = (  # alone: no article or pronoun, no part of a word, nor one of several that are named
    rf"(?-i:(?<![{_L}\d_])(?<![{_L}\d]['’.-])"
    rf"(?!a\s+(?!{_JOINED})[A-Za-z]|(?:A|I,?)\s+(?!{_JOINED})[a-z])([A-Za-z])"
    rf"(?![{_L}\d_]|['’&-][{_L}\d]|\.[A-Za-z]\b|\s*[=^])"
    r"(?!\)?\s*(?:or|and|[/&,])\s*(?:or |and )?\(?[A-Z]\b(?!\s+[a-z])))"
)
_FILLER = r"(?:the|option|choice|letter|answer|probably|likely|clearly|definitely)"
_NAMED = rf"\W{{0,20}}(?:{_FILLER}\W{{1,3}}){{0,4}}{_LETTER}"
_CHOSEN = "option|choice|letter|pick|one|statement|conclusion|solution|selection|response"
CHOICES = [  # ways to name one, the most explicit first; the last mention counts
    rf"(?:(?:{_ANSWER}|\b(?:{_CHOSEN})\b)[^.!?\n]{{0,200}}?(?:{_IS}|[:=]|\s[-—]\s)"
    rf"|\b(?:choose|pick|select|say|opt for|go(?:ing)? with)\b){_NAMED}",
    rf"{_LETTER}\W{{,3}}(?:is|would be|seems|must be)\s(?:the )?(?:correct|right|best|true|answer)",
    rf"^{_NAMED}[^\w\n]*$",
    rf"(?:[,;:=]|->|→|\b(?:so|thus|hence|therefore|is|be|but|it['’]s))(?-i:{_NAMED})\W*(?:$|[.!]\s)",
    rf"^{_NAMED}(?:\s?[).:,\]]|\s+(?:[-—(]|because\b|since\b))",
    rf"(?:\(|\b(?:option|choice)\s){_LETTER}(?![^)\s.,:])",
]
LOOSE = CHOICES[-2:]  # count only if all of them name one letter


def visible(answer: str) -> str | None:
    """Return what an answer says outside its thinking, None if it ends while it thinks.

    Parameters
    ----------
    answer : str
        What a model wrote, its thinking between tags such as ``<think>`` and ``</think>``. What
        comes before a closing tag alone is thought, too.
    """
    said, thinking, start = [], False, 0
    for tag in THINKING.finditer(answer):
        if not thinking:
            said.append(answer[start : tag.start()])
            if not tag["begins"]:
                said.clear()
        thinking, start = bool(tag["begins"]), tag.end()
    return None if thinking else "".join([*said, answer[start:]]).strip()


def opened_before(answer: str) -> bool:
    """Say whether an answer closes thinking that its prompt has opened."""
    tag = THINKING.search(answer)
    return bool(tag and tag[0] and not tag["begins"])


def text(answer: str) -> list[str]:
    """Return the texts that an answer may give; an empty answer gives none.

    That is all of it, what the last box holds, else what follows the last ``answer:``,
    ``answer is`` or ``####``, and the first sentence of this.
    """
    said = _changed(visible(answer) or "", TIDY)
    if (inside := _boxed(said)) is not None:
        return [inside] * bool(inside)
    *before, rest = MARKER.split(said[-LONGEST:])
    return [said, rest, SENTENCE.split(rest, maxsplit=1)[0]] if before else [said] * bool(said)


def number(answer: str) -> list[float]:
    """Return the number that an answer gives, if there is one that can be read.

    It is the last one in the last box, else the one that follows the last ``answer is``,
    ``answer:`` or ``####``, else the last one.
    """
    said = _changed((visible(answer) or "")[-LONGEST:], PLAIN + NUMERIC)
    if (inside := _boxed(said)) is None and (stated := [*STATED.finditer(said)]):
        sentence = SENTENCE.split(said[stated[-1].end() :], maxsplit=1)[0]
        shown, _, result = sentence.rpartition("=")
        sums_up = re.search(r"[-+*/×÷·^]|\\times|\\cdot", shown)
        found = ((sums_up and _values(result)) or _values(sentence))[:1]
    else:
        sentences = reversed(SENTENCE.split(said if inside is None else inside))
        found = next((values[-1:] for values in map(_values, sentences) if values), [])
    return [value for value in found if not math.isnan(value)]


def numbers(reference: str) -> list[float]:
    """Return all numbers of a reference, in which no comma is taken for a decimal point."""
    return _values(_changed(reference.rpartition("####")[2], PLAIN + NUMERIC[:-1]))


def letter(answer: str) -> list[str]:
    """Return the letter, in upper case, that an answer chooses, if it chooses one."""
    said = _changed((visible(answer) or "")[-LONGEST:], PLAIN)
    if inside := re.match(rf"{_NAMED}(?:\W*$|\s*[).:,-])", _boxed(said) or "", re.I):
        return [inside[1].upper()]
    for pattern in CHOICES:
        if named := re.findall(pattern, said, re.IGNORECASE | re.MULTILINE):
            return [] if pattern in LOOSE and len(set(named)) > 1 else [named[-1].upper()]
    return []


def _changed(said: str, changes: list[tuple]) -> str:
    for pattern, replacement in changes:
        said = re.sub(pattern, replacement, said)
    return said


def _boxed(said: str) -> str | None:
    """Return what the last box holds, None without one; the empty string if it is cut off."""
    return next((inside if end == "}" else "" for inside, end in reversed(BOX.findall(said))), None)


def _values(said: str) -> list[float]:
    values = []
    for found in NUMBER.finditer(LATEX.sub(_evaluated, said)):
        value = float(found["number"]) / (float(found["below"] or 1) or math.nan)
        value += float(found["whole"] or 0)
        values.append(-value if found["sign"] == "-" else value)
    return values


def _evaluated(found: re.Match) -> str:
    """Return the value of a stretch of LaTeX, or of a power, instead of it."""
    latex = found[0]
    if not re.search(r"\\|\d\)?\^", latex):
        return latex
    balanced = latex.count("(") == latex.count(")")
    latex = latex.strip(" " if balanced else " ()")
    return f" {latex_value(latex) if len(latex) < 200 else math.nan} "
