"""Messages of a row, as the chat template takes them."""


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(thought: str | None, content: str, *calls: dict) -> dict:
    """An assistant's message; each call {"name", "arguments"}."""
    message: dict = {"role": "assistant", "content": content}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return message


def tool(result: str) -> dict:
    return {"role": "tool", "content": result}
