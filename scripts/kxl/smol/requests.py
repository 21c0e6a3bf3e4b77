"""Requests that we compose for the tool-token training: calls with results and answers, and ordinary questions.

`tool_rows(count, seed)` gives rows as bfcl.answered does, half of them with the tool's result and the answer
that follows. `ordinary_prompts()` gives questions that need no tool; their answers are recorded from the base
model itself (scripts/smol_record_ordinary.py), so that training keeps what it said before.

write_file and save_config stay out on purpose: they are the prompts of scripts/smol_inspect.py.
"""

import json
import random

PLACES = ["Oslo", "Lima", "Kyoto", "Dakar", "Quito", "Porto", "Hanoi", "Tunis", "Bergen", "Nairobi", "Lyon", "Perth"]
PEOPLE = ["Ada", "Ben", "Carla", "Dmitri", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kim", "Leila"]
THINGS = [
    "the garden plan",
    "the invoice for May",
    "the reading list",
    "the bus times",
    "my packing list",
    "the team rota",
    "the soup recipe",
    "the meeting minutes",
    "the test results",
    "the gift ideas",
]
FOLDERS = ["notes", "docs", "src", "archive", "drafts", "backup", "reports"]
STEMS = ["todo", "readme", "plan", "index", "draft", "summary", "budget", "ideas"]
ENDINGS = ["md", "txt", "py", "csv", "html", "json"]
SNIPPETS = [
    "print('hello')",
    "# Shopping\n- milk\n- eggs",
    "import sys\nprint(sys.argv)",
    "name,age\nAda,36",
    "Call Ben at 5.",
    "def add(a, b):\n    return a + b",
    "<h1>Welcome</h1>",
    "TODO: water the plants",
]
CURRENCIES = ["EUR", "USD", "GBP", "JPY", "CHF", "NOK"]
LANGUAGES = ["French", "German", "Turkish", "Spanish", "Swahili", "Korean"]
PHRASES = ["good morning", "where is the station", "thank you very much", "the soup is cold", "see you on Friday"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]

DRAW = {
    "place": lambda r: r.choice(PLACES),
    "person": lambda r: r.choice(PEOPLE),
    "thing": lambda r: r.choice(THINGS),
    "path": lambda r: f"{r.choice(FOLDERS)}/{r.choice(STEMS)}.{r.choice(ENDINGS)}",
    "snippet": lambda r: r.choice(SNIPPETS),
    "minutes": lambda r: r.randint(2, 90),
    "amount": lambda r: r.choice([12, 40, 75.5, 120, 333, 2500]),
    "from": lambda r: r.choice(CURRENCIES[:3]),
    "to": lambda r: r.choice(CURRENCIES[3:]),
    "language": lambda r: r.choice(LANGUAGES),
    "phrase": lambda r: r.choice(PHRASES),
    "day": lambda r: r.choice(DAYS),
    "hour": lambda r: r.randint(8, 19),
    "degrees": lambda r: r.randint(-8, 34),
    "flag": lambda r: r.choice([True, False]),
    "folder": lambda r: r.choice(FOLDERS),
}

# name: (description, {argument: (JSON type, what it is, where its value is drawn from)}, wordings, result, answer)
TOOLS = {
    "create_note": (
        "Create a note with a title and a text.",
        {"title": ("string", "Title of the note", "thing"), "text": ("string", "Text of the note", "snippet")},
        [
            'Make a note called "{title}" with this text:\n{text}',
            'Please note down under "{title}":\n{text}',
            "I need a new note, title {title}. It should say:\n{text}",
        ],
        {"created": True},
        'I made the note "{title}".',
    ),
    "put_text": (
        "Store text in a file of the workspace.",
        {"target": ("string", "File to store into", "path"), "body": ("string", "What the file shall hold", "snippet")},
        [
            "Put this into {target}:\n{body}",
            "Create the file {target} that holds\n{body}",
            "{target} should contain exactly this:\n{body}",
        ],
        {"ok": True},
        "{target} is in place.",
    ),
    "open_text": (
        "Read a file of the workspace.",
        {"target": ("string", "File to read", "path")},
        ["What is in {target}?", "Show me {target}", "Open {target} and tell me what it says", "read {target} pls"],
        {"body": "{snippet}"},
        "It says: {snippet}",
    ),
    "count_files": (
        "Count the files of a folder.",
        {"folder": ("string", "Folder to look into", "folder")},
        [
            "How many files are in {folder}?",
            "count what's in the {folder} folder",
            "Number of files in {folder}, please",
        ],
        {"files": "{minutes}"},
        "There are {minutes} files in {folder}.",
    ),
    "forecast": (
        "Weather forecast of a city for a day.",
        {"city": ("string", "City", "place"), "day": ("string", "Day of the week", "day")},
        [
            "What will the weather be like in {city} on {day}?",
            "Do I need a coat in {city} this {day}?",
            "{city}, {day}: forecast?",
        ],
        {"celsius": "{degrees}", "sky": "clear"},
        "On {day} it will be {degrees} degrees and clear in {city}.",
    ),
    "start_timer": (
        "Start a timer.",
        {"minutes": ("integer", "How long, in minutes", "minutes")},
        [
            "Set a timer for {minutes} minutes",
            "wake me in {minutes} minutes",
            "Tell me when {minutes} minutes are over",
        ],
        {"running": True},
        "The timer runs for {minutes} minutes.",
    ),
    "exchange": (
        "Convert an amount of money.",
        {
            "amount": ("number", "Amount", "amount"),
            "source": ("string", "Currency to convert from", "from"),
            "target": ("string", "Currency to convert to", "to"),
        },
        [
            "How much is {amount} {source} in {target}?",
            "Convert {amount} {source} to {target}",
            "I have {amount} {source}, what is that in {target}?",
        ],
        {"result": "{amount}"},
        "{amount} {source} are {amount} {target} at today's rate.",
    ),
    "translate_phrase": (
        "Translate a phrase.",
        {
            "phrase": ("string", "What to translate", "phrase"),
            "language": ("string", "Language to translate to", "language"),
        },
        [
            'Translate "{phrase}" to {language}',
            "How does one say {phrase} in {language}? Use the translator.",
            'I need "{phrase}" in {language}',
        ],
        {"done": True},
        'The translator has "{phrase}" in {language} ready.',
    ),
    "book_room": (
        "Book a meeting room.",
        {
            "day": ("string", "Day of the week", "day"),
            "hour": ("integer", "Hour of the day, 0 to 23", "hour"),
            "owner": ("string", "Who books", "person"),
        },
        [
            "Book a room on {day} at {hour} for {owner}",
            "{owner} needs a meeting room, {day} {hour}:00",
            "Reserve a room for {owner}: {day}, {hour} o'clock",
        ],
        {"booked": True},
        "{owner} has a room on {day} at {hour}.",
    ),
    "message_person": (
        "Send a short message to a person.",
        {"to": ("string", "Who receives it", "person"), "text": ("string", "The message", "phrase")},
        ["Tell {to}: {text}", 'Send {to} a message saying "{text}"', "write to {to} that {text}"],
        {"sent": True},
        "I sent it to {to}.",
    ),
    "switch_light": (
        "Switch the lights of a room on or off.",
        {"room": ("string", "Room", "folder"), "on": ("boolean", "Whether the lights shall be on", "flag")},
        [
            "Set the lights in the {room} room to on={on}",
            "lights in {room}: {on}",
            "In the {room} room, turn the lights to {on}, please",
        ],
        {"ok": True},
        "Done, the {room} lights are set.",
    ),
    "find_document": (
        "Find a document by what it is about.",
        {"about": ("string", "What it is about", "thing")},
        ["Where did I put {about}?", "Find {about} for me", "I can't find {about}, can you look?"],
        {"path": "{path}"},
        "It is {path}.",
    ),
}

QUESTIONS = [
    "What is {}?",
    "Explain {} in two sentences.",
    "Why do people care about {}?",
    "Tell me something interesting about {}.",
    "Write a short poem about {}.",
    "Give me three facts about {}.",
    "How would you explain {} to a child?",
    "What is a common mistake people make about {}?",
]
TOPICS = [
    "the moon",
    "photosynthesis",
    "jazz",
    "volcanoes",
    "chess",
    "the water cycle",
    "honesty",
    "gravity",
    "bread",
    "the Roman Empire",
    "bees",
    "recycling",
    "friendship",
    "electricity",
    "the printing press",
    "glaciers",
    "haiku",
    "vaccines",
    "bicycles",
    "dreams",
    "the alphabet",
    "democracy",
    "coral reefs",
    "tea",
    "knitting",
    "the stock market",
    "black holes",
    "whales",
    "marathon running",
    "origami",
    "rainbows",
    "the Silk Road",
    "sleep",
    "maps",
    "penguins",
    "the violin",
    "compost",
    "algebra",
    "lighthouses",
    "kindness",
]
SMALL_TALK = [
    "Hello!",
    "Hi, how are you?",
    "Good morning!",
    "Thanks, that helped a lot.",
    "Who are you?",
    "What can you do?",
    "Tell me a joke.",
    "I had a bad day.",
    "I'm bored.",
    "What should I cook tonight?",
    "Do you like music?",
    "Can you keep a secret?",
    "Give me a name for my cat.",
    "I feel tired.",
    "What's your favourite colour?",
    "Any tips for a job interview?",
    "How do I apologise to a friend?",
    "What should I read next?",
    "Help me say no politely.",
    "Wish me luck!",
]


def definition(name: str) -> dict:
    """One of TOOLS as an OpenAI tool."""
    description, arguments, *_ = TOOLS[name]
    properties = {argument: {"type": kind, "description": what} for argument, (kind, what, _) in arguments.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": list(arguments)},
        },
    }


