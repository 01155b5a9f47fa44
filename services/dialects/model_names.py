"""
The language server's names for models -> names that people know.

The Antigravity language server writes `MODEL_PLACEHOLDER_M<n>` (enum number 1000 + n) or an older enum name where
others write a model's name, and the vendor gives freed numbers to new models. So what the wire says counts more
than the table: `fetchAvailableModels`, asked by the language server at its start and every five minutes, lists each
model's own key with its enum name. The table is for the time before that, and for old records.
"""

import re
from collections.abc import Mapping

import orjson

from services.dialects.counts import name_of, object_of
from services.wire.errors import WireError
from services.wire.json_stream import JsonElementReader

# The catalogue had 67 KB in 2026.
CATALOGUE_BYTES_MAX = 4 * 1024 * 1024
CATALOGUE_MODELS_MAX = 1000

FIRST_PLACEHOLDER_NUMBER = 1000

# Newest sighting first; where the same number was seen with several models, the newest one stands.
KNOWN_NAMES: Mapping[str, str] = {
    # 14 September 2026
    "MODEL_PLACEHOLDER_M318": "gemini-3.8-flash-high",
    "MODEL_PLACEHOLDER_M319": "gemini-3.8-flash-medium",
    "MODEL_PLACEHOLDER_M320": "gemini-3.8-flash-low",
    "MODEL_PLACEHOLDER_M322": "gemini-3.8-flash-tiered",
    "MODEL_PLACEHOLDER_M37": "gemini-3.1-pro-high",
    "MODEL_PLACEHOLDER_M50": "gemini-3.1-flash-lite",  # search and checkpoints
    # August 2026
    "MODEL_PLACEHOLDER_M298": "gemini-3.7-flash-high",
    "MODEL_PLACEHOLDER_M299": "gemini-3.7-flash-medium",
    "MODEL_PLACEHOLDER_M300": "gemini-3.7-flash-low",
    "MODEL_PLACEHOLDER_M71": "gemini-3.6-flash-high",
    "MODEL_PLACEHOLDER_M72": "gemini-3.6-flash-medium",
    "MODEL_PLACEHOLDER_M73": "gemini-3.6-flash-low",
    # May and June 2026. M133 was seen without a name.
    "MODEL_PLACEHOLDER_M20": "gemini-3.5-flash-medium",
    "MODEL_PLACEHOLDER_M132": "gemini-3.5-flash-high",  # its key was gemini-3-flash-agent
    "MODEL_PLACEHOLDER_M187": "gemini-3.5-flash-low",
    "MODEL_PLACEHOLDER_M16": "gemini-3.1-pro-high",  # its key was gemini-pro-default, later gemini-pro-agent
    # 12 May 2026
    "MODEL_PLACEHOLDER_M84": "gemini-3-flash",
    # March and April 2026
    "MODEL_PLACEHOLDER_M36": "gemini-3.1-pro-low",
    "MODEL_PLACEHOLDER_M47": "gemini-3-flash",
    "MODEL_PLACEHOLDER_M35": "claude-sonnet-4-6-thinking",
    "MODEL_PLACEHOLDER_M26": "claude-opus-4-6-thinking",
    # February 2026. One extension of the same year maps M12 to Opus 4.6 and M7, M8 to Gemini 3.1 Pro; two other sources
    # say what stands here. M164 and M165 were "Pro low" and "Pro high" in one client, of no known version; M196 was
    # seen for subagents.
    "MODEL_PLACEHOLDER_M18": "gemini-3-flash",
    "MODEL_PLACEHOLDER_M8": "gemini-3-pro-high",
    "MODEL_PLACEHOLDER_M7": "gemini-3-pro-low",
    "MODEL_PLACEHOLDER_M9": "gemini-3-pro-image",
    "MODEL_PLACEHOLDER_M12": "claude-opus-4-5-thinking",
    # Enum names from before the placeholders; their numbers below.
    "MODEL_CLAUDE_4_5_SONNET": "claude-sonnet-4-5",
    "MODEL_CLAUDE_4_5_SONNET_THINKING": "claude-sonnet-4-5-thinking",
    "MODEL_CLAUDE_4_5_HAIKU": "claude-haiku-4-5",
    "MODEL_CLAUDE_4_5_HAIKU_THINKING": "claude-haiku-4-5-thinking",
    "MODEL_OPENAI_GPT_OSS_120B_MEDIUM": "gpt-oss-120b-medium",
    "MODEL_GOOGLE_GEMINI_2_5_FLASH": "gemini-2.5-flash",
    "MODEL_GOOGLE_GEMINI_2_5_FLASH_THINKING": "gemini-2.5-flash-thinking",
    "MODEL_GOOGLE_GEMINI_2_5_FLASH_LITE": "gemini-2.5-flash-lite",
    "MODEL_GOOGLE_GEMINI_2_5_PRO": "gemini-2.5-pro",
}

