"""
What a metered program is started with: variables by which it trusts mitm, goes through it, and is known to it.

A core: paths and names in, variables out. lsrunner starts its language server with these, `wiremeter run` any program.
"""

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# `LABEL:RUN`, for what loses its proxy credentials on the way (Java has none) or is redirected and never had any: mitm
# reads this variable of the processes that it may look at.
NAME_VARIABLE = "WIREMETER_RUN"
LABEL_LETTERS_MAX = 64
_RUN = re.compile("[0-9A-Za-z]{1,64}")
# A trust store of public certificates protects nothing by its password; this is the one that Java's own have.
JAVA_STORE_PASSWORD = "changeit"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ClientName:
    """What a client says that it is: the user's name for it, and the `wiremeter run` that it belongs to."""

    label: str | None
    run: str | None = None


def client_name(text: str) -> ClientName | None:
    """Read `LABEL:RUN`; anybody may have written it, so it is cut to size. None when nothing is left."""
    label, _, run = text.partition(":")
    label = "".join(letter for letter in label if letter.isprintable())[:LABEL_LETTERS_MAX]
    found = ClientName(label or None, run if _RUN.fullmatch(run) else None)
    return None if found == ClientName(None) else found


def proxy_address(port: int, label: str, run: str = "") -> str:
    """Return the address of our proxy with credentials: the label as user, the run as password."""
    return f"http://{urllib.parse.quote(label, safe='')}:{run}@127.0.0.1:{port}"


def trust_variables(bundle: Path, authority: Path) -> dict[str, str]:
    """
    Return the variables by which programs learn to trust mitm.

    `bundle` holds the system's authorities and ours, for those who replace their store; `authority` ours alone, for
    those who add to it. With SSL_CERT_FILE but without SSL_CERT_DIR a Go program would read the system's directory as
    well.
    """
    replaced = (
        "SSL_CERT_FILE",  # OpenSSL and with it Python's ssl and Ruby; Go; Rust's native-certs; httpx; uv
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "AWS_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "PIP_CERT",
        "CARGO_HTTP_CAINFO",
        "npm_config_cafile",
        "HTTPLIB2_CA_CERTS",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "CODEX_CA_CERTIFICATE",
    )
    added = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")  # the first is Bun's too
    return {
        **dict.fromkeys(replaced, str(bundle)),
        **dict.fromkeys(added, str(authority)),
        "SSL_CERT_DIR": "/dev/null",
    }


def proxy_variables(proxy: str) -> dict[str, str]:
    """Return the variables that send a program's HTTPS through CONNECT."""
    around = ",".join(_LOOPBACK)
    return {
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "NO_PROXY": around,
        "no_proxy": around,
        # Node 24 and later: its own fetch honours the proxy only with this.
        "NODE_USE_ENV_PROXY": "1",
    }


def java_variables(store: Path, port: int | None, present: str = "") -> dict[str, str]:
    """
    Return what makes every Java program trust mitm; it says on its standard error that it was told so.

    Args:
        store: The bundle as a PKCS #12 trust store.
        port: Of our proxy, to send its HTTPS through CONNECT as well.
        present: JAVA_TOOL_OPTIONS as it is; ours come last, and the last one counts.
    """
    options = {
        "javax.net.ssl.trustStore": str(store),
        "javax.net.ssl.trustStoreType": "PKCS12",
        "javax.net.ssl.trustStorePassword": JAVA_STORE_PASSWORD,
    }
    if port is not None:
        options |= {"https.proxyHost": "127.0.0.1", "https.proxyPort": str(port)}
        options["http.nonProxyHosts"] = "localhost|127.*|[::1]"
    # Java splits at white space and knows quotes.
    ours = (f'-D{name}="{value}"' if " " in value else f"-D{name}={value}" for name, value in options.items())
    return {"JAVA_TOOL_OPTIONS": " ".join([present, *ours]).strip()}


def redirected_variables(environ: Mapping[str, str], home: str, user: str) -> dict[str, str]:
    """
    Return what a program that runs as another user gets of our environment: terminal, language, path, no secret.

    Everything here can be read by every local user: it stands on sudo's command line.
    """
    kept = ("PATH", "TERM", "COLORTERM", "LANG", "LANGUAGE", "TZ", "COLUMNS", "LINES", "NO_COLOR")
    return {
        **{name: value for name, value in environ.items() if name in kept or name.startswith("LC_")},
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
    }


def foreign_proxy(environ: Mapping[str, str], port: int) -> str | None:
    """Return the variable that sends HTTPS through another proxy than ours at `port`, None without one."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "GRPC_PROXY", "grpc_proxy"):
        address = environ.get(name, "")
        ours = urllib.parse.urlsplit(address).netloc.rpartition("@")[2] == f"127.0.0.1:{port}"
        if address and not ours:
            return name
    return None
