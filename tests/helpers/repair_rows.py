"""A repair row: one tool, one request, one call."""

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}


def row(what):
    call = {"type": "function", "function": {"name": "look", "arguments": {"what": what}}}
    return {
        "messages": [
            {"role": "system", "content": "You are an agent that reads a file."},
            {"role": "user", "content": f"look at {what}"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
        "tools": [TOOL],
    }
