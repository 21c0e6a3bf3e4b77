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
