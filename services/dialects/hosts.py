"""
Host names and the providers behind them: which connections are worth opening, and what a record calls the provider.

Provider names are those of the OpenTelemetry GenAI conventions (`gen_ai.provider.name`) where these have one. In a
pattern `*` stands for letters, digits and hyphens, never for a dot: interception covers the API's own hosts and not
the shop beside it. Databricks, Snowflake and Cloudflare are only named for that reason (their API shares the host of
the whole workspace or account); a user who wants them adds them to `intercept_hosts`.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

UNKNOWN_PROVIDER = "unknown"
SELF_HOSTED = "self_hosted"

# Of local servers only Ollama has a port that nobody else uses; 8080, 8000 and 1234 say nothing.
OLLAMA_PORT = "11434"

# Pattern -> provider.
PROVIDER_HOSTS: tuple[tuple[str, str], ...] = (
    ("cloudcode-pa.googleapis.com", "gcp.gen_ai"),
    ("*-cloudcode-pa.googleapis.com", "gcp.gen_ai"),
    ("*-cloudcode-pa.sandbox.googleapis.com", "gcp.gen_ai"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("*-aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("aiplatform.*.rep.googleapis.com", "gcp.vertex_ai"),  # of one jurisdiction: us, eu
    ("firebasevertexai.googleapis.com", "gcp.vertex_ai"),
    ("api.anthropic.com", "anthropic"),
    ("aws-external-anthropic.*.api.aws", "anthropic"),
    ("api.openai.com", "openai"),
    ("*.api.openai.com", "openai"),  # of one region: us, eu
    ("chatgpt.com", "openai"),  # backend-api/codex, the same models by subscription
    ("*.openai.azure.com", "azure.ai.openai"),
    ("*.openai.azure.us", "azure.ai.openai"),
    ("*.openai.azure.cn", "azure.ai.openai"),
    ("*.cognitiveservices.azure.com", "azure.ai.openai"),
    ("*.services.ai.azure.com", "azure.ai.inference"),
    ("*.models.ai.azure.com", "azure.ai.inference"),
    ("*.*.models.ai.azure.com", "azure.ai.inference"),
    ("models.inference.ai.azure.com", "azure.ai.inference"),
    ("bedrock-runtime.*.amazonaws.com", "aws.bedrock"),
    ("bedrock-runtime-fips.*.amazonaws.com", "aws.bedrock"),
    ("bedrock-runtime.*.amazonaws.com.cn", "aws.bedrock"),
    ("bedrock-runtime.*.api.aws", "aws.bedrock"),
    ("bedrock-runtime-fips.*.api.aws", "aws.bedrock"),
    ("*.bedrock-runtime.*.vpce.amazonaws.com", "aws.bedrock"),
    ("bedrock-mantle.*.api.aws", "aws.bedrock"),
    ("api.cohere.com", "cohere"),
    ("api.cohere.ai", "cohere"),
    ("api.mistral.ai", "mistral_ai"),
    ("codestral.mistral.ai", "mistral_ai"),
    ("api.groq.com", "groq"),
    ("api.deepseek.com", "deepseek"),
    ("api.x.ai", "x_ai"),
    ("*.api.x.ai", "x_ai"),  # of one region
    ("api.perplexity.ai", "perplexity"),
    ("api.moonshot.ai", "moonshot_ai"),
    ("api.moonshot.cn", "moonshot_ai"),
    ("api.kimi.com", "moonshot_ai"),
    ("openrouter.ai", "openrouter"),
    ("api.githubcopilot.com", "github_copilot"),
    ("api.*.githubcopilot.com", "github_copilot"),
    ("copilot-proxy.githubusercontent.com", "github_copilot"),
    ("models.github.ai", "github_models"),
    ("ollama.com", "ollama"),
    ("api.together.xyz", "together"),
    ("api.together.ai", "together"),
    ("router.huggingface.co", "huggingface"),
    ("api-inference.huggingface.co", "huggingface"),
    ("*.*.*.endpoints.huggingface.cloud", "huggingface"),
    ("api.cerebras.ai", "cerebras"),
    ("api.writer.com", "writer"),
    ("ai-gateway.vercel.sh", "vercel_ai_gateway"),
    ("gateway.pydantic.dev", "pydantic_gateway"),
    ("gateway-*.pydantic.dev", "pydantic_gateway"),
    ("dashscope.aliyuncs.com", "alibaba"),
    ("dashscope-*.aliyuncs.com", "alibaba"),
    ("*.dashscope.aliyuncs.com", "alibaba"),
    ("api.inference.crusoecloud.com", "crusoe"),
    ("api.doubleword.ai", "doubleword"),
    ("api.fireworks.ai", "fireworks"),
    ("api.voyageai.com", "voyage"),
    ("api.z.ai", "z_ai"),
    ("open.bigmodel.cn", "z_ai"),  # the same company's API in China
    ("api.ai21.com", "ai21"),
    ("api.baseten.co", "baseten"),
    ("inference.baseten.co", "baseten"),
    ("api.deepinfra.com", "deepinfra"),
    ("*.inference.heroku.com", "heroku"),
    ("*.ml.cloud.ibm.com", "ibm.watsonx.ai"),
    ("api.inceptionlabs.ai", "inception"),
    ("api.jina.ai", "jina"),
    ("api.lambda.ai", "lambda"),
    ("api.llama.com", "meta"),
    ("api.minimax.io", "minimax"),
    ("api.minimaxi.com", "minimax"),
    ("api.studio.nebius.ai", "nebius"),
    ("api.studio.nebius.com", "nebius"),
    ("api.tokenfactory.nebius.com", "nebius"),
    ("api.novita.ai", "novita"),
    ("integrate.api.nvidia.com", "nvidia"),
    ("opencode.ai", "opencode"),  # its zen gateway
    ("oai.endpoints.kepler.ai.cloud.ovh.net", "ovhcloud"),
    ("api.portkey.ai", "portkey"),
    ("router.requesty.ai", "requesty"),
    ("api.sambanova.ai", "sambanova"),
    ("api.scaleway.ai", "scaleway"),
    ("api.siliconflow.cn", "siliconflow"),
    ("api.siliconflow.com", "siliconflow"),
    ("api.upstage.ai", "upstage"),
    ("api.venice.ai", "venice"),
    ("ark.*.volces.com", "volcengine"),
)

# Hosts that are named, but only opened for users who say so.
NAMED_HOSTS: tuple[tuple[str, str], ...] = (
    ("*.cloud.databricks.com", "databricks"),
    ("*.gcp.databricks.com", "databricks"),
    ("*.*.azuredatabricks.net", "databricks"),
    ("*.*.gcp.databricks.com", "databricks"),
    ("*.snowflakecomputing.com", "snowflake"),
    ("*.*.snowflakecomputing.com", "snowflake"),
    ("api.cloudflare.com", "cloudflare"),
    ("gateway.ai.cloudflare.com", "cloudflare"),
)

# The default of `[mitm] intercept_hosts`.
INTERCEPT_HOSTS: tuple[str, ...] = tuple(pattern for pattern, _ in PROVIDER_HOSTS)


def host_matches(host: str, patterns: Iterable[str]) -> bool:
    """Return whether `host`, in any case, with or without a final dot, is one of `patterns`."""
    name = host_name(host)
    return any(_compiled(pattern).fullmatch(name) for pattern in patterns)


@lru_cache(maxsize=1024)
def provider_of(host: str) -> str:
    """Return the provider behind `host`, which may carry a port; `self_hosted` or `unknown` if it is no provider's."""
    name = host_name(host)
    for pattern, provider in (*PROVIDER_HOSTS, *NAMED_HOSTS):
        if _compiled(pattern).fullmatch(name):
            return provider
    if not _is_local(name):
        return UNKNOWN_PROVIDER
    return "ollama" if host.rpartition(":")[2] == OLLAMA_PORT else SELF_HOSTED


def host_name(authority: str) -> str:
    """Return the host of `host`, `host:port` or `[address]:port`, in lower case and without a final dot."""
    authority = authority.rpartition("@")[2]
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    name, colon, port = authority.rpartition(":")
    return (name if colon and ":" not in name and not port.strip("0123456789") else authority).rstrip(".").lower()


def _is_local(name: str) -> bool:
    if name == "localhost" or name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return ipaddress.ip_address(name).is_private
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(r"[a-z0-9-]+".join(re.escape(part) for part in pattern.lower().split("*")))
