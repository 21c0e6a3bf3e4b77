"""Requests that need no tool, with their answers: explanations, small talk, hard negatives.

A hard negative names a command, a file or a page and asks for words only ("explain `ls -la`, don't
run it"). The tiny model learns to answer those in a sentence of text and to leave the tools alone.
"""

import random

from kxl.tiny import arguments
from kxl.tiny.wording import ask, either, expand, fill, question, quoted
from kxl.tiny.words import invent_word, pick_word

COMMANDS = {
    "ls": "lists the files in a folder", "ls -l": "lists files with sizes, owners and dates", "ls -a": "lists all files, hidden ones too",
    "ls -la": "lists all files, hidden ones too, with details", "ls -lh": "lists files with sizes that people can read",
    "pwd": "prints the current folder", "cd": "changes the current folder", "cat": "prints the content of a file", "cp": "copies files",
    "mv": "moves or renames files", "rm": "deletes files", "rm -r": "deletes a folder and all that is in it", "rm -rf": "deletes a folder without asking, so it is dangerous",
    "mkdir": "makes a folder", "mkdir -p": "makes a folder with its parents", "rmdir": "removes an empty folder", "touch": "makes an empty file or updates its date",
    "grep": "searches text for a pattern", "grep -r": "searches all files of a folder for a pattern", "find": "searches for files by name or date", "head": "prints the first lines of a file",
    "tail": "prints the last lines of a file", "tail -f": "follows a file while it grows", "wc -l": "counts lines", "sort": "sorts lines", "uniq": "drops repeated lines",
    "diff": "shows how two files differ", "chmod": "changes file permissions", "chmod +x": "makes a file executable", "chmod 777": "lets everybody read and write a file, which is risky", "chown": "changes the owner of a file",
    "ps": "lists processes", "ps aux": "lists all running processes", "top": "shows running processes live", "kill": "ends a process", "kill -9": "ends a process at once, without clean-up",
    "df -h": "shows free disk space", "du -sh": "shows how big a folder is", "free -h": "shows free memory", "uname -a": "prints the kernel and system", "whoami": "prints your user name",
    "date": "prints the date and time", "uptime": "shows how long the machine has been running", "echo": "prints its arguments", "env": "prints the environment variables", "export": "sets an environment variable",
    "ssh": "opens a shell on another machine", "scp": "copies files between machines", "curl": "fetches a URL", "wget": "downloads a URL to a file", "ping": "checks whether a host answers",
    "tar": "packs and unpacks archives", "zip": "packs files into an archive", "unzip": "unpacks an archive", "sed": "edits text line by line", "awk": "processes text column by column",
    "xargs": "turns lines into arguments", "man": "shows a manual page", "which": "tells where a program lies", "sudo": "runs a command as the administrator", "apt": "installs Debian packages",
    "git status": "shows what has changed in the work tree", "git add": "stages changes", "git commit": "records staged changes", "git push": "sends commits to the remote", "git pull": "fetches and merges remote commits",
    "git fetch": "gets remote commits without merging", "git merge": "joins another branch into this one", "git rebase": "replays commits on top of another branch", "git diff": "shows unstaged changes", "git log": "lists the commits",
    "git clone": "copies a repository", "git stash": "puts changes aside", "git branch": "lists branches", "git checkout": "switches branches or restores files", "git reset --hard": "throws local changes away",
    "pip install": "installs Python packages", "npm install": "installs Node packages", "docker ps": "lists running containers", "docker build": "builds an image", "docker compose up": "starts the services of a project",
    "make": "builds what a Makefile describes", "pytest": "runs Python tests", "cron": "runs commands at set times", "systemctl": "controls system services", "python3": "runs Python programs",
}  # fmt: skip

