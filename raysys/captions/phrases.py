"""Regular expressions for refusals and for talk about a caption instead of the caption, in English and Japanese.

A pattern requires something unambiguous: the model speaks about itself, about the request, or about an image that it
did not get. "Unfortunately", "sorry" and "of course" alone may also start a good caption.
"""

from __future__ import annotations

_OPENER = (
    r"^((unfortunately|regrettably|sorry|(i('|’)?m|i am) ((so|very|really|truly) )?(sorry|afraid)|i apologi[sz]e|"
    r"i regret to (say|inform you)|(my |our )?apologies|it (seems|appears|looks like))[,.;:!]*\s+"
    r"(but |that |however,? )?)?"
)
_AS_AI = r"(as an? [^,]*(ai|language model)\b[^,]*,? )?"
_ME = rf"{_OPENER}{_AS_AI}(i|we)"
_CANNOT = (
    r"( cannot| can('|’)?t| can not| could not| couldn('|’)t| won('|’)t( be able to)?| will not( be able to)?|"
    r" can only|( am| are| was| were|('|’)m|('|’)re) "
    r"(unable|only able|not (able|allowed|permitted|programmed|designed)) to)"
)
_IMAGE = r"(images?|pictures?|photos?|photographs?|attachments?|captions?|text|description|request|input|file)"
_DO = (
    r"((access|analy[sz]e|answer|assist|caption|comply|confirm|continue|create|describe|determine|discuss|engage|fulfill?|"
    r"generali[sz]e|generate|identify|interpret|load|look|open|process|produce|provide|read|recogni[sz]e|rewrite|say|see|"
    r"tell|translate|view|write)\b|help( (you|with)\b|\W*$)|make (out|this|that|it more)\b|do (that|this|so)\b)"
)
_GIVEN = r"(attached|provided|uploaded|given|included|received|shared|sent|found)"
_UNSEEN = r"(not |un)(visible|available|clear|readable|loading|displayed|shown|attached|provided|included)"
_SORRY = r"((i('|’)?m|i am) ((so|very|really|truly) )?sorry|sorry|(i|we) (deeply )?apologi[sz]e|(my |our )?apologies)"
_NO = r"(there (is|are|was|were|appears to be|seems to be) no|there does(n('|’)t| not) (seem|appear) to be an?|no)"
_UNREADABLE = (
    rf"(((is|was|seems|appears|looks)( to be)? (({_UNSEEN}|missing|blank|empty|corrupted|broken)"
    r"(\W*$| to me\b|,? (so|and) i\b)|too (blurry|dark|small|unclear|low)))|does(n('|’)t| not) contain enough\b|"
    r"(failed to|(did|does|would)(n('|’)t| not)) (load|open|display|upload)\b|"
    r"(could not|couldn('|’)t|cannot|can('|’)?t) be (loaded|opened|displayed|processed|viewed|described)\b)"
)

