"""The words of the pocket world, known without torch."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from afstream.errors import PromptError
from afstream.families.pocket.phrases import FUNCTION_GROUP, SILENT_WORDS, VOCABULARY, words
from afstream.text import some_of
from afstream.timeline.lines import shown

# words of a prompt that the embedded model reads
TEXT_LEN = 24
# of each kind, in an error
MOST_TOLD = 10


def vocabulary() -> tuple[str, ...]:
    """Every word that means something in the pocket world, in a fixed order."""
    return tuple(dict.fromkeys(word for group in VOCABULARY.values() for word in group))


def telling_words(prompt: str) -> list[str]:
    """The words of a prompt, without those that say nothing of the world."""
    return [word for word in words(prompt) if word not in SILENT_WORDS]


def known_words(prompt: str, known: Collection[str], text_len: int) -> list[str]:
    """The telling words of a prompt, all of which are known.

    Raises:
        PromptError: the prompt is empty, has more than `text_len` words, or others than these.
    """
    telling = telling_words(prompt)
    unknown = [word for word in dict.fromkeys(telling) if word not in known]
    if unknown:
        some = unknown[:MOST_TOLD]
        near = [near for word in some for near in difflib.get_close_matches(word, known, 1)]
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        named = some_of([shown(word) for word in unknown])
        groups = {kind: few for kind, few in VOCABULARY.items() if kind != FUNCTION_GROUP}
        told = "; ".join(f"{kind} {some_of(few, most=MOST_TOLD)}" for kind, few in groups.items())
        raise PromptError(
            f"the pocket model does not know {named} in {shown(prompt)}.{hint} It knows the {told}."
        )
    if not telling:
        raise PromptError(
            f"the prompt {shown(prompt)} has no words; say what is seen, for example"
            ' "A red star drifts left over a meadow."'
        )
    if len(telling) > text_len:
        raise PromptError(
            f"the prompt {shown(prompt)} has {len(telling)} words; the pocket model reads at most"
            f" {text_len}"
        )
    return telling
