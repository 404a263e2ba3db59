"""`{name}` in a prompt, and the doubled braces that stand for braces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches

from afstream.timeline.cue import MAX_PROMPT_CHARS
from afstream.timeline.place import Place, shown

NAME = re.compile(r"[^\W\d]\w*")
BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def substitute(text: str, names: Mapping[str, str], place: Callable[[int], Place]) -> str:
    """Put each name's text for `{name}`, and a brace for a doubled one.

    Args:
        text: as written in the file.
        names: what `@let` has named so far.
        place: tells where in the file a character of `text` stands.
    """

    def replacement(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] is None:
            raise place(match.start()).error(
                f"found a lone {match[0]!r}; braces stand round a name, {{fox}}; write"
                f" {match[0] * 2!r} for the brace itself"
            )
        name = match[1].strip()
        if name not in names:
            raise place(match.start()).error(unknown_name(name, names))
        return names[name]

    result = BRACES.sub(replacement, text)
    # Names made of names can double with every line.
    if len(result) > MAX_PROMPT_CHARS:
        raise place(0).error(
            f"the text grows to {len(result):,} characters; at most {MAX_PROMPT_CHARS:,} are"
            " allowed; use shorter names' texts"
        )
    return result


def unknown_name(name: str, names: Mapping[str, str]) -> str:
    """What to say about a name that no line above has given."""
    known = f"the lines above give {', '.join(names)}" if names else "no line above gives a name"
    return (
        f"unknown name {shown(name)}; {known}{perhaps(name, names)}; name it with @let, or write"
        " '{{' for the brace itself"
    )


def perhaps(word: str, known: Iterable[str]) -> str:
    """The nearest known word as part of a sentence, empty when none is near."""
    near = get_close_matches(word.lower(), known, n=1)
    return f"; perhaps {near[0]!r} is meant" if near else ""


def escape_braces(text: str) -> str:
    """Double every brace, so that `substitute` gives the text back."""
    return text.replace("{", "{{").replace("}", "}}")
