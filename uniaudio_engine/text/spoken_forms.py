"""Tables of words: common ones, interjections, contractions, and pronunciations that the letters do
not tell.
"""

from __future__ import annotations

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
    "ios": "ay1 ow1 eh1 s",
    "github": "g ih1 t hh ah1 b",
    "wifi": "w ay1 f ay1",
}
# Of these, the ones with an apostrophe on the outside.
SAID_APART = frozenset(word for word in SAID if word[0] == "'" or word[-1] == "'")
