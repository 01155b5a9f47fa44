"""Content codings applied, for tests that undo them."""

import gzip
import zlib

import brotli
import zstandard

CODERS = ("gzip", "deflate", "deflate, raw", "br", "zstd")


def coded(coding: str, body: bytes) -> tuple[str, bytes]:
    """Return the value of Content-Encoding, and the coded body."""
    match coding:
        case "gzip":
            return "gzip", gzip.compress(body)
        case "deflate":
            return "deflate", zlib.compress(body)
        case "deflate, raw":
            compressor = zlib.compressobj(wbits=-15)
            return "deflate", compressor.compress(body) + compressor.flush()
        case "br":
            return "br", brotli.compress(body, quality=5)
        case "zstd":
            return "zstd", zstandard.ZstdCompressor().compress(body)
    raise AssertionError(coding)
