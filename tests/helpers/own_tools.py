"""A stranger's own tools and a suite of theirs, as the documentation shows one."""


def _tool(name, description, required, **properties):
    parameters = {"type": "object", "required": required, "properties": properties}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    _tool(
        "get_weather",
        "Get the weather of a city.",
        ["city"],
        city={"type": "string", "description": "name of the city"},
        unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
    ),
    _tool(
        "book_table",
        "Book a table at a restaurant.",
        ["restaurant", "people"],
        restaurant={"type": "string"},
        people={"type": "integer", "minimum": 1, "maximum": 12},
        time={"type": "string", "description": "HH:MM"},
    ),
    _tool(
        "send_message",
        "Send a text message to somebody.",
        ["recipient", "text"],
        recipient={"type": "string", "format": "email"},
        text={"type": "string"},
    ),
]


def _call(number, prompt, name, **arguments):
    rules = {key: {"exact": value} for key, value in arguments.items()}
    calls = [{"name": name, "arguments": rules}]
    return {"id": f"{name}_{number}", "kind": "tool_call", "category": name, "prompt": prompt, "calls": calls}


CASES = [
    _call(1, "What is the weather in Lisbon?", "get_weather", city="Lisbon"),
    _call(2, "weather of Oslo please", "get_weather", city="Oslo"),
    _call(1, "Book a table for 4 at Luigi", "book_table", restaurant="Luigi", people=4),
    _call(
        1, "Send ann@home.org the message: see you soon", "send_message", recipient="ann@home.org", text="see you soon"
    ),
    {"id": "greeting", "kind": "no_tool", "category": "no_tool", "prompt": "Good evening, how are you?"},
]
SUITE = {"name": "own", "tools": TOOLS, "system": "You are a helpful assistant.", "max_tokens": 128, "cases": CASES}

