"""
OpenAI's legacy completions (`/completions`), and Mistral's and DeepSeek's fill-in-the-middle, which are shaped like it.

Everything is as in openai_chat, with `text` where that has messages: the same usage object in the same places, the
same end mark. `completion_tokens` may be missing if nothing was generated.
"""

from services.dialects import openai_chat
from services.dialects.dialect import Call, Dialect, Endpoint
from services.dialects.openai_paths import model_call, path_ending

NAME = "openai-completions"
OPERATION = "text_completion"

_PATH = path_ending("(?<!chat/)(?<!agents/)completions")


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host."""
    return model_call(endpoint, _PATH, NAME, OPERATION)


DIALECT = Dialect(
    name=NAME,
    recognise=recognise,
    request_reader=openai_chat.request_reader,
    response_reader=openai_chat.response_reader,
)
