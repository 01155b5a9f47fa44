"""
wire: bytes <-> the parts of a protocol, without sockets, clocks or files.

errors            `WireError`, the one family that these readers raise
client_hello      the first bytes of a TLS connection -> server name and protocols offered
http1             HTTP/1.1 heads and bodies, followed on their way through
usual_head        most of the heads, in one look
http2             one end of an HTTP/2 connection, with limits, around the h2 library
http2_parts       what passes on its streams
websocket         what one end of a WebSocket sends -> its text messages, through permessage-deflate
content_encoding  gzip, deflate, br, zstd, undone piece by piece
sse               an event stream -> server-sent events
event_chunk       one chunk that is one event -> its data, in one look
prefixed          what messages with their length before them share
eventstream       an AWS event stream -> checked messages
grpc              the body of a gRPC call -> messages, decompressed
protobuf          one protobuf message -> the members that a shape names
json_stream       a JSON array or JSON lines -> elements, as they arrive
json_members      one passing JSON object -> a few of its scalar members

A stage: imports none of ours. Every reader takes bytes in any split, returns finished parts ("not yet" is an empty
list), looks at no byte twice, and has a limit on what it holds.
"""
