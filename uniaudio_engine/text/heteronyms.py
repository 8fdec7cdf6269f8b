"""Words of one spelling and several pronunciations, told apart by the words around them.

A word's entry lists its senses in order: phones and the cues that ask for them; the first whose cue
is seen is taken. A cue names a place and a set of words (or a class of them):

    "<to,will"      the word before is one of these        "<<a"    one of the two before
    ">the,a"        the word after                         ">>"     one of the two after
    "~music,guitar" anywhere near in the sentence          "^"      the sentence begins with it
    "$"             it ends the phrase                     "*"      always

Several cues joined by spaces must all be seen. Where no sense fits, the answer is left to the
lexicon, which knows noun and verb of many words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from .lexicon import lexicon

_NEAR = 12  # words on either side that "~" looks at

_CLASSES = {
    "DET": "the a an this that these those my your his her its our their some any no every each "
    "another which whose what",
    "POSS": "my your his her its our their whose",
    "PRON": "i you we they who he she it",
    "THEY": "i you we they",
    "HE": "he she it who",
    "MODAL": "can could will would shall should may might must cannot cant couldnt wouldnt shouldnt "
    "wont 'll 'd gonna",
    "TO": "to",
    "DO": "do does did dont doesnt didnt don't doesn't didn't",
    "HAVE": "have has had having 've haven't hasn't hadn't havent hasnt hadnt",
    "BE": "is are was were be been being am isnt isn't arent wasnt werent 's 're",
    "VERY": "very so too as more most quite rather really pretty how fairly incredibly extremely",
    "HABIT": "every always usually often sometimes never daily rarely regularly mornings evenings "
    "seldom generally weekly",
    "PAST": "yesterday ago last once earlier already previously recently",
    "OBJ": "the a an this that these those my your his her its our their it them him me us you "
    "everything anything something each every all both",
    "ADV": "always never often usually also just only still even quickly really not n't rarely "
    "sometimes probably",
}

_FISH = "fish,fishing,lake,river,caught,catch,sea,pond,striped,trout,largemouth,boat,perch,grilled"
_SHIP = "ship,boat,stern,vessel,deck,sail,anchor,sailor,wave,waves,canoe,hull,port,starboard"
_METAL = (
    "zinc,copper,metal,metals,mercury,tin,toxic,poison,poisoned,cadmium,arsenic,iron,steel,heavy,"
    "melt,melted,molten,unleaded,gold,silver,alchemist,alchemists"
)
_GALE = "up,down,around,through,its,your,his,her,their,my,back,along,it,yarn,wool"

_VERB_CUES = (
    "<TO",
    "<MODAL",
    "<DO",
    "<please,lets,let's,not",
    "<i,we,they,who",
    "<you >OBJ",
    "<ADV <<PRON,MODAL,TO,DO",
    "^ >OBJ",
    "<and >OBJ",
)
_NOUN_CUES = ("<DET", "<of,for,in,with,without,by,from,under,on,at,no,and,or")
_PAIR = [*(("=v", cue) for cue in _VERB_CUES), *(("=n", cue) for cue in _NOUN_CUES)]


# Phones, or "=n" and "=v": what the lexicon has for the noun and the verb.
_SENSES: dict[str, list[tuple[str, str]]] = {
    "read": [
        ("r eh1 d", "<HAVE"),
        ("r eh1 d", "<ADV <<HAVE,BE"),
        ("r eh1 d", "<be,been,was,were,is,are,being,well,widely,have,has,had,'s"),
        ("r iy1 d", "<TO"),
        ("r iy1 d", "<MODAL"),
        ("r iy1 d", "<DO"),
        ("r iy1 d", "<please,lets,let's,not,and,then,or,must"),
        ("r iy1 d", "<<DO,MODAL <PRON,ADV"),
        ("r iy1 d", "<a,good,great,quick,easy,long,worthwhile,interesting,must"),
        ("r iy1 d", "^"),
        ("r eh1 d", "~PAST"),
        ("r iy1 d", "<THEY,ADV,people,kids,children,students ~HABIT"),
        ("r iy1 d", ">only"),
        ("r eh1 d", "*"),
    ],
    "lead": [
        ("l eh1 d", ">pipe,pipes,paint,poisoning,acid,shot,bullet,bullets,crystal,ore,glass,pencil,"
         "weight,weights,apron,sheet,sheets,solder,balloon,foil,contamination,dust,lined,free,based"),
        ("l eh1 d", "<as <<heavy,dense,soft,grey,gray"),
        ("l eh1 d", "<of,contains,contain,containing,unleaded,melted,molten $"),
        ("l eh1 d", "~" + _METAL),
        ("l iy1 d", "*"),
    ],
    "wound": [
        ("w aw1 n d", ">" + _GALE + " <HE,THEY,who,he,she,it,was,were,been,river,road,path,be,had,has"),
        ("w aw1 n d", ">up,around,through,round,back,along,down,tightly"),
        ("w aw1 n d", "<he,she,i,we,they >the >>clock,watch,rope,string,yarn,wool,bandage,toy,key,cord,thread"),
        ("w uw1 n d", "*"),
    ],
    "bass": [("b ae1 s", "~" + _FISH), ("b ey1 s", "*")],
    "basses": [("b ey1 s ax0 z", "*")],
    "bassist": [("b ey1 s ax0 s t", "*")],
    "bow": [
        ("b ow1", ">and >>arrow,arrows,arow"),
        ("b ow1", ">tie,ties,string,legged,window,hunting,saw"),
        ("b ow1", "~arrow,arrows,violin,cello,viola,fiddle,archer,ribbon,hair,shoelace,shoelaces,gift,cupid,quiver"),
        ("b aw1", "~" + _SHIP),
        ("b aw1", "<TO"),
        ("b aw1", "<MODAL"),
        ("b aw1", "<a,final,deep,low,their,his,her,polite <<take,took,takes,taking,make,made,with,a,final"),
        ("b aw1", ">down,before,out,to,politely,deeply,low"),
        ("b ow1", "<DET"),
        ("b aw1", "*"),
    ],
    "bows": [
        ("b ow1 z", "~arrow,arrows,violin,violins,ribbon,ribbons,hair,archers,gift,gifts"),
        ("b aw1 z", "*"),
    ],
    "minute": [
        ("m ay0 n uw1 t", ">detail,details,amount,amounts,quantity,quantities,particle,particles,"
         "difference,differences,change,changes,trace,traces,fraction,fractions,creatures,organisms,"
         "crystals,variations,doses,inspection,examination,attention,scale,holes,cracks"),
        ("m ay0 n uw1 t", "<so,too,extremely,incredibly,almost,infinitely,most,more $"),
        ("m ih1 n ax0 t", "*"),
    ],
    "live": [
        ("l ay1 v", ">music,show,shows,concert,concerts,audience,stream,streams,streaming,broadcast,"
         "broadcasts,tv,television,event,events,entertainment,performance,performances,band,bands,album,recording,"
         "coverage,chat,video,feed,action,wire,wires,ammunition,animals,bait,updates,report,version,"
         "demo,sports,theater,session,sessions,blog,caption,captions,captioning,today,tonight"),
        ("l ay1 v", "<go,goes,going,went,gone,watch,broadcast,streamed,recorded,performed,perform,"
         "performing,streaming,reporting,you,coming >from,at,on,tonight,today,in"),
        ("l ay1 v", "<go,goes,going,went,gone,broadcast,streamed,recorded,performed,watch,is,are,'re,re,were,was"),
        ("l ay1 v", "<a"),
        ("l ih1 v", "<TO"),
        ("l ih1 v", "<MODAL"),
        ("l ih1 v", "<DO"),
        ("l ih1 v", "<i,we,they,who,you,people,not,never,long,and,that,which"),
        ("l ih1 v", ">in,at,on,with,near,here,there,by,without,through,together,alone,up,under,like"),
    ],
    "tear": [
        ("t eh1 r", "<and <<wear"),
        ("t eh1 r", ">up,down,apart,off,out,away,through,along,open,it,them"),
        ("t eh1 r", "<TO"),
        ("t eh1 r", "<MODAL"),
        ("t eh1 r", "<DO"),
        ("t eh1 r", "<please,i,we,they,you,not,dont"),
        ("t eh1 r", "<DET,small,big,long,muscle,ligament >in"),
        ("t eh1 r", "^ >OBJ"),
        ("t ih1 r", "*"),
    ],
    "tears": [
        ("t eh1 r z", "<he,she,it,who >OBJ,up,down,apart,off,out,away,through"),
        ("t eh1 r z", ">apart,up,down,off"),
        ("t ih1 r z", "*"),
    ],
    "close": [
        ("=n", ">to,by,friend,friends,enough,up,call,range,together,behind,attention,look,"
         "relationship,ties,contact,race,second,game,relatives,knit,at,proximity,quarters,family"),
        ("=v", "<TO"),
        ("=v", "<MODAL"),
        ("=v", "<DO"),
        ("=v", "<please,lets,let's,not,then"),
        ("=v", "<the,a,s >of"),
        ("=v", "<to,a <<came,come,drew,draw,brought >of,$"),
        ("=n", "<VERY"),
        ("=n", "<BE"),
        ("=v", "^"),
        ("=v", ">OBJ"),
        ("=v", "<THEY"),
        ("=v", ">at,early,late"),
        ("=n", "*"),
    ],
    "use": [
        ("=n", "<the,a,an,of,no,its,their,my,your,our,any,little,much,in,for,into,daily,heavy,"
         "first,regular,public,common,constant,land,drug,energy,water"),
        ("=n", "<his,her,this,that"),
        ("=v", "*"),
    ],
    "house": [
        ("=v", "<TO >OBJ,people,families,refugees,students,thousands,hundreds"),
        ("=v", "<MODAL >OBJ,people,families,refugees,students,thousands,hundreds,up"),
        ("=n", "*"),
    ],
    "wind": [
        ("=v", ">up,down,around,through >>,"),
        ("=v", ">up"),
        ("=v", "<TO"),
        ("=v", "<MODAL"),
        ("=v", "^ >the,it,your >>clock,watch,toy,yarn,wool,up,key"),
        ("=v", "<roads,rivers,paths,streets"),
        ("=n", "*"),
    ],
    "winds": [
        ("w ay1 n d z", ">through,around,along,up,down,its,across <river,road,path,trail,street,stream,it,that,which,stairway,staircase"),
        ("w ih1 n d z", "*"),
    ],
    "dove": [
        ("d ow1 v", "<he,she,i,we,they,it,who,and,then"),
        ("d ow1 v", ">into,in,off,down,under,deep,headfirst,from"),
        ("d ah1 v", "*"),
    ],
    "sow": [
        ("s ow1", "<TO"),
        ("s ow1", "<MODAL"),
        ("s ow1", "<you,we,they,i,farmers"),
        ("s ow1", ">seeds,seed,the,wheat,corn,discord,doubt"),
        ("s aw1", "*"),
    ],
    "row": [("r aw1", "<a,the,terrible,huge,blazing,bitter ~argument,neighbors,neighbours,quarrel,angry"), ("r ow1", "*")],
    "invalid": [
        ("=n", "<an,the >$,'s,who"),
        ("ih0 n v ae1 l ax0 d", "*"),
    ],
    "desert": [
        ("=v", "<TO"),
        ("=v", "<MODAL"),
        ("=v", "<DO"),
        ("=v", "<not,never"),
        ("=n", "*"),
    ],
    "resume": [
        ("r eh1 z ax0 m ey0", "<POSS"),
        ("r eh1 z ax0 m ey0", "<a,the,updated,strong,impressive"),
        ("r ih0 z uw1 m", "*"),
    ],
    "content": [
        ("=v", "<is,are,was,were,be,been,being,am"),
        ("=v", "<'s <<heart"),
        ("=v", "<VERY"),
        ("=v", "<feel,felt,seemed,seem,seems,perfectly,quite"),
        ("=v", "<myself,himself,herself,themselves"),
        ("=n", "*"),
    ],
    "polish": [
        ("p ow1 l ih0 sh", "~warsaw,krakow,poland,language,speaks,speak,german,sausage"),
        ("p aa1 l ih0 sh", "*"),
    ],
    "lives": [
        ("l ih1 v z", "<he,she,it,who,that,which,everyone,nobody,somebody,here,there"),
        ("l ay1 v z", "<DET"),
        ("l ay1 v z", "<of,many,save,saved,saves,two,three,nine,both,lost,human,daily,whose,people's"),
        ("l ih1 v z", ">in,on,at,with,near,here,there,alone,by,next"),
        ("l ay1 v z", "*"),
    ],
    "separate": [
        ("=v", "<TO"),
        ("=v", "<MODAL"),
        ("=v", "^ >OBJ"),
        ("=v", "<please,lets,i,we,they"),
        ("=n", "*"),
    ],
    "produce": [("=n", "<fresh,local,organic,farm"), *_PAIR],
    "object": [*_PAIR, ("=v", ">to"), ("=n", "*")],
    "present": [
        ("=n", "<at,the,BE,a,my,your,his,her,our,their,this,all,those"),
        ("=v", "<i,we,they,proudly"),
        ("=v", "<TO"),
        ("=v", "<MODAL"),
        ("=v", "<DO"),
        ("=v", "^ >OBJ"),
        ("=v", "<please,lets,not,you >OBJ"),
        ("=n", "*"),
    ],
}
# Words whose noun and verb the lexicon tells apart.
_NOUN_VERB = frozenset(
    "record contract conduct conflict contest convert convict decrease export extract import increase insult permit produce progress project protest rebel refuse reject subject suspect transport upset abuse excuse estimate graduate duplicate advocate".split()
)
_Cue = Callable[[Sequence[str], int], bool]


def _words(text: str) -> frozenset[str]:
    found: set[str] = set()
    for name in text.split(","):
        found |= set(_CLASSES[name].split()) if name in _CLASSES else {name}
    return frozenset(found)


def _cue(text: str) -> _Cue:
    """One cue as a question about the words and a place in them."""
    if text == "*":
        return lambda words, i: True
    if text == "^":
        return lambda words, i: i == 0
    if text == "$":
        return lambda words, i: i == len(words) - 1
    sign = text[:2] if text[:2] in ("<<", ">>") else text[0]
    wanted = _words(text[len(sign) :])
    if "$" in wanted:
        return lambda words, i: i == len(words) - 1 or words[i + 1] in wanted
    spans = {"<": (-1, 0), "<<": (-2, 0), ">": (1, 2), ">>": (1, 3), "~": (-_NEAR, _NEAR + 1)}
    low, high = spans[sign]
    return lambda words, i: any(w in wanted for w in words[max(0, i + low) : max(0, i + high)])


@cache
def _senses(word: str) -> tuple[tuple[str, tuple[_Cue, ...]], ...]:
    entries = _SENSES.get(word, _PAIR)
    return tuple((phones, tuple(_cue(part) for part in cues.split())) for phones, cues in entries)


def heteronym(words: Sequence[str], i: int) -> list[str] | None:
    """The phones of `words[i]` (lower case) where its neighbours tell; None leaves it to the
    lexicon."""
    if words[i] not in _SENSES and words[i] not in _NOUN_VERB:
        return None
    for phones, cues in _senses(words[i]):
        if all(cue(words, i) for cue in cues):
            if phones[0] == "=":
                return lexicon().as_part(words[i], phones[1:])
            return phones.split()
    return None
