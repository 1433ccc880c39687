# Two stages: what is needed to install stays behind.
FROM python:3.12-slim AS build
WORKDIR /src
# What every store of production needs, and Redis, so with the extras. To make it anew:
#   uv pip compile --universal --generate-hashes --no-header --extra azure --extra jwt --extra postgres --extra profiles --extra redis \
#       -o requirements.lock pyproject.toml
COPY requirements.lock ./
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY memory_service ./memory_service
COPY client ./client
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 memory && install -d -o memory -g memory /data
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
USER memory
# From here the default record, ./data/memory.db, is in the volume. STORE_URL is not set: it would keep COSMOS_ENDPOINT
# from choosing the store.
WORKDIR /
VOLUME /data
EXPOSE 8000
# AUTH_MODE is loopback: only callers inside the container are served. To serve others make the first key inside, while it
# is, and run it with AUTH_MODE=keys:
#   docker exec CONTAINER memory-service keys create admin --permissions all --url http://localhost:8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD \
    ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
CMD ["memory-service", "serve"]
