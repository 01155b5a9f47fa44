"""
dialects: the HTTP parts of a provider's API -> what one response said it used (`services.events.usage.ResponseUsage`).

recognise     which call a request is: the table of all dialects, and the only door for others
dialect       the terms: `Call`, `RequestFacts`, what a dialect has to bring, what a reader has to do
hosts         whose API a host name is; which hosts are worth intercepting
answer        how any answer is read: framing, errors, and how it ended; the dialect's `Tally` says the rest
framings      streams that are no event streams: JSON lines, AWS messages
grpc_answer   how a gRPC answer is read, and how it ended
counts        numbers and names taken from JSON; the sums that a provider's own numbers should keep
request_body  the few members of a request body that a record needs
model_names   the language server's placeholder names -> names of models
openai_paths  the endpoints of OpenAI-shaped APIs; openai_usage  their usage objects; background_responses  late reports

    google_generate_content   Gemini API and Vertex AI, `:generateContent` and `:streamGenerateContent`
    google_grpc               the same two over gRPC
    google_cloudcode          the Cloud Code wrapper around it, `v1internal:…`
    google_embeddings         Gemini API's `:embedContent` and kin, Vertex AI's `:predict` with an embedding model
    google_interactions       the Interactions API
    anthropic_messages        Anthropic Messages, also behind gateways and on Vertex AI
    bedrock_converse          Amazon Bedrock's Converse
    bedrock_invoke            Amazon Bedrock's InvokeModel: each vendor's own format
    cohere                    Cohere's chat, generate, embeddings, rerank
    ollama                    Ollama's own API
    openai_chat               OpenAI Chat Completions and the many APIs that speak it
    openai_completions        OpenAI's legacy completions
    openai_embeddings         OpenAI's embeddings
    openai_images             OpenAI's images
    openai_responses          OpenAI Responses: JSON, event stream, WebSocket

How to add a dialect:

1. Write its module: a `Tally` that reads one parsed JSON message at a time and makes records, a function that
   recognises its requests by method, host and path, and a `DIALECT` that names both. What the module must know about
   the provider stands on top of it, with the source: which counts are parts of which, what replaces what, what ends
   a stream. Counts replace, they never add; a count that is not reported is not there.
2. Put captures of it into tests/captures/<module>/: text files, at least one for each rule on top of the module.
3. Add its `DIALECT` to the table in recognise.py, and the provider's hosts to hosts.py if they are new.

A stage: imports wire and events. Nothing here touches a socket or a clock, and nothing here raises on a bad body.
"""
