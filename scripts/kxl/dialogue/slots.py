"""What fills a wording's slots: paths, commands with flags, pipes and quotes, URLs with queries, texts of any script.

    Slots(random.Random(1)).command()      # "grep -rn 'left margin' src | head -n 5"

With heldout=True each value holds at least one word that training never uses (words.is_heldout). With `pieces` some
values are made of the tokenizer's own word pieces, evenly: practice in copying each token.
"""

import random
import re
from collections.abc import Callable

from kxl.tiny import arguments
from kxl.tiny.words import cased_word, foreign_word, hex_id, identifier, is_heldout, number, pick_word

EXTENSIONS = """py md txt json yaml yml toml csv log js ts sh html css cfg ini rs go c rst proto conf svg lock tf kt
java rb php vue sql xml bak tmp png jpg pdf tsv gz zip ipynb scss jsx tsx cpp h swift lua env properties service
desktop po woff2 mp3 ics""".split()
UNICODE = """übersicht größe café naïve piñata señal données été hôtel façade garçon łódź žluťák résumé Zürich
Ångström smörgås año niño München Straße prêt forêt crème brûlée jalapeño Østfold Århus český süß höhe""".split()
FLAGS = """-v -q -x -f -n -a -l -r -i -y --all --verbose --dry-run --force --quiet --no-cache --watch --debug --json
--help --version --strict --fix --short --stat --oneline --recursive --output-json --no-color --release""".split()
# Shell commands, with slots of their own: p path, d folder, w word, W words, i identifier, n number, u URL, b branch,
# e ending.
COMMANDS = """grep -rn "{W}" {d}|grep -c {w} {p}|grep -i '{w}' {p} | head -n {n}|grep -v {w} {p} > {p}
find . -name '*.{e}'|find {d} -type f -mtime -{n}|find {d} -name "*.{e}" | wc -l|awk '{{print ${n}}}' {p}
awk -F: '{{print $1}}' {p}|sed -i 's/{w}/{w}/g' {p}|sed -n '{n},{n}p' {p}|cut -d, -f{n} {p}|sort {p} | uniq -c
sort -u {p}|sort -k{n} -r {p}|head -n {n} {p}|tail -f {p}|tail -n {n} {p} | grep {w}|wc -l < {p}|cat {p} {p}
cat {p} | jq .{w}|cat {p} | tr a-z A-Z|cp -r {d} {d}|mv {p} {d}/|mkdir -p {d}/{w}|rm -rf {d}|ls -lt {d}
ls {d} | wc -l|du -sh {d}/*|df -h {d}|chmod 644 {p}|chmod +x {p}|chown -R {w}:{w} {d}|ln -s {p} {p}
tar czf {i}.tar.gz {d}|tar xzf {i}.tar.gz -C {d}|zip -r {i}.zip {d}|unzip {i}.zip|gzip {p}|diff -u {p} {p}|touch {p}
stat {p}|git log --since="{n} weeks ago" --author='{W}'|git log --oneline -n {n} -- {p}|git commit -m "{W}"
git commit -am '{W}'|git checkout -b {b}|git switch {b}|git diff {b}..{b}|git show {b}:{p}|git push -u origin {b}
git tag -a v{n}.{n} -m "{W}"|git stash push -m "{W}"|git rebase {b}|git blame -L {n},{n} {p}|git add {p}
git branch -D {b}|git cherry-pick {h}|git reset --soft HEAD~{n}|git clone {u}|git remote add {w} {u}
git status --short|git config user.name "{W}"|docker compose up -d --build {w}|docker run --rm -p {n}:{n} {i}
docker exec -it {w} bash|docker logs --tail {n} {w}|docker build -t {i}:{n} .|docker ps -a|kubectl get pods -n {w}
kubectl logs {i} --since={n}m|systemctl restart {w}|systemctl status {i}|journalctl -u {w} -n {n}|ps aux | grep {w}
kill -9 {n}|pkill -f {i}|curl -s {u}|curl -I {u}|curl -X POST {u} -d '{{"{w}": {n}}}'|curl -o {p} {u}|wget -q {u}
ping -c {n} {D}|ssh {w}@{D}|scp {p} {w}@{D}:{d}|dig {D} +short|nc -zv {D} {n}|python3 {p} --{w}={n}|python3 -m {i}
python3 -c 'print({n} * {n})'|python3 -c "import {i}"|pytest -k {w} -x|pytest tests/test_{i}.py::test_{i}
pip install {w}=={n}.{n}|pip install -r {p}|npm ci --omit=dev|npm run {w} -- --{w}|npx {i} {p}|yarn add {w}|node {p}
cargo test {i}|cargo run --release -- {p}|go test ./{d}/...|go run {p}|make {i}|make -j{n} {w}|cmake -B {d}
rustc {p}|gcc -O2 {p} -o {i}|java -jar {i}.jar|ruby {p}|bash {p} {w}|sh {p}|./{i}.sh --{w}|./{i} {f} {w}|{i} {f}
{w} {f} {n}|{w} --{w} {p}|echo {W}|echo "{W}"|echo '{W}' > {p}|echo {W} >> {p}|printf '%s\\n' {w} {w}|echo $HOME/{w}
export {I}={w}|{I}={n} make {w}|env | grep {I}|date +%Y-%m-%d|date -d "{n} days ago"
sqlite3 {i}.db 'select * from {w}'|psql -d {w} -c "select count(*) from {i}"|redis-cli get {i}|ffmpeg -i {p} {p}
convert {p} -resize {n}x{n} {p}|md5sum {p}|base64 {p}|for f in *.{e}; do echo $f; done|test -f {p} && echo {w}
[ -d {d} ] || mkdir {d}|cd {d} && ls|cd {d} && git pull|sleep {n} && echo {w}|time {w} {p}|watch -n {n} {w}
xargs rm < {p}|ls *.{e} | xargs wc -l|tee {p} < {p}|rsync -av {d}/ {d}/|crontab -l|which {w}|man {w}|uname -r|id {w}
lsof -i :{n}|ss -tlnp | grep {n}|hostname -I|terraform plan -out={i}|ansible-playbook {p} -l {w}
helm upgrade {w} {d}|vim +{n} {p}|code {d}|shellcheck {p}|black {d}|ruff check {d} --fix|mypy {p}|eslint {p} --fix
"""
COMMANDS = re.split(r"(?<! )\|(?! )|\n", COMMANDS.strip())  # a pipe of the shell has spaces around it
BACKGROUND = """python3 -m http.server {n}|npm run dev|npm start|python3 {p}|./{i}.sh|make serve|node {p}|bash {p}
tail -f {p}|sleep {n}|cargo run|go run {p}|redis-server|uvicorn {i}:app --port {n}|flask run --port {n}
docker compose up|jupyter lab --no-browser|{w} --watch|npm run {w}|pytest -q|make {w}|java -jar {i}.jar
hugo server -p {n}"""
BACKGROUND = re.split(r"[|\n]", BACKGROUND)
# Names of files that are no word with one ending. More slots: I an identifier in capitals, m two digits, U a foreign
# word, W2 two words joined, W4 three to six words.
NAMES = """.{w}rc|.{w}ignore|.{w}rc.{e}|{w}.{e}.{n}|{w}.{e}.bak|{w}.tar.{e}|{w}.min.{e}|{w}.test.{e}|{w}.{w}.{e}|{W}
{I}|{I}.{e}|{w}_{n}.{e}|{w}-v{n}.{n}.{e}|{n}-{w}.{e}|{w}_{w}_{n}.{e}|{W} ({n}).{e}|{W}.{e}|{w} {n}.{e}|{w}file|{w}.d
{w}.2026-{m}-{m}.{e}|{w}+{w}.{e}|@{w}.{e}|_{w}.{e}|{w}~|{w}.{e}.in|{w}.{e}.example|{U}.{e}|{U}_{w}.{e}"""
NAMES = re.split(r"[|\n]", NAMES)
# What stands behind a host in addresses of pages that have routes, places or versions in them.
ROUTES = """/#/{w}/{w}|/#/{w}|/#{w}={n}/{n}.{n}/{n}.{n}|/@{w}/{w}-{n}|/{w}/{n}.{n}/{w}|/~{w}/{i}.html|/{w}.{w}?{w}#{w}
/{n}/{m}/{m}/{w}|/{W2}|/{w}:{w}|/{w}_({w})|/?{w}={w}&{w}={n}&{w}|/{w};{w}={n}|/{w}/{i}/blob/{w}/{w}.{e}|/{w}/-/{w}/{n}
/{w}?{w}={w}+{w}|/v{n}/{w}/{w}|/{w}/{U}|/{w}?{w}=%20{w}|/{w}/#{w}-{w}|/{w}/{n}-{w}-{w}-{w}"""
ROUTES = re.split(r"[|\n]", ROUTES)
TEXTS = [
    "{W}.", "{W}!", "{w}: {n}", "{w} = {w}", "{I}={w}", "{w},{w},{n}", "# {W}", "- {W}", "- {W}\n- {W}", "{W}\n{W}",
    "{n}", "{n}.{n}", "v{n}.{n}.{n}", "{W} at {n}:00",
    "{{\"{w}\": \"{w}\"}}", "{{\"{w}\": {n}}}", "[{w}]", "[{w}]\n{w} = {n}", "{w}@{D}", "{u}", "print(\"{W}\")",
    "def {i}():\n    return {n}", "import {i}", "export {I}={n}",
    "{n} €", "{n},{n} €", "${n}.{n}", "{n} %", "{W} ({w})", "{W}; {w}", "<h1>{W}</h1>", "<p>{w} & {w}</p>",
    "it's {w}", "don't {w} the {w}", "say \"{w}\" twice", "{w}/{w}", "C:\\{w}\\{w}",
    "{U} {w}", "{U}", "{W} {U}", "{w} → {w}", "✅ {W}", "{w} 😀", "{w}\t{n}", "TODO: {W}", "2026-{m}-{m} {W}",
    "{W}, {W}", "{w}? {W}!", "#!/bin/bash\n{c}", "{c}", "select {w} from {w};",
    "{w}_{w}", "{w}-{w}-{n}", "Dear {w},\n{W}.", "{w}|{w}", "port: {n}", "{w}: true", "{n}:{n}", "`{w}` {w}", "*{w}*",
    "**{W}**", "({w})", "{w}...", "{w} == {w}", "x = {n}", "room {n}, {w}",
    "{W} on {w}, {m}:{m}-{m}:{m}", "{m}:{m}-{m}:{m} {w}", "{W}, {m}.{m}.2026", "{w}=={w}", "{w}{n}==",
    "{n}.{n}.{n}-{w}{n}",
    "{w}: *\n{w}: /{w}/", "{w},{w},{w}\n{n},{w},{n}", "{W4} {W4}", "{W4} {W4} {W4}.", "{W4}, {w} and {W4}.",
    "function {i}({w}, {w}) {{\n  return {w} + {w};\n}}", "class {w}:\n    {w} = {n}", "{w}:\n  {w}: {n}\n  - {w}",
    "if {w}:\n    {i}({n})", "{w} {{\n  {w}: {n}px;\n}}", "{{\"{w}\": {{\"{w}\": [{n}, {n}]}}}}", "{w}: [{w}, {w}]",
    "{{\"{w}\": true}}", "{{\"{w}\": false, \"{w}\": null}}", "# {W}\n\n{W4}.", "1. {w}\n2. {w}\n3. {w}",
    "{i} = [{n}, {n}]",
    "{w}?", "¿{w} {w}?", "¡{W}!", "«{W}»", "{w}'s {w}", "\"{W}\" - {w}", "{W}: {W4}", "{w}/{w}:{n}", "+{n} {n} {n}",
    "{w} the {w} by {w} {n}", "{w} {w} on the {w} {w}", "the {w} is in the {w}", "{w} to the {w} and {w} it",
    "{W} is {w}.",
    "we {w} at {n} in the {w}", "do not {w} this {w}", "this {w} was {w} for {w}", "a {w} of {w} with {w}",
    "The {w} {w} at {w}.",
    "{w} is to {w} as {w} is to {w}", "{w} from {w} to {w}", "no {w} until {w}", "Please {w} the {w} before {w}!",
    "my {w} has {n} {w}",
    "I {w} it and it {w}", "if it {w}, {w} it into the {w}", "{w} in, {w} out", "{w} and {w}", "one {w}, two {w}",
]  # fmt: skip
PAIRS = [
    ("{w}", "{w}"), ("{i}", "{i}"), ("{k} = {n}", "{k} = {n}"), ("{k}={w}", "{k}={w}"), ("{k}: {n}", "{k}: {n}"),
    ("{k} = true", "{k} = false"), ("{k}: false", "{k}: true"), ("{W}", "{W}"),
    ("{n}", "{n}"), ("{n},{n} €", "{n},{n} €"), ("v{n}.{n}", "v{n}.{n}"), ("{i}()", "{i}()"),
    ("import {i}", "import {i}"), ("\"{w}\"", "\"{w}\""), ("{u}", "{u}"), ("{D}", "{D}"), ("{U}", "{w}"),
    ("{w} {n}", "{w} {n}"), ("{w}", "{W}"), ("TODO", "{W}"), ("localhost", "{D}"), ("{p}", "{p}"),
    ("{w}, {w}", "{w}"), ("{I}", "{I}"), ("<{w}>", "<{w}>"), ("{w}.{i}", "{w}.{i}"),
]  # fmt: skip
SHORT_SLOT = re.compile(r"\{(\w\d?)\}")
PAGES = """login search users settings about docs blog news help status wiki issues cart pricing download index page
item""".split()
SUFFIXES = "com org net io dev ai app co edu info de fr es se nl ch eu uk example".split()


