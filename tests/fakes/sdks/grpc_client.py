"""gRPC's C core, called as `grpc_client.py HOST:PORT MODEL`: what tests/fakes/grpc_client does with grpc-go."""

import sys

import grpc

SERVICE = "/google.ai.generativelanguage.v1beta.GenerativeService/"

model = sys.argv[2].encode()
request = bytes([0x0A, len(model)]) + model  # field 1, the model
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    channel.unary_unary(f"{SERVICE}GenerateContent")(request, timeout=30)
    answers = channel.unary_stream(f"{SERVICE}StreamGenerateContent")(request, timeout=30)
    print(1, sum(1 for _ in answers))
