"""Every knob, read once from the environment (and `.env`). Nobody else reads the environment.

Deeper parts are given plain arguments, never this object. Names are the variables' names in lower case.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def _upper(given: Any) -> Any:
    return given.upper() if isinstance(given, str) else given


def _without_underscores(given: Any) -> Any:
    """Python reads 1_0 as ten; by this number things are deleted."""
    if isinstance(given, str) and "_" in given:
        raise ValueError("write a number without _")
    return given


SearchedBy = Literal["auto", "store", "process"]
TLS_PORT = 6380
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    # Server
    host: str = Field("0.0.0.0", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    reload: bool = Field(False, description="Restart when the source changes (development only).")
    log_level: LogLevel = Field("INFO", description="Least level that is logged.")
    auth_mode: Literal["loopback", "keys", "jwt", "none"] = Field(
        "loopback",
        description="Who is served: loopback (callers on this host only), keys (who has an API key), jwt (who has a "
        "token of your identity provider, or an API key) or none (everybody who can reach the port).",
    )
    audit_key: SecretStr = Field(
        SecretStr(""),
        description="Secret by which the audit names users; empty makes one up at each start.",
    )
    jwt_jwks_url: str = Field("", description="Where the identity provider tells its public keys; needed for jwt.")
    jwt_issuer: str = Field("", description="`iss` that tokens must have; empty takes any.")
    jwt_audience: str = Field("", description="`aud` that tokens must have, one of these if several; empty takes any.")
    jwt_tenant: str = Field("", description="Tenant of all tokens; empty takes it from the claim.")
    jwt_tenant_claim: str = Field("tenant_id", min_length=1, description="Claim that has the tenant.")
    jwt_user_claim: str = Field("sub", min_length=1, description="Claim that has the user.")
    jwt_spaces_claim: str = Field(
        "memory_spaces", min_length=1, description="Claim that has what a user may in which spaces."
    )
    jwt_service_clients: str = Field(
        "", description="Clients (`client_id` or `azp`) whose tokens are bound to no user, such as `agents,jobs`."
    )
    rate_limit_per_credential: float = Field(
        0, ge=0, description="Requests a second for each key, user or client; a search counts as two. 0 is no limit."
    )
    rate_limit_per_tenant: float = Field(0, ge=0, description="The same for all of a tenant together.")
    rate_limit_wrong_credentials: float = Field(
        1, ge=0, description="Wrong credentials a second that an address may bring, after the first 20; 0 is no limit."
    )

    max_connections: int = Field(
        2000, ge=1, description="Connections open at the same time; more are refused with 503."
    )
    max_connections_per_address: int = Field(
        2000,
        ge=1,
        description="Of these, how many may come from one address; all, since a proxy is one address.",
    )

    # Session pool
    max_sessions: int = Field(1000, ge=0, description="Sessions kept hot in memory.")
    session_ttl_minutes: float = Field(
        30, gt=0, le=525_600, description="Minutes after which an untouched session leaves the pool."
    )
    eviction_interval_seconds: float = Field(
        60, gt=0, le=86_400, description="Seconds between looks for sessions to drop."
    )

    pool_coherence: Literal["", "exclusive", "validate"] = Field(
        "",
        description="exclusive: nobody else writes the record, so what the pool holds is true. validate: it is held "
        "against the store at each use. Empty: exclusive over SQLite, validate elsewhere.",
    )

    # Store
    store_url: str = Field(
        "sqlite:///./data/memory.db",
        description="Where the record is kept: sqlite:///PATH, postgresql://..., cosmos:, or transient:// (tests).",
    )
    store_search: SearchedBy = Field(
        "auto",
        description="Who searches: store (by indexes of its own), process, or auto (store, if it can, the large).",
    )

    erasures_file: str = Field(
        "",
        description="Where erasures are noted apart from the record, so that a restored one is rid of them too; "
        "empty: beside an SQLite file, and nowhere for other stores.",
    )

    # Azure Cosmos DB: the store when its endpoint is set and STORE_URL is not
    cosmos_endpoint: str = Field("", description="Cosmos DB endpoint URL.")
    cosmos_key: SecretStr = Field(SecretStr(""), description="Cosmos DB key; empty signs in with Entra ID.")
    cosmos_database_name: str = Field("agent_memory", description="Cosmos DB database.")
    cosmos_interactions_container: str = Field("interactions", description="Container of sessions and turns.")
    cosmos_summaries_container: str = Field("session_summaries", description="Container of summaries.")
    cosmos_insights_container: str = Field("insights", description="Container of insights.")

    # Redis: what replicas that share a record hold of its sessions; it may be lost at any time
    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Hot tier of replicas that share a record: redis://... or rediss://... (TLS); empty is none.",
    )
    redis_host: str = Field("", description="Its host, where there is no REDIS_URL: TLS on port 6380.")
    redis_password: SecretStr = Field(SecretStr(""), description="Password that goes with REDIS_HOST.")

    # Models: Azure OpenAI if its endpoint is set, else an OpenAI-compatible endpoint if its key or URL is, else none
    azure_openai_endpoint: str = Field("", description="Azure OpenAI endpoint URL.")
    azure_openai_api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("azure_openai_api_key", "azure_openai_key"),
        description="Azure OpenAI API key.",
    )
    azure_openai_deployment: str = Field("", description="Deployment of the chat model, such as gpt-4.")
    azure_openai_api_version: str = Field("2024-02-15-preview", description="Azure OpenAI API version.")
    azure_openai_embedding_deployment: str = Field(
        "", description="Deployment of the embedding model; empty uses the local embedder."
    )
    openai_api_key: SecretStr = Field(SecretStr(""), description="Key of an OpenAI-compatible endpoint.")
    openai_base_url: str = Field("", description="URL of an OpenAI-compatible endpoint; empty is OpenAI itself.")
    openai_model: str = Field("gpt-4o-mini", description="Chat model at that endpoint.")
    openai_embedding_model: str = Field("", description="Embedding model there; empty uses the local embedder.")
    embedding_dimensions: int = Field(
        0, ge=0, le=8192, description="Dimensions to ask for; 0 is the model's own number."
    )
    model_timeout_seconds: float = Field(
        60, gt=0, le=86_400, description="Seconds a chat model may take for one answer."
    )
    embedding_timeout_seconds: float = Field(5, gt=0, le=86_400, description="Seconds an embedding may take.")

    # Memory
    k_turn_buffer: int = Field(5, ge=1, le=1000, description="Last turns that always stay verbatim in a context.")
    l_turn_chunks: int = Field(10, ge=1, le=1000, description="Turns that make one chunk for recall.")
    m_sessions_recent: int = Field(5, ge=0, le=100, description="Recent session summaries in a context.")
    agent_memory_size: int = Field(
        20, ge=1, le=1000, description="Last messages of a conversation in a chat history, where nobody says how many."
    )
    context_insights: int = Field(20, ge=0, le=500, description="Insights in a context, the most important first.")
    context_episodes: int = Field(
        5, ge=0, le=100, description="Episodes that callers told in a context, the newest first."
    )
    context_budget_tokens: int = Field(
        4000,
        ge=200,
        description="Tokens (estimated) that long-term memory may take in a context; live turns are whole.",
    )
    profile_schemas: str = Field(
        "",
        description="JSON file that says by tenant what profiles of users must look like, by JSON Schema: "
        '{"acme": {...}, "*": {...}}; empty takes any.',
    )
    reflection_threshold_turns: int = Field(
        15, ge=1, description="Unreflected turns from which a conversation that goes on is reflected on."
    )
    redact_secrets: bool = Field(
        True, description="Whether keys, tokens, passwords and card numbers are kept out of all that is derived."
    )
    redact_ibans: bool = Field(False, description="Whether international bank account numbers are, too.")
    session_abandon_hours: float = Field(
        24, gt=0, le=876_000, description="Hours after which an untouched session is ended."
    )
    retention_days: Annotated[float, BeforeValidator(_without_underscores)] = Field(
        0,
        ge=0,
        description="Days after which what nobody has touched of what is kept of users is erased, from 1 on; "
        "0 keeps it until somebody erases it.",
    )
    tenant_retention_days: str = Field(
        "", description="Tenants of which it is another number of days, such as `acme=30,globex=0`."
    )

    retention_session_turns: int = Field(
        0,
        ge=0,
        description="Of a session with more turns the words of the first are erased, once they were read; what was "
        "learnt from them stays. 0 keeps all of them.",
    )

    # Memory drivers: engines that follow the record and are asked first
    memory_driver: str = Field(
        "builtin",
        min_length=1,
        description="Who is asked to recall: builtin (the record itself), pgvector, automem, pixeltable, several of "
        "these in their order (pgvector,automem), or package.module:Class.",
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("database_url", "pg_connection_url"),
        description="Database of the driver pgvector: postgresql://USER:PASSWORD@HOST:5432/DATABASE.",
    )
    automem_url: str = Field("http://localhost:8001", description="Where the driver automem finds AutoMem.")
    automem_api_token: SecretStr = Field(SecretStr(""), description="AutoMem's token; empty where it asks for none.")
    automem_timeout: float = Field(10, gt=0, le=600, description="Seconds AutoMem may take for one answer.")

    # Background work
    sweep_interval_seconds: float = Field(60, gt=0, le=86_400, description="Seconds between looks for work left over.")
    reflection_concurrency: int = Field(8, ge=1, description="Reflections that run at the same time.")
    reflection_retry_seconds: float = Field(
        5, gt=0, le=86_400, description="Seconds before the first retry; later ones wait longer."
    )
    reflection_max_attempts: int = Field(8, ge=1, description="Attempts after which a reflection is given up (dead).")
    breaker_failures: int = Field(5, ge=1, description="Failures of the model in a row after which it is left alone.")
    breaker_rest_seconds: float = Field(30, gt=0, le=86_400, description="Seconds for which it is then left alone.")
    recall_cache_mb: int = Field(256, ge=1, description="Memory for the search indexes of recently active users.")
    query_cache_seconds: float = Field(
        60,
        ge=0,
        le=86_400,
        description="Seconds for which an answer is given again while nothing is new of its user; 0 never does.",
    )
    import_max_mb: int = Field(64, ge=1, le=4096, description="Megabytes that the file of one user may have at import.")
    kill_at: str = Field(
        "", description="Tests only: NAME:N ends the process when that point of the code is reached the N-th time."
    )
    drain_delay_seconds: float = Field(
        0, ge=0, le=86_400, description="Seconds to go on serving after SIGTERM, while readyz already says 503."
    )
    shutdown_grace_seconds: float = Field(
        15, ge=0, le=86_400, description="Seconds that work under way has to finish at shutdown."
    )

    @property
    def chosen_store_url(self) -> str:
        if self.cosmos_endpoint and "store_url" not in self.model_fields_set:
            return "cosmos:"
        return self.store_url

    @property
    def chosen_erasures_file(self) -> str:
        path = self.chosen_store_url.removeprefix("sqlite:///")
        beside = f"{path}.erasures" if path != self.chosen_store_url else ""
        return self.erasures_file or beside

    @property
    def chosen_redis_url(self) -> str:
        if self.redis_host and not self.redis_url.get_secret_value():
            return f"rediss://:{quote(self.redis_password.get_secret_value(), safe='')}@{self.redis_host}:{TLS_PORT}/0"
        return self.redis_url.get_secret_value()


def known_settings() -> dict[str, str]:
    """Names of all environment variables, with what each means."""
    return {name.upper(): field.description or "" for name, field in Settings.model_fields.items()}
