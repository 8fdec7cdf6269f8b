"""Tables of the normaliser: what abbreviations, symbols and units are spoken as."""

from __future__ import annotations

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
BEFORE_DIGIT = frozenset("No no p pp vol Vol fig Fig Mar Sun Mon ed ch Ch sec Sec eq Eq ver Ref max".split())
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

# Unit: (one, many), read after a number.
UNITS = {
    "km": ("kilometer", "kilometers"),
    "m": ("meter", "meters"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "μm": ("micrometer", "micrometers"),
    "nm": ("nanometer", "nanometers"),
    "mi": ("mile", "miles"),
    "ft": ("foot", "feet"),
    "yd": ("yard", "yards"),
    "kg": ("kilogram", "kilograms"),
    "g": ("gram", "grams"),
    "mg": ("milligram", "milligrams"),
    "μg": ("microgram", "micrograms"),
    "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "L": ("liter", "liters"),
    "l": ("liter", "liters"),
    "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"),
    "s": ("second", "seconds"),
    "sec": ("second", "seconds"),
    "ms": ("millisecond", "milliseconds"),
    "μs": ("microsecond", "microseconds"),
    "min": ("minute", "minutes"),
    "h": ("hour", "hours"),
    "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"),
    "mph": ("mile per hour", "miles per hour"),
    "kph": ("kilometer per hour", "kilometers per hour"),
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"),
    "mg/dL": ("milligram per deciliter", "milligrams per deciliter"),
    "mpg": ("mile per gallon", "miles per gallon"),
    "rpm": ("revolution per minute", "revolutions per minute"),
    "fps": ("frame per second", "frames per second"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"),
    "KHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "dB": ("decibel", "decibels"),
    "kB": ("kilobyte", "kilobytes"),
    "KB": ("kilobyte", "kilobytes"),
    "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"),
    "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"),
    "MW": ("megawatt", "megawatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "V": ("volt", "volts"),
    "mA": ("milliamp", "milliamps"),
    "mAh": ("milliamp hour", "milliamp hours"),
    "Ω": ("ohm", "ohms"),
    "cal": ("calorie", "calories"),
    "kcal": ("kilocalorie", "kilocalories"),
    "ha": ("hectare", "hectares"),
    "px": ("pixel", "pixels"),
    "gal": ("gallon", "gallons"),
    "tsp": ("teaspoon", "teaspoons"),
    "tbsp": ("tablespoon", "tablespoons"),
    "dl": ("deciliter", "deciliters"),
    "dL": ("deciliter", "deciliters"),
    "cl": ("centiliter", "centiliters"),
    "kPa": ("kilopascal", "kilopascals"),
    "hPa": ("hectopascal", "hectopascals"),
    "Pa": ("pascal", "pascals"),
    "psi": ("P S I", "P S I"),
    "bpm": ("beat per minute", "beats per minute"),
    "dpi": ("dot per inch", "dots per inch"),
    "mV": ("millivolt", "millivolts"),
    "kV": ("kilovolt", "kilovolts"),
    "GW": ("gigawatt", "gigawatts"),
    "kB/s": ("kilobyte per second", "kilobytes per second"),
    "MB/s": ("megabyte per second", "megabytes per second"),
    "GB/s": ("gigabyte per second", "gigabytes per second"),
    "kbps": ("kilobit per second", "kilobits per second"),
    "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"),
    "Wh": ("watt hour", "watt hours"),
    "kΩ": ("kilohm", "kilohms"),
    "μA": ("microamp", "microamps"),
    "ns": ("nanosecond", "nanoseconds"),
    "°K": ("kelvin", "kelvins"),
    "sqm": ("square meter", "square meters"),
    "acre": ("acre", "acres"),
    "°C": ("degree celsius", "degrees celsius"),
    "°F": ("degree fahrenheit", "degrees fahrenheit"),
    "°": ("degree", "degrees"),
    "%": ("per cent", "per cent"),
}

