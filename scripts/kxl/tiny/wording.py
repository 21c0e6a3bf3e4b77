"""How people ask: thousands of wordings per tool, composed of small parts.

A form is a string such as "(run|execute) {c} (in the terminal|)": alternatives in parentheses are
drawn at random (they nest), then the slots in braces are filled. Casing, punctuation and typing
slips are applied to the words around the slots, never to what has to be copied into an argument.
"""

import random
import re

INTERROGATIVE = ("are ", "do ", "does ", "is ", "how ", "which ", "what", "where ", "when ", "why ", "should ", "can ")

INNERMOST = re.compile(r"\(([^()]*)\)")
SLOT = re.compile(r"(\{\w+\})")

# Before and after an imperative core such as "run {c}". A question ends with its own mark.
OPENERS = [
    "", "", "", "", "please", "please", "(hey|hi|hello|yo|ok|okay|alright|so|now|next|first|again|also|right|good morning)(,|)",
    "(can|could|would|will) you (please|kindly|just|quickly|)", "(hey|hi|ok|so)(,|) (can|could) you (please|)",
    "i (need|want|would like) you to (please|)", "i'd (like|love) you to", "i (need|want) to", "go ahead and", "(let's|lets|let us)", "just",
    "(quickly|kindly|simply)", "for (my|the|our) (demo|report|notes|project|client|review|meeting)(,|)", "hermes(,|:|) (please|)",
    "(it is (now |)time to|you (should|can|may) (now|))", "(one more thing|quick one|next step|task|todo|new task)(:|,)", "when you (can|have time)(,|)",
    "(would you mind|do you mind)(, please|)", "(before we start|to begin|to start|after that|once you are ready)(,|)", "(thanks|great|perfect|nice|cool)(,|!|.) (now|next|)",
    "do me a favor(:| and|,)", "i am (busy|in a meeting|on my phone)(, so|,|:)",
]  # fmt: skip
CLOSERS = [
    "", "", "", "", "", "", ", please", ", thanks", ". thanks(!|)", ", thank you", ". thank you(.|!|)", "(, | )(will you|would you|can you|could you)",
    ". then (show|tell|give) me (the result|the output|what you get|what it says)", " and (show|tell|give) me the (result|output)",
    " and (report|summarize|explain) (the result|the output|its output|what you see)", ", (quickly|asap|right now|when you can)", ". i('ll| will) wait",
    ". (i need|we need) (it|this|that) (today|now|for the demo|for a report)", " and let me know (what happens|how it goes|the result|)", "(, it's|, its| - it's) (urgent|important)",
]  # fmt: skip
CASUAL_ENDS = [
    " (pls|plz|please)",
    " (for me|real quick|quick|now|right now|again)",
    " (thx|ty|thanks|cheers)",
    " (for me|) (pls|please|thanks)",
]

RUN = [
    "(run|execute|exec|try|do|launch|start|issue|perform|invoke|fire off|kick off) {q}",
    "(run|execute|exec|launch|try|do) (a|an|the|) {q} (in|from|on|using|with|via) (the|a|your|my|) (terminal|shell|bash|console|command line|terminal tool|command prompt)",
    "(in|from|on|using|with|via) (the|a|your|) (terminal|shell|bash|console|command line|terminal tool)(,|:|) (run|execute|do|type|enter|start|try|please run) (this|the following|)(:|) {q}",
    "use (the|your|) (terminal|shell|bash|command line|terminal tool) (to run|to execute|for|and run|to do|and execute|:|to run this:|to run:|to launch) {q}",
    "(run|execute|exec|try) (this|the|the following|a|one|) (shell|terminal|bash|)(command|line|one-liner|thing)(:|) {q}",
    "(type|enter|put|paste) {q} (into|in) (the|a|) (terminal|shell|console|prompt)",
    "(run|execute) (the command|this command|command|the shell command) {q} (in the terminal|from shell|here|on this machine|on my machine|)",
    "{b} (in|from) (the|a|my|) (terminal|shell|bash|console)", "(terminal|shell|bash|run|exec|cmd|command)(:|: | ->) {q}", "{b}(, run (it|that)| (please|pls)|, in the terminal| <- run (this|that)|)",
    "(check|see|show me|give me|tell me|get|i want|i need) (the output of|what comes out of|the result of|what you get from) {b}", "(have|give) {b} a (go|try|run|spin) (in the shell|in the terminal|)",
]  # fmt: skip
RUN_QUESTIONS = [
    "what (does|would|will) {b} (print|output|show|say|return|give)? (run it|execute it|try it|run it and see|please run it|check in the terminal)",
    "what('s| is) the output of {b} (here|on this machine|right now|)?", "what do (you|we) get (from|with|when you run) {b} (here|)?",
]  # fmt: skip

