#!/usr/bin/env python3
"""Writes dataset.json beside itself: conversations of our own words, in the corpus' format. The same on every run."""
import json
import random
from datetime import datetime, timedelta
from pathlib import Path

PEOPLE = "ada ben chloe dan edda finn greta hugo ines jonas kira luis mona nils olga paul".split()
OPENINGS = ["morning", "hey, do you have a minute?", "did the harbour order go out?", "who is on call tonight?",
            "lunch at twelve?", "the lift is stuck again", "Grüße aus Köln 👋", "早上好", ""]
THINGS = ["the second pump", "our new tide table", "the blue crate", "that odd invoice", "the night shift plan",
          "the coffee machine", "the spare key", "the ferry timetable", "page nine of the handbook"]
SAYINGS = ["I left a note about {} on the board.", "nobody has looked at {} since Tuesday", "{}? still broken, I think",
           "can you take over {} from me?", "I would rather not touch {} before Friday", "good news about {}: it works",
           "ok", "yes", "no idea, ask the others", "ha", "give me ten minutes and I will check {}",
           "please write down what you did with {}, step by step, so that the next one who stands in front of it in the "
           "rain at four in the morning does not have to guess", "thanks!", "see you there"]


def conversation(dice, number, start):
    people = dice.sample(PEOPLE, 2 if number % 4 else dice.choice([1, 3, 4, 5]))
    now, turns = start, []
    for turn in range(dice.randint(4, 24)):
        speaker = people[turn % len(people)] if turn < len(people) else dice.choice(people)
        texts = []
        for _ in range(dice.choice([1, 1, 1, 2, 2, 3])):
            now += timedelta(seconds=dice.randint(1, 90))
            text = dice.choice(OPENINGS) if turn == 0 else dice.choice(SAYINGS).format(dice.choice(THINGS))
            texts.append({"text": text, "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "sender": speaker})
        turns.append(texts)
    return {"messages": turns, "start": start.strftime("%Y-%m-%dT%H:%M:%SZ")}


def main():
    dice = random.Random(7)
    start = datetime(2026, 1, 5, 8, 0, 0)
    found = {}
    for number in range(48):
        found[f"sample-{number:02}"] = conversation(dice, number, start)
        start += timedelta(minutes=dice.randint(3, 40))
    path = Path(__file__).with_name("dataset.json")
    lines = [f"{json.dumps(name)}: {json.dumps(talk, ensure_ascii=False)}" for name, talk in found.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


main()