# Units that are read so after a number where a stop follows.
STOPPED_UNITS = {
    "in": ("inch", "inches"),
    "ft": ("foot", "feet"),
    "yd": ("yard", "yards"),
    "mi": ("mile", "miles"),
    "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "gal": ("gallon", "gallons"),
    "pt": ("pint", "pints"),
    "qt": ("quart", "quarts"),
    "tsp": ("teaspoon", "teaspoons"),
    "tbsp": ("tablespoon", "tablespoons"),
    "sec": ("second", "seconds"),
    "min": ("minute", "minutes"),
    "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"),
    "wk": ("week", "weeks"),
    "wks": ("week", "weeks"),
    "mo": ("month", "months"),
    "yr": ("year", "years"),
    "yrs": ("year", "years"),
    "sq. ft": ("square foot", "square feet"),
    "sq. mi": ("square mile", "square miles"),
    "cu. ft": ("cubic foot", "cubic feet"),
}
# What may stand after the stroke of "litres/day", beside the units.
PER = {
    **{
        word: word
        for word in "second minute hour day night week month quarter year person capita head unit "
        "kilo kilogram gram liter litre gallon mile kilometer kilometre meter metre page word "
        "item piece user seat share game".split()
    },
    "sec": "second",
    "wk": "week",
    "mo": "month",
    "yr": "year",
    "gal": "gallon",
}