def tool_rows(count: int, seed: int) -> list[dict]:
    """`count` different rows; every second round over the tools goes on with the result and the answer.

    Raises ValueError when the parts do not give so many different requests.
    """
    rng = random.Random(f"smol requests {seed}")
    rows, seen, repeated = [], set(), 0
    while len(rows) < count:
        name = list(TOOLS)[len(rows) % len(TOOLS)]
        _, arguments, wordings, result, answer = TOOLS[name]
        drawn = {source: draw(rng) for source, draw in DRAW.items()}
        values = {argument: drawn[source] for argument, (_, _, source) in arguments.items()}
        request = rng.choice(wordings).format(**values)
        if request in seen:
            repeated += 1
            if repeated > 2000:
                raise ValueError(f"{len(rows)} different requests, {count} were asked for")
            continue
        repeated = 0
        seen.add(request)
        messages = [
            {"role": "user", "content": request},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": name, "arguments": values}}],
            },
        ]
        if len(rows) // len(TOOLS) % 2:
            filled = {
                key: drawn[value[1:-1]] if isinstance(value, str) and value[:1] == "{" else value
                for key, value in result.items()
            }
            messages += [
                {"role": "tool", "content": json.dumps(filled)},
                {"role": "assistant", "content": answer.format(**{**drawn, **values})},
            ]
        rows.append({"id": f"own/{len(rows)}", "source": "own", "tools": [definition(name)], "messages": messages})
    return rows


def ordinary_prompts() -> list[str]:
    """Questions that need no tool, all different, in a fixed order that mixes kinds and topics."""
    composed = [
        question.format(topic)
        for i in range(len(QUESTIONS))
        for j, topic in enumerate(TOPICS)
        if (question := QUESTIONS[(i + j) % len(QUESTIONS)])
    ]
    return SMALL_TALK + composed
