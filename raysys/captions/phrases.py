"""Regular expressions for refusals, for talk about a caption instead of the caption, and for what is not natural
language, in English and Japanese.

A pattern requires something unambiguous: the model speaks about itself, about the request, or about an image that it
did not get. "Unfortunately", "sorry" and "of course" alone may also start a good caption.
"""

from __future__ import annotations

_OPENER = (
    r"^((unfortunately|regrettably|sorry|(i('|’)?m|i am) ((so|very|really|truly) )?(sorry|afraid)|i apologi[sz]e|"
    r"i regret to (say|inform you)|(my |our )?apologies|it (seems|appears|looks like))[,.;:!]*\s+"
    r"(but |that |however,? )?)?"
)
_AS_AI = r"(as an? [^,]*(ai|language model|assistant|chatbot)\b[^,]*,? )?"
_ME = rf"{_OPENER}{_AS_AI}(i|we)"
_CANNOT = (
    r"( cannot| can('|’)?t| can not| could not| couldn('|’)t| won('|’)t( be able to)?| will not( be able to)?|"
    r"( am| are| was| were|('|’)m|('|’)re) (unable|not (able|allowed|permitted|programmed|designed)) to)"
)
# "I can only see …" describes what an image shows; it is not in this list.
_ONLY = r"( can only|( am| are| was| were|('|’)m|('|’)re) only able to)"
_ONLY_DO = (
    r"((access|analy[sz]e|answer|assist|caption|comply|describe|generate|help|identify|interpret|process|provide|read|"
    r"respond|rewrite|tell you|translate)\b|(see|view|work with) text\b)"
)
_IMAGE = r"(images?|pictures?|photos?|photographs?|attachments?|captions?|text|description|request|input|file)"
_PICTURE = r"\b(images?|pictures?|photos?|photographs?)\b"
# "We can't tell whether it is a man or a woman" is about what the image shows.
_TELL = rf"tell(?! (whether|if|which)\b(?! (it|this)\b)(?!.*{_PICTURE}))"
_DO = (
    r"((access|analy[sz]e|answer|assist|caption|comply|confirm|continue|create|describe|determine|discuss|engage|fulfill?|"
    r"generali[sz]e|generate|identify|interpret|load|look|open|process|produce|provide|read|recogni[sz]e|rewrite|say|see|"
    rf"{_TELL}|translate|view|write)\b|help( (you|with)\b|\W*$)|make (out|this|that|it more)\b|do (that|this|so)\b)"
)
_DESCRIBING = r"(analy[sz]|caption|comment|describ|discuss|generat|identify|interpret|provid|rewrit|translat)\w*"
_GIVEN = r"(attached|provided|uploaded|given|included|received|shared|sent|found)"
# "There are no images included in the album" is a caption, "… in the request" is a refusal.
_REQUEST = (
    r"([\w-]+ )?(analysis|attachment|caption|chat|conversation|description|file|image|input|message|post|prompt|link|"
    r"query|question|request|text|upload|url|user)\b"
)
_NOT_GIVEN = rf"{_GIVEN}\b(?! (at|by|for|in|inside|near|on|under|with) (the|an?|any|its|his|her|their) (?!{_REQUEST}))"
_UNSEEN = r"(not |un)(visible|available|clear|readable|loading|displayed|shown|attached|provided|included)"
_SORRY = r"((i('|’)?m|i am) ((so|very|really|truly) )?sorry|sorry|(i|we) (deeply )?apologi[sz]e|(my |our )?apologies)"
_YOU = r"(can|could|would) you( please)?"
_THERE_IS_NO = (
    r"((there (is|are|was|were|appears to be|seems to be)|there('|’)s) no|"
    r"there (is|are|was|were)(n('|’)t| not) (an?|any)|there does(n('|’)t| not) (seem|appear) to be an?)"
)
_NO = rf"({_THERE_IS_NO}|no)"
# Not "too small for its frame".
_TOO_BAD = (
    r"too (blurry|dark|small|unclear|low)(( in)?[ -](resolution|quality))?((,| and| or) [\w-]+)*"
    rf"(\W*$|[.,;:!]| (for me )?to (make [^.]*out\b|{_DO})|,? (so|and) i\b| for (me\b|(an?|any) {_REQUEST}))"
)
_UNREADABLE = (
    rf"(((is|was|seems|appears|looks)( to be)? (({_UNSEEN}|missing|blank|empty|corrupted|broken)"
    rf"(\W*$| to me\b|,? (so|and) i\b)|{_TOO_BAD}))|does(n('|’)t| not) contain enough\b|"
    r"(failed to|(did|does|would)(n('|’)t| not)) (load|open|display|upload)\b|"
    r"(did|does)(n('|’)t| not) (come through|arrive)(\W*$|[.,;:!])|"
    r"(could not|couldn('|’)t|cannot|can('|’)?t) be "
    r"((loaded|opened|displayed|processed|viewed|described)\b|(accessed|found|retrieved)(\W*$|[.,;:!])))"
)

