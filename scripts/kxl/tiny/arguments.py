"""Arguments of the tiny model's training calls: paths, URLs, shell commands, patterns, texts.

Each function takes a seeded `random.Random` and `heldout`: with heldout=True at least one word of
the result is one that training never uses (words.is_heldout), so the argument as a whole is new.
"""

import random

from kxl.tiny.forms import load
from kxl.tiny.words import cased_word, foreign_word, hex_id, identifier, number, pick_word


def usual(rng: random.Random, kind: str) -> str:
    """One of a list of datasets/tiny/forms/arguments.json."""
    return rng.choice(load("arguments")[kind])


def extension(rng: random.Random) -> str:
    """A usual file extension, without its dot."""
    return usual(rng, "extensions")


def folder(rng: random.Random, heldout: bool = False) -> str:
    """A folder name: a usual one, or words."""
    if not heldout and rng.random() < 0.5:
        return usual(rng, "folders")
    return pick_word(rng, heldout)


def file_name(rng: random.Random, heldout: bool = False) -> str:
    """A file name with an extension, now and then without one or hidden."""
    if not heldout and rng.random() < 0.12:
        return usual(rng, "file_names")
    name = identifier(rng, heldout)
    kind = rng.random()
    if kind < 0.9:
        return f"{name}.{extension(rng)}"
    if kind < 0.95:
        return "." + pick_word(rng, heldout)
    return name.capitalize() if rng.random() < 0.5 else name.upper()


def path(rng: random.Random, heldout: bool = False) -> str:
    """A relative, home or absolute path of a file, zero to three folders deep."""
    name = file_name(rng, heldout)
    folders = [folder(rng) for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 2, 3)))]
    style = rng.random()
    if style < 0.1:
        root = "/" + rng.choice(("tmp", "etc", "var/log", "opt", "home/" + pick_word(rng))) + "/"
    elif style < 0.18:
        root = "~/"
    elif style < 0.24:
        root = "./"
    else:
        root = ""
    return root + "/".join(folders + [name])