NO_ACTION = [
    "don't run it", "do not run it", "dont run it", "without running it", "don't execute anything", "do not execute it", "no need to run it", "no need to run anything",
    "just explain", "only explain", "just answer", "words only", "only in words", "don't use any tools", "no tools please", "without using tools", "just tell me", "don't touch anything",
    "don't actually run it", "please don't run it", "in theory only", "do not touch my files", "don't do it", "just in the chat",
]  # fmt: skip
EXPLAIN = [
    "(explain|describe|tell me|say) (what|to me what) {c} (does|means|is for|would do)", "what does {c} (do|mean|stand for)?", "(explain|describe) (the|) {c} (command|)( to me| in one sentence| briefly|)",
    "what (is|'s) {c} (used for|for|good for)?", "what (would|will) happen if (i|you|we|someone) (ran|run|typed|executed) {c}?", "(teach|tell) me (about|how to use) {c}", "how (do|would|should) (i|you|we) use {c}?",
    "(is|isn't) {c} (dangerous|safe|risky|harmless|slow|a good idea)?", "(should i|when should i|why would i|when would i) (use|run) {c}?", "i (saw|read about|found) {c} in a (tutorial|script|book|blog)(,|.) what does it (do|mean)?",
]  # fmt: skip
COMPARE = ["(what('s| is) the difference|explain the difference|tell me the difference) between {c} and {d}", "(how|in what way) (does|is) {c} (differ|different) from {d}?", "{c} (or|versus|vs) {d}(, which is better|, what is the difference|: which one should i use|)?", "compare {c} (and|with|to) {d}( for me| in words|)"]  # fmt: skip
NEGATED = {
    "run": ["(don't|do not|dont|please don't|never) (run|execute|start) {c}(, i (only|just) (asked|want to know what it means|am thinking aloud)| (yet|now|today)|, wait for my word|)", "(never mind|forget it|stop|wait)(,|:) (don't|do not|no need to) run {c}", "i (already|just) ran {c}(, (thanks|all good|it worked)| (myself|yesterday)|)", "(who|what kind of person|why) (wrote|invented|made|uses) {c}?", "(is|was) {c} a (good|common|typical) command (for beginners|on linux|)?", "how (do|would) i (spell|pronounce|remember) {c}?"],
    "open": ["(don't|do not|dont) (open|visit|load|go to) {u}(, (i only asked|just tell me what it is|just guess what it is|it may be unsafe)|)", "(is|does) {u} (a valid url|look like a real address|look safe to you|a well-formed link)?( (just answer|don't open it)|)", "what (do you think|would you guess|might) (is|be) (on|at) {u}?( (don't open it|do not visit it|no need to open it)|)", "(don't|do not) (open|visit) it, but what is {u} (for|about|used for)?", "i (bookmarked|visited|already opened) {u} (yesterday|earlier|this morning|already)(, thanks|)"],
    "read": ["(don't|do not|dont) (read|open|touch|show) {p}(, (i will do it|leave it alone|it is private)| (yet|now)|)", "what (kind of|sort of) file is {p} (usually|normally|likely)?( (don't open it|just guess)|)", "how (would|do|can) i (read|open|load|parse) {p} (in|with|from) (python|bash|javascript|rust|go)?( (don't|do not) (read|open) it(| now)| just explain|)", "(is|would) {p} (a good|be a good|a sensible) (name|path) for a (config|log|notes|test) file?", "i (already|just) (read|edited|deleted|fixed) {p}(, thanks| myself|)"],
    "write": ["how (would|do|can) i (write|save|append) (text|data|a line|json) (to|into) a file (in|with|from) (python|bash|javascript|rust|go)?( (don't|do not) (write|create|touch) (anything|any files)(| now)| just explain|)", "(don't|do not) (write|create|save|change) {p}(, (i only wanted your opinion|let me think first)| yet|)", "(what|which) (would be|is) a good name for a file (about|on|for) {w}?( (don't create it|just suggest)|)"],
    "search": ["how (do|would|can) i search (a repo|files|code|my notes) for {q} (by hand|myself|with grep|on windows|)?( (don't|do not) (search|run anything)| just explain|)", "what does (the name|the word|) {q} (suggest|mean|make you think of)?( (don't|do not|no need to) search(| for it)|)", "(don't|do not) (search|look) for {q}(, (i found it|i know where it is)| (yet|now)|)"],
}  # fmt: skip
SMALL_TALK = [
    (["(hi|hello|hey|good morning|good evening|yo|greetings|hi there|hello there|hey there)(| hermes| friend)(|!|.)"], ["Hello! What can I do for you?", "Hi! How can I help?"]),
    (["how are you( doing| today| feeling|)(| today)?", "(hi|hey|hello)(,|) (how are you|how is it going|how's it going|what's up)( today|)?", "how('s| is) (it going|life|your day|everything)?", "are you (ok|okay|well|fine)( today|)?"], ["I am fine, thank you. What shall we do?", "All is well here. How can I help?"]),
    (["(thanks|thank you|thx|cheers|many thanks)(| so much| a lot| very much)(|!|.)", "(thanks|thank you|great|nice|perfect)(,|) (that|this) (was|is) (really|very|so|) (helpful|great|useful|nice|good)(|!|.)", "(great|good|nice|excellent|awesome) (job|work|answer)(|!|.)", "(that|it) (worked|helped|did it)(|, thanks)(|!|.)"], ["You are welcome!", "Glad to help."]),
    (["(bye|goodbye|see you|see you later|good night|talk to you later|that's all( for today|))(|!|.)", "(i am|i'm) done (for today|now|here)(|, thanks)"], ["Goodbye!", "See you next time."]),
    (["(who|what) are you?", "what('s| is) your name?", "(tell me|say something) about yourself", "are you (a robot|a human|an ai|a person)?"], ["I am Hermes Agent, a small assistant that can use tools."]),
    (["what (can|do) you do( for me|)?", "(what|which) (things|kinds of things|sort of things|tasks) can you (do|help with|help me with|handle)?", "how can you help( me|)?", "what are you (able to do|good at|capable of)?", "(list|describe|name) your (abilities|skills|tools|features)", "(which|what) tools do you have?"], ["I can run shell commands, read, write and search files, and open web pages."]),
    (["(tell me|do you know) a (joke|good joke|funny story|riddle)( about {w}|)(|?)", "make me laugh"], ["Why did the file cross the folder? To get to the other side.", "I told my disk a joke, but it had no space for it."]),
    (["(write|compose|make|give) me a (short|little|) (haiku|poem|verse|rhyme) (about|on|for) (the|) {w}(, only here in the chat|, just in chat|, here in the chat| right here|)"], ["Quiet {w} today,\na small light upon the hill,\nand the wind goes home.", "Here is {w}, so still,\nmorning comes without a sound,\nand the day begins."]),
    (["(i am|i'm|i feel) (tired|happy|sad|bored|busy|hungry|excited)( today| now|)"], ["Thank you for telling me. I am here if you need something."]),
    (["(what do you think of|do you like|what's your opinion on) {w}?"], ["I have no strong opinion on {w}, but I like to hear yours."]),
    (["(say|repeat|write|answer with|reply with|echo back) (the word|the words|just|only|exactly|) {q}(, nothing else| and nothing else| in the chat|)", "repeat after me(:|,) {q}"], ["{q_bare}"]),
    (["how (do|would) you spell {w}?"], ["It is spelled {w}."]),
]  # fmt: skip
FACTS = {
    "(what is|what's) the capital of france?": "The capital of France is Paris.", "(what is|what's) the capital of italy?": "The capital of Italy is Rome.",
    "how many (days are in|days has) a week?": "A week has seven days.", "(what is|what's) (two plus two|2+2|2 plus 2)?": "Two plus two is four.",
    "(what does|what is) http (status|code|status code|error) 404( mean|)?": "404 means that the page was not found.", "(what does|what is) http (status|code|status code|error) 500( mean|)?": "500 means that the server had an error.",
    "(what does|what is) http (status|code|status code|error) 200( mean|)?": "200 means that the request worked.", "(what does|what is) http (status|code|status code) (301|302)( mean|)?": "It is a redirect to another address.",
    "(what does|what is) http (status|code|status code|error) (403|401)( mean|)?": "It means that access was refused.", "(what does|what is) exit code 0( mean|)?": "Exit code 0 means success.",
    "(what does|what is) exit code (1|2|127)( mean|)?": "It means that the command failed.", "what (is|'s) (python|rust|go|javascript|java)( used for|)?": "It is a programming language.",
    "what (is|'s) a (makefile|dockerfile|readme|config file|log file)?": "It is a text file that belongs to a project.", "what (is|'s) (git|version control)( good for|)?": "Git records the history of files.",
    "what (is|'s) a (url|link|domain|web page)?": "It is how one finds something on the web.", "what (is|'s) (json|yaml|toml|xml|csv)?": "It is a text format for data.",
    "what (is|'s) (a shell|bash|a terminal|the command line)?": "It is where one types commands.", "what (is|'s) an (api|endpoint)?": "It is how programs talk to each other.",
    "what (is|'s) a (container|virtual machine|docker image)?": "It runs programs apart from the rest of the machine.", "what (is|'s) (a regex|a regular expression|a glob)?": "It is a pattern that matches text.",
    "what colou?r is the (sky|sea)?": "It is blue.", "how many (legs|eyes) does a (cat|dog|horse) have?": "More than one: cats, dogs and horses have four legs and two eyes.",
    "(who|which person) wrote (hamlet|romeo and juliet)?": "William Shakespeare wrote it.", "what('s| is) (the boiling point of water|the temperature of boiling water)?": "Water boils at 100 degrees Celsius.",
    "(why|how come) is the sky blue?": "Air scatters blue light the most.", "what('s| is) (machine learning|a neural network|a language model)?": "It is software that learns from examples.",
}  # fmt: skip