REFUSALS = (
    # what the model cannot or will not do
    rf"{_ME}{_CANNOT} ([\w-]+ ){{0,2}}{_DO}",
    rf"{_ME}{_ONLY} {_ONLY_DO}",
    rf"{_ME} (do not|don('|’)t) (see (an?|any|the|your) {_IMAGE}|feel comfortable|understand (the|your|what)|"
    rf"have (access|the (ability|capability)|(enough|any) (information|context|details?)|(an?|any|the|your) {_IMAGE})|"
    rf"know what (the|this|your) {_IMAGE}|think (i|we) (can|should))\b",
    rf"{_ME} ((need|require|would need) (more|additional) (information|context|details?)|did(n('|’)t| not) receive)\b",
    rf"{_ME} (must|have to|need to) (respectfully |politely )?(decline( to\b| this\b| your\b|[.,;:!]|\W*$)|"
    rf"refrain from {_DESCRIBING})",
    rf"{_ME}( would|('|’)d) (rather|prefer) not( to)?( say\W*$| {_DESCRIBING}|\W*$)",
    rf"{_ME}( am| are|('|’)m|('|’)re) (not comfortable|uncomfortable)"
    rf"( with (it|that|this|the request|your)\b| (with )?{_DESCRIBING}|\W*$)",
    rf"{_ME} refuse to {_DESCRIBING}",
    rf"{_OPENER}(it|that|this)( is|('|’)s)( not|n('|’)t)? something (i|we)({_CANNOT}| can|( am|('|’)m) able to) "
    rf"(assist|help|do\b|{_DESCRIBING})",
    rf"{_OPENER}(it|that|this|doing so)(('|’)s| is| goes| would be| would go) against my ([\w-]+ )?"
    r"(guidelines|polic(y|ies)|programming)\b",
    rf"\b(that|which|but|because|so|and) (i|we){_CANNOT} (caption|comply|describe|assist|fulfill?)"
    r"(\W*$| (it|this|that|the|in|with)\b)",
    rf"{_OPENER}it (is(n('|’)t| not) (possible|appropriate)|(is|would be) (impossible|inappropriate))( for me)? "
    r"to (describe|caption|provide|identify|tell|say)\b",
    # what it says of itself
    rf"{_OPENER}(i am|i('|’)m) (just |only |merely )?an? (ai|artificial|(large )?language model|text-based)\b",
    r"^as an? (ai|artificial intelligence|large language model|language model)"
    r"( (language )?(model|assistant|system|chatbot))?,? (i|we|my)\b",
    r"\bas an? (ai|language model)\b[^.]*\bi (cannot|can('|’)?t|am|do not|don('|’)t)\b",
    # an image that it did not get or cannot read
    rf"{_OPENER}{_NO} {_IMAGE} ((is|are|was|were|has been|have been) )?"
    rf"({_NOT_GIVEN}|(available|detected)\W*$|in your\b|to (describe|caption)\b)",
    rf"{_OPENER}({_THERE_IS_NO} {_IMAGE}|no (image|picture|caption|description))\W*$",
    rf"{_OPENER}((the|this|your) )?{_IMAGE} (not |un)(attached|available|found|loaded|provided)\W*$",
    rf"{_OPENER}(the|this|your) ({_GIVEN} )?{_IMAGE}( (you )?{_GIVEN})? {_UNREADABLE}",
    rf"{_OPENER}(could not|cannot|unable to|failed to) (load|open|process|display|describe) "
    rf"((the|this|your) {_IMAGE}\b|{_IMAGE}( data| file)?(\W*$|[.,;:!]| (at|because|due|from)\b))",
    rf"{_OPENER}you (forgot|have forgotten|did not|didn('|’)t|have not|haven('|’)t) (to )?"
    r"(attach|upload|provide|include|share)",
    rf"({_OPENER}(please|{_YOU})|[.!?] {_YOU}) (upload|provide|attach|send|resend|paste|share|give) (me )?"
    rf"(the|an?|your|this) (\w+ )?{_IMAGE}(\W*$| (again|first|so|that|you|to)\b)",
    # policies and apologies
    rf"{_OPENER}(this|the|your) (content|request|image|prompt|caption) "
    r"(violates?|goes against|(may|might|would) violate)\b[^.!?]*\b(polic(y|ies)|guidelines|terms)\b",
    rf"^(?!sorry\W*$){_SORRY}\W*$",
    rf"^{_SORRY} (for|about) (the|any|my) (confusion|inconvenience|mistake|error|misunderstanding)\b",
    r"^sorry(\s*[.,;:!-]| (about|but|for|i|it|my|no|that|the|there|this|to|your)\b).*\b"
    r"(can('|’)?t|cannot|could not|couldn('|’)t|unable|not able|don('|’)t|(images?|pictures?)(?! of an?\b)|help)\b",
)
"""Case-insensitive regular expressions for a `refusal`, searched in the text. The Japanese ones follow."""

