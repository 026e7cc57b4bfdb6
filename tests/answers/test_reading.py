import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefill_router.answers import reading
from prefill_router.answers.grading import choice_match, numeric_match

NUMBERS = {  # what an answer says: written so
    9500: [r"$9{,}500$", r"$9,\!500$", r"9\,500", "9 500", "9\u202f500", "9'500", "$9,500.00"],
    12: ["12 cm^2", "12 cm²", "12 m^{-2}", "12 cm2", r"\boxed{12\text{ cm}^2}", "12.", "#### 12"],
    0.75: [r"$\frac{3}{4}$", r"\(-\frac{-3}{4}\)", "¾", "3/4 cup", "3⁄4", r"\boxed{\frac34}"],
    1500: [r"1.5 \times 10^{3}", "1.5 × 10³", "1.5e3", "1.5 x 10^3", "1.5*10**3", "1.500,0"],
    2.5: ["2 1/2", "2½", r"$2\frac{1}{2}$", "2,5", r"2{,}5", "2 and 1/2", r"\(\frac52\)"],
    3.14: ["3,14", r"\approx 3.14", "The answer is: ~3.14", "about **3.14** m/s²"],
    -5: ["−5", "–5", "-$5", "$-5", "it is −5 °C", r"\[ x = -5 \]", "#### -5"],
    4: ["page 3-4", "pages 3–4", r"\sqrt{16}", "GPT-3 says 4 of H2O", "2^2", "3, then 4", "1,2,4"],
    7: [r"\boxed{3}, no: \boxed{7}", r"\fbox{7}", r"Fill \boxed{}: 7", "3 + 4 = 7", "7 (6 + 1)",
        "Answer: 7 (3 more than 4)", "The answer is 3 + 4 = 7", "7 km. I checked 3 and 4.",
        "7, because 3 + 4.", "7\n\nExplanation: not 3 + 5 = 8.", '{"answer": 7}', "答案是7个",
        "<answer>7</answer> of 3 and 4", "The answer is\n\n$$7$$", "7<|im_end|>"],
    None: ["none", "", r"\boxed{12} so \boxed{1", r"The answer is $\frac{a}{4}$.", "1/0", "H2O"],
}  # fmt: skip

LETTERS = {
    "A": ["The answer is A because of that.", "The answer is a.", "The answer is A and I know it."],
    "B": [r"\boxed{B}", r"\boxed{\text{(B) }12}", "Option B", "The correct option is B.", "[B]",
          "`B`", "Answer seems to be B", "The answer is a capital city, so B.", "b) 17", "'B'",
          "The answer is B. I checked this answer; I am sure.", "B. Because it is so.", "B, Paris",
          "The answer is **B) Paris**.", "The answer is not A but B.", "The answer is B, not A",
          "Answer: B\nThat is all", "answer is: A, no wait, the answer is B", "I choose option B",
          "B\n\nA is wrong, and so is C.", "A is wrong; B is correct", '{"answer": "B"}', "答案：B",
          "The answer is B. Option A is tempting.",
          "A) Rome B) Paris C) Bern. The correct one is B) Paris.", "A is false, B is true."],
    "C": ["A dog is an animal, so the answer is C", "(C)"],
    "D": ["(A) is wrong, hence (D)", "The answer is d"],
    "I": ["The answer is I.", "I", "I, Paris"],
    None: ["A dog", "I think so", "Banana", "", "The answer is A or B", "The answer is not A.",
           "Both A and B", "A) no\nB) yes\nC) no", "It is Vitamin C", "U.S. law", "Answer: A dog",
           "I, however, do not know"],
}  # fmt: skip

# Answers that other graders were publicly reported to misread.
REPORTED = [
    ("number", "The total cost of Rory's order is $29.00.", 29),
    ("number", "#### 18\n\nQuestion: Tom has 3.\nAnswer: 9\n#### 9", 18),
    ("number", "It made a total profit of **$70,000**", 70000),
    ("number", "Answer: Let's think step by step. He has 3. He buys 4. So 7.", 7),
    ("number", "Answer: He can type 1 page in 450/90=5 minutes\nSo it takes 5*10=50", 50),
    ("number", "therefore\\boxed{840}.,but let me explain.\n\n**Final Answer**\n\\boxed{840}", 840),
    ("number", "the number is **73**.\n\n---\n\n✅ Final Answer: **73**", 73),
    ("number", "The last digits of \\(2003^{2002^{2001}}\\) are:\n \\[Answer: 009\\]", 9),
    ("number", "Answer: m+n = 256+37 = 293", 293),
    ("number", "Answer: 2*7 + 3*6 + ... = 81", 81),
    ("letter", "Antwort:\n\nAntwort: C", "C"),
    ("letter", "ANSWER IS D. A is incorrect.", "D"),
    ("letter", "The answer is C because I computed the integral.", "C"),
    ("letter", "The calculated answer is 11.\n\nAnswer seems to be A.\n\nAnswer: A", "A"),
    ("letter", "A perfect answer cannot be found.", None),
    ("letter", "ANSWER: I don't know", None),
    ("letter", "so \\boxed{\\langle H\\rangle \\ll \\Delta E}\n**Answer: D**", "D"),
    ("letter", "I considered (A), but it is incorrect. Final answer: D.", "D"),
    ("letter", "The letter, where the answer is humorously given as 42, is:\n\nE", "E"),
    ("letter", "Actually this one is tricky, I'm unsure", None),
    ("letter", "I would pick B — a safe choice.", "B"),
    ("letter", r"\boxed{E: A polygenic risk score}", "E"),
    ("text", "**ANSWER:** Dale", "Dale"),
    ("text", "analysisWe need one word.assistantfinalfour", "four"),
]


