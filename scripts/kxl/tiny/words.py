"""Words and names that the tiny model's training requests are composed of.

Everything random goes through a `random.Random` that the caller seeds. A word belongs to the
held-out part by a hash of its spelling, so that training and evaluation agree on it without a list:
`pick_word(rng, heldout=False)` never returns a word that `pick_word(rng, heldout=True)` can return.
"""

import hashlib
import random

from kxl.base.files import ROOT

NOUNS = """
account action address agent album alert alias anchor answer apple archive area array arrow article asset
atlas audio author badge bakery balance banana bank banner basket batch battery beacon bean bench bicycle
bill binary bird blanket block blog board boat bone book border bottle box branch brand bread breakfast
bridge brick bucket budget buffer bug builder bundle butter button cabin cable cache cake calendar camera
camp candle canvas captain car card carrot cart castle cat catalog cell census chain chair chapter chart
cheese cherry chess child church circle city class client clock cloud club coach coast code coffee coin
color column comet comment company compass contact cookie copper corner counter country course cousin
cover crane credit cricket crowd crystal cube cup curtain customer cycle dashboard data deck deer demo
depot desert desk detail device diary dinner doctor document dog dolphin door draft dragon drawer dream
driver drum duck eagle earth east echo edge editor egg elephant email engine entry error evening event
exam example export fabric face factory falcon family farm feather feature feed fence ferry fiction field
filter finger fire fish flag flame flight floor flower forest fork form fountain fox frame friend frog
fruit galaxy game garage garden gate giant gift glacier glass globe goal goat gold grape graph grass
grid group guard guest guide guitar hammer handle harbor hat header heart heron hill history holiday
honey hook horse hotel hour house index inbox insect invoice iron island item jacket jar jelly job
journal journey judge juice jungle kernel kettle key kitchen kite knight label ladder lake lamp language
laptop layer leader leaf ledger lemon lesson letter level library light lily limit line link lion list
lobby local lock lunch machine magnet mail manual map maple marble margin market mask matrix meadow meal
medal meeting melon member memo menu message meter midnight milk mill mirror mission model moment money
monitor month moon morning motor mountain mouse movie museum music nation nature neck nest network night
node north notebook notice novel number oak ocean office olive onion opera orange orbit orchid order
otter owner oxygen package page paint palace panda panel paper parade parent park parrot parser partner
party patient payment peach pear pebble pencil penguin people pepper person phone photo piano picnic
picture pillow pilot pine pipe pirate planet plant plate player plaza pocket poem poet pond pool portal
potato powder present price prince printer prison prize product profile profit program project pumpkin
pupil puzzle pyramid queen question queue quilt rabbit radio rain raven receipt recipe record region
release report request result reward ribbon rice ring river road robin robot rocket roof room root rope
rose route sail salad salmon salt sample sand saddle scale schema school science score screen script
sea season seat secret sector seed sensor server session shadow shark sheep sheet shelf shell ship shoe
shop signal silver singer sketch sky slide smoke snake snow soap socket sofa song sound soup south space
spark spider spoon sport spring square stage stamp star station statue stone storm story stream street
studio sugar summary summer sun surface swan sword symbol syntax system table tailor target task teacher
team temple tent theater theme thread throne thunder ticket tiger timber token tomato tool torch tower
town track trade trail train traffic travel treasure tree triangle truck trumpet tulip tunnel turtle
uncle union unit valley vector vendor version village violin visitor voice volcano wagon walnut warehouse
water wave weather wheel whale wheat widget willow window winter wizard wolf worker world writer yard
year zebra zone
""".split()

ADJECTIVES = """
active amber ancient arctic autumn basic bitter black blue bold brave brief bright broken bronze brown
calm careful cheap clean clear clever cloudy cold common cosmic crimson curly daily damp dark deep dense
double dry dusty eager early east easy elastic electric empty equal exact extra faint fair fancy fast
final fine firm first flat fresh frozen full fuzzy gentle giant glad golden grand gray great green happy
hard heavy hidden high hollow honest huge humble idle inner jolly keen kind large last late lazy light
little local lone long loud lucky main major mellow mild minor misty modern narrow neat new nightly nimble
noisy odd old open outer pale plain polite proud public pure purple quick quiet rapid rare raw ready real
red remote rich ripe rough round royal rusty safe salty shared sharp shiny short shy silent simple single
slim slow small smart smooth soft solid spare stable steady steep sticky still stormy strong sunny sweet
swift tall tame tender thick thin tidy tiny tired total tough upper urban vague vast vivid warm weak
weekly wet white wide wild wise wooden yearly yellow young
""".split()

NAMES = """
adam alice amir anna boris carla chen clara daniel diana elena emil erik fatima felix george greta hana
hugo igor ines ivan jack jana jonas julia karim kate lars laura leo lina luca maria marco mia milan nadia
nina noah nora olga oscar paula peter petra rosa ruth samir sara simon sofia stefan tara theo tomas uma
vera victor wendy yara yusuf zoe
""".split()