# "… と書かれた看板", "… という標識": the caption quotes what is written in the image.
_NOT_QUOTED_JA = r"^(?!.*(と(書|記|表示|印刷|いう|言|話|泣|頭|敬礼|示|あ)|の(看板|標識|張り紙|ポスター|標示)))"
_SORRY_JA = r"(申し訳(ありません|ございません)|すみません|ごめんなさい|恐れ入ります|恐縮です|残念ながら)"
_CANNOT_JA = (
    r"(できません|できかねます|いたしかねます|わかりません|分かりません|見えません|見られません|見当たりません|ありません(?!が)|"
    r"お答え|お手伝い|お断り|(され|見え|でき|受け取って)ていません|ませんでした|できない|不可能です)"
)
# "写真立ての中に写真はありません" names a place in the image. "メッセージの中に…" is about the request.
_NOT_IN_THE_SCENE_JA = (
    r"(?!(?!.*(メッセージ|会話|リクエスト|入力|チャット|添付)).*([^像真]の[中上下前横隣左右]|壁)には?、?"
    r"(画像|写真)[はが](ありません|見えません|見当たりません))"
)
# "猫がいますが、犬は見えません": the clause after "が、" has a topic of its own.
_NOT_CONTRASTED_JA = r"(?!が、[^。]{0,40}[^にで]は(ありません|見えません|見当たりません))"
REFUSALS += (
    r"^(申し訳(ありません|ございません)|すみません|ごめんなさい|お詫びします)[。!]?$",
    rf"{_NOT_QUOTED_JA}{_SORRY_JA}(が|けれど)?[、。,! ]*(?!$).*{_CANNOT_JA}",
    rf"{_NOT_QUOTED_JA}{_NOT_IN_THE_SCENE_JA}.*(画像|写真|キャプション|翻訳|内容|要望|リクエスト|質問)"
    rf"({_NOT_CONTRASTED_JA}[^。]){{0,20}}{_CANNOT_JA}",
    rf"{_NOT_QUOTED_JA}(私は)?(ai|人工知能|大規模言語モデル|言語モデル)(アシスタント)?(として|なので|のため|であり|です)[^。]*{_CANNOT_JA}",
    r"(お手伝い|お答え|説明|生成|翻訳)(する)?ことは?でき(ません|かねます)",
    rf"{_NOT_QUOTED_JA}(画像|写真)を(もう一度)?(アップロード|添付|提供|送信|共有)して(ください|いただ)",
)