# Requests that name no command: (command, wordings).
TASKS = {
    "pwd": [
        "(where am i|where are we|which (folder|directory) (are we|am i) in|what('s| is) (the|my|our) (current|working|present) (directory|folder|dir|path))( right now| now|)?( (do|run) (a|) pwd( in (the|) terminal|)|)",
        "(print|show|tell|give) me (the|my) (current|working) (directory|folder|path|dir)", "(print|show|get) the (current|working|current working) (directory|folder)"],
    "ls": [
        "list (the|all the|all|) files (here|in here|in this (folder|directory)|in the current (folder|directory)|in cwd) (from|in|with|using|via) (the|) (shell|terminal|command line|console)",
        "(show|list|give me|print) (the|) (files|contents|content) (of|in) (this|the current) (folder|directory|dir)(, using the (terminal|shell)| (with|using|in|from) (the|) (terminal|shell)|)",
        "(what|which) files (are|do we have) (here|in here|in this folder|in this directory)(, use the (shell|terminal)|)?", "list files( here|) (from|in|via) (the|) (shell|terminal)", "list the (directory|folder)( contents|) (from|in) (the|) (shell|terminal)"],
    "ls -la": [
        "(list|show) (all|) files (here|) (including|with|and also|plus) (the|) hidden (ones|files)( (from|in) (the|) (shell|terminal)|)", "(show|list) (all the|the) hidden files( here| in this folder|)( (from|in) (the|) (shell|terminal)|)",
        "(show|list) (the|all) files (here|) with (details|permissions|sizes and dates)( (from|in) (the|) (shell|terminal)|)"],
    "date": ["what('s| is) (the|today's) (date|time)( now| today| right now|)?( (use|check|ask) the (shell|terminal)|)", "(print|show|get|check|tell me) the (current|system|) (date|time|date and time)( (in|from|using) the (shell|terminal)|)"],
    "whoami": ["(who am i|which user (am i|are you|is this)|what('s| is) my (user name|username|login))( logged in as| here| on this machine|)?", "(print|show|check|tell me) (the|my) (user name|username|current user)"],
    "df -h": ["how much (free|) (disk|) space (is|do we have|do i have|is there) (left|free|available|)( on (this|my) (machine|disk|box)|)?", "(check|show|print|tell me) (the|) (disk usage|disk space|free disk space|space left on disk)"],
    "free -h": ["how much (memory|ram) (is|do we have|do i have) (free|left|available|)( on this machine|)?", "(check|show|print) (the|) (memory usage|free memory|ram usage|memory)"],
    "nproc": ["how many (cpus|cpu cores|cores|processors) (does this machine have|are there|do we have|do i have)?", "(count|print|show) the (cpu cores|cpus|cores)"],
    "uptime": ["how long has (this machine|the system|the server|this box) been (up|running)?", "(show|check|print) the uptime"],
    "uname -a": ["(which|what) (kernel|kernel version|operating system|os) (is this|are we on|is running)?", "(show|print|check) the (kernel version|system information|kernel)"],
    "hostname": ["what('s| is) (the|this machine's) (hostname|host name|name of this machine)?", "(print|show|get) the (hostname|host name)"],
    "env": ["(show|print|list|dump) (all|the|all the) environment variables", "which environment variables are set?"],
    "ps aux": ["(list|show) (all|the) running processes", "(what|which) processes are running( right now|)?"],
    "git status": ["what('s| is) the git status( of this repo|)?", "(are there|do we have|any) uncommitted changes?", "(check|show) (the|) git status( of this repo| here|)", "did i (change|modify) anything in (git|this repo)?"],
    "git log --oneline": ["(show|list|print) (the|me the|) (recent|last|latest|) (git|) commits( in one line each| briefly|)", "(show|print) the (short|) git (history|log)"],
    "git diff": ["(show|print) (me|) (the|my) (unstaged|current|local|git) (changes|diff)", "what (did i change|changed) since the last commit?"],
    "git branch": ["(which|what) (git|) branch (am i|are we) on?", "(list|show) (the|all|) (git|local) branches"],
    "pytest": ["(run|execute|start) (the|all|all the|our) (tests|unit tests|test suite)", "do the tests pass?"],
    "make": ["(build|compile) (the|this) (project|code|program) (with|using) make"],
    "python3 --version": ["(which|what) (version of python|python version) (do we have|is installed|is this)?", "(check|print|show) the python version"],
    "pip list": ["(list|show|print) (the|all|) installed (python|pip) packages"],
}  # fmt: skip
# The same with one argument: (pattern of the command, wordings).
TASKS_WITH = [
    ("mkdir {p}", "d", "(make|create|add) (a|the|) (new|) (folder|directory|dir) (called|named|) {p}( here| in the terminal|)"),
    ("rm {p}", "f", "(delete|remove|erase) (the|) file {p}( (in|from) the (terminal|shell)|)"),
    ("wc -l {p}", "f", "(count the lines (in|of)|how many lines (does|are in|has)|give me the line count of) {p}"),
    ("du -sh {p}", "d", "how (big|large) is (the|) (folder|directory) {p}"),
    ("chmod +x {p}", "f", "make {p} executable"),
    ("python3 {p}", "py", "(run|execute|start|launch) (the|my|this|) (python|) (script|program|file) {p}"),
    ("bash {p}", "sh", "(run|execute|start|launch) (the|my|this|) (shell|bash|) script {p}"),
    ("pip install {p}", "w", "(install|add) (the|) (python|pip) package {p}"),
    ("npm install {p}", "w", "(install|add) {p} (with|using|via) npm"),
    ("ls {p}", "d", "(list|show) (the|all|) files (in|inside|under) (the|) (folder|directory) {p} (in|from|with|using) the (shell|terminal)"),
]  # fmt: skip

