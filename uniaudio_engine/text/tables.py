"""Tables of the normaliser: what abbreviations, symbols and units are spoken as."""

from __future__ import annotations

import re

# Abbreviations that end in a full stop, by exact spelling. The stop is part of them and makes no
# pause.
DOTTED = {
    "Dr": "doctor",
    "Mr": "mister",
    "Mrs": "missus",
    "Ms": "miz",
    "Prof": "professor",
    "Rev": "reverend",
    "Hon": "honorable",
    "Gen": "general",
    "Sen": "senator",
    "Rep": "representative",
    "Gov": "governor",
    "Pres": "president",
    "Capt": "captain",
    "Cpt": "captain",
    "Lt": "lieutenant",
    "Col": "colonel",
    "Sgt": "sergeant",
    "Cmdr": "commander",
    "Maj": "major",
    "Adm": "admiral",
    "Jr": "junior",
    "Sr": "senior",
    "Mt": "mount",
    "Ft": "fort",
    "Ave": "avenue",
    "Blvd": "boulevard",
    "Rd": "road",
    "Hwy": "highway",
    "Ln": "lane",
    "Pkwy": "parkway",
    "Inc": "incorporated",
    "Ltd": "limited",
    "Corp": "corporation",
    "Co": "company",
    "Bros": "brothers",
    "Dept": "department",
    "Univ": "university",
    "Assn": "association",
    "vs": "versus",
    "etc": "et cetera",
    "approx": "approximately",
    "est": "established",
    "dept": "department",
    "esp": "especially",
    "al": "al",
    "cf": "compare",
    "ca": "circa",
    "ed": "edition",
    "vol": "volume",
    "Vol": "volume",
    "pp": "pages",
    "fig": "figure",
    "Fig": "figure",
    "ext": "extension",
    "Ext": "extension",
    "misc": "miscellaneous",
    "avg": "average",
    "max": "maximum",
    "incl": "including",
    "excl": "excluding",
    "tel": "telephone",
    "Tel": "telephone",
    "Attn": "attention",
    "dep": "departure",
    "arr": "arrival",
    "resp": "respectively",
    "yr": "year",
    "yrs": "years",
    "hr": "hour",
    "hrs": "hours",
    "wk": "week",
    "ch": "chapter",
    "Ch": "chapter",
    "sec": "section",
    "Sec": "section",
    "Eq": "equation",
    "eq": "equation",
    "Ref": "reference",
    "ver": "version",
    "Jan": "january",
    "Feb": "february",
    "Mar": "march",
    "Apr": "april",
    "Jun": "june",
    "Jul": "july",
    "Aug": "august",
    "Sep": "september",
    "Sept": "september",
    "Oct": "october",
    "Nov": "november",
    "Dec": "december",
    "Mon": "monday",
    "Tue": "tuesday",
    "Tues": "tuesday",
    "Wed": "wednesday",
    "Thu": "thursday",
    "Thurs": "thursday",
    "Fri": "friday",
    "Ph.D": "P H D",
    "e.g": "for example",
    "i.e": "that is",
    "a.k.a": "also known as",
    "Messrs": "messers",
    "St": "saint",
    "No": "number",
    "no": "number",
    "p": "page",
}
# Read so only before a digit: "No. 5", "p. 12", "Jan. 3"; elsewhere the stop ends a sentence.
BEFORE_DIGIT = frozenset(
    "No no p pp vol Vol fig Fig Mar Sun Mon ed ch Ch sec Sec eq Eq ver Ref max".split()
)


def is_counted(name: str, following: str) -> bool:
    """Whether what follows an abbreviation of `BEFORE_DIGIT` is the number that it needs."""
    if re.match(r"\s*\d", following):
        return True
    roman = re.match(r"\s*[IVX]+\b(?!')", following)
    return roman is not None and name.lower() in COUNTED


# Where one of these ends a line or stands before a capital, a sentence may end there.
MAY_END = frozenset("etc Jr Sr Inc Ltd Corp Co Bros St Ave Blvd Rd Hwy Ln Pkwy al Ph.D".split())
# Read without a full stop too.
UNDOTTED = {
    "Mr": "mister",
    "Mrs": "missus",
    "Dr": "doctor",
    "vs": "versus",
    "etc": "et cetera",
    "eg": "for example",
    "Ctrl": "control",
    "Cmd": "command",
    "Jr": "junior",
}

MONTHS = (
    "january february march april may june july august september october november december"
).split()
MONTH_NAMES = {**{m: m for m in MONTHS}, **{m[:3]: m for m in MONTHS}, "sept": "september"}