# Currency sign: (one, many, hundredth, hundredths).
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
    "US$": ("U S dollar", "U S dollars", "cent", "cents"),
    "A$": ("australian dollar", "australian dollars", "cent", "cents"),
    "AU$": ("australian dollar", "australian dollars", "cent", "cents"),
    "C$": ("canadian dollar", "canadian dollars", "cent", "cents"),
    "CA$": ("canadian dollar", "canadian dollars", "cent", "cents"),
    "NZ$": ("new zealand dollar", "new zealand dollars", "cent", "cents"),
    "HK$": ("hong kong dollar", "hong kong dollars", "cent", "cents"),
    "S$": ("singapore dollar", "singapore dollars", "cent", "cents"),
    "MX$": ("mexican peso", "mexican pesos", "centavo", "centavos"),
    "R$": ("brazilian real", "brazilian reals", "centavo", "centavos"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₿": ("bitcoin", "bitcoins", "", ""),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
    "₺": ("lira", "lira", "kurus", "kurus"),
    "₪": ("shekel", "shekels", "agora", "agorot"),
    "₫": ("dong", "dong", "", ""),
    "₦": ("naira", "naira", "kobo", "kobo"),
    "₱": ("peso", "pesos", "centavo", "centavos"),
    "฿": ("baht", "baht", "satang", "satang"),
    "¢": ("cent", "cents", "", ""),
    "CHF": ("swiss franc", "swiss francs", "centime", "centimes"),
    "CNY": ("yuan", "yuan", "fen", "fen"),
    "SEK": ("swedish krona", "swedish kronor", "ore", "ore"),
}
# Codes written beside an amount, and whose names they have.
CURRENCY_CODES = {
    "USD": "US$",
    "EUR": "€",
    "GBP": "£",
    "JPY": "¥",
    "INR": "₹",
    "AUD": "A$",
    "CAD": "C$",
    "NZD": "NZ$",
    "BRL": "R$",
    "BTC": "₿",
    "CHF": "CHF",
    "CNY": "CNY",
    "SEK": "SEK",
}
MAGNITUDES = {
    "k": "thousand",
    "K": "thousand",
    "m": "million",
    "M": "million",
    "mn": "million",
    "bn": "billion",
    "b": "billion",
    "B": "billion",
    "tn": "trillion",
    "T": "trillion",
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
    "section chapter part phase phrase verse scene act book volume war title appendix type stage "
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

# "read" and "lead" rhyme with "need" after these and at the start, else with "red" (flite's rule,
# with more words); the noun "lead" after the second set too, unlike flite.
INFINITIVE_BEFORE = frozenset(
    "to can can't cannot cant could couldn't couldnt will shall would should may might must do "
    "does did "
    "don't dont didn't didnt 'll please let's and then not".split()
)
NOUN_BEFORE = frozenset("the his her their our its a in".split())

# Contractions whose spelling without the apostrophe flite reads as another word or by a poor rule;
# all others are left to flite's ways (see `frontend.split_apostrophes`). These are deliberate
# departures.
CONTRACTIONS = {
    "haven't": "hh ae1 v ax0 n t",
    "hasn't": "hh ae1 z ax0 n t",
    "isn't": "ih1 z ax0 n t",
    "mustn't": "m ah1 s ax0 n t",
    "we're": "w iy1 r",
    "who're": "hh uw1 er0",
}

# The commonest short words: capitals of these are words in a text of capitals, and drawn-out
# spellings come back to these.
COMMON = frozenset(
    "a i am is are was were be been do does did has have had will would can could may might must "
    "shall should the an this that these those and or but nor so yet for to of in on at by with "
    "from up down out off over into he she it we you they me him her us them my your his its our "
    "their who what when where why how not no yes if then than as too very now here there all any "
    "some more most go come get got let make made see say said look stop help wait please hello "
    "hi hey oh ok well good bad big new old red run way day man men one two ten ready cool long "
    "really ever never love like nice great yeah".split()
)

# Interjections, drawn out or not: pattern, and the word that stands for it.
INTERJECTIONS = (
    ("sh{2,}", "shh"),
    ("h+m{2,}|hm+", "hmm"),
    ("m{3,}|mm", "mmm"),
    ("mh+m+", "mhm"),
    ("z{3,}", "zzz"),
    ("p+s{1,}t+", "psst"),
    ("br{2,}", "brr"),
    ("gr{2,}", "grr"),
    ("pf+t+", "pfft"),
    ("ts+k+", "tsk"),
    ("u+g+h+", "ugh"),
    ("a+r+g+h+", "argh"),
    ("a{2,}h*|ah{2,}", "ah"),
    ("o{2,}h+", "ooh"),
    ("oh{2,}", "oh"),
    ("u+h{2,}", "uh"),
    ("u+m{2,}", "um"),
    ("a+w{2,}", "aww"),
    ("e+w{2,}|e{2,}w+", "eww"),
    ("y{2,}a+y+|ya+y{2,}|ya{2,}y", "yay"),
    ("(?:ha){2,}h?", "haha"),
)

# Whole words, some with apostrophes, that are said so; phones, vowels with stress.  Letters make
# other words of them, or none.
SAID = {
    "shh": "sh sh",
    "hmm": "hh m m",
    "mmm": "m m m",
    "mhm": "m hh m",
    "zzz": "z z z",
    "psst": "p s s t",
    "brr": "b er1",
    "grr": "g er1",
    "pfft": "p f t",
    "tsk": "t ih1 s k",
    "argh": "aa1 r g",
    "ah": "aa1",
    "ooh": "uw1",
    "aww": "ao1",
    "eww": "iy1 uw0",
    "haha": "hh aa1 hh aa1",
    "th'": "dh ax0",
    "'em": "ax0 m",
    "'tis": "t ih1 z",
    "'twas": "t w ah1 z",
    "'cause": "k ah1 z",
    "'bout": "b aw1 t",
    "'til": "t ih1 l",
    "'round": "r aw1 n d",
    "'n'": "ax0 n",
    "'n": "ax0 n",
    "ol'": "ow1 l",
    "an'": "ae1 n d",
    "y'all": "y ao1 l",
    "ma'am": "m ae1 m",
    "c'mon": "k ax0 m aa1 n",
    "toml": "t aa1 m ax0 l",
    "yaml": "y ae1 m ax0 l",
    "yml": "y ae1 m ax0 l",
    "json": "jh ey1 s ax0 n",
    "github": "g ih1 t hh ah1 b",
    "wifi": "w ay1 f ay1",
}
# Of these, the ones with an apostrophe on the outside.
SAID_APART = frozenset(word for word in SAID if word[0] == "'" or word[-1] == "'")
