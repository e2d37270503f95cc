"""Writes sentences about numbers, one record in a line: something that a small model can learn."""

import json

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

with open("sums.jsonl", "w") as file:
    for a in range(8):
        for b in range(3):
            text = f"{NAMES[a]} plus {NAMES[b]} is {NAMES[a + b]}."
            print(json.dumps({"text": text}), file=file)