# Short everyday sentences' parts, for file contents and echoed text.
VERBS = """
add ask bake bring build buy call carry check clean close collect compare cook copy count deliver design
draw drive feed fill find finish fix fold follow guess hide hold improve invite join keep learn lift load
measure meet mend mix move open order pack paint park pay plan plant play print protect pull push reach
read repair rest return review ride save sell send share sing sort start stop study swim talk taste teach
test thank trace travel try turn visit walk wash watch win wrap write
""".split()

ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pl pr qu r s sh sk sl st t th tr v w y z".split()
VOWELS = "a e i o u ai ea io oo ou".split()
CODAS = ["", "", "", "l", "m", "n", "r", "s", "t", "x", "ck", "nd", "rk", "st", "ng"]

HELDOUT_ONE_IN = 8


def is_heldout(word: str) -> bool:
    """Whether a word is reserved for evaluation: one in HELDOUT_ONE_IN, by its sha256."""
    return hashlib.sha256(word.lower().encode()).digest()[0] % HELDOUT_ONE_IN == 0


# Words of the schemas, of Hermes's prompt and of our wordings: tokens of their own (tiny_train_tokenizer.py). A token
# that no argument ever holds in training cannot be copied later, so they are arguments too. The list is part of how
# models/tiny was made, so it is data and does not follow the texts that it was taken from.
SPELLED = set((ROOT / "datasets/tiny/words.txt").read_text(encoding="utf-8").split())
ALL = sorted(set(NOUNS + ADJECTIVES + NAMES + VERBS) | {w for w in SPELLED if w.islower()})
CASED = sorted(w for w in SPELLED if not w.islower())
KNOWN = {False: [w for w in ALL if not is_heldout(w)], True: [w for w in ALL if is_heldout(w)]}


def _fragment(rng: random.Random) -> str:
    """A word, or a piece of one: this is how the tokens of held-out words are seen, though never the words."""
    word = rng.choice(ALL)
    if rng.random() < 0.5 or len(word) < 5:
        return word
    start = rng.randrange(len(word) - 3)
    return word[start : start + rng.randint(3, 7)]


def invent_word(rng: random.Random, heldout: bool = False) -> str:
    """A lower-case word that is in no dictionary: one or two syllables, or two pieces of words in one."""
    while True:
        if rng.random() < 0.5:
            word = _fragment(rng) + _fragment(rng)
        else:
            word = "".join(
                rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2)))
            )
        if len(word) > 2 and is_heldout(word) == heldout:
            return word


def cased_word(rng: random.Random, heldout: bool = False) -> str:
    """A word with capitals: a name of the texts, or any word capitalized or in capitals."""
    while True:
        kind = rng.random()
        word = (
            rng.choice(CASED)
            if kind < 0.6
            else pick_word(rng, heldout).capitalize()
            if kind < 0.85
            else pick_word(rng, heldout).upper()
        )
        if is_heldout(word) == heldout:
            return word


# First and last code points of scripts and signs: Latin-1, Latin Extended-A, Greek, Cyrillic, Arabic, kana, Chinese, arrows, emoji.
SCRIPTS = [
    (0xC0, 0xFF),
    (0x100, 0x17F),
    (0x3B1, 0x3C9),
    (0x410, 0x44F),
    (0x627, 0x63A),
    (0x3041, 0x3093),
    (0x4E00, 0x9FA5),
    (0x2190, 0x2193),
    (0x1F600, 0x1F64F),
]


def foreign_word(rng: random.Random) -> str:
    """One to five characters of a script other than ASCII, alone or after ASCII letters."""
    low, high = rng.choice(SCRIPTS)
    text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5)))
    return text if rng.random() < 0.5 else pick_word(rng)[:6] + text


def pick_word(rng: random.Random, heldout: bool = False, invented: float = 0.4) -> str:
    """A lower-case word: from the lists, or invented with probability `invented`."""
    if rng.random() < invented:
        return invent_word(rng, heldout)
    return rng.choice(KNOWN[heldout])


def identifier(rng: random.Random, heldout: bool = False) -> str:
    """A name as code has them: snake_case, kebab-case, camelCase, dotted, numbered or plain."""
    words = [pick_word(rng, heldout) for _ in range(rng.choice((1, 2, 2, 3)))]
    if rng.random() < 0.1:
        words.append(cased_word(rng))
    style = rng.random()
    if style < 0.35:
        name = "_".join(words)
    elif style < 0.6:
        name = "-".join(words)
    elif style < 0.72:
        name = words[0] + "".join(w.capitalize() for w in words[1:])
    elif style < 0.82:
        name = "".join(w.capitalize() for w in words)
    elif style < 0.9:
        name = words[0].upper() if len(words) == 1 else "_".join(w.upper() for w in words)
    else:
        name = words[0]
    if rng.random() < 0.15:
        name += rng.choice(("", "_", "-", "v")) + str(rng.randrange(1, 100))
    return name


def number(rng: random.Random) -> int:
    """A positive number whose count of digits is uniform from one to four."""
    return rng.randrange(1, 10 ** rng.randint(1, 4))


def hex_id(rng: random.Random, digits: int) -> str:
    """A lower-case hexadecimal id."""
    return "".join(rng.choice("0123456789abcdef") for _ in range(digits))