READ = [
    "(read|open|show|display|view|print|cat|get|fetch|load|inspect|check|look at|take a look at|open up|pull up) (the|my|our|) (file|contents of|content of|text of|text in|) {p}",
    "(show|give|tell|read|display) (me|us) (the contents of|the content of|what is in|what's in|whats in|what's inside|the text in|everything in|) (the file|the|) {p}",
    "(open|open up|read|load) {p} and (tell me what's in (it|there)|show me what it says|summarize it|show it to me|tell me whats in there|print it|tell me what you see)",
    "(have|take) a look (at|into|inside) (the file|) {p}", "i (need|want|would like) to (see|read|know|check) (what is in|what's in|the contents of|) (the file|) {p}", "(contents|content) of {p}", "cat {p}",
    "use (the|your|) (read_file|file reading|file) tool (to open|on|for|to read) {p}",
]  # fmt: skip
READ_QUESTIONS = [
    "(what does|what's in|what is in|whats in|what is written in|what do we have in|what's inside) (the file|the|my|) {p} (say|contain|)?( (read|open|check|look at) it( please| for me|)|)",
    "what (does|do) {p} (say|contain|hold|look like)?( (read|open) it(, please| please| for me|)|)", "can i see {p}?", "whats in (the|) {p}( file|)", "what('s| is) in (the|) {p}( file|)?",
]  # fmt: skip
READ_LIMIT = ["(read|show|print|display|give me|get) (me|) (only|just|) the first {n} lines (of|from|in) (the file|) {p}", "(read|show|print) {n} lines (of|from) {p}", "(read|show me) {p}, (only|just|but only|limit to|no more than) (the first|) {n} lines", "(what are|show) the (top|first) {n} lines of {p}"]  # fmt: skip
READ_OFFSET = [
    "(read|show|print|display|open) (the file|) {p} (from|starting at|starting from|beginning at|start at) line {n}( on| onwards|)"
]
READ_BOTH = [
    "(read|show|print|display) {n} lines (of|from|in) {p} (from|starting at|starting from|beginning at) line {m}",
    "(read|show) {p} from line {m}, {n} lines",
]