# What people of theirs wrote, with the calls that were right: no value and no wording of a case.
REQUESTS = [
    ("Will I need an umbrella in Hamburg?", "get_weather", {"city": "Hamburg"}),
    ("how warm is Nairobi right now", "get_weather", {"city": "Nairobi"}),
    ("Is it snowing in Tromsø?", "get_weather", {"city": "Tromsø"}),
    (
        "I fly to Denver tomorrow, tell me the weather there in fahrenheit",
        "get_weather",
        {"city": "Denver", "unit": "fahrenheit"},
    ),
    ("weather Lima", "get_weather", {"city": "Lima"}),
    ("Please check the weather for Kyoto.", "get_weather", {"city": "Kyoto"}),
    ("Hot or cold in Cairo today? Celsius please.", "get_weather", {"city": "Cairo", "unit": "celsius"}),
    ("What's it like outside in Dublin?", "get_weather", {"city": "Dublin"}),
    ("Turin: rain or sun?", "get_weather", {"city": "Turin"}),
    ("My sister lives in Perth. What weather does she have?", "get_weather", {"city": "Perth"}),
    ("give me the temperature in Boston in celsius", "get_weather", {"city": "Boston", "unit": "celsius"}),
    ("Could you look up the weather in Zagreb for me?", "get_weather", {"city": "Zagreb"}),
    ("what is the forecast for Quito", "get_weather", {"city": "Quito"}),
    ("I want to know about the weather in Malmö", "get_weather", {"city": "Malmö"}),
    ("Tell me the weather of Porto, please", "get_weather", {"city": "Porto"}),
    ("does the sun shine in Athens", "get_weather", {"city": "Athens"}),
    ("We are 6 and want to eat at Roma", "book_table", {"restaurant": "Roma", "people": 6}),
    ("Reserve a table at Sakura for two people", "book_table", {"restaurant": "Sakura", "people": 2}),
    ("table for 3, Bella Vista, 19:30", "book_table", {"restaurant": "Bella Vista", "people": 3, "time": "19:30"}),
    (
        "Please book Old Mill for 8 people at 20:00.",
        "book_table",
        {"restaurant": "Old Mill", "people": 8, "time": "20:00"},
    ),
    ("I need a table for 5 at Goa", "book_table", {"restaurant": "Goa", "people": 5}),
    ("Get us a table at Chez Anne, we come with 7", "book_table", {"restaurant": "Chez Anne", "people": 7}),
    ("dinner for 2 at Atlas please", "book_table", {"restaurant": "Atlas", "people": 2}),
    ("Can you reserve Lotus for 10 of us?", "book_table", {"restaurant": "Lotus", "people": 10}),
    ("book me a seat at Corner, just 1 person", "book_table", {"restaurant": "Corner", "people": 1}),
    (
        "At 18:15 we would like to eat at Dorado, 4 people",
        "book_table",
        {"restaurant": "Dorado", "people": 4, "time": "18:15"},
    ),
    ("Reserve 9 places at Kantine", "book_table", {"restaurant": "Kantine", "people": 9}),
    ("Book Harbour for 12", "book_table", {"restaurant": "Harbour", "people": 12}),
    ("A table at Nonna, please. We are 3.", "book_table", {"restaurant": "Nonna", "people": 3}),
    ("I'd like to book at Peking for 6 people", "book_table", {"restaurant": "Peking", "people": 6}),
    ("restaurant Fuji, 4 persons, 21:00", "book_table", {"restaurant": "Fuji", "people": 4, "time": "21:00"}),
    ("Make a reservation for 11 at Tivoli", "book_table", {"restaurant": "Tivoli", "people": 11}),
    (
        "Write to bob@mail.net: the key is under the mat",
        "send_message",
        {"recipient": "bob@mail.net", "text": "the key is under the mat"},
    ),
    ("tell eva@work.com that I am late", "send_message", {"recipient": "eva@work.com", "text": "I am late"}),
    ("Text 'happy birthday' to max@post.de", "send_message", {"recipient": "max@post.de", "text": "happy birthday"}),
    (
        "message for ina@uni.edu: bring the red folder",
        "send_message",
        {"recipient": "ina@uni.edu", "text": "bring the red folder"},
    ),
    (
        "Please let tom@shop.io know: order 12 is ready",
        "send_message",
        {"recipient": "tom@shop.io", "text": "order 12 is ready"},
    ),
    (
        "Send a message to leo@club.org: training starts at six",
        "send_message",
        {"recipient": "leo@club.org", "text": "training starts at six"},
    ),
    (
        "zoe@home.net should get this: call me back",
        "send_message",
        {"recipient": "zoe@home.net", "text": "call me back"},
    ),
    (
        "Drop kim@lab.org a line: samples arrived",
        "send_message",
        {"recipient": "kim@lab.org", "text": "samples arrived"},
    ),
    ("text pat@farm.eu: we have no milk", "send_message", {"recipient": "pat@farm.eu", "text": "we have no milk"}),
    ("I want to tell ron@team.dev: good job", "send_message", {"recipient": "ron@team.dev", "text": "good job"}),
    (
        "send lea@blue.org this text: dinner is ready",
        "send_message",
        {"recipient": "lea@blue.org", "text": "dinner is ready"},
    ),
    (
        "Inform jan@rail.cz with the words: train is cancelled",
        "send_message",
        {"recipient": "jan@rail.cz", "text": "train is cancelled"},
    ),
    ("Message to amy@city.gov: thanks a lot", "send_message", {"recipient": "amy@city.gov", "text": "thanks a lot"}),
    ("Write nik@star.space: where are you", "send_message", {"recipient": "nik@star.space", "text": "where are you"}),
    (
        "please send sam@north.is the message: ice is thin",
        "send_message",
        {"recipient": "sam@north.is", "text": "ice is thin"},
    ),
    ("Send uma@tea.in: kettle is on", "send_message", {"recipient": "uma@tea.in", "text": "kettle is on"}),
]


def rows() -> list[dict]:
    """REQUESTS as rows that a repair may add."""
    system = {"role": "system", "content": SUITE["system"]}
    return [
        {
            "messages": [
                system,
                {"role": "user", "content": text},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
                },
            ],
            "tools": TOOLS,
        }
        for text, name, arguments in REQUESTS
    ]