def _with_no_action(rng: random.Random, text: str, needed: bool) -> str:
    if not needed and rng.random() < 0.4:
        return text
    note = rng.choice(NO_ACTION)
    return f"{text.rstrip('.')}{rng.choice((', ', '. ', ' - ', ', but ', '; ')) if not text.endswith('?') else ' '}{note if rng.random() < 0.6 else note.capitalize()}{rng.choice(('', '.'))}"


def explanation(rng: random.Random, heldout: bool) -> tuple[str, str]:
    """A request to explain a command, and one sentence that does."""
    known = rng.random() < 0.6 and not heldout
    command = rng.choice(list(COMMANDS)) if known else arguments.command(rng, heldout)
    text = either(
        rng, [f for f in EXPLAIN if "?" not in f], [f for f in EXPLAIN if "?" in f], 0.5, c=quoted(rng, command, 0.4)
    )
    text = _with_no_action(rng, text, needed=not known)
    if known:
        return text, f"`{command}` {COMMANDS[command]}. I have not run it."
    words = command.split()
    for name in (" ".join(words[:2]), words[0]):
        if name in COMMANDS:
            return text, f"`{name}` {COMMANDS[name]}. I have not run it."
    return text, f"`{command}` is a shell command. I have not run it."


def comparison(rng: random.Random) -> tuple[str, str]:
    """A request to compare two commands, and what each does."""
    c, d = rng.sample(list(COMMANDS), 2)
    bare = rng.choice((0.0, 1.0))
    text = either(
        rng,
        [f for f in COMPARE if "?" not in f],
        [f for f in COMPARE if "?" in f],
        0.5,
        c=quoted(rng, c, bare),
        d=quoted(rng, d, bare),
    )
    return _with_no_action(rng, text, needed=False), f"`{c}` {COMMANDS[c]}; `{d}` {COMMANDS[d]}."