IN = "(in|under|inside|within|across) (the|) {d}( (directory|folder|dir)|)"
SEARCH = [
    "(search|grep|look|scan|check) (the (repo|project|code|codebase|files|source|repository|workspace)|this (repo|project|codebase|folder)|our code|my files|everything|all files|) for (the (string|word|text|name|term|phrase|pattern|symbol)|) {q}",
    "(find|locate|search|grep|search for|look for|look up|list) (all|every|all the|any|) (occurrences of|uses of|usages of|mentions of|references to|matches for|places with|lines with|) {q} (in (the|this|our) (code|repo|project|codebase|repository|files)|here|)",
    "(find|show me|tell me|check) (where|which files|what files) (use|mention|contain|have|define|reference) {q}", "(grep|search) {q}( here| in this repo|)", "(grep|search) (for|) {q}", "(find|figure out|tell me) where {q} is (used|defined|called|mentioned|set)", "use (the|your|) (search|search_files|file search) tool (to find|to look for|for|to search for) {q}",
]  # fmt: skip
SEARCH_QUESTIONS = ["where (is|do we use|do we call|do we define|does the code mention) {q} (used|defined|called|mentioned|) (in (this|the|our) (repo|project|code|codebase)|)?", "(which|what) (file|files) (mention|mentions|contain|contains|use|uses|define|defines) {q}?", "(is|does) {q} (used|appear|show up|mentioned) (anywhere|somewhere) (in (this|the) (repo|code|project)|)?"]  # fmt: skip
SEARCH_IN = [f"(search|grep|look|scan) (for|for the string|for the word|for the text) {{q}} {IN}", f"(find|locate|list|show) (all|every|) (occurrences of|uses of|mentions of|matches for|) {{q}} {IN}", "(search|grep|scan|look through|go through) (the|) {d}( (directory|folder)|) for (the word|the string|) {q}", f"where is {{q}} (used|defined|mentioned) {IN}", "(which|what) files (in|under) {d} (mention|contain|use) {q}"]  # fmt: skip
SEARCH_GLOB = [
    "(search|look|grep) (for|) {q} (only|) in {g} files( only|)",
    "(find|search for) {q} in (all|the|every|) {g} (files|file)",
    "in files (like|matching) {g}(,|) (search|look) for {q}",
]
COUNT = [
    "(count|tell me) how (often|many times) {q} (appears|is used|occurs|shows up) (in the (code|repo|project)|here|)",
    "count (the|all|) (occurrences|matches|uses) of {q}",
    "how (often|many times) (does|is) {q} (appear|used|occur)?",
]
FIND_FILES = ["(find|list|show|locate|search for|look for|get) (me|) (all|all the|every|any|the|) (files|file) (named|called|matching|like|with the name|that match|with name) {g}", "(find|list|show|get) (all|all the|every|) {g} (files|file)", "(are there|do we have) any {g} files?", "(find|which) files (match|are called|have names like) {g}", "is there a file (called|named|like) {g}"]  # fmt: skip
FIND_FILES_IN = [
    f"(find|list|show|locate|search for|get) (all|all the|every|any|the|) (files|file) (named|called|matching|like) {{g}} {IN}",
    f"(find|list|show|get) (all|all the|every|) {{g}} (files|file|) {IN}",
]