class Slots:
    """Draws values from `rng`. `pieces`: (all word tokens, those that are another token after a space), or None."""

    def __init__(self, rng: random.Random, heldout: bool = False, pieces=None, drill: float = 0.0):
        self.rng, self.heldout, self.pieces, self.drill = rng, heldout, pieces, drill

    def draw(self, slot: str) -> str:
        """A value for a slot of the wordings, by its name."""
        return getattr(self, slot)()

    def some_word(self) -> str:
        """A word for a place that need not be new."""
        return self.piece() if self.pieces and self.rng.random() < self.drill else pick_word(self.rng, invented=0.25)

    def word(self) -> str:
        if self.pieces and self.rng.random() < self.drill:
            return self.piece()
        return cased_word(self.rng) if self.rng.random() < 0.08 else pick_word(self.rng, self.heldout, 0.25)

    def piece(self) -> str:
        """A word piece of the tokenizer with another one or a number glued to it; never a held-out word."""
        rng = self.rng
        while True:
            text = rng.choice(self.pieces[1] if rng.random() < 0.5 else self.pieces[0])
            if rng.random() < 0.6:
                text += rng.choice(self.pieces[0]) if rng.random() < 0.7 else str(rng.randrange(100))
            if not is_heldout(text):
                return text

    def words(self, low: int = 1, high: int = 5) -> str:
        rest = [
            self.some_word() if self.rng.random() < 0.8 else cased_word(self.rng)
            for _ in range(self.rng.randint(low, high) - 1)
        ]
        return " ".join([self.word()] + rest)

    def name(self) -> str:
        """An identifier."""
        return self.piece() if self.pieces and self.rng.random() < self.drill else identifier(self.rng, self.heldout)

    def fill(self, form: str) -> str:
        """A form of this module with its short slots drawn anew at each place; `k` is the same word throughout."""
        rng, same = self.rng, self.some_word()
        draw: dict[str, Callable[[], str]] = {
            "p": self.path, "d": self.folder, "w": self.word, "W": lambda: self.words(2, 4), "i": self.name,
            "n": lambda: str(number(rng)), "u": self.url, "b": self.branch,
            "e": lambda: rng.choice(EXTENSIONS), "h": lambda: hex_id(rng, 7), "D": self.domain,
            "I": lambda: self.name().replace("-", "_").upper(), "f": lambda: rng.choice(FLAGS),
            "U": self.foreign, "W2": lambda: "_".join(cased_word(rng) for _ in range(2)),
            "W4": lambda: self.words(3, 6), "k": lambda: same, "m": lambda: f"{rng.randint(1, 12):02}",
            "c": lambda: arguments.echo(rng),
        }  # fmt: skip

        class Draws(dict):
            def __getitem__(self, key):
                return draw[key]()

        return _format(form, Draws())

    def foreign(self) -> str:
        return self.rng.choice(UNICODE) if self.rng.random() < 0.5 else foreign_word(self.rng)

    def path(self) -> str:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.55 and not (self.pieces and rng.random() < self.drill):
            return arguments.path(rng, self.heldout)
        name = (
            self.name()
            if kind < 0.78
            else self._new(lambda: self.fill(rng.choice(NAMES)))
            if kind < 0.9
            else f"{self.name()}-{self.foreign()}"
            if kind < 0.95
            else f"{self.word()}-2026-{rng.randint(1, 12):02}"
        )
        ending = "" if 0.78 <= kind < 0.9 or rng.random() < 0.08 else "." + rng.choice(EXTENSIONS)
        if rng.random() < 0.05:
            name = "." + name
        folders = "".join(self.folder_name() + "/" for _ in range(rng.choice((0, 0, 0, 1, 1, 2))))
        return rng.choice(("", "", "", "", "./", "/", "/tmp/", "~/", "../", "/etc/", "/srv/")) + folders + name + ending

    def folder_name(self) -> str:
        return arguments.usual(self.rng, "folders") if self.rng.random() < 0.4 else self.some_word()

    def folder(self) -> str:
        if self.heldout or self.rng.random() < 0.5:
            return arguments.directory(self.rng, self.heldout)
        return self.rng.choice(("", "", "", "./", "/", "/var/", "~/")) + "/".join(
            self.folder_name() for _ in range(self.rng.choice((1, 1, 2, 3)))
        )

    def directory(self) -> str:
        return self.folder() + ("/" if self.rng.random() < 0.3 else "")

    def other_path(self) -> str:
        return self.path()

    def host(self) -> str:
        return self.domain() if self.rng.random() < 0.6 else ".".join(str(self.rng.randrange(256)) for _ in range(4))

    def file(self) -> str:
        """A file's name without a folder."""
        return self.path().rpartition("/")[2]

    def ending(self) -> str:
        return "." + self.rng.choice(EXTENSIONS)

    def context(self) -> str:
        return str(self.rng.choice((1, 2, 2, 3, 3, 4, 5, 5, 6, 8, 10)))

    def domain(self) -> str:
        rng = self.rng
        if rng.random() < 0.5:
            return arguments.domain(rng, self.heldout)
        name = self.word().lower() + rng.choice(("", "", "-" + self.some_word().lower(), str(rng.randrange(100))))
        host = rng.choice(("", "", "www.", "docs.", "wiki.", "shop.", "intranet.", "en.", "m.", "api."))
        return f"{host}{name}.{rng.choice(SUFFIXES)}"

    def url(self) -> str:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.45 and not (self.pieces and rng.random() < self.drill):
            return arguments.url(rng, self.heldout)
        if kind < 0.53:
            host = rng.choice(("localhost", "127.0.0.1", f"192.168.{rng.randrange(9)}.{rng.randrange(255)}", "0.0.0.0"))
            return f"http://{host}:{number(rng)}/{self.word()}"
        if kind < 0.63:
            return f"{rng.choice(('https', 'https', 'http'))}://{self.domain()}{self.fill(rng.choice(ROUTES))}"
        parts = "".join(
            "/"
            + rng.choice((self.some_word, self.some_word, self.name, cased_word_of(rng), lambda: rng.choice(PAGES)))()
            for _ in range(rng.choice((0, 1, 1, 2, 3)))
        )
        if rng.random() < 0.4:
            pairs = []
            for _ in range(rng.choice((1, 1, 2, 3))):
                key = rng.choice(("q", "id", "page", "lang", "ref", "sort", "v", "tab", self.some_word()))
                values = (self.some_word(), str(number(rng)), self.some_word() + "+" + self.some_word(), "a%20b")
                pairs.append(f"{key}={rng.choice(values)}")
            parts += "?" + "&".join(pairs)
        elif rng.random() < 0.25:
            parts += rng.choice(("/", f"#{self.some_word()}", ".html", f"#{self.some_word()}-{rng.randrange(20)}"))
        return f"{rng.choice(('https', 'https', 'https', 'http'))}://{self.domain()}{parts}"

    def command(self) -> str:
        if self.rng.random() < 0.4 and not (self.pieces and self.rng.random() < self.drill):
            return arguments.command(self.rng, self.heldout)
        while True:
            text = self.fill(self.rng.choice(COMMANDS))
            if not self.heldout or any(is_heldout(w) for w in _letters(text)):
                return text

    def background(self) -> str:
        return self.fill(self.rng.choice(BACKGROUND)) if self.rng.random() < 0.8 else self.command()

    def content(self) -> str:
        if self.rng.random() < 0.45 and not (self.pieces and self.rng.random() < self.drill):
            return arguments.sentence(self.rng, self.heldout)
        if self.rng.random() < 0.5:
            return self.words(1, 8)
        return self._new(lambda: self.fill(self.rng.choice(TEXTS)))

    def pattern(self) -> str:
        kind = self.rng.random()
        if kind < 0.4 and not (self.pieces and self.rng.random() < self.drill):
            return arguments.code_name(self.rng, self.heldout)
        if kind < 0.7:
            return self.words(1, 3)
        forms = ("{i}", "{i}()", "{I}", "import {i}", "{w}.{i}", "{w} = ", "TODO", "{w}@{D}", "{n}.{n}.{n}.{n}",
        "<{w}>", "{w}:", "#{w}", "{w}_id", "{k}-{n}", "{U}", "def {i}", "from {w} import {w}", "{w} {n}", "\"{w}\"",
        "{h}")  # fmt: skip
        return self._new(lambda: self.fill(self.rng.choice(forms)).strip())

    def glob(self) -> str:
        kind = self.rng.random()
        if kind < 0.4 or self.heldout:
            return arguments.glob(self.rng, self.heldout)
        return (
            f"*.{self.rng.choice(EXTENSIONS)}"
            if kind < 0.75
            else self.fill(
                self.rng.choice(
                    ("{w}*", "*{w}*", "*_{w}.{e}", "{w}-*.{e}", "{i}.{e}", "*.{w}.{e}", "{w}?.{e}", "*{n}*")
                )
            )
        )

    def file_glob(self) -> str:
        return (
            f"*.{self.rng.choice(EXTENSIONS)}"
            if self.rng.random() < 0.8
            else f"*_{self.some_word()}.{self.rng.choice(EXTENSIONS)}"
        )

    def pair(self) -> tuple[str, str]:
        """Two different texts: what stands in a file, and what shall stand there."""
        while True:
            old, new = self.rng.choice(PAIRS)
            key = self.word()
            old, new = (self.fill(form.replace("{k}", key)) for form in (old, new))
            if old != new and (not self.heldout or any(is_heldout(w) for w in _letters(old + " " + new))):
                return old, new

    def session(self) -> str:
        return "proc_" + (
            hex_id(self.rng, self.rng.choice((12, 12, 12, 4, 3, 6))) if self.rng.random() < 0.9 else self.some_word()
        )

    def data(self) -> str:
        return self.rng.choice(
            ("yes", "no", "y", "n", "q", str(number(self.rng)), self.word(), self.words(2, 3), "exit", "continue", "1")
        )

    def limit(self) -> str:
        return str(
            self.rng.choice(
                (
                    number(self.rng) % 2000 + 1,
                    self.rng.randint(1, 100),
                    self.rng.choice((5, 10, 20, 25, 30, 40, 50, 60, 100, 200)),
                )
            )
        )

    offset = limit

    def number(self) -> str:
        return str(number(self.rng))

    port = number

    def code(self) -> str:
        return str(self.rng.choice((1, 1, 1, 2, 126, 127, 128, 130, 255, self.rng.randint(3, 120))))

    def branch(self) -> str:
        return self.rng.choice(
            (
                "main",
                "develop",
                "release",
                self.name(),
                f"feature/{self.name()}",
                f"fix/{self.some_word()}-{self.rng.randrange(500)}",
                f"{self.some_word()}/{self.some_word()}",
                self.word(),
            )
        )

    def package(self) -> str:
        return self.word().lower() + self.rng.choice(("", "", "", "-" + self.some_word(), str(self.rng.randrange(9))))

    def script_py(self) -> str:
        return arguments.with_extension(self.path(), "py")

    def script_sh(self) -> str:
        return arguments.with_extension(self.path(), "sh")

    def _new(self, make: Callable[[], str]) -> str:
        """What `make` draws; with a held-out word in it where one is asked for."""
        while True:
            text = make()
            if not self.heldout or any(is_heldout(w) for w in _letters(text)):
                return text


def cased_word_of(rng: random.Random) -> Callable[[], str]:
    return lambda: cased_word(rng)


def _letters(text: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in text).split()


def _format(form: str, draws: dict) -> str:
    """str.format with values drawn place by place; doubled braces are braces."""
    out, place = [], 0
    while place < len(form):
        if form.startswith(("{{", "}}"), place):
            out.append(form[place])
            place += 2
        elif slot := SHORT_SLOT.match(form, place):
            out.append(draws[slot[1]])
            place = slot.end()
        else:
            out.append(form[place])
            place += 1
    return "".join(out)