def said_in(kind, answer):
    return next(iter(getattr(reading, kind)(answer)[-1:]), None)


def cases():
    for kind, table in (("number", NUMBERS), ("letter", LETTERS)):
        for wanted, answers in table.items():
            yield from ((kind, answer, wanted) for answer in answers)
    yield from REPORTED


@pytest.mark.parametrize(("kind", "answer", "wanted"), [*cases()])
def test_what_an_answer_says_is_read(kind, answer, wanted):
    said = said_in(kind, answer)
    assert said == (pytest.approx(wanted) if kind == "number" and wanted else wanted)


THOUGHTS = [  # what stands before a thought, and after it
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<Thought>", "</Thought>"),
    ("<reasoning>", "</reasoning>"), ("<seed:think>", "</seed:think>"), ("", "</think>"),
    ("<think effort='high'>\n", "\n</think>"), ("<think>", "<answer>"), ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"), ("<|channel>thought\n", "<channel|>"), ("<unused94>", "<unused95>"),
    ("<think>a <think> b", "</think>"), ("analysisWe", "assistantfinal"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("Here is my thought process:", "Here is my response:"),
]  # fmt: skip


@pytest.mark.parametrize(("begins", "ends"), THOUGHTS)
def test_what_is_thought_is_not_said(begins, ends):
    thought = begins + "the answer is A, 4 or \\boxed{3}?"
    for kind, said in (("text", "Paris"), ("letter", "B"), ("number", 42.0)):
        assert said_in(kind, f"{thought}{ends}\n{said}") == said
        assert not begins or reading.visible(f"{thought} {said}") is None
        assert not begins or said_in(kind, f"{thought} {said}") is None


def apply(decorations, text):
    for decoration in decorations:
        text = decoration.replace("@", text)
    return text


AROUND = ["**@**", "*@*", "`@`", '"@"', "“@”", "$@$", r"\(@\)", r"\boxed{@}", "__@__"]
BEFORE = [
    "@",
    "The answer is: @",
    "The answer is @",
    "**Answer:** @",
    "Final answer: @",
    "answer = @",
]
AFTER = [
    "@. I checked this answer with 3 and 17; I am sure.", "@\n\nExplanation: C and 8 are wrong.",
    "@, because A and 4 are wrong.", "@",
]  # fmt: skip
THINKING = ["@", *(f"{begins}A? 3, or \\boxed{{4}}{ends}\n@" for begins, ends in THOUGHTS)]
decorated = st.tuples(
    st.lists(st.sampled_from(AROUND), max_size=3), st.sampled_from(BEFORE),
    st.sampled_from(AFTER), st.sampled_from(THINKING),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    number=st.one_of(st.integers(-(10**9), 10**9), st.decimals(-9999, 9999, places=2)),
    separator=st.sampled_from(["", ",", "\u202f", "\u2009", "'", "{,}"]),
    unit=st.sampled_from(["@", "@ cm²", "@ km", "@ m^2", "@ °C", "@%", r"@\text{ cm}^2", "$@"]),
    decoration=decorated,
)
def test_a_decorated_number_is_the_plain_one(number, separator, unit, decoration):
    around, *rest = decoration
    written = f"{number:,}".replace(",", separator).replace("-", "−")
    answer = apply([unit, *around, *rest], written)
    assert numeric_match(answer, str(number)), answer
    assert not numeric_match(answer, str(number + 1 + abs(number))), answer


@settings(max_examples=300, deadline=None)
@given(
    letter=st.sampled_from("ABCDEFGHIJ"),
    called=st.sampled_from(
        ["@", "(@)", "@)", "@.", "Option @", "option (@)", "@) Paris", "@, Paris"]
    ),
    decoration=decorated,
)
def test_a_decorated_letter_is_the_plain_one(letter, called, decoration):
    around, *rest = decoration
    answer = apply([called, *around, *rest], letter)
    assert reading.letter(answer) == [letter], answer
    assert choice_match(answer, letter)


@pytest.mark.parametrize("kind", ["letter", "number"])
def test_how_much_is_searched_does_not_grow_with_an_answer(kind, monkeypatch):
    searched, sub = [], re.sub

    def record(pattern, new, said):
        searched.append(len(said))
        return sub(pattern, new, said)

    monkeypatch.setattr(reading.re, "sub", record)
    assert said_in(kind, "3 or A? " * 200_000 + "The answer is: B 7.")
    assert max(searched) <= reading.LONGEST
