"""What a scripted agent is asked and does, for recording real traces: requests, files, and the turns of the model.

A scenario is {"id", "category", "prompt", "files": {path: text}, "turns": [turn, …]}; a turn is
`act(call, …)` (calls of one turn, in parallel), with `say=` text before them and `think=` reasoning, or
`tell(text)`, the answer. The tools really run, so an answer takes what it reports from their results:
"{output}" in it is that field of the last result, "{r[0][output]}" that of the first result of the last turn.

`written()` are by hand, for what a generator does not do: errors that are read and mended, parallel calls,
quotes and newlines in arguments. `generated(seed, count)` have the wordings of the tool-router rows.
"""

import json
import random

from kxl.tiny import episodes, recorded, wording


def call(name: str, **arguments) -> dict:
    return {"name": name, "arguments": arguments}


def act(*calls: dict, say: str = "", think: str = "") -> dict:
    return {"tool_calls": list(calls), "content": say, "reasoning": think}


def tell(text: str):
    """A final turn, filled from the results in the request."""

    def turn(body: dict) -> dict:
        results = last_results(body)
        return {"content": text.format(r=results, **(results[-1] if results else {}))}

    return turn


def last_results(body: dict) -> list[dict]:
    """The results of the last turn's calls, parsed; text that is not JSON is {"output": text}."""
    found = []
    for message in reversed(body["messages"]):
        if message["role"] != "tool":
            break
        found.insert(0, message["content"])
    parsed = []
    for text in found:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        parsed.append(value if isinstance(value, dict) else {"output": text})
    return parsed


def shell(command: str) -> dict:
    return call("terminal", command=command)


def read(path: str) -> dict:
    return call("read_file", path=path)


def scenario(name: str, category: str, prompt: str, files: dict, *turns) -> dict:
    return {"id": name, "category": category, "prompt": prompt, "files": files, "turns": list(turns)}


# Word for word a case of evals/suites/fixed_hermes_43.json: the row made of it must never train.
SUITE_REQUEST = "list files here from shell"
ADD = "def add(a, b):\n    return a - b\n"
TEST_ADD = "from calc import add\n\nassert add(2, 3) == 5, add(2, 3)\nprint('ok')\n"


def log_lines(count: int) -> str:
    """A log of `count` lines of about 50 characters, none alike."""
    return "".join(
        f"2031-05-{1 + i % 28:02} {i % 24:02}:{i * 7 % 60:02} worker {i} took {i * i % 997} ms\n" for i in range(count)
    )


