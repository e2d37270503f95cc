"""Questions with answers that a program can check: sums that are made, and general ones by hand.

Sums are made of numbers by a seed, in words and in signs; a pair of numbers that is held out is in
no training record of its kind, in either order. General questions were written before any model
was asked, and none was taken out since.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Hugo")
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "stamps", "eggs", "tickets")
_WORDINGS = {
    "+": (
        "What is {a} + {b}?",
        "Calculate {a} + {b}.",
        "What is the sum of {a} and {b}?",
        "Add {a} and {b}.",
        "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
        "There are {a} {things} on one table and {b} on another. How many are there in all?",
    ),
    "-": (
        "What is {a} - {b}?",
        "Calculate {a} - {b}.",
        "What is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "{name} has {a} {things} and gives {b} of them away. How many {things} are left?",
        "Of {a} {things}, {b} are sold. How many remain?",
    ),
    "x": (
        "What is {a} x {b}?",
        "Calculate {a} * {b}.",
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "A box holds {a} {things}. How many {things} do {b} boxes hold?",
        "{name} buys {b} bags with {a} {things} in each. How many {things} is that?",
    ),
    "/": (
        "What is {a} / {b}?",
        "Calculate {a} / {b}.",
        "What is {a} divided by {b}?",
        "Divide {a} by {b}.",
        "{a} {things} are shared equally by {b} people. How many does each get?",
        "{name} puts {a} {things} into {b} equal piles. How many {things} are in each?",
    ),
}


@dataclass(frozen=True)
class Question:
    """A question, its kind, and what says whether an answer is right."""

    kind: str
    text: str
    is_right: Callable[[str], bool]


def sums(
    num_train: int, num_held_out: int, seed: int
) -> tuple[list[dict[str, str]], list[Question]]:
    """Training records (question and answer), and held-out questions, as many of each of the four
    kinds. Training has a pair of numbers as often as it needs, in different words."""
    draw = random.Random(seed)
    records, held_out = [], []
    for sign in _WORDINGS:
        pairs = _pairs(sign)
        draw.shuffle(pairs)
        apart = pairs[: num_held_out // len(_WORDINGS)]
        held_out += [_question(sign, pair, draw) for pair in apart]
        kept = [pair for pair in pairs if pair not in apart and pair[::-1] not in apart]
        for n in range(num_train // len(_WORDINGS)):
            a, b = kept[n % len(kept)]
            records.append({"question": _worded(sign, a, b, draw), "answer": _worked(sign, a, b)})
    draw.shuffle(records)
    return records, held_out


def _pairs(sign: str) -> list[tuple[int, int]]:
    if sign == "x":
        return [(a, b) for a in range(11, 100) for b in range(2, 10)]
    if sign == "/":
        return [(a * b, b) for a in range(3, 40) for b in range(2, 10)]
    return [(a, b) for a in range(10, 100) for b in range(10, 100) if sign == "+" or a > b]


def _worded(sign: str, a: int, b: int, draw: random.Random) -> str:
    words = draw.choice(_WORDINGS[sign])
    return words.format(a=a, b=b, name=draw.choice(_NAMES), things=draw.choice(_THINGS))


def _result(sign: str, a: int, b: int) -> int:
    return {"+": a + b, "-": a - b, "x": a * b, "/": a // b}[sign]


def _worked(sign: str, a: int, b: int) -> str:
    """The answer that is trained: the sum in signs, products in two parts, and what it makes."""
    parts = ""
    tens, ones = a // 10 * 10, a % 10
    if sign == "x" and ones:
        parts = f"{tens} x {b} + {ones} x {b} = {tens * b} + {ones * b} = "
    return f"{a} {sign} {b} = {parts}{_result(sign, a, b)}"


def _question(sign: str, pair: tuple[int, int], draw: random.Random) -> Question:
    result = _result(sign, *pair)

    def is_right(answer: str) -> bool:
        """Whether the last number of the answer is the result."""
        numbers = _NUMBER.findall(answer)
        return bool(numbers) and float(numbers[-1].replace(",", "")) == result

    return Question(f"sum {sign}", _worded(sign, *pair, draw), is_right)


def _says(*words: str) -> Callable[[str], bool]:
    """An answer with one of the words."""
    pattern = re.compile(rf"\b({'|'.join(words)})", re.IGNORECASE)
    return lambda answer: pattern.search(answer) is not None


def _tells(words: str, least: int) -> Callable[[str], bool]:
    """An answer of so many words or more, with one of these."""
    has = _says(*words.split())
    return lambda answer: has(answer) and len(re.findall(r"[A-Za-z']+", answer)) >= least


def _lists(words: str, least: int) -> Callable[[str], bool]:
    """An answer with so many of the words or more."""
    each = [_says(word) for word in words.split()]
    return lambda answer: sum(has(answer) for has in each) >= least


_CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo",
    "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens",
    "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw", "Canada": "Ottawa",
    "Australia": "Canberra", "India": "New Delhi", "Ireland": "Dublin", "Sweden": "Stockholm",
    "Norway": "Oslo", "Kenya": "Nairobi", "Peru": "Lima", "Argentina": "Buenos Aires",
    "South Korea": "Seoul", "Thailand": "Bangkok", "Cuba": "Havana", "Hungary": "Budapest",
}  # fmt: skip
_FACTS = {
    "How many days are in a week?": _says("seven", "7"),
    "How many months are in a year?": _says("twelve", "12"),
    "How many legs does a spider have?": _says("eight", "8"),
    "How many minutes are in an hour?": _says("sixty", "60"),
    "How many continents are there on Earth?": _says("seven", "7"),
    "In what year did the Second World War end?": _says("1945"),
    "In what year did Apollo 11 land on the Moon?": _says("1969"),
    "What color is the sky on a clear day?": _says("blue"),
    "What color do you get when you mix blue and yellow?": _says("green"),
    "Which planet is closest to the Sun?": _says("mercury"),
    "Which planet is known as the Red Planet?": _says("mars"),
    "What is the largest planet in the solar system?": _says("jupiter"),
    "What is the largest ocean on Earth?": _says("pacific"),
    "What is the longest river in Africa?": _says("nile"),
    "What is the highest mountain in the world?": _says("everest"),
    "What gas do plants take in for photosynthesis?": _says("carbon", "CO2", "CO₂"),
    "What is the chemical formula of water?": _says("H2O", "H₂O"),
    "Which organ pumps blood through the body?": _says("heart"),
    "Who wrote Romeo and Juliet?": _says("shakespeare"),
    "Who painted the Mona Lisa?": _says("leonardo", "da vinci"),
    "Who was the first president of the United States?": _says("washington"),
    "Who developed the theory of relativity?": _says("einstein"),
    "What language is spoken in Brazil?": _says("portuguese"),
    "What is the currency of Japan?": _says("yen"),
    "What is the opposite of hot?": _says("cold", "cool"),
    "What is the opposite of up?": _says("down"),
    "What is the opposite of happy?": _says("sad", "unhappy"),
    "What is the plural of mouse?": _says("mice"),
    "What is the past tense of go?": _says("went"),
    "What do bees make?": _says("honey"),
    "What animal says meow?": _says("cat"),
    "What is frozen water called?": _says("ice"),
    "Which season comes after winter?": _says("spring"),
    "What is the name of our galaxy?": _says("milky"),
    "What do you call a baby dog?": _says("pup"),
}  # fmt: skip
_COLORS = "red blue green yellow orange purple black white pink brown"
_FRUITS = "apple banana orange grape mango pear peach strawberr blueberr pineapple kiwi cherr plum"
_ANIMALS = "dog cat cow horse pig sheep goat chicken duck lion tiger bear elephant rabbit"
_TASKS = {
    "Name three colors.": _lists(_COLORS, 3),
    "Name three fruits.": _lists(_FRUITS, 3),
    "Name three animals.": _lists(_ANIMALS, 3),
    "List the four seasons.": _lists("spring summer autumn|fall winter", 4),
    "List the primary colors.": _lists("red blue yellow|green", 3),
    "Name two planets.": _lists("mercury venus earth mars jupiter saturn uranus neptune", 2),
    "Name two oceans.": _lists("pacific atlantic indian arctic southern", 2),
    "Name three countries in Europe.": _lists(
        "france germany italy spain portugal england|united greece poland sweden norway", 3
    ),
    "Name three musical instruments.": _lists("piano guitar violin drum flute trumpet cello", 3),
    "List three days of the week.": _lists(
        "monday tuesday wednesday thursday friday saturday sunday", 3
    ),
    "Write a sentence about a cat.": _tells("cat feline kitten", 4),
    "Write a sentence about the sea.": _tells("sea ocean wave", 4),
    "Write a sentence with the word river.": _tells("river", 4),
    "Write a sentence with the word happy.": _tells("happy", 4),
    "Write two sentences about summer.": _tells("summer", 10),
    "Write a short story about a dragon.": _tells("dragon", 40),
    "Write a short poem about the moon.": _tells("moon lunar", 20),
    "Write a polite greeting to a new colleague.": _tells("welcome hello hi dear glad pleased", 6),
    "Write a thank-you note to a teacher.": _tells("thank grateful appreciate", 15),
    "Write a birthday wish for a friend.": _tells("birthday", 5),
    "Describe a rainbow.": _tells("color colour", 15),
    "Describe the taste of a lemon.": _tells("sour acid tart tangy citrus", 8),
    "Explain what a library is.": _tells("book", 12),
    "Explain why we sleep.": _tells("rest brain body energy", 15),
    "Explain what rain is.": _tells("water", 10),
    "Explain what a bicycle is.": _tells("wheel pedal", 10),
    "What does a doctor do?": _tells("patient health treat medic ill sick", 10),
    "What does a farmer do?": _tells("crop animal food land plant grow", 10),
    "Give me a tip for sleeping well.": _tells("sleep bed", 10),
    "Give me a tip for learning a language.": _tells("practi language speak listen read", 10),
    "How do I make a cup of tea?": _tells("water", 15),
    "How do I boil an egg?": _tells("water", 15),
    "Why is exercise good for people?": _tells("health heart muscle strength mood", 15),
    "Say hello in French.": _says("bonjour", "salut"),
    "Say thank you in Spanish.": _says("gracias"),
    "Say goodbye in German.": _says("auf wiedersehen", "tsch"),
    "Translate the word cat into French.": _says("chat"),
    "Translate the word house into Spanish.": _says("casa"),
    "Tell me a joke.": _tells("why what how because", 8),
    "What should I pack for a trip to the beach?": _tells("towel sunscreen swim hat water", 8),
}  # fmt: skip


def general() -> list[Question]:
    """The hundred general questions: capitals, facts, and small tasks."""
    capitals = {f"What is the capital of {land}?": _says(city) for land, city in _CAPITALS.items()}
    kinds = {"capital": capitals, "fact": _FACTS, "task": _TASKS}
    return [
        Question(kind, text, is_right)
        for kind, questions in kinds.items()
        for text, is_right in questions.items()
    ]
