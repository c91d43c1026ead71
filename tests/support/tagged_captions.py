"""Captions tagged by hand: word/POS, with the universal parts of speech that spaCy's English models use."""

TAGGED = """
A/DET man/NOUN riding/VERB a/DET wave/NOUN on/ADP top/NOUN of/ADP a/DET surfboard/NOUN ./PUNCT
Two/NUM dogs/NOUN playing/VERB in/ADP the/DET snow/NOUN ./PUNCT
A/DET woman/NOUN wearing/VERB a/DET red/ADJ dress/NOUN stands/VERB next/ADV to/ADP a/DET parked/ADJ car/NOUN ./PUNCT
A/DET group/NOUN of/ADP people/NOUN sitting/VERB around/ADP a/DET wooden/ADJ table/NOUN with/ADP laptops/NOUN
The/DET cat/NOUN is/AUX sleeping/VERB on/ADP the/DET couch/NOUN while/SCONJ the/DET dog/NOUN watches/VERB it/PRON
a/DET little/ADJ girl/NOUN holding/VERB an/DET umbrella/NOUN in/ADP the/DET rain/NOUN
Street/NOUN signs/NOUN on/ADP a/DET pole/NOUN at/ADP the/DET corner/NOUN of/ADP a/DET city/NOUN street/NOUN
An/DET old/ADJ man/NOUN sits/VERB on/ADP a/DET bench/NOUN reading/VERB a/DET newspaper/NOUN
Birds/NOUN can/AUX fly/VERB
The/DET bird/NOUN was/AUX flying/VERB
Students/NOUN always/ADV go/VERB to/ADP school/NOUN in/ADP the/DET morning/NOUN
Black/ADJ and/CCONJ white/ADJ photo/NOUN of/ADP a/DET young/ADJ boy/NOUN running/VERB through/ADP a/DET field/NOUN
a/DET bathroom/NOUN with/ADP a/DET toilet/NOUN ,/PUNCT a/DET sink/NOUN and/CCONJ a/DET shower/NOUN curtain/NOUN
Stock/NOUN photo/NOUN of/ADP happy/ADJ family/NOUN having/VERB breakfast/NOUN at/ADP home/NOUN
Kitchen/NOUN with/ADP stainless/ADJ steel/NOUN appliances/NOUN and/CCONJ hardwood/NOUN floors/NOUN
Barack/PROPN Obama/PROPN speaks/VERB during/ADP a/DET news/NOUN conference/NOUN in/ADP Washington/PROPN
How/SCONJ to/PART make/VERB chocolate/NOUN chip/NOUN cookies/NOUN
A/DET boat/NOUN floating/VERB on/ADP top/NOUN of/ADP a/DET lake/NOUN surrounded/VERB by/ADP mountains/NOUN ./PUNCT
The/DET men/NOUN are/AUX playing/VERB soccer/NOUN on/ADP the/DET field/NOUN
A/DET stop/NOUN sign/NOUN covered/VERB in/ADP graffiti/NOUN near/ADP a/DET brick/NOUN building/NOUN
A/DET yellow/ADJ and/CCONJ blue/ADJ train/NOUN passes/VERB through/ADP a/DET tunnel/NOUN
A/DET baseball/NOUN player/NOUN swings/VERB his/PRON bat/NOUN at/ADP the/DET ball/NOUN
There/PRON is/AUX a/DET clock/NOUN on/ADP the/DET wall/NOUN above/ADP the/DET fireplace/NOUN ./PUNCT
Modern/ADJ house/NOUN with/ADP swimming/NOUN pool/NOUN at/ADP night/NOUN
The/DET Eiffel/PROPN Tower/PROPN seen/VERB from/ADP the/DET river/NOUN in/ADP Paris/PROPN ,/PUNCT France/PROPN
A/DET bowl/NOUN filled/VERB with/ADP fruit/NOUN such/ADJ as/ADP apples/NOUN ,/PUNCT oranges/NOUN and/CCONJ grapes/NOUN
a/DET horse/NOUN drawn/VERB carriage/NOUN parked/VERB in/ADP front/NOUN of/ADP a/DET hotel/NOUN
A/DET bus/NOUN driving/VERB down/ADP a/DET street/NOUN past/ADP a/DET tall/ADJ building/NOUN
people/NOUN walk/VERB along/ADP the/DET beach/NOUN at/ADP sunset/NOUN
the/DET sun/NOUN sets/VERB behind/ADP the/DET mountains/NOUN
A/DET bird/NOUN perched/VERB on/ADP a/DET branch/NOUN looking/VERB left/ADV
A/DET sign/NOUN that/PRON says/VERB do/AUX not/PART enter/VERB
a/DET red/ADJ star/NOUN left/ADV of/ADP a/DET blue/ADJ ring/NOUN on/ADP a/DET striped/ADJ background/NOUN
a/DET drawing/NOUN that/PRON shows/VERB a/DET dotted/ADJ green/ADJ heart/NOUN above/ADP a/DET small/ADJ circle/NOUN
a/DET blue/ADJ background/NOUN with/ADP a/DET red/ADJ ring/NOUN ,/PUNCT a/DET star/NOUN and/CCONJ a/DET cross/NOUN
This/DET photo/NOUN was/AUX taken/VERB in/ADP 2015/NUM during/ADP a/DET trip/NOUN to/ADP Japan/PROPN ./PUNCT
A/DET toy/NOUN car/NOUN left/VERB on/ADP the/DET floor/NOUN
The/DET left/ADJ hand/NOUN of/ADP a/DET man/NOUN holding/VERB an/DET apple/NOUN
Fresh/ADJ vegetables/NOUN cut/VERB into/ADP small/ADJ pieces/NOUN on/ADP a/DET cutting/NOUN board/NOUN
Six/NUM zebras/NOUN graze/VERB in/ADP an/DET open/ADJ field/NOUN with/ADP trees/NOUN in/ADP the/DET background/NOUN
They/PRON have/AUX eaten/VERB the/DET cake/NOUN ./PUNCT
She/PRON has/VERB a/DET dog/NOUN and/CCONJ does/AUX not/PART like/VERB it/PRON
It/PRON 's/AUX raining/VERB cats/NOUN and/CCONJ dogs/NOUN
a/DET man/NOUN 's/PART hand/NOUN
Children/NOUN were/AUX seen/VERB running/VERB away/ADV from/ADP the/DET burning/ADJ building/NOUN
an/DET orange/NOUN on/ADP a/DET brown/ADJ table/NOUN
A/DET small/ADJ plane/NOUN flies/VERB low/ADV over/ADP the/DET water/NOUN
The/DET waves/NOUN crash/VERB against/ADP the/DET rocks/NOUN
a/DET stop/NOUN light/NOUN is/AUX red/ADJ
bananas/NOUN ,/PUNCT apples/NOUN and/CCONJ pears/NOUN are/AUX displayed/VERB for/ADP sale/NOUN
A/DET vintage/ADJ photo/NOUN shows/VERB a/DET family/NOUN posing/VERB outdoors/ADV
two/NUM children/NOUN feed/VERB ducks/NOUN by/ADP the/DET pond/NOUN
a/DET chef/NOUN slicing/VERB onions/NOUN with/ADP a/DET sharp/ADJ knife/NOUN
A/DET bedroom/NOUN has/VERB a/DET large/ADJ bed/NOUN and/CCONJ a/DET ceiling/NOUN fan/NOUN
Someone/PRON is/AUX about/ADV to/PART cut/VERB a/DET birthday/NOUN cake/NOUN
Close/ADV up/ADP of/ADP a/DET bee/NOUN on/ADP a/DET purple/ADJ flower/NOUN
skiers/NOUN wait/VERB in/ADP line/NOUN for/ADP the/DET chair/NOUN lift/NOUN
A/DET plate/NOUN topped/VERB with/ADP rice/NOUN ,/PUNCT beans/NOUN and/CCONJ grilled/ADJ meat/NOUN
The/DET tennis/NOUN player/NOUN is/AUX getting/VERB ready/ADJ to/PART serve/VERB the/DET ball/NOUN
a/DET very/ADV tall/ADJ giraffe/NOUN eats/VERB leaves/NOUN from/ADP a/DET tree/NOUN
an/DET empty/ADJ park/NOUN bench/NOUN covered/VERB with/ADP fallen/ADJ leaves/NOUN
"""