def negated(rng: random.Random, heldout: bool) -> tuple[str, str]:
    """A request that names something one could act on, and asks not to."""
    kind = rng.choice(list(NEGATED))
    slots = {
        "c": quoted(rng, arguments.command(rng, heldout), 0.4), "u": arguments.url(rng, heldout) if rng.random() < 0.7 else arguments.domain(rng, heldout),
        "p": quoted(rng, arguments.path(rng, heldout), 0.8), "q": quoted(rng, arguments.code_name(rng, heldout), 0.5), "w": pick_word(rng, heldout),
    }  # fmt: skip
    text = question(rng, rng.choice(NEGATED[kind]), **slots)
    answer = {
        "run": "All right, I have not run it.", "open": "I have not opened it, so I can only guess: it is a web address.",
        "read": "I have not opened the file. In code one opens a file by its path and reads its text.",
        "write": "I have not written anything. In code one opens a file for writing and puts the text in.",
        "search": "I have not searched. One can use grep with the text and a folder.",
    }[kind]  # fmt: skip
    return text, answer


def small_talk(rng: random.Random, heldout: bool) -> tuple[str, str]:
    """A greeting, thanks, a request to repeat words: something with no task in it."""
    forms, answers = rng.choice(SMALL_TALK)
    words = " ".join(pick_word(rng, heldout) for _ in range(rng.randint(1, 5)))
    slots = {"w": pick_word(rng, heldout), "q": quoted(rng, words, 0.5), "q_bare": words}
    form = rng.choice(forms)
    text = (
        question(rng, form, **slots)
        if rng.random() < 0.6
        else ask(rng, form, **slots)
        if "{" in form
        else fill(expand(rng, form), slots)
    )
    return text, fill(rng.choice(answers), slots)


def fact(rng: random.Random) -> tuple[str, str]:
    """A small question of general knowledge."""
    form, answer = rng.choice(list(FACTS.items()))
    return _with_no_action(rng, question(rng, form), needed=False) if rng.random() < 0.3 else question(
        rng, form
    ), answer


def repeat(rng: random.Random, heldout: bool) -> tuple[str, str]:
    """Words to say back exactly: practice in copying, with no tool."""
    kind = rng.random()
    if kind < 0.5:
        text = " ".join(pick_word(rng, heldout, 0.7) for _ in range(rng.randint(1, 8)))
    elif kind < 0.7:
        text = arguments.path(rng, heldout)
    elif kind < 0.85:
        text = arguments.command(rng, heldout)
    else:
        text = " ".join(invent_word(rng) + str(rng.randrange(1000)) for _ in range(rng.randint(1, 4)))
    return f"{rng.choice(('Repeat', 'repeat', 'Say', 'say', 'Copy this', 'Write in the chat'))}: {text}", text


def no_tool(rng: random.Random, heldout: bool = False) -> tuple[str, str]:
    """One request that no tool is needed for, and its answer."""
    kind = rng.random()
    if kind < 0.3:
        return explanation(rng, heldout)
    if kind < 0.4:
        return comparison(rng)
    if kind < 0.62:
        return negated(rng, heldout)
    if kind < 0.8:
        return small_talk(rng, heldout)
    if kind < 0.9:
        return fact(rng)
    return repeat(rng, heldout)