REFUSALS = (
    # what the model cannot or will not do
    rf"{_ME}{_CANNOT} ([\w-]+ ){{0,2}}{_DO}",
    rf"{_ME} (do not|don('|’)t) (see (an?|any|the|your) {_IMAGE}|feel comfortable|understand (the|your|what)|"
    rf"have (access|the (ability|capability)|(enough|any) (information|context|details?)|(an?|any|the|your) {_IMAGE})|"
    rf"know what (the|this|your) {_IMAGE}|think (i|we) (can|should))\b",
    rf"{_ME} ((need|require|would need) (more|additional) (information|context|details?)|(must|have to|need to) "
    r"(respectfully |politely )?decline( to\b| this\b| your\b|\W*$)|('|’)d (rather|prefer) not|did not receive|"
    rf"didn('|’)t receive|(am|are|('|’)m|('|’)re) not comfortable)\b",
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
    rf"{_OPENER}{_NO} {_IMAGE} ((is|are|was|were|has been|have been) )?({_GIVEN}\b|in your\b|to (describe|caption)\b)",
    rf"{_OPENER}(the|this|your) {_IMAGE}( (you )?{_GIVEN})? {_UNREADABLE}",
    rf"{_OPENER}(could not|cannot|unable to|failed to) (load|open|process|display|describe) "
    rf"((the|this|your) )?{_IMAGE}\b",
    rf"{_OPENER}you (forgot|have forgotten|did not|didn('|’)t|have not|haven('|’)t) (to )?"
    r"(attach|upload|provide|include|share)",
    rf"{_OPENER}(please|(can|could|would) you( please)?) (upload|provide|attach|send|resend|paste|share|give) (me )?"
    rf"(the|an?|your|this) (\w+ )?{_IMAGE}(\W*$| (again|first|so|that|you|to)\b)",
    # policies and apologies
    rf"{_OPENER}(this|the|your) (content|request|image|prompt|caption) "
    r"(violates?|goes against|(may|might|would) violate)\b[^.!?]*\b(polic(y|ies)|guidelines|terms)\b",
    rf"^(?!sorry\W*$){_SORRY}\W*$",
    rf"^{_SORRY} (for|about) (the|any|my) (confusion|inconvenience|mistake|error|misunderstanding)\b",
    r"^sorry\b.*\b(can('|’)?t|cannot|could not|couldn('|’)t|unable|not able|don('|’)t|images?|pictures?|help)\b",
)
"""Case-insensitive regular expressions for a `refusal`, searched in the text. The Japanese ones follow."""

# "… と書かれた看板", "… という標識": the caption quotes what is written in the image.
_NOT_QUOTED_JA = r"^(?!.*(と(書|記|表示|印刷|いう|言|話|泣|頭|敬礼|示|あ)|の(看板|標識|張り紙|ポスター|標示)))"
_SORRY_JA = r"(申し訳(ありません|ございません)|すみません|ごめんなさい|恐れ入ります|恐縮です|残念ながら)"
_CANNOT_JA = (
    r"(できません|できかねます|いたしかねます|わかりません|分かりません|見えません|見られません|見当たりません|ありません(?!が)|"
    r"お答え|お手伝い|お断り|(され|見え|でき|受け取って)ていません|ませんでした|できない|不可能です)"
)
REFUSALS += (
    r"^(申し訳(ありません|ございません)|すみません|ごめんなさい|お詫びします)[。!]?$",
    rf"{_NOT_QUOTED_JA}{_SORRY_JA}(が|けれど)?[、。,! ]*(?!$).*{_CANNOT_JA}",
    rf"{_NOT_QUOTED_JA}.*(画像|写真|キャプション|翻訳|内容|要望|リクエスト|質問)[^。]{{0,20}}{_CANNOT_JA}",
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
    r"^let me (describe|write|make|generali[sz]e|translate|rewrite|try)\b",
    r"^((an?|the|my|your) )?((more|extremely|very) )?((general|generalized|generic|image) )?"
    r"(caption|description|translation)( is)?\s*:?$",
    r"^(以下|次)(は|が|に|の)[^。]{0,20}(翻訳|訳文?|キャプション|説明文?|日本語訳)"
    r"(です|になります|となります|の(通り|とおり)です|を(示|記|提供|紹介|作成|ご紹介)[^。]{0,8})?[。:!]*$",
    r"^(翻訳|訳文?|キャプション|説明文?|日本語訳)(は|が)(以下|次)の(通り|とおり)です[。:!]*$",
    r"^(翻訳|説明|生成)(します|いたします)[。!]*$",
    r"^(はい|もちろん(です)?|承知(しました|いたしました)|わかりました|かしこまりました)([、。!]*"
    r"(承知(しました|いたしました)|わかりました|かしこまりました|もちろんです))?[、。!]*$",
)
"""Regular expressions for a `preamble`: talk about a caption that remains after `clean`."""