def with_extension(path: str, extension: str) -> str:
    """The path with another extension; a hidden file loses its first dot."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.lstrip('.').rsplit('.', 1)[0]}.{extension}"


def directory(rng: random.Random, heldout: bool = False) -> str:
    """A path of a folder."""
    parts = [folder(rng, heldout)] + [folder(rng) for _ in range(rng.choice((0, 0, 1)))]
    return rng.choice(("", "", "", "./", "/tmp/", "~/")) + "/".join(parts)


def domain(rng: random.Random, heldout: bool = False) -> str:
    """A host name, now and then with a subdomain."""
    if not heldout and rng.random() < 0.12:
        return rng.choice(("", "", "www.", "docs.", "en.")) + usual(rng, "sites")
    name = pick_word(rng, heldout)
    if rng.random() < 0.3:
        name += rng.choice(("", "-")) + pick_word(rng)
    sub = rng.choice(("", "", "", "www.", "docs.", "blog.", "api.", "en.", "status."))
    return f"{sub}{name}.{usual(rng, 'top_level_domains')}"


def url(rng: random.Random, heldout: bool = False) -> str:
    """A complete URL with zero to three path segments, a query, a fragment or a port now and then."""
    if rng.random() < 0.08:
        return f"http://localhost:{rng.choice((3000, 5000, 8000, 8080, number(rng)))}/{pick_word(rng, heldout)}"
    text = rng.choice(("https", "https", "https", "http")) + "://" + domain(rng, heldout)
    segments = rng.choice((0, 0, 1, 1, 2, 3))
    for _ in range(segments):
        text += "/" + rng.choice((pick_word(rng), pick_word(rng), identifier(rng), str(rng.randint(1, 12))))
    if rng.random() < 0.35:
        text += "/"
    elif segments and rng.random() < 0.25:
        text += "." + rng.choice(("html", "php", "md"))
    if rng.random() < 0.1:
        text += f"?{rng.choice(('q', 'id', 'page', 'search'))}={rng.choice((pick_word(rng), str(number(rng))))}"
    elif rng.random() < 0.06:
        text += "#" + pick_word(rng)
    return text


def words(rng: random.Random, low: int, high: int, heldout: bool = False) -> str:
    """A few words with spaces between, now and then with capitals; the first is held out where asked."""
    rest = [
        cased_word(rng) if rng.random() < 0.22 else pick_word(rng, invented=0.25)
        for _ in range(rng.randint(low, high) - 1)
    ]
    return " ".join([pick_word(rng, heldout)] + rest)


def sentence(rng: random.Random, heldout: bool = False) -> str:
    """File content or echoed text: words, a sentence, a key=value, a number, signs."""
    text = words(rng, 1, 6, heldout)
    style = rng.random()
    if style < 0.45:
        return text
    if style < 0.6:
        return text.capitalize() + rng.choice(("", ".", "!"))
    if style < 0.7:
        key, sign = identifier(rng, heldout), rng.choice((" = ", "=", ": "))
        return f"{key}{sign}{rng.choice((pick_word(rng), str(number(rng))))}"
    if style < 0.78:
        return f"{text} {number(rng)}"
    if style < 0.84:
        return f"# {text}"
    if style < 0.9:
        return f"{text}, {words(rng, 1, 3)}"
    return signs(rng, heldout)


def signs(rng: random.Random, heldout: bool = False) -> str:
    """Text with characters that need care: brackets, quotes, backslashes, JSON, other scripts."""
    w, v = pick_word(rng, heldout), pick_word(rng)
    text = usual(rng, "texts_with_signs") % (w, v)
    return text if rng.random() < 0.7 else f"{text} {foreign_word(rng)}"


def code_text(rng: random.Random, heldout: bool = False) -> str:
    """A line of code."""
    mark = rng.choice("'\"")
    form = usual(rng, "code_texts")
    return form.format(m=mark, t=pick_word(rng, heldout), u=pick_word(rng))


def code_name(rng: random.Random, heldout: bool = False) -> str:
    """What people search code for: an identifier, a call, a keyword with a name, a word, a phrase."""
    style = rng.random()
    if style < 0.6:
        return identifier(rng, heldout)
    if style < 0.68:
        return f"{rng.choice(('def', 'class', 'import', 'function', 'TODO', 'return'))} {identifier(rng, heldout)}"
    if style < 0.72 and not heldout:
        return usual(rng, "code_names")
    if style < 0.86:
        return pick_word(rng, heldout)
    return words(rng, 2, 3, heldout)


def glob(rng: random.Random, heldout: bool = False) -> str:
    """A file-name pattern."""
    if heldout:
        return rng.choice(("{}*", "*{}*", "{}.*", "*_{}.py")).format(pick_word(rng, True))
    if rng.random() < 0.5:
        return "*." + extension(rng)
    return rng.choice(("{}*", "*{}*", "{}.*", "*_{}.py", "test_*.py", "*.{}", "*{}.md")).format(pick_word(rng))


def process_id(rng: random.Random) -> str:
    """A Hermes background-process session id."""
    return "proc_" + hex_id(rng, 12)


def _flags(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return ""
    flag = rng.choice(("-v", "-q", "-x", "--all", "--verbose", "--dry-run", "-f", "-n " + str(rng.randint(1, 50)), ""))
    return f" {flag or '--' + pick_word(rng)}"


def _program(rng: random.Random, heldout: bool) -> str:
    """A program run on a file, a folder or a name."""
    programs, kind = load("arguments")["programs"], rng.randrange(14)
    file = path(rng, heldout)
    if kind == 0:
        return f"python3 {with_extension(file, 'py')}{_flags(rng)}"
    if kind == 1:
        return f"bash {file}{_flags(rng)}"
    if kind == 2:
        return f"{rng.choice(programs['read_file'])} {file}"
    if kind == 3:
        return f"{rng.choice(programs['folder'])} {directory(rng, heldout)}"
    if kind == 4:
        return f"{rng.choice(programs['change_file'])} {file}"
    if kind == 5:
        return f"{rng.choice(programs['two_files'])} {file} {path(rng)}"
    if kind == 6:
        return f"pytest{rng.choice(programs['pytest_flags'])} tests/test_{identifier(rng, heldout)}.py"
    if kind == 7:
        return f"{rng.choice(programs['package'])} {pick_word(rng, heldout)}"
    if kind == 8:
        return f"make {identifier(rng, heldout).lower()}{_flags(rng)}"
    if kind == 9:
        return f"npm run {pick_word(rng, heldout)}"
    if kind == 10:
        return f"git {rng.choice(programs['git'])} {identifier(rng, heldout)}"
    if kind == 11:
        return f"docker {rng.choice(programs['docker'])} {identifier(rng, heldout).lower()}"
    if kind == 12:
        return f"curl {rng.choice(programs['curl_flags'])}{url(rng, heldout)}"
    return f"{pick_word(rng, heldout)}{_flags(rng)} {rng.choice((path(rng), pick_word(rng), str(number(rng))))}"


def echo(rng: random.Random, heldout: bool = False) -> str:
    """An echo of one token, some words, or a quoted text."""
    style = rng.random()
    if style < 0.3:
        return "echo " + "-".join([pick_word(rng, heldout)] + [pick_word(rng) for _ in range(rng.randint(0, 3))])
    if style < 0.5:
        return "echo " + identifier(rng, heldout)
    if style < 0.8:
        return "echo " + words(rng, 1, 4, heldout)
    if style < 0.92:
        quote = rng.choice("\"'")
        return f"echo {quote}{words(rng, 1, 5, heldout)}{quote}"
    return f"echo {words(rng, 1, 3, heldout)} > {path(rng)}"


def command(rng: random.Random, heldout: bool = False) -> str:
    """A shell command of one line."""
    kind = rng.random()
    if kind < 0.12 and not heldout:
        return usual(rng, "commands") if rng.random() < 0.7 else "git " + usual(rng, "git")
    if kind < 0.4:
        return echo(rng, heldout)
    text = _program(rng, heldout)
    if rng.random() < 0.08:
        text += rng.choice(
            (" | wc -l", " | head", f" | grep {pick_word(rng)}", " | sort", f" && echo {pick_word(rng)}")
        )
    return text
