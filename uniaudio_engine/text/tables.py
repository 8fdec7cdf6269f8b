"""Tables of the normaliser: what abbreviations, symbols and units are spoken as."""

from __future__ import annotations

# Characters that Unicode decomposition does not turn into ASCII. A word is set off by spaces.
CHARACTERS = {
    "‘": "'",
    "’": "'",
    "‚": ",",
    "‛": "'",
    "ʼ": "'",
    "′": "'",
    "´": "'",
    "“": '"',
    "”": '"',
    "„": '"',
    "‟": '"',
    "«": '"',
    "»": '"',
    "″": '"',
    "‐": "-",
    "‑": "-",
    "‒": "–",
    "―": "—",
    "−": "-",
    "⁃": "-",
    "•": ", ",
    "·": " ",
    "⁄": "/",
    "ß": "ss",
    "ẞ": "SS",
    "æ": "ae",
    "Æ": "Ae",
    "œ": "oe",
    "Œ": "Oe",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "ð": "th",
    "Ð": "Th",
    "þ": "th",
    "Þ": "Th",
    "ı": "i",
    "¿": " ",
    "¡": " ",
    "。": ". ",
    "、": ", ",
    "،": ", ",
    "؛": "; ",
    "؟": "? ",
    "।": ". ",
    "⋯": "...",
    "©": " copyright ",
    "®": " registered ",
    "™": " trademark ",
    "§": " section ",
    "¶": " paragraph ",
    "±": " plus or minus ",
    "×": " times ",
    "÷": " divided by ",
    "≈": " about ",
    "≠": " is not equal to ",
    "≤": " at most ",
    "≥": " at least ",
    "∞": " infinity ",
    "√": " square root of ",
    "→": ", ",
    "²": "²",
    "³": "³",
    "µ": "μ",
    "º": "°",
    "α": " alpha ",
    "β": " beta ",
    "γ": " gamma ",
    "δ": " delta ",
    "λ": " lambda ",
    "π": " pi ",
    "σ": " sigma ",
    "Δ": " delta ",
    "Σ": " sigma ",
    "ω": " omega ",
    "Ω": "Ω",
}

KEPT = frozenset("–—°²³μΩ€£¥$")  # non-ASCII characters (and the dollar) that later steps read

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
BEFORE_DIGIT = frozenset("No no p pp vol Vol fig Fig Mar Sun ed".split())
# Where one of these ends a line or stands before a capital, a sentence may end there.
MAY_END = frozenset("etc Jr Sr Inc Ltd Corp Co Bros St Ave Blvd Rd al Ph.D".split())
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
    "°C": ("degree celsius", "degrees celsius"),
    "°F": ("degree fahrenheit", "degrees fahrenheit"),
    "°": ("degree", "degrees"),
    "%": ("per cent", "per cent"),
}

# Currency sign: (one, many, hundredth, hundredths).
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
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
    "°": " degrees ",
    "²": " squared ",
    "³": " cubed ",
    "μ": " micro ",
    "Ω": " ohms ",
    "_": " ",
    "*": " ",
    "^": " ",
    "~": " ",
    "|": ", ",
    "\\": " ",
    "<": " ",
    ">": " ",
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
    "usa ussr nyse asap faq html http https imap isbn rsvp eeg ecg uefa uae ceo cfo cto ufo".split()
)

# Spelled as parts of web addresses.
SPELLED_DOMAINS = frozenset("ai io uk eu us de fr tv".split())

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