DAY_NAMES = {
    "Mon": "monday",
    "Tue": "tuesday",
    "Tues": "tuesday",
    "Wed": "wednesday",
    "Thu": "thursday",
    "Thur": "thursday",
    "Thurs": "thursday",
    "Fri": "friday",
    "Sat": "saturday",
    "Sun": "sunday",
    **{
        day.capitalize(): day
        for day in "monday tuesday wednesday thursday friday saturday sunday".split()
    },
}

# Parts of addresses, read so after a name with a capital.
STREETS = {
    "St": "street",
    "Ave": "avenue",
    "Blvd": "boulevard",
    "Rd": "road",
    "Hwy": "highway",
    "Dr": "drive",
    "Ln": "lane",
    "Ct": "court",
    "Pl": "place",
    "Pkwy": "parkway",
}
DIRECTIONS = {"N": "north", "S": "south", "E": "east", "W": "west"}
# Read so before a number or a single letter, with a stop or without.
NUMBERED = {
    "Apt": "apartment",
    "apt": "apartment",
    "Ste": "suite",
    "Bldg": "building",
    "Rm": "room",
    "Nr": "number",
    "Pt": "part",
}

# Symbols left when numbers are done.
SYMBOLS = {
    "&": " and ",
    "@": " at ",
    "#": " hash ",
    "+": " plus ",
    "=": " equals ",
    "%": " per cent ",
    "/": " slash ",
    "$": " dollars ",
    "€": " euros ",
    "£": " pounds ",
    "¥": " yen ",
    "¢": " cents ",
    "₹": " rupees ",
    "₿": " bitcoin ",
    "₩": " won ",
    "₽": " rubles ",
    "₺": " lira ",
    "₪": " shekels ",
    "₫": " dong ",
    "₦": " naira ",
    "₱": " pesos ",
    "฿": " baht ",
    "°": " degrees ",
    "²": " squared ",
    "³": " cubed ",
    "μ": " micro ",
    "Ω": " ohms ",
    "_": " ",
    "^": " caret ",
    "~": " tilde ",
    "|": ", ",
    "\\": " backslash ",
}

FRACTIONS = {2: "half", 4: "quarter"}

# A roman numeral after these is a number ("chapter four"); after these names it is an ordinal ("the
# eighth").
COUNTED = frozenset(
    "vol fig ch sec section chapter part phase phrase verse scene act book volume war title appendix type stage "
    "level "
    "grade class episode apollo figure table article".split()
)
REGNAL = frozenset(
    "louis henry charles philip george edward pius william richard ptolemy john paul peter "
    "nicholas "
    "frederick james alfonso ivan napoleon leo gregory catherine alexander elizabeth mary "
    "benedict clement "
    "innocent urban francis ferdinand felipe carlos umberto haakon gustav christian king queen "
    "pope duke "
    "tsar emperor".split()
)

# Capital letters read as a word. All other runs of two or three capitals are spelled; longer ones
# are read as words when the lexicon has them or they can be pronounced.
ACRONYM_WORDS = frozenset(
    "nasa nato unesco unicef opec aids laser radar sonar scuba ram rom pin sim sat gif bios "
    "covid yolo fifa "
    "nafta osha ansi ascii fema noaa pac swat wasp zip ira bart moma sars the and not but for "
    "are you all "
    "can has had was his her him one two our out new now who why how yes get got let see say may "
    "any big "
    "day man men old way too use its did no so to of in on at by my we he be do go if is me or "
    "up an "
    "as".split()
)
SPELLED = frozenset(
    "usa ussr nyse asap faq html http https imap isbn rsvp eeg ecg uefa uae ceo cfo cto cio ufo cia eu "
    "ai ui api isp ip ioc iou eta aka diy esp gop lol omg tba vip vat sos un uk tv id io oecd iaea".split()
)

# Parts of addresses and file names: spelled, and read as words though they cannot be pronounced.
SPELLED_PARTS = frozenset(
    "ai io uk eu us de fr tv py js ts md sh exe edu www csv xml html css php doc pdf mp txt png jpg "
    "svg url api id ip".split()
)
SPOKEN_PARTS = frozenset("toml yaml yml".split())
# Endings of names whose last part may begin with a capital without being a new sentence.
CAPITAL_ENDINGS = frozenset("com org net js md txt pdf html csv json zip exe".split())

# What stands before a capital A that is the letter, not the article.
LETTER_CONTEXT = frozenset(
    "vitamin grade plan type class hepatitis group section point letter an exhibit series".split()
)