_YES = r"(sure( thing)?|certainly|of course|absolutely|okay|alright|understood|got it|no problem|gladly)"
_CAPTION = r"(caption|description|translation|version|rewrite)"
_OF_THE_IMAGE = (
    rf"(of|for) ((the|this|your|that) ([\w-]+ )?({_IMAGE}|{_CAPTION})|it)\b|"
    r"in (english|japanese|german|french|spanish)\b|"
    r"(that|which) (is|keeps?|captures?|describes?|removes?|leaves?|mentions?|omits?|would|fits?|does(n('|’)t| not))\b|"
    r"(you|as) (asked|requested|wanted|need)|with(out)? (the |any |more |less |fewer )*(specifics?|names?|details?)\b"
)

PREAMBLES = (
    rf"^{_YES}\W*$",
    rf"^({_YES}|ok)\s*[!,.:]\s*((i|we)('|’| )(d|ll|can|could|will|would|am|m|have|ve)? ?(be )?"
    r"(happy|glad|here|help|try|provide|describe|translat\w+|generali[sz]\w+|rewr\w+|made|written)|let me|here|below|"
    rf"happy to|glad to|as (you )?requested|(the|a|an|my|your) ([\w-]+ )*{_CAPTION}\b)",
    r"^(here(('|’)s| is)|this is|below is|the following is) "
    rf"(an?|the|my|your) ([\w-]+ ){{0,4}}{_CAPTION}(\W*$|\s*:| ({_OF_THE_IMAGE}))",
    rf"^(here|below) are (some|two|three|a few|the|my) ([\w-]+ ){{0,3}}({_CAPTION}s|options)\b",
    r"^(here you (go|are)|(i can|i('|’)ll|i will) do that)\W*$",
    r"^let me (describe|write|make|generali[sz]e|translate|rewrite|try(?! on| out))\b",
    r"^(i|we)( would|('|’)d) be (happy|glad) to (help|assist)(\W*$|[.,!]| (you|with)\b)",
    r"^\(?(please )?note( that)?\s*:\s*i( have|('|’)ve)? "
    r"(changed|generali[sz]ed|left out|omitted|removed|replaced|simplified)\b",
    r"^((an?|the|my|your) )?((more|extremely|very) )?((general|generalized|generic|image|revised|rewritten) )?"
    r"(caption|description|translation)( is| would be)?\s*:?$",
    r"^(以下|次)(は|が|に|の)[^。]{0,20}(翻訳|訳文?|キャプション|説明文?|日本語訳)"
    r"(です|になります|となります|の(通り|とおり)です|を(示|記|提供|紹介|作成|ご紹介)[^。]{0,8})?[。:!]*$",
    r"^(翻訳|訳文?|キャプション|説明文?|日本語訳)(は|が)(以下|次)の(通り|とおり)です[。:!]*$",
    r"^(翻訳|説明|生成)(します|いたします)[。!]*$",
    r"^(はい|もちろん(です)?|承知(しました|いたしました)|わかりました|かしこまりました)([、。!]*"
    r"(承知(しました|いたしました)|わかりました|かしこまりました|もちろんです))?[、。!]*$",
)
"""Regular expressions for a `preamble`: talk about a caption that remains after `clean`."""

NOT_TEXT = (
    r"<\|[^<>]*\|>|</?(s|bos|eos|pad|unk|think|end_of_turn|start_of_turn)>|\[/?inst\]|<</?sys>>",
    r"```",
    r"^(\{.*\}|\[\s*[\"{].*\])$",
    r"^\W*(none|null|n/a|undefined|該当なし)\W*$",
    r"^(assistant\s*:|(human|system|user)\s*:.*\b(ai|assistant)\s*:)",
    r"^[!-~]+\.(bmp|gif|heic|jpe?g|pdf|png|svg|tiff?|webp)\W*$|^(img|dscn?)[_-]?\d+$",
)
"""Regular expressions for `not_text`: special tokens, code fences, JSON, missing values, chat roles and file names."""