WRITE = [
    "(write|save|put|store) {t} (to|in|into|as) (the file|a file called|a file named|a new file|) {p}", "(save|store|write) (the text|this text|the line|the following text|this|the content|the words|) {t} (as|in|to|into|under) {p}",
    "(create|make|add|generate|write) (a|the|a new|) file (called|named|at|) {p} (with|containing|that says|that contains|with the text|with the content|saying|whose content is|with the line)(:|) {t}",
    "(create|make|write|add) (a|) {p} (with|containing|that says|that contains|saying|with the content|with the text)(:|) {t}", "(create|make|write) {p} with (the content|this content|this text|the text)(:|) {t}", "(make|create) (a|the|) {p} with {t} in it", "(create|make) (a|) (file|new file) {p} with {t} (in it|inside|as content|as its content)",
    "(in|into) (the file|a new file|) {p}(,|) (write|put|save) {t}", "write (a|the|) file {p}(:|, content:|, text:) {t}",
    "use (the|your|) (write_file|write|file) tool to (save|write|put) {t} (to|in|into) {p}",
]  # fmt: skip
PATCH = [
    "(replace|change|swap|substitute|update|edit) {a} (with|to|by|for) {b} in (the file|) {p}", "in (the file|) {p}(,|) (replace|change|swap|substitute) {a} (with|to|by|for) {b}", "(edit|patch|update|modify) {p}(:|,| so that|) (replace|change) {a} (with|to|by) {b}",
]  # fmt: skip
NAVIGATE = [
    "(open|visit|browse|load|check out|go to|navigate to|browse to|head to|head over to|pull up|bring up|point the browser to|point the browser at|surf to|show me|show|fetch|get) (the|) (page|website|site|web page|url|address|link|) {u}( (in|with|using) (the|a|your|my) (browser|web browser|browser tool)|)",
    "(take|bring|send|point) (me|us) to {u}( in the browser|)", "(open|start|use|launch) (the|a|your) (browser|browser tool|web browser) (and|to) (go to|open|visit|navigate to|load|show) {u}", "i (want|need|would like|'d like) to (see|visit|open|look at|check) (the page|the site|) {u}",
    "(open|go to|visit) {u} and (tell me what is there|tell me the title|tell me what you see|look around|describe it)", "(in|with) the browser(,|) (go to|open|visit|load) {u}", "browser(:| ->) {u}", "{u}(, open it| in the browser(, please|)| - open (this|that))",
]  # fmt: skip
NAVIGATE_QUESTIONS = [
    "what('s| is) (on|at|the title of) (the page|the website|) {u}?( (open|check|visit) it|)",
    "can (you|we) (open|see|visit|look at) {u}?",
]
PROCESS_LIST = [
    "(list|show|check|print) (all|the|my|all the|) background (processes|jobs|tasks)",
    "(what|which) (background|) (processes|jobs|tasks) (are|do we have) (running|) in the background?",
    "what('s| is) running in the background?",
]
PROCESS = {
    "poll": ["(check|poll|check on|get the status of|look at) (the|) (background|) (process|session|job) {s}", "(is|how is) (the|) (process|session|job) {s} (still running|done|doing)?"],
    "log": ["(show|print|get|read|give me) the (full|whole|) (log|output) of (the|) (background|) (process|session|job) {s}"],
    "wait": ["wait (for|until) (the|) (process|session|job) {s} (to finish|is done|finishes|to end|)"],
    "kill": ["(kill|stop|end|terminate) (the|) (background|) (process|session|job) {s}"],
}  # fmt: skip


def expand(rng: random.Random, form: str) -> str:
    """Draw one of each group of alternatives, innermost first, and tidy the spaces."""
    while match := INNERMOST.search(form):
        form = form[: match.start()] + rng.choice(match.group(1).split("|")) + form[match.end() :]
    form = re.sub(r"\s+", " ", form).strip()
    return re.sub(r" (,|\.(?!\w)|\?|!|'s\b)", r"\1", form)