FIXED_NUMBERS: Mapping[int, str] = {
    333: "MODEL_CLAUDE_4_5_SONNET",
    334: "MODEL_CLAUDE_4_5_SONNET_THINKING",
    340: "MODEL_CLAUDE_4_5_HAIKU",
    341: "MODEL_CLAUDE_4_5_HAIKU_THINKING",
    342: "MODEL_OPENAI_GPT_OSS_120B_MEDIUM",
    312: "MODEL_GOOGLE_GEMINI_2_5_FLASH",
    313: "MODEL_GOOGLE_GEMINI_2_5_FLASH_THINKING",
    330: "MODEL_GOOGLE_GEMINI_2_5_FLASH_LITE",
    246: "MODEL_GOOGLE_GEMINI_2_5_PRO",
}

_ENUM_NAME = re.compile(r"MODEL_[A-Z0-9_]{1,80}")
_ENUM_NUMBER = re.compile(r"[0-9]{3,5}")


class ModelNames:
    """Resolves names; knows the table, and what it learned since the process began."""

    def __init__(self) -> None:
        self._learned: dict[str, str] = {}

    def resolve(self, model: str) -> str:
        """Return the name behind an enum name or number of the language server; any other name is returned as it is."""
        enum = _enum_of(model)
        return self._learned.get(enum) or KNOWN_NAMES.get(enum) or model

    def learn(self, names: Mapping[str, str]) -> None:
        """Take over what a catalogue says, enum name -> model name."""
        self._learned.update(names)


class ModelCatalogueReader:
    """Reads an answer of `fetchAvailableModels`: decoded body bytes in any split go in."""

    def __init__(self) -> None:
        self._elements = JsonElementReader(element_bytes_max=CATALOGUE_BYTES_MAX)
        self._texts: list[bytes] = []
        self._is_broken = False

    def feed(self, data: bytes) -> None:
        """Read the next piece; never raises."""
        if self._is_broken:
            return
        try:
            self._texts += self._elements.feed(data)
        except WireError:
            self._is_broken = True

    def end(self) -> dict[str, str]:
        """Return enum name -> model name; empty when the answer was no catalogue."""
        names: dict[str, str] = {}
        for text in self._texts:
            names.update(_names_in(text))
        return names


def _names_in(text: bytes) -> dict[str, str]:
    try:
        answer = object_of(orjson.loads(text))
    except orjson.JSONDecodeError:
        return {}
    # The language server's own API gives the same catalogue inside `response`.
    models = object_of(answer.get("models")) or object_of(object_of(answer.get("response")).get("models"))
    names: dict[str, str] = {}
    for key, entry in list(models.items())[:CATALOGUE_MODELS_MAX]:
        enum = name_of(object_of(entry).get("model"))
        if enum and _ENUM_NAME.fullmatch(enum) and name_of(key) and not _ENUM_NAME.fullmatch(key):
            # Several keys may stand for one model; the catalogue's first is as good as any, and stays the same.
            names.setdefault(enum, key)
    return names


def _enum_of(model: str) -> str:
    if not _ENUM_NUMBER.fullmatch(model):
        return model
    number = int(model)
    if number >= FIRST_PLACEHOLDER_NUMBER:
        return f"MODEL_PLACEHOLDER_M{number - FIRST_PLACEHOLDER_NUMBER}"
    return FIXED_NUMBERS.get(number, model)