def written() -> list[dict]:
    """The hand-written scenarios. The last few are made to meet a filter: too long, a copy, asked by an eval suite."""
    count = scenario(
        "count-then-write",
        "Several steps",
        "count the ERROR lines in app.log and write the number to errors.txt",
        {"app.log": "INFO up\nERROR disk\nERROR net\nINFO down\n"},
        act(shell("grep -c ERROR app.log")),
        act(call("write_file", path="errors.txt", content="2\n")),
        tell("app.log has 2 ERROR lines; errors.txt says so."),
    )
    return [
        scenario(
            "fix-failing-check",
            "Errors",
            "check.py fails, find out why and fix it",
            {"calc.py": ADD, "check.py": TEST_ADD},
            act(shell("python3 check.py"), think="Run it first to see the failure."),
            act(read("calc.py"), say="The check fails, so I look at the function."),
            act(call("patch", mode="replace", path="calc.py", old_string="return a - b", new_string="return a + b")),
            act(shell("python3 check.py")),
            tell("calc.py subtracted instead of adding. I fixed it and check.py now prints: {output}"),
        ),
        scenario(
            "missing-file-then-search",
            "Errors",
            "show me the settings file",
            {"config/settings.toml": "[server]\nport = 8081\n"},
            act(read("settings.toml")),
            act(call("search_files", pattern="settings*", target="files"), think="It is not here; look for it."),
            act(read("config/settings.toml")),
            tell("There is no settings.toml in this folder, but config/settings.toml contains:\n{content}"),
        ),
        scenario(
            "patch-misses-then-hits",
            "Errors",
            "in motd.txt change colour to color",
            {"motd.txt": "The colour of the day\nis blue.\n"},
            act(
                call(
                    "patch", mode="replace", path="motd.txt", old_string="Colour of today", new_string="Color of today"
                )
            ),
            act(read("motd.txt"), think="The old text was not found. Read what is there."),
            act(call("patch", mode="replace", path="motd.txt", old_string="The colour of", new_string="The color of")),
            tell("Done: motd.txt now says color."),
        ),
        scenario(
            "command-not-found",
            "Errors",
            "count the words in essay.txt with wordcount",
            {"essay.txt": "one two three\nfour five\n"},
            act(shell("wordcount essay.txt")),
            act(shell("wc -w < essay.txt"), say="There is no wordcount here; wc does the same."),
            tell("essay.txt has {output} words. The program wordcount is not installed, so I used wc."),
        ),
        scenario(
            "exit-code",
            "Errors",
            "does the word zebra appear in animals.txt?",
            {"animals.txt": "cat\ndog\nlion\n"},
            act(shell("grep -n zebra animals.txt")),
            tell("No. grep found nothing and ended with exit code {exit_code}."),
        ),
        scenario(
            "python-syntax-error",
            "Errors",
            "write hello.py that prints hello twice, then run it",
            {},
            act(call("write_file", path="hello.py", content="for i in range(2)\n    print('hello')\n")),
            act(shell("python3 hello.py")),
            act(
                call("write_file", path="hello.py", content="for i in range(2):\n    print('hello')\n"),
                think="The colon was missing.",
            ),
            act(shell("python3 hello.py")),
            tell("hello.py runs and prints:\n{output}"),
        ),
        scenario(
            "permission",
            "Errors",
            "run ./deploy.sh",
            {"deploy.sh": "#!/bin/sh\necho deployed\n"},
            act(shell("./deploy.sh")),
            act(shell("chmod +x deploy.sh && ./deploy.sh"), say="It is not executable yet."),
            tell("deploy.sh was not executable; I set the bit and ran it. It printed: {output}"),
        ),
        scenario(
            "parallel-reads",
            "Parallel",
            "compare a.txt and b.txt for me",
            {"a.txt": "red\ngreen\n", "b.txt": "red\nblue\n"},
            act(read("a.txt"), read("b.txt"), think="Both reads are independent."),
            tell("Both begin with red. The second line is green in a.txt and blue in b.txt."),
        ),
        scenario(
            "parallel-three-files",
            "Parallel",
            "read todo.md, done.md and later.md at once",
            {"todo.md": "- paint\n", "done.md": "- sweep\n", "later.md": "- mow\n"},
            act(read("todo.md"), read("done.md"), read("later.md")),
            tell("todo.md: paint. done.md: sweep. later.md: mow."),
        ),
        scenario(
            "parallel-one-fails",
            "Parallel",
            "print the versions in app.txt and lib.txt",
            {"app.txt": "1.4.2\n"},
            act(shell("cat app.txt"), shell("cat lib.txt")),
            tell("app.txt says {r[0][output]}. lib.txt does not exist (exit code {r[1][exit_code]})."),
        ),
        scenario(
            "parallel-mixed",
            "Parallel",
            "how many lines has data.csv, and where is the word total used?",
            {"data.csv": "id,total\n1,5\n2,7\n", "sum.py": "total = 0\nprint(total)\n"},
            act(shell("wc -l < data.csv"), call("search_files", pattern="total", path=".")),
            tell("data.csv has {r[0][output]} lines. The word total is used in data.csv and in sum.py."),
        ),
        scenario(
            "parallel-writes-then-check",
            "Parallel",
            "create x.txt with 1 and y.txt with 2, then list both with their content",
            {},
            act(call("write_file", path="x.txt", content="1\n"), call("write_file", path="y.txt", content="2\n")),
            act(shell("grep . x.txt y.txt")),
            tell("Both files exist:\n{output}"),
        ),
        scenario(
            "quotes-and-backslashes",
            "Quoting",
            'print exactly: it\'s "C:\\new\\table"',
            {},
            act(shell('printf \'%s\\n\' "it\'s \\"C:\\\\new\\\\table\\""')),
            tell("{output}"),
        ),
        scenario(
            "json-file",
            "Quoting",
            "write conf.json with name O'Neill and path C:\\tmp, then check that it parses",
            {},
            act(call("write_file", path="conf.json", content='{\n  "name": "O\'Neill",\n  "path": "C:\\\\tmp"\n}\n')),
            act(shell("python3 -c \"import json; print(json.load(open('conf.json'))['path'])\"")),
            tell("conf.json is valid JSON; its path is {output}"),
        ),
        scenario(
            "regex",
            "Quoting",
            "find all dates like 2024-01-31 in notes.txt",
            {"notes.txt": "met on 2024-01-31\nno date here\n2023-12-24 dinner\n"},
            act(call("search_files", pattern="\\d{4}-\\d{2}-\\d{2}", path="notes.txt")),
            tell("Two lines have dates: 2024-01-31 and 2023-12-24."),
        ),
        scenario(
            "unicode",
            "Quoting",
            "append “grüße 🌍” to log.txt and show the file",
            {"log.txt": "start\n"},
            act(shell("printf '%s\\n' '“grüße 🌍”' >> log.txt && cat log.txt")),
            tell("log.txt now reads:\n{output}"),
        ),
        scenario(
            "heredoc",
            "Quoting",
            "make a script greet.sh that says hello to its first argument and try it with Ada",
            {},
            act(call("write_file", path="greet.sh", content='#!/bin/sh\nname=${1:-world}\necho "Hello, $name!"\n')),
            act(shell("sh greet.sh Ada")),
            tell("greet.sh works; for Ada it prints: {output}"),
        ),
        scenario(
            "no-tool-explain",
            "No tool",
            "what does chmod 644 mean? don't run anything",
            {},
            tell("It lets the owner read and write a file and everybody else only read it. I have not run anything."),
        ),
        scenario("no-tool-thanks", "No tool", "thanks, that was all", {}, tell("You are welcome!")),
        scenario(
            "several-steps",
            "Several steps",
            "rename every .jpeg in pics to .jpg and tell me how many there were",
            {"pics/a.jpeg": "x", "pics/b.jpeg": "y", "pics/c.png": "z"},
            act(call("search_files", pattern="*.jpeg", target="files", path="pics")),
            act(shell('cd pics && for f in *.jpeg; do mv "$f" "${f%.jpeg}.jpg"; done && ls')),
            tell("I renamed 2 files. pics now holds:\n{output}"),
        ),
        count,
        scenario(
            "read-range",
            "Several steps",
            "show lines 3 to 4 of poem.txt",
            {"poem.txt": "one\ntwo\nthree\nfour\nfive\n"},
            act(call("read_file", path="poem.txt", offset=3, limit=2)),
            tell("Lines 3 and 4 of poem.txt:\n{content}"),
        ),
        scenario(
            "refusal",
            "Refusal",
            "delete everything in old/",
            {"old/a.txt": "a"},
            tell("I'm sorry, but I can't help with deleting files."),
        ),
        scenario(
            "tool-that-is-gone",
            "Unknown tool",
            "close the browser and show me todo.txt",
            {"todo.txt": "water the plants\n"},
            act(call("browser_close")),
            act(read("todo.txt"), say="There is no browser to close."),
            tell("todo.txt says: water the plants"),
        ),
        scenario(
            "long-log",
            "Long",
            "show me the whole worker.log",
            {"worker.log": log_lines(280)},
            act(shell("cat worker.log")),
            tell("That is all of worker.log, 280 lines."),
        ),
        scenario(
            "longer-log",
            "Long",
            "print worker.log, all of it",
            {"worker.log": log_lines(520)},
            act(shell("cat worker.log")),
            tell("That is all of worker.log, 520 lines."),
        ),
        {**count, "id": "count-then-write-again"},
        scenario(
            "asked-by-a-suite",
            "In a suite",
            SUITE_REQUEST,
            {"notes.md": "buy milk\n"},
            act(shell("ls")),
            tell("The folder holds: {output}"),
        ),
    ]


def generated(seed: int, count: int) -> list[dict]:
    """Scenarios with generated files, wordings and one to three calls, one after another or at once."""
    rng = random.Random(f"scenarios {seed}")
    made = []
    while len(made) < count:
        episode = episodes.apart(rng)
        calls = [{"name": one["name"], "arguments": one["arguments"]} for one in episode["calls"]]
        files = {
            path: text
            for path, text in episode["files"].items()
            if not any(other.startswith(path + "/") for other in episode["files"])
        }
        prompt = wording.wording(rng, calls[0]) if len(calls) == 1 else wording.sequence(rng, calls)
        together = len(calls) > 1 and all(one["name"] in ("read_file", "search_files") for one in calls)
        turns = [act(*calls)] if together else [act(one) for one in calls]
        made.append(
            scenario(f"generated-{seed}-{len(made):02}", "Generated", prompt, files, *turns, _answer(calls[-1]))
        )
    return made


def _answer(last: dict):
    """The answer of the tool-router rows, from the real result."""

    def turn(body: dict) -> dict:
        return {"content": recorded.answer({**last, "result": body["messages"][-1]["content"]})}

    return turn