def _slip(rng: random.Random, text: str) -> str:
    """One typing slip: two letters swapped, one dropped or one doubled."""
    places = [m.start() for m in re.finditer(r"[a-z]{2}", text)]
    if not places:
        return text
    i = rng.choice(places)
    return text[:i] + rng.choice((text[i + 1] + text[i], text[i], text[i] * 2 + text[i + 1])) + text[i + 2 :]


def _style(rng: random.Random, form: str) -> str:
    """Casing, missing apostrophes and slips, on the words between the slots only."""
    pieces = SLOT.split(form)
    if rng.random() < 0.25:
        pieces = [p if SLOT.fullmatch(p) else p.replace("'", "") for p in pieces]
    if rng.random() < 0.06:
        i = rng.choice(range(0, len(pieces), 2))
        pieces[i] = _slip(rng, pieces[i])
    case = rng.random()
    if case < 0.5 and pieces[0]:
        pieces[0] = pieces[0][0].upper() + pieces[0][1:]
    elif case < 0.52:
        pieces = [p if SLOT.fullmatch(p) else p.upper() for p in pieces]
    text = "".join(pieces)
    return re.sub(r"\bi\b(?=[ '])", "I", text) if case < 0.5 else text


def quoted(rng: random.Random, text: str, bare: float) -> str:
    """`text` as people set it off: backticks, quotes, or bare with probability `bare`."""
    if rng.random() < bare:
        return text
    marks = [m for m in ("``", "``", "''", '""') if m[0] not in text]
    return marks and (m := rng.choice(marks)) and m[0] + text + m[1] or text


def ask(rng: random.Random, form: str, **slots: str) -> str:
    """A complete request from an imperative form: opener, core, closer, style; slots filled last."""
    core = expand(rng, form)
    opener = (
        expand(rng, "(hey|hi|ok|so|hermes|) ") if core.startswith(INTERROGATIVE) else expand(rng, rng.choice(OPENERS))
    )
    open_ended = core.endswith("}") and " " in slots[core.rsplit("{", 1)[1][:-1]] and not _is_quoted(slots, core)
    ends = rng.random()
    if ends < 0.55 or open_ended and ends < 0.8:
        end = rng.choice(("", "", ".")) if not open_ended else ""
    elif ends < 0.7 and not open_ended:
        end = expand(rng, " " + rng.choice(CASUAL_ENDS))
        end = " " + end
    else:
        end = expand(rng, "~" + rng.choice(CLOSERS))[1:]
        if open_ended and not end.startswith((",", ".")):
            end = ""
        if end and end[0].isalpha():
            end = " " + end
    if opener.endswith((" you", "mind")) or " you " in opener and opener.startswith(("can", "could", "would", "will")):
        if rng.random() < 0.6 and not end and not open_ended:
            end = "?"
    text = _style(rng, f"{opener} {core}".strip() + end)
    return fill(text, slots)


def question(rng: random.Random, form: str, **slots: str) -> str:
    """A request in the form of a question, with a greeting now and then."""
    core = expand(rng, form)
    if rng.random() < 0.2:
        core = expand(rng, "(hey|hi|ok|so|quick question|hermes)(,|:|) ") + " " + core
    if core.endswith("?") and rng.random() < 0.25:
        core = core[:-1]
    return fill(_style(rng, core), slots)


def _is_quoted(slots: dict, core: str) -> bool:
    return slots[core.rsplit("{", 1)[1][:-1]][0] in "`'\""


def fill(form: str, slots: dict) -> str:
    """Put the slots in, each exactly as it is."""
    return SLOT.sub(lambda m: slots[m.group(1)[1:-1]], form)


def either(rng: random.Random, forms: list, questions: list, share: float, **slots: str) -> str:
    """An imperative, or with probability `share` a question."""
    if rng.random() < share:
        return question(rng, rng.choice(questions), **slots)
    return ask(rng, rng.choice(forms), **slots)
